"""Which input becomes which output."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.forked import DUOTOK, python

from duotok.audio import io
from duotok.cli import files
from duotok.tokens import load


def test_what_comes_through_a_pipe_has_a_name() -> None:
    jobs = [(files.STREAM, Path("-"))]
    assert files.targets(jobs, Path("out"), ".wav") == [(files.STREAM, Path("out/stdin.wav"))]


def test_two_inputs_never_share_an_output() -> None:
    jobs = [(Path("a/x.mp3"), Path("x.mp3")), (Path("b/x.wav"), Path("x.wav")), (Path("c/x.wav"), Path("x.wav"))]
    found = [target for _, target in files.targets(jobs, Path("out"), ".duotok")]
    assert len(set(found)) == 3 and found[0] == Path("out/x.mp3.duotok")


@pytest.mark.parametrize(
    ("closed", "words", "said"),
    [
        (0, ("encode", "-", "-o", "out.duotok"), "error: -: standard input is closed; "),
        (1, ("encode", "song.wav", "-o", "-"), "error: -o -: standard output is closed; "),
    ],
)
def test_a_stream_that_is_closed_is_one_line(closed: int, words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    """As under cron, or in a service."""
    io.write(tmp_path / "song.wav", torch.zeros(1, 4800), 48_000)
    start = (
        f"import os, sys\nos.close({closed})\nsys.{('stdin', 'stdout')[closed]} = None\nos.chdir({str(tmp_path)!r})\n"
    )
    done = python(start + DUOTOK, *words)
    (line,) = done.stderr.decode().splitlines()
    assert done.returncode == 1 and line.startswith(said)


def test_no_file_takes_the_place_of_a_stream_that_is_closed() -> None:
    """Else what a library prints goes into it."""
    ask = "print(os.path.samefile('/dev/fd/1', os.devnull), file=sys.stderr)"
    code = f"import os, sys\nfrom duotok.cli import main\nos.close(1)\nmain.app = lambda: {ask}\nmain.main()"
    assert python(code).stderr == b"True\n"


def test_standard_output_stays_that_of_who_calls() -> None:
    """A log or a program may hold it, and what it says may not wait where Python runs with -u."""
    code = """
import gc, io, sys
from duotok.cli import main
raw = io.FileIO(1, "w", closefd=False)
sys.stdout = held = io.TextIOWrapper(raw, "utf-8", write_through=True)
def command():
    print("of the command")
    raw.write(b"after it\\n")
main.app = command
main.main()
gc.collect()
print("held", file=held)
print(sys.stdout is held)
"""
    done = python(code)
    assert done.stdout.decode().splitlines() == ["of the command", "after it", "held", "True"] and not done.stderr


def test_without_standard_error_no_line_comes_into_what_is_written(tmp_path: Path) -> None:
    """`print` takes standard output where there is no other."""
    io.write(tmp_path / "song.wav", torch.rand(1, 48_000) - 0.5, 48_000)
    start = f"import os, sys\nos.close(2)\nsys.stderr = None\nos.chdir({str(tmp_path)!r})\n"
    done = python(start + DUOTOK, "encode", "song.wav", "-o", "-")
    (tmp_path / "song.duotok").write_bytes(done.stdout)
    assert done.returncode == 0 and load(tmp_path / "song.duotok").n_frames == 25
    missing = python(start + DUOTOK, "encode", "missing.wav", "-o", "-")
    assert missing.returncode == 1 and not missing.stdout


def test_a_song_that_is_missing_is_one_line(tmp_path: Path) -> None:
    """And not one more for the file that would have gone to standard output."""
    done = python(DUOTOK, "encode", tmp_path / "missing.wav", "-o", "-")
    (line,) = done.stderr.decode().splitlines()
    assert done.returncode == 1 and not done.stdout and line.startswith(f"error: {tmp_path}/missing.wav: ")
