"""`duotok separate`: stems as sound, as long as the song, once for each song."""

from __future__ import annotations

from pathlib import Path

import torch
from click.testing import Result
from tests.cli.test_nothing_lost import other_separator
from tests.tiny import song
from typer.testing import CliRunner

from duotok.audio import io
from duotok.cli.main import app
from duotok.codec.duotok import DuoTok
from duotok.tracks import TRACKS


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["separate", *map(str, arguments)])


def test_both_stems_of_every_song(bundle: Path, tmp_path: Path) -> None:
    for n in range(2):
        io.write(tmp_path / "in" / f"{n}.wav", 0.3 * song(1.0 + n, seed=n), 48_000)
    (tmp_path / "in/cover.jpg").touch()
    done = run(tmp_path / "in", "-o", tmp_path / "out", "--model", bundle)
    assert done.exit_code == 0 and "2 separated" in done.stderr and ".jpg 1" in done.stderr, done.stderr
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert found == [f"{n}.{track}.wav" for n in range(2) for track in ("accompaniment", "vocals")]
    separator = DuoTok.from_pretrained(bundle).separator
    assert separator is not None
    voice, band = (io.read(tmp_path / "out" / f"1.{track}.wav") for track in ("vocals", "accompaniment"))
    mix = io.read(tmp_path / "in/1.wav")
    assert voice.shape == band.shape == mix.shape
    expected = DuoTok.from_pretrained(bundle).separate_blocks(mix)
    assert torch.allclose(torch.cat([part["vocals"] for part in expected], dim=1), voice, atol=1e-6)
    again = run(tmp_path / "in", "-o", tmp_path / "out", "--model", bundle)
    assert again.exit_code == 0 and "2 skipped" in again.stderr


def test_stems_among_the_songs_are_no_songs(bundle: Path, tmp_path: Path) -> None:
    for name in ("a", "b.vocals"):  # a song of one's own may have such a name
        io.write(tmp_path / f"{name}.wav", 0.3 * song(0.3), 48_000)
    for counts in ("2 separated", "2 skipped"):
        done = run(tmp_path, "-o", tmp_path / "stems", "--format", "flac", "--model", bundle)
        assert done.exit_code == 0 and counts in done.stderr, done.stderr
    assert "left out: 4 written by DuoTok (" in done.stderr and len(list(tmp_path.rglob("*.flac"))) == 4


def test_stems_of_another_separator_are_not_taken_for_done(bundle: Path, tmp_path: Path) -> None:
    io.write(tmp_path / "a.wav", 0.3 * song(0.5), 48_000)
    assert run(tmp_path / "a.wav", "-o", tmp_path / "out", "--model", bundle).exit_code == 0
    before = (tmp_path / "out/a.vocals.wav").read_bytes()
    other = other_separator(bundle, tmp_path / "other")
    done = run(tmp_path / "a.wav", "-o", tmp_path / "out", "--model", other)
    assert done.exit_code == 1 and "by another separator" in done.stderr and "--force" in done.stderr
    assert (tmp_path / "out/a.vocals.wav").read_bytes() == before
    assert run(tmp_path / "a.wav", "-o", tmp_path / "out", "--model", other, "--force").exit_code == 0
    again = run(tmp_path / "a.wav", "-o", tmp_path / "out", "--model", other)
    assert again.exit_code == 0 and "skipped" in again.stderr


def test_the_longest_name_that_a_file_may_have_is_cut_for_both_stems_alike(bundle: Path, tmp_path: Path) -> None:
    for name in ("é" * 125, "n" * 243):  # 250 and 243 bytes: of the latter the vocals' name would fit, the other's not
        io.write(tmp_path / f"{name}.wav", 0.3 * song(0.3), 48_000)
        for status in ("separated", "skipped"):
            done = run(tmp_path / f"{name}.wav", "-o", tmp_path / "out", "--model", bundle)
            assert done.exit_code == 0 and status in done.stderr, done.stderr
    stems = sorted(path.name for path in (tmp_path / "out").iterdir())
    songs = [
        {name.removesuffix(f".{track}.wav") for name in stems if name.endswith(f".{track}.wav")} for track in TRACKS
    ]
    assert len(stems) == 4 and songs[0] == songs[1] and len(songs[0]) == 2


def test_the_sign_of_a_song_is_the_sign_of_its_stems(bundle: Path) -> None:
    model = DuoTok.from_pretrained(bundle)
    mix = 0.3 * song(1.0)
    one, two = (next(iter(model.separate_blocks(sound))) for sound in (mix, -mix))
    assert torch.equal(one["vocals"], -two["vocals"])


def test_what_is_in_the_way_stays(bundle: Path, tmp_path: Path) -> None:
    io.write(tmp_path / "a.wav", 0.3 * song(0.5), 48_000)
    (tmp_path / "a.vocals.wav").write_text("mine")
    done = run(tmp_path / "a.wav", "-o", tmp_path, "--model", bundle)
    assert done.exit_code == 1 and "not separated from this song" in done.stderr
    assert (tmp_path / "a.vocals.wav").read_text() == "mine" and not (tmp_path / "a.accompaniment.wav").exists()
    assert run(tmp_path / "a.wav", "-o", tmp_path, "--model", bundle, "--force").exit_code == 0
    assert run(tmp_path / "a.wav", "-o", tmp_path / "x.wav", "--model", bundle).exit_code == 1
