"""Where nothing can be written: one line that says why, before any work is done."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.tiny import song
from typer.testing import CliRunner

from duotok.audio import io
from duotok.cli.files import check_writable
from duotok.cli.main import app
from duotok.errors import DuoTokError

WORDS = {True: "read-only file system", False: "permission denied"}


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], Path]:
    """A folder that cannot be written, as its file system or its owner wants; simulated, as root may write anywhere."""
    folder = tmp_path / "locked"
    folder.mkdir()
    access = os.access

    def answer(path: Path, mode: int) -> bool:
        inside = folder in (Path(path), *Path(path).parents)
        return access(path, mode) and not (inside and mode & os.W_OK)

    def lock(read_only: bool) -> Path:
        monkeypatch.setattr(os, "access", answer)
        flags = SimpleNamespace(f_flag=os.ST_RDONLY if read_only else 0)
        monkeypatch.setattr(os, "statvfs", lambda path: flags)
        return folder

    return lock


@pytest.mark.parametrize("read_only", [True, False])
def test_the_reason_is_told(read_only: bool, locked: Callable[[bool], Path]) -> None:
    folder = locked(read_only)
    for path in (folder / "x.wav", folder / "deep" / "x.wav"):
        with pytest.raises(DuoTokError) as caught:
            check_writable(path)
        assert str(caught.value) == (
            f"{path}: cannot be written ({folder}: {WORDS[read_only]}); choose another place with -o"
        )
    check_writable(folder.parent / "x.wav")


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("below", ["", "new/demo"])
def test_a_demo_begins_no_work(
    read_only: bool, below: str, locked: Callable[[bool], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    io.write(tmp_path / "song.wav", song(0.3), 48_000)
    monkeypatch.setattr("duotok.cli.demo.open_model", lambda *_: pytest.fail("the model was opened"))
    folder = locked(read_only)
    done = CliRunner().invoke(app, ["demo", str(tmp_path / "song.wav"), "-o", str(folder / below)])
    assert done.exit_code == 1 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {folder / below}") and f"({folder}: {WORDS[read_only]})" in line
    assert not list(folder.iterdir())


def test_a_demo_goes_where_no_file_is_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io.write(tmp_path / "song.wav", song(0.3), 48_000)
    monkeypatch.setattr("duotok.cli.demo.open_model", lambda *_: pytest.fail("the model was opened"))
    (tmp_path / "out").write_text("a file")
    done = CliRunner().invoke(app, ["demo", str(tmp_path / "song.wav"), "-o", str(tmp_path / "out")])
    assert done.exit_code == 1 and f"({tmp_path / 'out'} is a file)" in done.stderr
