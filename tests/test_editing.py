"""Songs changed as tokens: every frame stays where arithmetic says, and the file tells what was done."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny import song as sound
from tests.tiny import tiny_bundle
from typer.testing import CliRunner

from duotok import editing
from duotok.audio.io import read
from duotok.cli.main import app
from duotok.codec.duotok import DuoTok
from duotok.errors import ConfigError, TokenFileError
from duotok.tokens import DualTokens, SourceFile
from duotok.tracks import TRACKS


def tokens(frames: int, first: int = 0, short: int = 0, name: str = "a.mp3") -> DualTokens:
    """Vocals count up from `first`, accompaniment from 1000 more; the last frame lacks `short` samples."""
    rows = [range(first + base, first + base + frames) for base in (0, 1000)]
    known = {"n_samples": 1920 * frames - short, "model_hash": "m" * 64, "model_id": "tiny", "source": name}
    return DualTokens.from_codes(*map(list, rows), **known)


@given(st.integers(1, 60), st.data())
def test_a_song_cut_and_joined_is_the_song(frames: int, data: st.DataObject) -> None:
    song = tokens(frames, short=data.draw(st.integers(0, 1919)))
    places = sorted({0, frames, *data.draw(st.lists(st.integers(1, frames), max_size=4))})
    parts = [editing.cut(song, a, b) for a, b in itertools.pairwise(places)]
    again = editing.join(parts)
    assert torch.equal(again.stack(), song.stack()) and again.n_samples == song.n_samples
    assert sum(part.n_samples for part in parts) == song.n_samples


@given(st.integers(1, 40), st.integers(1, 5), st.data())
def test_a_loop_is_as_long_as_it_says(frames: int, times: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, frames - 1))
    stop = data.draw(st.integers(start + 1, frames))
    song = tokens(frames, short=100)
    looped = editing.loop(song, start, stop, times)
    assert looped.n_frames == frames + (times - 1) * (stop - start)
    expected = [*range(stop), *list(range(start, stop)) * (times - 1), *range(stop, frames)]
    assert looped.vocals.tolist() == expected and looped.accompaniment.tolist() == [1000 + code for code in expected]
    assert looped.n_samples == 1920 * looped.n_frames - 100


@given(st.integers(-30, 30))
def test_tracks_of_two_songs_meet_where_they_are_told_to(shift: int) -> None:
    voice, band = tokens(40, 0), tokens(35, 5000, name="b.mp3")
    made = editing.combine(voice, band, shift)
    at = torch.arange(made.n_frames)
    assert torch.equal(made.vocals, at + max(0, -shift)) and torch.equal(made.accompaniment, at + 6000 + max(0, shift))
    assert made.n_frames == min(40 - max(0, -shift), 35 - max(0, shift))
    told = f"vocals {abs(shift)} frames {'later' if shift > 0 else 'earlier'}"
    assert made.sources["edit 1"].name.endswith(told if shift else "accompaniment of b.mp3")


def test_splice_and_mute_change_what_they_name_and_nothing_else() -> None:
    song, other = tokens(30), tokens(8, 5000)
    made = editing.replace_part(song, other, 25, ["accompaniment"])
    assert torch.equal(made.vocals, song.vocals) and made.n_samples == song.n_samples
    assert made.accompaniment.tolist() == [*range(1000, 1025), *range(6000, 6005)]
    quiet = editing.mute(song, "vocals", torch.tensor([7, 8]), 10, 15)
    assert quiet.vocals.tolist() == [*range(10), 7, 8, 7, 8, 7, *range(15, 30)]
    assert torch.equal(quiet.accompaniment, song.accompaniment) and torch.equal(song.vocals, torch.arange(30))


def test_the_file_tells_the_whole_story(tmp_path: Path) -> None:
    mine, theirs = SourceFile("a.mp3", "a" * 64, 5), SourceFile("b.mp3", "b" * 64, 6)
    a, b = replace(tokens(30), sources={"mix": mine}), replace(tokens(30, name="b.mp3"), sources={"mix": theirs})
    made = editing.combine(editing.cut(a, 5), editing.cut(b, 0, 20))
    made.save(tmp_path / "x.duotok")
    told = DualTokens.load(tmp_path / "x.duotok").sources
    assert (told["mix"], told["mix 2"]) == (mine, theirs)
    assert [told[f"edit {i}"].name for i in (1, 2, 3)] == [
        "cut: 0:00.20 to 0:01.20 of a.mp3",
        "cut: 0:00.00 to 0:00.80 of b.mp3",
        "combine: vocals of a.mp3, accompaniment of b.mp3",
    ]
    a.save(tmp_path / "a.duotok")
    data = (tmp_path / "a.duotok").read_bytes()
    assert told["edit 1"] == SourceFile(told["edit 1"].name, hashlib.sha256(data).hexdigest(), len(data))


def test_steps_stay_in_their_order_through_files(tmp_path: Path) -> None:
    made = replace(tokens(60), sources={"mix": SourceFile("a.mp3", "a" * 64, 5)})
    for _ in range(12):
        made = editing.cut(made, 0, made.n_frames - 1)
        made.save(tmp_path / "x.duotok")
        made = DualTokens.load(tmp_path / "x.duotok")
    assert [file.name.partition(" of ")[0] for file in editing.story(made.sources).values()] == [
        "a.mp3", *(f"cut: 0:00.00 to {editing.moment(59 - step)}" for step in range(12))
    ]  # fmt: skip
    shown = CliRunner().invoke(app, ["info", str(tmp_path / "x.duotok")]).output.splitlines()
    places = [shown.index(f"{f'  edit {step + 1}':<24}{made.sources[f'edit {step + 1}'].name}") for step in range(12)]
    assert places == sorted(places) and f"{'  mix':<24}a.mp3" in shown


def test_gain_is_that_of_the_first() -> None:
    loud, soft = replace(tokens(10), gain_db=-3.0), replace(tokens(10), gain_db=6.0)
    assert editing.join([loud, soft]).gain_db == editing.combine(loud, soft).gain_db == -3.0


@pytest.mark.parametrize(
    ("text", "frame"),
    [("12.5", 312), ("12.52s", 313), ("1:02.5", 1562), ("310f", 310), ("1:00:01", 90_025), (".04", 1)],
)
def test_moments(text: str, frame: int) -> None:
    assert editing.frame_at(text) == frame


@pytest.mark.parametrize("text", ["", "soon", "-1", "1:2:3:4", "12f5", "1e3", "nan", 400 * "9", f"{5000 * '9'}f"])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(ConfigError, match=r"write seconds as in 12\.5"):
        editing.frame_at(text)


def test_mistakes() -> None:
    song, other = tokens(10), replace(tokens(10), model_hash="n" * 64)
    for wrong in (lambda: editing.join([song, other]), lambda: editing.combine(song, other)):
        with pytest.raises(TokenFileError, match="do not belong together; encode both songs with one model"):
            wrong()
    for call, message in (
        (lambda: editing.cut(song, 10), "is no part of a song of 0:00.40"),
        (lambda: editing.cut(song, 5, 5), "is no part"),
        (lambda: editing.join([]), "nothing to join"),
        (lambda: editing.loop(song, 0, 5, 0), "0 times is none"),
        (lambda: editing.loop(song, 0, None, 1 << 30), "longer than a token file may be"),
        (lambda: editing.combine(song, song, 10), "longer than the songs"),
        (lambda: editing.mute(song, "drums", torch.tensor([0])), "track 'drums' does not exist"),
        (lambda: editing.replace_part(song, song, 10), "lies outside of a song"),
    ):
        with pytest.raises(ConfigError, match=message):
            call()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edit")
    bundle = tiny_bundle(folder)
    model = DuoTok.from_pretrained(bundle)
    for name, seed in (("a", 1), ("b", 2)):
        made = model.encode(vocals=sound(2.0, seed=seed), accompaniment=sound(2.0, seed=seed + 5))
        replace(made, source=f"{name}.wav").save(folder / f"{name}.duotok")
    return folder


def run(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["edit", *map(str, words)])
    return done.exit_code, done.stderr + done.stdout


def test_the_commands(files: Path, tmp_path: Path) -> None:
    a, b, out = files / "a.duotok", files / "b.duotok", tmp_path / "out.duotok"
    first, other = DualTokens.load(a), DualTokens.load(b)
    expected = {
        ("cut", a, "--from", "10f", "--to", "1.0"): editing.cut(first, 10, 25),
        ("join", a, b, a): editing.join([first, other, first]),
        ("loop", a, "--from", "10f", "--to", "20f", "--times", "3"): editing.loop(first, 10, 20, 3),
        ("combine", "--vocals", a, "--accompaniment", b, "--shift", "-0.4"): editing.combine(first, other, -10),
        ("splice", a, b, "--from", "1", "--track", "vocals"): editing.replace_part(first, other, 25, ["vocals"]),
    }
    for words, wanted in expected.items():
        code, told = run(*words, "-o", out, "--force")
        assert code == 0, told
        assert DualTokens.load(out) == wanted, words
    silence = DuoTok.from_pretrained(files / "tiny").silence("vocals")
    code, told = run("mute", a, "--track", "vocals", "--to", "1", "--model", files / "tiny", "-o", out, "--force")
    assert code == 0, told
    made = DualTokens.load(out)
    assert set(made.vocals[:25].tolist()) == set(silence.tolist()) and torch.equal(made.vocals[25:], first.vocals[25:])


def test_the_record_is_of_the_file_that_was_read(files: Path, tmp_path: Path) -> None:
    made, out = tmp_path / "made.duotok", tmp_path / "out.duotok"
    part = editing.cut(DualTokens.load(files / "a.duotok"), 0, 20)
    replace(part, source="").save(made)  # as a language model's
    assert run("join", made, made, "-o", out)[0] == 0
    told = editing.story(DualTokens.load(out).sources)
    assert [role for role in told if role.startswith("edit")] == ["edit 1", "edit 2"]
    data = made.read_bytes()
    both = hashlib.sha256(2 * hashlib.sha256(data).digest()).hexdigest()
    assert told["edit 2"] == SourceFile("join: made.duotok, made.duotok", both, 2 * len(data))


def test_nothing_is_lost(files: Path, tmp_path: Path) -> None:
    a, out = files / "a.duotok", tmp_path / "out.duotok"
    before = a.read_bytes()
    for words, message in (
        (("cut", a, "-o", a), "is an input, and would be replaced"),
        (("cut", a, "-o", tmp_path / "out.wav"), "tokens are written as .duotok files"),
        (("cut", a, "--from", "soon", "-o", out), "moment 'soon'"),
        (("cut", tmp_path / "none.duotok", "-o", out), "cannot be read"),
        (("mute", a, "--track", "vocals", "--model", "mini", "-o", out), "give the bundle that made them"),
    ):
        code, told = run(*words)
        assert code == 1 and message in told and told.count("\n") == 1, told
    assert not out.exists() and a.read_bytes() == before
    out.write_text("mine")
    code, told = run("cut", a, "-o", out)
    assert code == 1 and "--force replaces it" in told and out.read_text() == "mine"


def test_tracks_are_turned_up_and_down_on_the_way_out(files: Path, tmp_path: Path) -> None:
    sounds: dict[tuple[str, ...], torch.Tensor] = {}
    cases = ((), ("--gain", "vocals=-6dB"), ("--track", "vocals"), ("--track", "vocals+accompaniment"))
    for number, more in enumerate(cases):
        out = tmp_path / f"{number}.wav"
        words = ["decode", files / "a.duotok", "-o", out, "--model", files / "tiny", "--steps", "1", *more]
        done = CliRunner().invoke(app, [*map(str, words)])
        assert done.exit_code == 0, done.stderr
        sounds[more] = read(out)
    softer = sounds[()] - (1 - 10 ** (-6 / 20)) * sounds["--track", "vocals"]
    torch.testing.assert_close(sounds["--gain", "vocals=-6dB"], softer, atol=1e-6, rtol=1e-5)
    assert torch.equal(sounds["--track", "vocals+accompaniment"], sounds[()])
    for wrong in ("drums=3", "vocals", "vocals=x", "vocals=nan", "vocals=500"):
        done = CliRunner().invoke(
            app, ["decode", str(files / "a.duotok"), "-o", str(tmp_path / "x.wav"), "--gain", wrong]
        )
        assert done.exit_code == 1 and f"--gain {wrong}" in done.stderr and not (tmp_path / "x.wav").exists()


def test_silence_is_what_zeros_encode_to(files: Path) -> None:
    model = DuoTok.from_pretrained(files / "tiny")
    zeros = torch.zeros(1, 48_000 * 20)
    tokens_of_zeros = model.encode(vocals=zeros, accompaniment=zeros)
    for track in TRACKS:
        codes = tokens_of_zeros.track(track)
        assert int(model.silence(track)[0]) == int(codes[len(codes) // 2])


def test_only_songs_of_one_precision_keep_it() -> None:
    rounded, exact = (replace(tokens(5), precision=precision) for precision in ("int8", "fp32"))
    assert editing.join([rounded, editing.cut(rounded, 1)]).precision == "int8"
    assert editing.join([rounded, exact]).precision == editing.combine(exact, rounded).precision == ""
