"""Which input becomes which output."""

from __future__ import annotations

from pathlib import Path

from duotok.cli import files


def test_what_comes_through_a_pipe_has_a_name() -> None:
    jobs = [(files.STREAM, Path("-"))]
    assert files.targets(jobs, Path("out"), ".wav") == [(files.STREAM, Path("out/stdin.wav"))]


def test_two_inputs_never_share_an_output() -> None:
    jobs = [(Path("a/x.mp3"), Path("x.mp3")), (Path("b/x.wav"), Path("x.wav")), (Path("c/x.wav"), Path("x.wav"))]
    found = [target for _, target in files.targets(jobs, Path("out"), ".duotok")]
    assert len(set(found)) == 3 and found[0] == Path("out/x.mp3.duotok")
