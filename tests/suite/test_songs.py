"""Which songs are measured, from where to where, with which sounds, and when the data is other data."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.suite.fakes import pair, steps_sound

from duotok.audio.io import write
from duotok.audio.loudness import integrated_loudness
from duotok.cli.eval.options import make_plan
from duotok.clock import SAMPLE_RATE
from duotok.errors import AudioError, ConfigError
from duotok.suite.config import load_suite
from duotok.suite.run import choose
from duotok.suite.songs import SongsConfig, find_songs, load
from duotok.suite.true_stems import TrueSong


def songs(folder: Path, **changes: Any) -> Any:
    return find_songs(SongsConfig(**{"folder": str(folder), "seconds": 1.0, "separator": "none", **changes}))


def test_stems_mixes_and_solos(tmp_path: Path) -> None:
    pair(tmp_path, "both")
    write(tmp_path / "only.wav", steps_sound(1.5), SAMPLE_RATE)
    write(tmp_path / "part.vocals.wav", 0.5 * steps_sound(1.5, 1), SAMPLE_RATE)
    write(tmp_path / "part.mix.wav", 0.5 * steps_sound(1.5, 1) + 0.25 * steps_sound(1.5, 2), SAMPLE_RATE)
    for stem in ("drums", "bass", "other", "vocals"):
        write(tmp_path / "four" / f"{stem}.wav", 0.1 * steps_sound(1.5, len(stem)), SAMPLE_RATE)
    found = songs(tmp_path)
    assert [(s.song, found.tracks_of(s)) for s in found.stretches] == [
        ("both", ("vocals", "accompaniment", "mix")),
        ("four", ("vocals", "accompaniment", "mix")),
        ("only", ("mix",)),
        ("part", ("vocals", "accompaniment", "mix")),
    ]
    loaded = {s.song: load(s) for s in found.stretches}
    for name, song in loaded.items():
        n = {sound.shape for sound in song.sounds.values()}
        assert n == {(2, SAMPLE_RATE)}, name
        if name != "only":
            torch.testing.assert_close(song.sounds["vocals"] + song.sounds["accompaniment"], song.sounds["mix"])
    # One gain for all sounds of a song, and the mix is at -14 LUFS, or as loud as its peak allows.
    quiet = loaded["both"].sounds
    peak = max(float(sound.abs().max()) for sound in quiet.values())
    assert peak == pytest.approx(0.99, abs=1e-3) or integrated_loudness([quiet["mix"]], SAMPLE_RATE) == pytest.approx(
        -14, abs=0.05
    )
    assert float(
        (loaded["part"].sounds["accompaniment"]).std() / loaded["part"].sounds["vocals"].std()
    ) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(("key", "value"), [("seconds", 0), ("seconds", -3.0), ("segments", 0), ("limit", -1)])
def test_settings_that_cannot_be(key: str, value: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{key}\n  Input should be greater than or equal to 1"):
        SongsConfig(**{"folder": str(tmp_path), key: value})


def test_a_channel_that_is_turned_over_is_turned_back(tmp_path: Path) -> None:
    noise = 0.1 * torch.randn(2, 72_000, generator=torch.Generator().manual_seed(1))
    left = 0.5 * noise[:1] + steps_sound(1.5)[:1]
    for name in ("a.vocals", "a.accompaniment"):
        write(tmp_path / f"{name}.wav", torch.cat([left, -left]), SAMPLE_RATE)
    (stretch,) = songs(tmp_path).stretches
    true = TrueSong("a", "test", {t: (tmp_path / f"a.{t}.wav",) for t in ("vocals", "accompaniment")}).sound(0.0, 1.0)
    for sounds in (load(stretch).sounds, true):
        for sound in sounds.values():
            torch.testing.assert_close(sound[0], sound[1])


def test_a_stem_of_another_song_is_a_gap(tmp_path: Path) -> None:
    voice, band = 0.5 * steps_sound(1.5, 1), 0.25 * steps_sound(1.5, 2)
    write(tmp_path / "a.mix.wav", voice + band, SAMPLE_RATE)
    for stem, good in (
        (voice, True),
        (0.5 * steps_sound(1.5, 3), False),
        (voice.roll(2000, 1), False),
        (0.01 * steps_sound(1.5, 3), True),
    ):
        write(tmp_path / "a.vocals.wav", stem, SAMPLE_RATE)
        (stretch,) = songs(tmp_path).stretches
        if good:  # its own, or too soft to tell
            assert set(load(stretch).sounds) == {"mix", "vocals", "accompaniment"}
            continue
        with pytest.raises(AudioError, match=r"^a.vocals.wav: does not belong to a.mix.wav"):
            load(stretch)


def test_stretches_lie_evenly(tmp_path: Path) -> None:
    write(tmp_path / "long.wav", steps_sound(5.0), SAMPLE_RATE)
    assert [(s.part, s.start) for s in songs(tmp_path).stretches] == [("", 2.0)]
    assert [(s.part, s.start) for s in songs(tmp_path, segments=2).stretches] == [("0.8 s", 0.75), ("3.2 s", 3.25)]
    assert len(songs(tmp_path, segments=9).stretches) == 5
    late = load(songs(tmp_path).stretches[0]).sounds["mix"]
    early = load(songs(tmp_path, segments=5).stretches[2]).sounds["mix"]
    torch.testing.assert_close(late, early)  # the middle second, either way


def test_short_songs_are_named_or_measured_whole(tmp_path: Path) -> None:
    for name, seconds in (("a", 1.5), ("b", 3.0), ("c", 0.5)):
        write(tmp_path / f"{name}.wav", steps_sound(seconds), SAMPLE_RATE)
    write(tmp_path / "d.wav", steps_sound(3.0), SAMPLE_RATE)
    (tmp_path / "d.wav").write_bytes(b"no sound")
    found = songs(tmp_path, seconds=2.0)
    assert [s.song for s in found.stretches] == ["b"]
    assert [(name, tracks) for name, tracks, _ in found.gaps] == [("a", ("mix",)), ("c", ("mix",)), ("d", ("mix",))]
    assert found.gaps[0][2] == "1.5 s of sound; at least 2 s are measured" and "not audio" in found.gaps[2][2]
    whole = songs(tmp_path, seconds=2.0, short="whole")
    assert [(s.song, s.seconds) for s in whole.stretches] == [("a", 1.5), ("b", 2.0)]
    assert whole.gaps[0][2] == "0.5 s of sound; at least 1 s are measured" and whole.about["short"] == ["a (1.5 s)"]
    with pytest.raises(
        ConfigError, match=r"no song that can be measured \(a: 1.5 s .* measured\); measure shorter stretches"
    ):
        songs(tmp_path, seconds=20.0)
    for name in "abc":
        (tmp_path / f"{name}.wav").unlink()
    with pytest.raises(ConfigError, match=r"no song that can be measured \(d: .*not audio.*\)$"):
        songs(tmp_path, seconds=20.0)
    with pytest.raises(ConfigError, match="no such folder"):
        songs(tmp_path / "none")


def test_a_song_that_is_cut_off_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The middle of what is left is not the middle of the song, and too short a rest is not a short song."""
    write(tmp_path / "song.wav", steps_sound(4.0), SAMPLE_RATE)
    whole = (tmp_path / "song.wav").read_bytes()
    assert songs(tmp_path).stretches[0].start == 1.5 and not caplog.records
    (tmp_path / "song.wav").write_bytes(whole[: len(whole) * 6 // 10])
    assert songs(tmp_path).stretches[0].start < 1.0
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'song.wav'}: is cut off: 4.00 s by its header, 2.40 s in it"
    ]
    write(tmp_path / "other.wav", steps_sound(1.5), SAMPLE_RATE)
    (tmp_path / "song.wav").write_bytes(whole[: len(whole) // 10])
    found = songs(tmp_path)
    ((_, _, reason),) = found.left_out
    assert (
        reason == "0.4 s of sound; at least 1 s are measured (song.wav is cut off: 4.00 s by its header, 0.40 s in it)"
    )
    assert found.about["left_out"] == {"song": reason}
    # how that is said is no part of the data: results that an earlier version made of them are results of them
    assert found.hash == dataclasses.replace(found, damage={}).hash and found.gaps[0][2] == reason.partition(" (")[0]


def test_what_a_run_makes_among_the_songs_is_no_song(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "results/stems/0123.vocals", "kept/mini/a.vocals"):
        write(tmp_path / f"{name}.wav", steps_sound(1.5), SAMPLE_RATE)
    (tmp_path / "suite.yaml").write_text(
        "songs: {folder: ., seconds: 1.0, separator: none}\ntokenizers: {low: lowpass}\n"
    )
    monkeypatch.chdir(tmp_path)
    plan = make_plan(
        ["lowpass"], choose("usage"), Path(), Path("results"), seconds=1.0, segments=1, short="gap", separator="none", limit=None,
        codebooks=None, device="cpu", retry=False, force=False, keep=Path("kept"),
    )  # fmt: skip
    assert [s.song for s in plan.songs.stretches] == ["a"] and plan.songs.about["folder"] == tmp_path.name
    assert {s.song for s in load_suite(Path("suite.yaml"), Path("results"))[0].songs.stretches} == {"a", "kept/mini/a"}
    shutil.rmtree("kept")
    (tmp_path / "results/stems").rename(tmp_path / "stems")  # the store may be the folder itself, or hold the songs
    assert [s.song for s in load_suite(Path("suite.yaml"), Path())[0].songs.stretches] == ["a"]
    assert [s.song for s in find_songs(SongsConfig(folder=".", seconds=1.0), [tmp_path.parent]).stretches] == [
        "a",
        "stems/0123",
    ]


def test_silence_is_no_song(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", torch.zeros(2, SAMPLE_RATE), SAMPLE_RATE)
    with pytest.raises(AudioError, match="silent; nothing to measure"):
        load(songs(tmp_path).stretches[0])


def test_the_hash_is_of_sound_and_cut_not_of_the_place(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        pair(tmp_path / "one", name, seed=seed)
    shutil.copytree(tmp_path / "one", tmp_path / "two")  # libsndfile writes the time into float files
    one = songs(tmp_path / "one").hash
    assert one == songs(tmp_path / "two").hash
    assert len({one, songs(tmp_path / "one", seconds=1.1).hash, songs(tmp_path / "one", limit=1).hash}) == 3
    pair(tmp_path / "two", "b", seed=3)
    assert songs(tmp_path / "two").hash != one


def test_a_file_that_cannot_be_read_is_the_same_in_every_folder(tmp_path: Path) -> None:
    pair(tmp_path / "one", "a")
    (tmp_path / "one" / "b.wav").write_bytes(b"no sound")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    one, two = songs(tmp_path / "one"), songs(tmp_path / "two")
    assert str(tmp_path) in one.gaps[0][2] and one.hash == two.hash
    (tmp_path / "two" / "b.wav").unlink()
    assert songs(tmp_path / "two").hash != one.hash


def test_an_index_beside_the_folder_says_what_is_sung_alone(tmp_path: Path) -> None:
    write(tmp_path / "songs" / "solo.wav", steps_sound(1.5), SAMPLE_RATE)
    columns = ("path", "use", "kind", "start", "seconds", "channels", "has_vocals", "licence", "attribution", "source")
    row = ("songs/solo.wav", "evaluation-only", "solo_vocals", "0", "1.5", "2", "yes", "CC0", "me", "here")
    (tmp_path / "INDEX.tsv").write_text("\t".join(columns) + "\n" + "\t".join(row) + "\n")
    (stretch,) = songs(tmp_path / "songs").stretches
    assert set(stretch.files) == {"vocals"}
    assert not load(stretch).sounds["accompaniment"].any()


def test_separated_stems_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Half:
        calls = 0

        def separate(self, mix: torch.Tensor) -> dict[str, torch.Tensor]:
            Half.calls += 1
            return {"vocals": 0.5 * mix}

    monkeypatch.setattr("duotok.suite.songs._separator", lambda name, weights: Half())
    write(tmp_path / "in" / "a.wav", steps_sound(1.5), SAMPLE_RATE)
    (stretch,) = songs(tmp_path / "in", separator="mini").stretches
    first = load(stretch, "mini", None, tmp_path / "kept.wav").sounds
    again = load(stretch, "mini", None, tmp_path / "kept.wav").sounds
    assert Half.calls == 1
    for track in ("vocals", "accompaniment", "mix"):
        torch.testing.assert_close(first[track], again[track], atol=1e-6, rtol=0)
    torch.testing.assert_close(first["vocals"], first["accompaniment"], atol=1e-6, rtol=0)
