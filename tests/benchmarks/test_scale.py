"""The simulation has the limits that can be computed by hand; what is no measurement, or no source, is told in one line."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from benchmarks.scale import simulate

from benchmarks import bulk, kills, scale


def test_the_slower_part_decides() -> None:
    hours = [0.1] * 200
    assert simulate(hours, 1.0, 100.0, 1, 1, 3) == pytest.approx(20 * 100)
    assert simulate(hours, 1.0, 100.0, 1, 4, 9) == pytest.approx(20 * 100 / 4, rel=0.01)
    assert simulate(hours, 50.0, 100.0, 1, 4, 9) == pytest.approx(20 * 50, rel=0.02)  # the reader
    assert simulate(hours, 50.0, 100.0, 8, 4, 9) == pytest.approx(20 * 100 / 4, rel=0.02)


def test_a_long_song_at_the_end_makes_others_wait() -> None:
    assert simulate([0.1] * 10 + [3.0], 0.0, 100.0, 1, 2, 5) == pytest.approx(5 * 10 + 300)


def test_a_short_shelf_stops_the_readers() -> None:
    hours = [1.0, *[0.01] * 30]
    assert simulate(hours, 10.0, 100.0, 1, 2, 1) >= simulate(hours, 10.0, 100.0, 1, 2, 100)


def called(monkeypatch: pytest.MonkeyPatch, module: object, *words: object) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", *map(str, words)])
    module.main()  # type: ignore[attr-defined]


def test_a_plan_of_ten_songs_is_not_all_zeros(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("plan", "--songs", 10, "--minutes", 6, "--reading", 36, "--encoding", 864, "--price", 2)
    called(monkeypatch, scale, *words, "--devices", 1, 64)
    head, *rows = capsys.readouterr().out.strip().splitlines()
    assert head == "1 hours; 0.000338 GB of shards; read 5.8e-05 TB"
    assert rows[-2:] == ["| 1 | 0.01 | 1 | 0.48 |", "| 64 | 0.000156 | 3 | 0.48 |"]
    called(monkeypatch, scale, *words, "--songs", 1_000_000)
    assert "| 512 | 1.95 | 22 | 48,000 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [(("simulate",), "simulate needs a file of measurements; make it with: python -m benchmarks.bulk speed"),
     (("simulate", "none.json"), r"none.json: cannot be read \(No such file or directory\); make it with"),
     (("simulate", "words.json"), r"words.json: cannot be read \(no JSON\); make it with"),
     (("simulate", "list.json"), "list.json: no measurements of speed; make it with"),
     (("simulate", "some.json", "--source", "none"), "none: "),
     (("plan", "--reading", 3), "plan needs --reading and --encoding"),
     (("count", "--model", "./none"), "none: ")],
)  # fmt: skip
def test_what_cannot_be_computed_is_told(
    words: tuple[object, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("words.json", "no"), ("list.json", "[]"), ("some.json", '{"reading": 3}')):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"^error: .*{said}"):
        called(monkeypatch, scale, *words)


def test_speed_and_kills_tell_a_wrong_word_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"^error: .*none"):
        called(monkeypatch, bulk, "speed", "--model", tmp_path / "none")
    monkeypatch.setattr(
        "subprocess.run", lambda *_, **__: subprocess.CompletedProcess([], 1)
    )  # as for a source that is not there
    with pytest.raises(SystemExit, match=r"^error: none/: the run without kills made no store"):
        called(monkeypatch, kills, "none/", "--kills", 0)
