"""What a built test promises: one loudness, names and sizes that tell nothing, the same test for the same seed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.listening.conftest import RATE, SETTINGS
from tests.tiny import song
from torch import Tensor
from typer.testing import CliRunner

from duotok.audio.io import read, write
from duotok.cli.main import app
from duotok.codec.contract import Stream, StreamTokens
from duotok.errors import DuoTokError
from duotok.listening import stimuli
from duotok.listening.build import BuildSettings, build
from duotok.listening.plan import REFERENCE, load
from duotok.listening.sources import Folder, opus_system, tokenizer


def test_sounds_differ_in_nothing_but_their_sound(built: Path) -> None:
    test = load(built)
    for sound in test.plan.sounds:
        audio = read(test.path(sound))
        assert audio.shape == (2, RATE // 2)
        assert abs(stimuli.loudness(audio) - test.plan.lufs) < 0.05 and stimuli.peak_db(audio) <= -0.9
    assert len({test.path(sound).stat().st_size for sound in test.plan.sounds}) == 1
    names = " ".join(path.name for path in built.rglob("*.wav"))
    assert not any(word in names for word in ("one", "two", "ours", "reference", "lowpass", "vocals"))
    listed = [sound.id for sound in test.plan.sounds]
    assert listed == sorted(listed), "in the order of their names, not of their conditions"


def test_conditions_are_what_they_are_called(built: Path, folders: tuple[Path, Path]) -> None:
    test = load(built)
    of = {(test.clips[s.clip].song, s.system): (test.clips[s.clip], read(test.path(s))) for s in test.plan.sounds}
    clip, original = of["sub/two", REFERENCE]
    given = read(folders[0] / "sub" / "two.flac", start=clip.start, seconds=clip.seconds)
    inner = slice(1000, -1000)
    scale = float(original[:, inner].norm() / given[:, inner].norm())
    assert torch.allclose(original[:, inner], scale * given[:, inner], atol=1e-4)
    _, low = of["sub/two", "lowpass-3500"]
    spectrum = torch.fft.rfft(low.double()).abs().sum(0)
    hertz = torch.fft.rfftfreq(low.shape[1], 1 / RATE)
    assert float(spectrum[hertz > 4500].square().sum() / spectrum.square().sum()) < 1e-5
    _, ours = of["sub/two", "ours"]
    assert torch.equal(ours[0], ours[1]), "a mono system is heard as such"
    starts = {c.start for (name, _), (c, _) in of.items() if name == "one"}
    assert len(starts) == 1, "all tracks of a song at the same moment"


def test_the_seed_makes_the_test(folders: tuple[Path, Path], built: Path, tmp_path: Path) -> None:
    def seal(name: str, seed: int) -> str:
        systems = [Folder("ours", folders[1])]
        build(tmp_path / name, Folder("reference", folders[0]), systems, replace(SETTINGS, seed=seed), "0")
        return load(tmp_path / name).identity

    assert seal("again", SETTINGS.seed) == load(built).identity != seal("other", 9)


class Echo:
    """A codec that keeps a clip's sign and remembers what it was given."""

    model_id, model_hash, sample_rate, frame_rate = "echo", "e" * 64, 24_000, 25.0

    def __init__(self, *names: str) -> None:
        self.streams = tuple(Stream(name, (2,)) for name in names)
        self.given: list[dict[str, Any]] = []

    def encode(
        self, audio: Any = None, rate: int = RATE, *, vocals: Any = None, accompaniment: Any = None, **_: Any
    ) -> Any:
        given = {"mix": audio, "vocals": vocals, "accompaniment": accompaniment}
        self.given.append({name: sound for name, sound in given.items() if sound is not None})
        n = next(sound.shape[1] for sound in given.values() if sound is not None)
        signs = {s.name: torch.ones(1, 1, dtype=torch.int64) for s in self.streams}
        return StreamTokens(signs, n_samples=n // 2)

    def decode(self, tokens: Any, track: str = "mix") -> Tensor:
        pitch = {"vocals": 300.0, "accompaniment": 500.0, "mix": 700.0}[track]
        return 0.1 * torch.sin(2 * torch.pi * pitch * torch.arange(tokens.n_samples + 50) / self.sample_rate)[None]


def test_a_tokenizer_hears_all_tracks_with_sound_around_the_clip(folders: tuple[Path, Path], tmp_path: Path) -> None:
    reference, codec = Folder("reference", folders[0]), Echo("vocals", "accompaniment")
    build(tmp_path / "t", reference, [tokenizer("echo", codec, reference), opus_system(24, reference)], SETTINGS, "0")
    assert [set(given) for given in codec.given] == [{"vocals", "accompaniment"}, {"mix"}]
    assert all(sound.shape[1] == 1.5 * RATE for given in codec.given for sound in given.values())
    test = load(tmp_path / "t")
    assert test.plan.systems == ("echo", "opus-24")
    for sound in test.plan.sounds:
        if sound.system == "echo":
            spectrum = torch.fft.rfft(read(test.path(sound))[0]).abs()
            pitch = float(torch.fft.rfftfreq(RATE // 2, 1 / RATE)[spectrum.argmax()])
            assert pitch == {"vocals": 300, "accompaniment": 500, "mix": 700}[test.clips[sound.clip].track]


def test_a_codec_of_one_stream_codes_each_track_by_itself(folders: tuple[Path, Path], tmp_path: Path) -> None:
    reference, codec = Folder("reference", folders[0]), Echo("mix")
    build(tmp_path / "t", reference, [tokenizer("echo", codec, reference)], SETTINGS, "0")
    assert [set(given) for given in codec.given] == [{"mix"}] * 3


def test_one_stem_alone_is_heard_beside_silence(tmp_path: Path) -> None:
    write(tmp_path / "a" / "x.vocals.wav", song(1.0), RATE)
    reference, codec = Folder("reference", tmp_path / "a"), Echo("vocals", "accompaniment")
    build(tmp_path / "t", reference, [tokenizer("echo", codec, reference)], SETTINGS, "0")
    assert (
        set(codec.given[0]) == {"vocals", "accompaniment"} and float(codec.given[0]["accompaniment"].abs().max()) == 0
    )


def test_opus_of_a_channel_that_is_turned_over_is_no_rest(tmp_path: Path) -> None:
    left = song(1.0)[:1]
    write(tmp_path / "a.wav", torch.cat([left, -left]), RATE)
    heard = opus_system(24, Folder(REFERENCE, tmp_path)).make({"mix": read(tmp_path / "a.wav")})["mix"]
    assert heard.std() > 0.5 * left.std()


@pytest.mark.parametrize("whose", ["originals", "decoded"])
def test_a_song_that_cannot_be_read_is_left_out_and_named(
    whose: str, folders: tuple[Path, Path], tmp_path: Path
) -> None:  # fmt: skip
    for name, folder in zip(("originals", "decoded"), folders, strict=True):
        shutil.copytree(folder, tmp_path / name)
    next((tmp_path / whose).glob("one.accompaniment.*")).write_bytes(b"no sound")
    call = [
        "listen",
        "build",
        str(tmp_path / "originals"),
        "--system",
        f"ours={tmp_path / 'decoded'}",
        "-o",
        str(tmp_path / "t"),
    ]
    done = CliRunner().invoke(app, [*call, "--seconds", "0.5", "--must-hear", "0.1", "--clips", "2"])
    assert done.exit_code == 1 and "error: one: left out: " in done.stderr and "one.accompaniment" in done.stderr
    test = load(tmp_path / "t")
    assert {clip.song for clip in test.plan.clips} == {"sub/two"}, "none of its tracks, in no condition"
    assert {test.clips[sound.clip].song for sound in test.plan.sounds} == {"sub/two"} and len(test.plan.sounds) == 6
    next((tmp_path / whose).rglob("two.*")).write_bytes(b"no sound")
    done = CliRunner().invoke(app, [*call[:-1], str(tmp_path / "none"), "--seconds", "0.5"])
    assert done.exit_code == 1 and not (tmp_path / "none").exists(), "a test of nothing is none"


def _lose(path: Path) -> None:
    (path / "b" / "one.vocals.wav").unlink()


def _gain(path: Path) -> None:
    shutil.copy(path / "b" / "one.vocals.wav", path / "b" / "three.wav")


def _shorten(path: Path) -> None:
    write(path / "b" / "one.vocals.wav", song(0.3), RATE)


def _silence(path: Path) -> None:
    write(path / "b" / "one.vocals.wav", torch.zeros(2, 2 * RATE), RATE)


def _twice(path: Path) -> None:
    shutil.copy(path / "a" / "one.vocals.flac", path / "a" / "one.vocals.wav")
    write(path / "a" / "one.vocals.wav", song(1.0), RATE)


def _brief(path: Path) -> None:
    write(path / "a" / "one.vocals.flac", song(0.4), RATE)


def test_the_mix_beside_decoded_tracks_is_not_in_the_way(
    folders: tuple[Path, Path], built: Path, tmp_path: Path
) -> None:
    """`duotok decode --track all` leaves it there; originals of stems have none."""
    originals, decoded = folders
    shutil.copytree(decoded, tmp_path / "all")
    shutil.copy(decoded / "one.vocals.wav", tmp_path / "all" / "one.wav")
    build(tmp_path / "test", Folder("reference", originals), [Folder("ours", tmp_path / "all")], SETTINGS, "0")
    names = [sorted(path.name for path in (folder / "sounds").iterdir()) for folder in (tmp_path / "test", built)]
    assert names[0] == names[1], "the same clips"


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (_lose, ["b: nothing for one.vocals.flac", "the same names"]),
        (_gain, ["a: nothing for three.wav"]),
        (_shorten, ["one.vocals.wav: ends", "before its clip does", "--seconds"]),
        (_silence, ["one, vocals, ours: silent from", "out of the test"]),
        (_twice, ["one.vocals.flac is the vocals of this song already"]),
        (_brief, ["one.vocals.flac: 0.40 s are too short for 1 clip(s) of 0.5 s", "--seconds"]),
        (lambda path: shutil.rmtree(path / "a" / "sub"), ["a: nothing for sub/two.wav"]),
        (lambda path: (path / "t" / "x").mkdir(parents=True), ["t: there already"]),
    ],
)
def test_bad_folders(harm: Any, told: list[str], folders: tuple[Path, Path], tmp_path: Path) -> None:
    for name, folder in zip("ab", folders, strict=True):
        shutil.copytree(folder, tmp_path / name)
    harm(tmp_path)
    with pytest.raises(DuoTokError) as caught:
        build(tmp_path / "t", Folder("reference", tmp_path / "a"), [Folder("ours", tmp_path / "b")], SETTINGS, "0")
    assert all(word in str(caught.value) for word in told), caught.value
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "t" / "test.json").exists() and not list(tmp_path.glob(".*")), "nothing half-written"


@pytest.mark.parametrize("names", [[], ["reference"], ["lowpass-3500"], ["a", "a"], ["a|b"]])
def test_bad_names(names: list[str], folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DuoTokError):
        systems = [Folder(name, folders[1]) for name in names]
        build(tmp_path / "t", Folder("reference", folders[0]), systems, SETTINGS, "0")


@pytest.mark.parametrize(
    "wrong",
    [{"seconds": 0.2}, {"seconds": 90.0}, {"clips": 0}, {"anchors": (100.0,)}, {"must_hear": 11.0}, {"title": " "}],
)
def test_bad_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(DuoTokError):
        BuildSettings(**wrong)
