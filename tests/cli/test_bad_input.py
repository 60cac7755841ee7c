"""Everything wrong that people bring: one line naming the file and the remedy, exit code 1, nothing half-written; or it works."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import soundfile
from click.testing import Result
from tests.tiny import song
from typer.testing import CliRunner

from duotok.audio import io
from duotok.cli.main import app
from duotok.clock import n_frames
from duotok.tokens import load


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    assert ";" in lines[0]  # what is wrong; what to do
    for word in words:
        assert word in lines[0], lines[0]


def tone(rate: int, seconds: float, channels: int = 1) -> np.ndarray:
    return np.tile(song(seconds, rate)[:1].numpy().T, (1, channels))


@pytest.mark.parametrize("content", [b"", b"hello\n" * 100, b"RIFF\0\0\0\0WAVE", bytes(range(256)) * 40])
@pytest.mark.parametrize("name", ["x.wav", "x.mp3", "x.m4a"])
def test_not_audio(bundle: Path, tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    refused(run("encode", tmp_path / name, "-o", tmp_path / "out", "--model", bundle), str(tmp_path / name))
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_not_there(bundle: Path, tmp_path: Path) -> None:
    refused(run("encode", tmp_path / "x.wav", "-o", tmp_path / "out", "--model", bundle), "x.wav", "check the name")
    refused(run("decode", tmp_path / "x.duotok", "-o", tmp_path / "out", "--model", bundle), "x.duotok")
    assert not list(tmp_path.iterdir())


def test_nan(bundle: Path, tmp_path: Path) -> None:
    samples = tone(48_000, 1.0)
    samples[-5] = np.nan
    soundfile.write(tmp_path / "x.wav", samples, 48_000, subtype="FLOAT")
    refused(run("encode", tmp_path / "x.wav", "-o", tmp_path / "out", "--model", bundle), "x.wav", "NaN", "export")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "rate", "samples"),
    [
        ("silent", 48_000, np.zeros((48_000, 2))),
        ("20ms", 44_100, tone(44_100, 0.02)),
        ("one-sample", 48_000, np.ones((1, 1)) * 0.1),
        ("8khz-mono", 8000, tone(8000, 1.0)),
        ("192khz-six", 192_000, tone(192_000, 0.5, 6)),
    ],
)
def test_odd_but_sound(bundle: Path, tmp_path: Path, name: str, rate: int, samples: np.ndarray) -> None:
    soundfile.write(tmp_path / f"{name}.wav", samples, rate, subtype="FLOAT")
    tokens, again = tmp_path / f"{name}.duotok", tmp_path / "again.wav"
    result = run("encode", tmp_path / f"{name}.wav", "--model", bundle)
    assert result.exit_code == 0, result.stderr
    assert ("silent" in result.stderr.replace(f"{name}.", "")) == (name == "silent")
    n_samples = -(-len(samples) * 48_000 // rate)
    assert load(tokens).n_samples == n_samples and load(tokens).n_frames == n_frames(n_samples)
    assert run("decode", tokens, "-o", again, "--model", bundle).exit_code == 0
    assert io.read(again).shape[1] == n_samples


def test_truncated_mp3(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.mp3"
    soundfile.write(path, tone(48_000, 3.0, 2), 48_000)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    result = run("encode", path, "--model", bundle)
    assert result.exit_code == 0
    assert any(line.startswith("warning:") and "x.mp3" in line for line in result.stderr.splitlines())
    assert 1.0 < load(tmp_path / "x.duotok").seconds < 2.0
    path.write_bytes(data[:150])
    refused(run("encode", path, "-o", tmp_path / "y.duotok", "--model", bundle), "x.mp3")
    assert not (tmp_path / "y.duotok").exists()


def test_folder_without_audio(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "readme.txt").touch()
    refused(run("encode", tmp_path / "in", "-o", tmp_path / "out", "--model", bundle), "in: no audio files")
    refused(run("decode", tmp_path / "in", "-o", tmp_path / "out", "--model", bundle), "no .duotok files")
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_unwritable_output(bundle: Path, tmp_path: Path) -> None:
    io.write(tmp_path / "x.wav", song(0.2), 48_000)
    (tmp_path / "file").touch()
    (tmp_path / "folder.duotok").mkdir()
    (tmp_path / "folder.duotok" / "x.duotok").mkdir()
    for out in (tmp_path / "file" / "x.duotok", tmp_path / "folder.duotok", Path("/proc/none/x.duotok")):
        refused(run("encode", tmp_path / "x.wav", "-o", out, "--model", bundle), str(out))
    assert run("encode", tmp_path / "x.wav", "--model", bundle).exit_code == 0
    for out in (tmp_path / "file" / "x.wav", Path("/proc/none/x.wav"), tmp_path / "y.m4a"):
        refused(run("decode", tmp_path / "x.duotok", "-o", out, "--model", bundle), str(out))
    found = sorted(p.name for p in tmp_path.rglob("*"))
    assert found == ["file", "folder.duotok", "x.duotok", "x.duotok", "x.wav"]


def test_damaged_and_foreign_tokens(bundle: Path, tmp_path: Path) -> None:
    io.write(tmp_path / "x.wav", song(0.2), 48_000)
    run("encode", tmp_path / "x.wav", "--model", bundle)
    data = (tmp_path / "x.duotok").read_bytes()
    foreign = safetensors.numpy.save({"w": np.zeros(4)})
    flipped = data[:-3] + bytes([data[-3] ^ 4]) + data[-2:]
    for content, word in [
        (data[:-7], "damaged"),
        (flipped, "damaged"),
        (foreign, "not a DuoTok"),
        (b"", "not a DuoTok"),
    ]:
        (tmp_path / "y.duotok").write_bytes(content)
        out = tmp_path / "y.wav"
        refused(run("decode", tmp_path / "y.duotok", "-o", out, "--model", bundle), "y.duotok", word)
        refused(run("info", tmp_path / "y.duotok"), "y.duotok", word)
        assert not out.exists()
    refused(run("decode", tmp_path / "x.wav", "-o", tmp_path / "z.wav", "--model", bundle), "x.wav", "not a DuoTok")


def test_bundle_with_missing_or_damaged_weights(bundle: Path, tmp_path: Path) -> None:
    io.write(tmp_path / "x.wav", song(0.2), 48_000)
    run("encode", tmp_path / "x.wav", "--model", bundle)
    broken = Path(shutil.copytree(bundle, tmp_path / "broken"))
    (broken / "dit.vocals.safetensors").unlink()
    for command in (
        ["encode", tmp_path / "x.wav", "--force"],
        ["decode", tmp_path / "x.duotok", "-o", tmp_path / "y.wav"],
    ):
        refused(run(*command, "--model", broken), "dit.vocals.safetensors", "missing")
    refused(run("info", broken), "dit.vocals.safetensors", "missing")
    shutil.copy(bundle / "tokenizer.safetensors", broken / "dit.vocals.safetensors")
    decode = ["decode", tmp_path / "x.duotok", "-o", tmp_path / "y.wav", "--model", broken]
    refused(run(*decode), "not as it was written", "dit.vocals")
    refused(run("bundle", "--seal", broken), "do not fit", "dit.vocals")
    refused(run("info", "no/such/bundle"), "no such folder")
    assert not (tmp_path / "y.wav").exists()


def test_tokens_of_another_bundle(bundle: Path, tmp_path: Path) -> None:
    from tests.tiny import tiny_bundle

    io.write(tmp_path / "x.wav", song(0.2), 48_000)
    assert run("encode", tmp_path / "x.wav", "--model", bundle).exit_code == 0
    other = tiny_bundle(tmp_path, seed=1)
    result = run("decode", tmp_path / "x.duotok", "-o", tmp_path / "y.wav", "--model", other)
    refused(result, "x.duotok", "give the bundle that made them")
    assert not (tmp_path / "y.wav").exists()
    assert run("decode", tmp_path / "x.duotok", "-o", tmp_path / "y.wav", "--model", bundle).exit_code == 0


def test_settings_that_do_not_exist(bundle: Path, tmp_path: Path) -> None:
    io.write(tmp_path / "x.wav", song(0.2), 48_000)
    run("encode", tmp_path / "x.wav", "--model", bundle)
    base = ["decode", tmp_path / "x.duotok", "-o", tmp_path / "y.wav", "--model", bundle]
    refused(run(*base, "--sampler", "euler"), "sampler 'euler'", "dpmpp-2m")
    refused(run(*base, "--device", "cuda:99"), "cuda:99", "--device cpu")
    refused(run("encode", tmp_path / "x.wav", "--model", bundle, "--precision", "fp7"), "fp7", "fp32, bf16")
    assert run(*base, "--steps", 0).exit_code == 2
    assert run(*base, "--track", "drums").exit_code == 2
    assert not (tmp_path / "y.wav").exists()


@pytest.mark.parametrize("name", ["missing.mp3", "missing.duotok", "missing.mkv"])
def test_info_of_a_file_that_is_not_there(name: str, tmp_path: Path) -> None:
    told = run("info", tmp_path / name)
    refused(told, name, "no such file; check the name")
    assert told.stdout == ""


def test_a_bundle_or_a_stage_of_no_such_name() -> None:
    for told, words in (
        (run("info", "nothing"), ("nothing", "no such bundle")),
        (run("train", "stage9", "-c", "x.yaml"), ("stage 'stage9' is unknown", "stage4, adversarial, adapt, lm")),
    ):
        refused(told, *words)
        assert told.stdout == ""


@pytest.mark.parametrize("level", [-76.0, -100.0])
def test_a_soft_song_is_not_called_silent(level: float, bundle: Path, tmp_path: Path) -> None:
    soft = song(1.0) / song(1.0).abs().max() * 10 ** (level / 20)
    io.write(tmp_path / "soft.wav", soft, 48_000)
    done = run("encode", tmp_path / "soft.wav", "--model", bundle)
    assert done.exit_code == 0 and "silent" not in done.stderr
    assert "softer than the gate of the loudness meter (peak -" in done.stderr
    io.write(tmp_path / "none.wav", 0 * soft, 48_000)
    assert "none.wav: silent" in run("encode", tmp_path / "none.wav", "--model", bundle).stderr
