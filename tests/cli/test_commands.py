"""encode, decode and info as a user types them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile as sf
import torch
from click.testing import Result
from tests.forked import DUOTOK, python
from tests.tiny import song
from typer.testing import CliRunner

from duotok import __version__
from duotok.audio import io
from duotok.cli.main import app, extra_of
from duotok.clock import n_frames
from duotok.tokens import DualTokens, load


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def facts(result: Result) -> list[dict[str, object]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a.wav", "sub/b.flac", "sub/deep/c.wav"):
        io.write(tmp_path / "music" / name, song(0.3), 48_000)
    (tmp_path / "music" / "notes.txt").write_text("not a song")
    return tmp_path / "music"


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_help_teaches_and_loads_nothing_heavy() -> None:
    code = "import sys\nfrom duotok.cli.main import app\nprint('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    for command in ("encode", "decode", "info"):
        text = run(command, "--help").stdout
        assert f"  duotok {command} " in text
    assert run("--version").stdout == f"duotok {__version__}\n"
    assert "duotok encode song.mp3" in run("--help").stdout


PRINTS = "from duotok.cli.main import app\napp.command('prints')(lambda: print('printed'))\n"
buffered = pytest.mark.parametrize("unbuffered", ["", "1"])


@buffered
@pytest.mark.parametrize("words", [("recipes", "list"), ("--help",), ("prints",)])
def test_standard_output_on_a_full_disk_is_named(words: tuple[str, ...], unbuffered: str) -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-c", PRINTS + DUOTOK, *words]
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith("error: standard output: No space left on device; ")


@buffered
def test_what_is_printed_without_a_flush_arrives(unbuffered: str) -> None:
    command = [sys.executable, "-c", PRINTS + DUOTOK, "prints"]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "printed\n", "")


@pytest.mark.parametrize(
    ("module", "extra"),
    [("pyarrow.parquet", "train"), ("pystoi", "eval"), ("ray", "ray"), ("pyworld_prebuilt", "songs")],
)  # fmt: skip
def test_what_is_not_installed_is_named_with_its_extra(module: str, extra: str) -> None:
    assert extra_of(module) == extra
    assert extra_of("nobody") == extra_of("torch") == ""


@pytest.mark.parametrize("command", ["tokenize MUSIC -o STORE", "data catalog --corpus folder=MUSIC --work WORK"])
def test_without_pyarrow_one_line_says_what_to_install(command: str, tmp_path: Path) -> None:
    (tmp_path / "MUSIC").mkdir()
    without = "import sys; sys.modules['pyarrow'] = None; sys.modules['pyarrow.parquet'] = None\n"
    sf.write(tmp_path / "MUSIC" / "a.wav", song(2.0).T.numpy(), 48_000)
    words = [
        str(tmp_path / word) if word.isupper() else word.replace("=MUSIC", f"={tmp_path / 'MUSIC'}")
        for word in command.split()
    ]
    done = python(without + "from duotok.cli.main import main\nmain()", *words)
    told = done.stderr.decode()
    assert done.returncode == 1 and "Traceback" not in told
    assert "pip install 'duotok[train]'" in told.splitlines()[-1]


def test_song_to_tokens_to_sound(bundle: Path, tmp_path: Path) -> None:
    audio = song(1.5)[:, :70_001]
    io.write(tmp_path / "song.wav", audio, 48_000)
    result = run("encode", tmp_path / "song.wav", "--model", bundle, "--json")
    assert result.exit_code == 0, result.stderr
    (said,) = facts(result)
    assert said["status"] == "encoded" and said["frames"] == n_frames(70_001)
    assert load(tmp_path / "song.duotok").n_samples == 70_001
    for track in ("mix", "vocals", "accompaniment"):
        out = tmp_path / f"{track}.wav"
        result = run("decode", tmp_path / "song.duotok", "-o", out, "--track", track, "--model", bundle, "--steps", 1)
        assert result.exit_code == 0, result.stderr
        assert io.probe(out).n_samples == 70_001
    parts = io.read(tmp_path / "vocals.wav") + io.read(tmp_path / "accompaniment.wav")
    assert torch.allclose(io.read(tmp_path / "mix.wav"), parts, atol=1e-6)


def test_given_stems(bundle: Path, tmp_path: Path) -> None:
    voice, band = song(0.8), song(0.8, seed=1).roll(5000, 1)
    for name, audio in [("v.wav", voice), ("a.wav", band), ("mix.wav", voice + band)]:
        io.write(tmp_path / name, audio, 48_000)
    v, a, mix, out = tmp_path / "v.wav", tmp_path / "a.wav", tmp_path / "mix.wav", tmp_path / "out"
    result = run("encode", "--vocals", v, "--accompaniment", a, "-o", out / "both.duotok", "--model", bundle)
    assert result.exit_code == 0, result.stderr
    both = load(out / "both.duotok")
    for option, stem in (("--vocals", v), ("--accompaniment", a)):
        result = run("encode", mix, option, stem, "-o", out / "one.duotok", "--force", "--model", bundle)
        assert result.exit_code == 0, result.stderr
        assert (load(out / "one.duotok").stack() == both.stack()).float().mean() > 0.9
    for wrong in (["--vocals", v], ["--vocals", v, "--accompaniment", a], [mix, v, "--vocals", v], []):
        result = run("encode", *wrong, "--model", bundle)
        assert result.exit_code == 1 and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_folder_keeps_its_tree_and_resumes(bundle: Path, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokens"
    dry = run("encode", tree, "-o", out, "--model", bundle, "--dry-run", "--json")
    assert dry.exit_code == 0 and not out.exists()
    assert {f["status"] for f in facts(dry)} == {"would encode"}
    first = run("encode", tree, "-o", out, "--model", bundle)
    assert first.exit_code == 0, first.stderr
    assert names(out) == ["a.duotok", "sub/b.duotok", "sub/deep/c.duotok"]
    assert "3 encoded" in first.stderr
    before = {p: (out / p).stat().st_mtime_ns for p in names(out)}
    (out / "sub/b.duotok").write_bytes((out / "sub/b.duotok").read_bytes()[:-1])
    (out / "a.duotok").unlink()
    second = run("encode", tree, "-o", out, "--model", bundle, "--json")
    assert [f["status"] for f in facts(second)] == ["encoded", "encoded", "skipped"]
    assert (out / "sub/deep/c.duotok").stat().st_mtime_ns == before["sub/deep/c.duotok"]
    decoded = run("decode", out, "-o", tmp_path / "sound", "--track", "vocals", "--format", "flac", "--model", bundle)
    assert decoded.exit_code == 0, decoded.stderr
    assert names(tmp_path / "sound") == ["a.vocals.flac", "sub/b.vocals.flac", "sub/deep/c.vocals.flac"]
    again = run("decode", out, "-o", tmp_path / "sound", "--track", "vocals", "--format", "flac", "--model", bundle)
    assert again.exit_code == 0 and "3 skipped" in again.stderr and "--force" in again.stderr


def test_tokens_of_another_model_are_not_done(bundle: Path, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.duotok"
    assert run("encode", tree / "a.wav", "-o", out, "--model", bundle).exit_code == 0
    tokens = load(out)
    DualTokens.from_codes(
        tokens.vocals, tokens.accompaniment, n_samples=tokens.n_samples, model_hash="other", source="a.wav"
    ).save(out)
    (said,) = facts(run("encode", tree / "a.wav", "-o", out, "--model", bundle, "--json"))
    assert said["status"] == "encoded"


def test_songs_that_differ_in_their_ending_only(bundle: Path, tmp_path: Path) -> None:
    for name in ("x.wav", "x.flac"):
        io.write(tmp_path / "in" / name, song(0.1), 48_000)
    assert run("encode", tmp_path / "in", "-o", tmp_path / "out", "--model", bundle).exit_code == 0
    assert names(tmp_path / "out") == ["x.flac.duotok", "x.wav.duotok"]
    result = run("encode", tmp_path / "in", tmp_path / "in/x.wav", "-o", tmp_path / "out", "--model", bundle)
    assert result.exit_code == 0 and "2 skipped" in result.stderr  # a file that is named twice is one file


def test_a_bad_file_does_not_stop_the_others(bundle: Path, tree: Path, tmp_path: Path) -> None:
    (tree / "bad.wav").write_text("this is not sound")
    result = run("encode", tree, "-o", tmp_path / "out", "--model", bundle, "--json")
    assert result.exit_code == 1
    assert [f["status"] for f in facts(result)] == ["encoded", "failed", "encoded", "encoded"]
    assert "bad.wav: not audio" in result.stderr and "1 failed" in result.stderr
    assert names(tmp_path / "out") == ["a.duotok", "sub/b.duotok", "sub/deep/c.duotok"]


def test_info(bundle: Path, tree: Path, tmp_path: Path) -> None:
    run("encode", tree / "a.wav", "-o", tmp_path / "a.duotok", "--model", bundle)
    found = json.loads(run("info", tmp_path / "a.duotok", "--json").stdout)
    assert found["frames"] == 8 and found["model"] == "tiny" and found["tracks"]["vocals"]["codebook_size"] == 64
    assert "model hash" in run("info", tmp_path / "a.duotok").stdout
    found = json.loads(run("info", bundle, "--json").stdout)
    assert found["kind"] == "bundle" and found["name"] == "tiny" and set(found["parts"]) >= {"tokenizer", "dit.vocals"}
    found = json.loads(run("info", tree / "a.wav", "--json").stdout)
    assert (found["rate"], found["channels"], found["n_samples"]) == (48_000, 2, 14_400)
    for wrong in ("none.duotok", "no-such-bundle"):
        result = run("info", wrong)
        assert result.exit_code == 1 and wrong in result.stderr and result.stderr.count("\n") == 1


def test_info_keeps_a_value_apart_from_its_name_however_deep_it_lies() -> None:
    """The lineage of a bundle that was trained on from others read `checkpointstage2 at step 157`."""
    told = [line for line in run("info", "mini").stdout.splitlines() if "at step" in line or "not known" in line]
    assert len(told) > 5 and all(re.match(r" +(checkpoint|made from) {2,}\S", line) for line in told)


def test_same_seed_same_file(bundle: Path, tree: Path, tmp_path: Path) -> None:
    run("encode", tree / "a.wav", "-o", tmp_path / "a.duotok", "--model", bundle)
    for name, seed in [("one", 1), ("two", 1), ("three", 2)]:
        done = run("decode", tmp_path / "a.duotok", "-o", tmp_path / f"{name}.wav", "--seed", seed, "--model", bundle)
        assert done.exit_code == 0
    # Samples, not bytes: libsndfile stamps the time of writing into float files.
    one, two, three = (io.read(tmp_path / f"{n}.wav") for n in ("one", "two", "three"))
    assert torch.equal(one, two) and not torch.equal(one, three)


def test_interrupt(bundle: Path, tmp_path: Path) -> None:
    """Control-C after the second of three songs: no half file, no traceback, and what is done stays."""
    for index in range(3):
        io.write(tmp_path / "in" / f"{index}.wav", song(0.3), 48_000)
    code = """
import os, signal
from duotok.tokens import DualTokens
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background hands down that it is ignored
save, saved = DualTokens.save, []
def interrupted(tokens, path):
    save(tokens, path)
    saved.append(path)
    if len(saved) == 2:
        os.kill(os.getpid(), signal.SIGINT)
DualTokens.save = interrupted
from duotok.cli.main import main
main()
"""
    done = python(code, "encode", tmp_path / "in", "-o", tmp_path / "out", "--model", bundle)
    assert done.returncode == 130 and b"interrupted" in done.stderr and b"Traceback" not in done.stderr
    assert names(tmp_path / "out") == ["0.duotok", "1.duotok"]
    for name in names(tmp_path / "out"):
        assert load(tmp_path / "out" / name).seconds == pytest.approx(0.3)


def test_two_songs_never_go_into_one_sound(bundle: Path, tmp_path: Path) -> None:
    for name in ("song", "song.vocals"):
        DualTokens(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), 1920).save(
            tmp_path / "in" / f"{name}.duotok"
        )
    result = run("decode", tmp_path / "in", "-o", tmp_path / "out", "--track", "all", "--force", "--model", bundle)
    assert (
        result.exit_code == 1
        and "song.vocals.wav: would be a track of" in result.stderr
        and not (tmp_path / "out").exists()
    )


def test_tracks_of_one_song_are_not_taken_for_songs_in_silence(bundle: Path, tmp_path: Path) -> None:
    for name in (
        "a.vocals.wav",
        "a.accompaniment.wav",
        "b.vocals.wav",
        "c/vocals.wav",
        "c/no_vocals.wav",
        "The Voice.wav",
    ):
        io.write(tmp_path / "music" / name, song(0.1), 48_000)
    result = run("encode", tmp_path / "music", "-o", tmp_path / "out", "--dry-run", "--model", bundle)
    assert (
        "warning: 4 of these files are named as tracks of a song (a.accompaniment.wav, a.vocals.wav, " in result.stderr
    )
    (tmp_path / "music" / "a.vocals.wav").unlink(), (tmp_path / "music" / "c" / "vocals.wav").unlink()
    assert (
        "warning"
        not in run("encode", tmp_path / "music", "-o", tmp_path / "out", "--dry-run", "--model", bundle).stderr
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--track", "vocals", "--gain", "accompaniment=-3dB"], "only --track vocals is decoded"),
        (["--gain", "vocals=-3dB", "--gain", "vocals=2"], "vocals has a gain already"),
    ],
)
def test_a_gain_that_would_not_be_heard_is_refused(words: list[str], said: str, bundle: Path, tmp_path: Path) -> None:
    DualTokens(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), 1920).save(tmp_path / "a.duotok")
    result = run("decode", tmp_path / "a.duotok", "-o", tmp_path / "a.wav", "--model", bundle, "--steps", 1, *words)
    assert result.exit_code == 1 and said in result.stderr and not (tmp_path / "a.wav").exists()
