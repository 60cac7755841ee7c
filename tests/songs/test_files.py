"""Songs on disk: exact sums, all or nothing, resume, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from duotok.errors import AudioError, ConfigError
from duotok.files import temporary
from duotok.songs import STEMS, GeneratedSong, Song, generate, generate_many
from duotok.songs.many import finished

RATE = 24000


@pytest.fixture(scope="module")
def song() -> Song:
    return generate(11, 5.0, rate=RATE, vocals=False)


@pytest.mark.parametrize(("format", "suffix"), [("flac", "flac"), ("flac16", "flac"), ("wav", "wav")])
def test_saved_stems_sum_exactly(song: Song, tmp_path: Path, format: str, suffix: str) -> None:
    folder = song.save(tmp_path / "song", format)
    read = {p.stem: soundfile.read(p, dtype="int32")[0].astype(np.int64) for p in folder.glob(f"*.{suffix}")}
    assert set(read) == {*STEMS, "accompaniment", "mix"}
    np.testing.assert_array_equal(sum(read[name] for name in STEMS), read["mix"])
    np.testing.assert_array_equal(read["vocals"] + read["accompaniment"], read["mix"])
    bits = 16 if format == "flac16" else 24
    assert np.abs(read["mix"].T / 2**31 - song.mix).max() <= 4 * 2.0**-bits
    facts = json.loads((folder / "song.json").read_text("utf-8"))
    assert facts["seed"] == 11 and facts["samples"] == song.mix.shape[1]
    assert [p.name for p in tmp_path.iterdir()] == ["song"]


def test_saving_replaces_the_whole_folder(song: Song, tmp_path: Path) -> None:
    song.save(tmp_path / "song", "wav16")
    song.save(tmp_path / "song", "flac", tracks=("mix",))
    assert sorted(p.name for p in (tmp_path / "song").iterdir()) == ["mix.flac", "song.json"]


def test_bad_saves_leave_nothing(song: Song, tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="flac16"):
        song.save(tmp_path / "song", "mp4")
    with pytest.raises(AudioError, match="voice"):
        song.save(tmp_path / "song", tracks=("voice",))
    with pytest.raises(AudioError, match="something else"):
        song.save(Path(__file__).parent)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(AudioError, match="file"):
        song.save(blocked / "song")
    loud = Song(**{**song.__dict__, "stems": {k: 30 * v for k, v in song.stems.items()}})
    with pytest.raises(AudioError, match="clips"):
        loud.save(tmp_path / "song")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_many_resumes(tmp_path: Path) -> None:
    made: list[GeneratedSong] = []
    options = {"seconds": 4.0, "rate": RATE, "vocals": False}
    generate_many([3, 4], tmp_path, workers=1, progress=made.append, **options)  # type: ignore[arg-type]
    assert [one.skipped for one in made] == [False, False]
    before = (tmp_path / "song-00000003" / "mix.flac").read_bytes()
    (tmp_path / "song-00000004" / "song.json").write_text("{")  # damaged
    temporary(tmp_path / "song-00000004").mkdir()  # of a killed run
    made.clear()
    generate_many([3, 4, 5], tmp_path, workers=1, progress=made.append, **options)  # type: ignore[arg-type]
    assert {one.seed: one.skipped for one in made} == {3: True, 4: False, 5: False}
    assert (tmp_path / "song-00000003" / "mix.flac").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"song-0000000{seed}" for seed in (3, 4, 5)]


def test_a_folder_with_files_of_the_user_is_not_replaced(tmp_path: Path) -> None:
    place = tmp_path / "song-00000003"
    options = {"workers": 1, "seconds": 4.0, "rate": RATE, "vocals": False}
    generate_many([3], tmp_path, **options)  # type: ignore[arg-type]
    for name, text in (("remix.flac", "mine"), ("song.json", '{"mine": 1}')):
        (place / name).write_text(text)
        with pytest.raises(AudioError, match="holds something else than a song"):
            generate_many([3], tmp_path, **{**options, "seconds": 5.0})  # type: ignore[arg-type]
        assert (place / name).read_text() == text
        (place / name).unlink()


def test_processes_make_the_same_songs(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader", reason="needs duotok[songs]")
    options = {"seconds": 4.0, "rate": RATE}
    generate_many([3, 7], tmp_path / "two", workers=2, **options)  # type: ignore[arg-type]
    generate_many([3], tmp_path / "one", workers=1, **options)  # type: ignore[arg-type]
    for name in ("mix.flac", "vocals.flac", "song.json"):  # seed 3 is sung in a breathy voice
        one, two = (tmp_path / folder / "song-00000003" / name for folder in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from typer.testing import CliRunner

    from duotok.cli.main import app

    arguments = [
        "songs",
        "-o",
        str(tmp_path / "s"),
        "-n",
        "1",
        "--seconds",
        "4",
        "--rate",
        "16000",
        "--no-vocals",
        "--json",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["made"] == 1 and Path(facts["songs"][0], "song.json").is_file()
    assert json.loads(CliRunner().invoke(app, arguments).stdout)["kept"] == 1


def test_a_song_of_other_options_is_made_anew(tmp_path: Path) -> None:
    options = {"seconds": 4.0, "rate": RATE, "workers": 1, "format": "flac16", "tracks": ("other",)}
    generate_many([3], tmp_path, vocals=False, **options)  # type: ignore[arg-type]
    (song,) = generate_many([3], tmp_path, vocals=False, doubled=0.5, **options)  # type: ignore[arg-type]
    assert not song.skipped
    (song,) = generate_many([3], tmp_path, vocals=False, doubled=0.5, **options)  # type: ignore[arg-type]
    assert song.skipped


def test_chosen_tracks_and_one_channel(tmp_path: Path) -> None:
    options = {"seconds": 4.0, "rate": RATE, "workers": 1, "format": "flac16", "vocals": False}
    (whole,) = generate_many([3], tmp_path / "whole", **options)  # type: ignore[arg-type]
    (part,) = generate_many([3], tmp_path / "part", mono=True, tracks=("drums",), **options)  # type: ignore[arg-type]
    assert {path.name for path in part.folder.iterdir()} == {"song.json", "drums.flac"}
    stereo, _ = soundfile.read(whole.folder / "drums.flac", always_2d=True)
    mono, _ = soundfile.read(part.folder / "drums.flac", always_2d=True)
    assert mono.shape[1] == 1
    np.testing.assert_allclose(mono[:, 0], stereo.mean(1), atol=2**-15)
    # A song of fewer tracks, or of the other number of channels, is not the song that is asked for.
    there = (tmp_path / "part", 3, 4.0, RATE, "flac16")
    usual, one_channel = {"vocals": False}, {"vocals": False, "mono": True}
    assert finished(*there, one_channel, ("drums",))
    assert not finished(*there, one_channel) and not finished(*there, one_channel, ("drums", "bass"))
    assert not finished(*there, usual, ("drums",))
    assert finished(tmp_path / "whole", *there[1:], usual, ("drums",))
    with pytest.raises(ConfigError, match="track 'voice' is unknown"):
        generate_many([3], tmp_path, tracks=("voice",), **options)  # type: ignore[arg-type]
