"""`duotok tokenize` as a user calls it: what it says, what it writes, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile
from tests.tiny import song
from typer.testing import CliRunner, Result

from duotok.cli.main import app


def call(*words: object) -> Result:
    return CliRunner().invoke(app, ["tokenize", *map(str, words)])


@pytest.fixture
def music(tmp_path: Path) -> Path:
    folder = tmp_path / "music"
    (folder / "train").mkdir(parents=True)
    soundfile.write(folder / "train/a.wav", song(0.5).numpy().T, 48_000)
    (folder / "cover.jpg").write_bytes(b"")
    return folder


def test_songs_come_into_a_store_and_the_same_command_goes_on(music: Path, tmp_path: Path, bundle: Path) -> None:
    store = tmp_path / "tokens"
    dry = call(music, "-o", store, "--model", bundle, "--dry-run", "--json")
    assert json.loads(dry.stdout)["new"] == 1 and not store.exists()
    first = call(music, "-o", store, "--model", bundle, "--verify", 1)
    assert first.exit_code == 0, first.output
    assert (
        "1 encoded" in first.output
        and "1 files left out (1 .jpg)" in first.output
        and "verified: music/train/a: 0 of" in first.output
    )
    (music / "train/bad.wav").write_bytes(b"no sound")
    second = call(music, "-o", store, "--model", bundle, "--json")
    facts = json.loads(second.stdout)
    assert second.exit_code == 1 and (facts["encoded"], facts["kept"], facts["failed"]) == (0, 1, 1)
    assert f"error: {music}/train/bad.wav: " in second.stderr and "failures.jsonl" in second.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("/no/such/place",), "/no/such/place: cannot be listed"),
        (("--split", "most"), "--split most is unknown"),
        (("--engine", "spark"), "--engine spark: use local or ray"),
        (("--address", "auto"), "is for --engine ray"),
        (("--device", "cpu,tpu"), "device 'tpu': not usable here"),
        (("--engine", "ray", "--device", "cuda/x"), "on Ray one kind"),
        (("--engine", "ray", "--address", "127.0.0.1:1"), "no Ray cluster there"),
    ],
)
def test_bad_input_is_one_line(music: Path, tmp_path: Path, bundle: Path, words: tuple[str, ...], said: str) -> None:
    sources = () if words[0].startswith("/") else (music,)
    done = call(*sources, *words, "-o", tmp_path / "tokens", "--model", bundle)
    assert done.exit_code == 1 and done.exception is not None
    assert said in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_an_empty_source_is_named(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = call(tmp_path / "empty", "-o", tmp_path / "tokens", "--model", bundle)
    assert done.exit_code == 1 and "empty: no songs there" in done.stderr


def test_a_dry_run_says_what_a_run_would_refuse(music: Path, tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "songs.csv").write_text("path\nmusic/train/a.wav\n,\n".replace(",", '""'))
    dry = call(tmp_path / "songs.csv", music, "-o", tmp_path / "tokens", "--model", bundle, "--dry-run")
    assert dry.exit_code == 1 and "error: " in dry.stderr and "songs.csv, row 2: names no file" in dry.stderr
    assert "listed: 2, new: 2, in the store: 0, left out: 1 (1 .jpg)" in dry.output


def test_a_device_that_fails_outside_of_songs_is_one_line(
    music: Path, tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: object) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later")

    monkeypatch.setattr("duotok.bulk.tokenizing.tokenize", fails)
    result = call(music, "-o", tmp_path / "tokens", "--model", bundle)
    assert result.exit_code == 1 and len(result.stderr.splitlines()) == 1 and "Traceback" not in result.output
    assert result.stderr.startswith("error: CUDA error: device-side assert triggered")
    monkeypatch.setattr("duotok.bulk.tokenizing.tokenize", lambda *given: [][0])  # a mistake of ours stays one
    assert isinstance(call(music, "-o", tmp_path / "tokens", "--model", bundle).exception, IndexError)
