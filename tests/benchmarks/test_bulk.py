"""The measurements of bulk tokenization run, each as small as it can be, and say what the pages quote of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
from tests.tiny import song, tiny_bundle

from benchmarks import bulk


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"))


def told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> dict[str, Any]:
    monkeypatch.setattr("sys.argv", ["benchmarks.bulk", *map(str, words)])
    bulk.main()
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("entries", "more"), [([3], ()), ([3, 1001], ("--without-model",))], ids=["model", "without"])
def test_a_corpus_of_short_sounds_is_tokenized_once_and_found_done(
    entries: list[int],
    more: tuple[str, ...],
    bundle: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = told(capsys, monkeypatch, "corpus", "--entries", *entries, *more, "--model", bundle)["corpora"]
    assert [row["songs"] for row in rows] == entries
    for row in rows:
        assert row["ms a song"] > 0 and row["ms a song, all done"] > 0 and row["peak MB"] > 0
        assert (row["of it model"] > 0) == (not more)


def test_a_list_and_a_folder_of_names_are_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = told(capsys, monkeypatch, "listing", "--entries", 100)
    assert (found["songs.txt"]["entries"], found["music"]["entries"]) == (100, 10)
    assert found["before MB"] <= found["music"]["peak MB"] <= found["songs.txt"]["peak MB"]


def test_memory_is_that_of_a_process_of_its_own_for_each_length(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = told(capsys, monkeypatch, "memory", "--minutes", 0.05, 0.1, "--model", bundle)
    assert [row["minutes"] for row in found["songs"]] == [0.05, 0.1]
    first, last = found["songs"]
    assert 0 < first["before MB"] <= first["peak MB"] and 0 < last["before MB"] <= last["peak MB"]
    assert found["ratio"] == pytest.approx(last["peak MB"] / first["peak MB"], abs=0.006)


@pytest.mark.parametrize("stems", [False, True])
def test_a_song_of_so_many_minutes_is_made_of_the_one_that_is_named(
    stems: bool, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = tmp_path / "loop.wav"
    soundfile.write(loop, song(0.5).numpy().T, 48_000)
    made = bulk.generated(tmp_path / "long.flac", 0.02, loop)
    assert soundfile.info(made).frames == round(0.02 * 60 * 48_000)
    assert soundfile.info(bulk.generated(tmp_path / "noise.flac", 0.02)).frames == round(0.02 * 60 * 48_000)
    words = ("--stems", "--loop", loop, loop) if stems else ("--loop", loop)
    one = told(capsys, monkeypatch, "one", "--minutes", 0.02, "--model", bundle, *words)
    assert one["minutes"] == 0.02 and one["peak MB"] >= one["before MB"] > 0


def test_speed_has_the_loop_beside_every_number_of_workers(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        soundfile.write(tmp_path / f"{number}.wav", song(0.5, seed=number).numpy().T, 48_000)
    found = told(capsys, monkeypatch, "speed", "--workers", 1, "--turns", 1, "--model", bundle, tmp_path)
    assert found["music"] == 1.0 and found["turns"] == 1 and found["reading"] > 0
    assert found["loop"]["seconds for an hour"] > 0
    row = found["1 workers"]
    assert (
        0 < row["share"] < row["busy"] <= 1
        and 0 < row["model"] < row["encoding"]
        and row["of its parts"] > row["share"]
    )
