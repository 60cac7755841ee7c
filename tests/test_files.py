"""What takes a name is on the disk before, and its folder knows the name after: shown on the calls to the system."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.tiny import tiny_bundle

from duotok import files
from duotok.audio.io import write
from duotok.data.jobs import atomic_write
from duotok.errors import DuoTokError
from duotok.tokens import DualTokens


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """fsync, and what is replaced by what, in the order in which they come, with the names of the files."""
    seen: list[tuple[str, str]] = []
    sync, replace = os.fsync, os.replace

    def spied_sync(handle: int) -> None:
        seen.append(("fsync", Path(os.readlink(f"/proc/self/fd/{handle}")).name))
        sync(handle)

    def spied_replace(source: Path, target: Path) -> None:
        seen.extend([("from", Path(source).name), ("replace", Path(target).name)])
        replace(source, target)

    monkeypatch.setattr("os.fsync", spied_sync)
    monkeypatch.setattr("os.replace", spied_replace)
    return seen


def some_bytes(path: Path) -> None:
    with atomic_write(path) as file:
        file.write(b"x")


WRITERS: dict[str, Callable[[Path], None]] = {
    "song.duotok": lambda path: DualTokens.from_codes([1, 2], [3, 4]).save(path),
    "song.wav": lambda path: write(path, torch.zeros(1, 100), 48_000),
    "anything": some_bytes,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_on_the_disk_before_it_has_its_name(name: str, calls: list[tuple[str, str]], tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    renamed = calls.index(("replace", name))
    before, after = calls[:renamed], calls[renamed + 1 :]
    assert ("fsync", calls[renamed - 1][1]) in before
    assert ("fsync", tmp_path.name) in after


def test_of_a_folder_every_file_is(calls: list[tuple[str, str]], tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path)
    before = calls[: calls.index(("replace", folder.name))]
    assert {path.name for path in folder.iterdir()} <= {file for call, file in before if call == "fsync"}
    assert calls[-1] == ("fsync", tmp_path.name)


def test_a_folder_that_is_there_is_replaced_whole(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    files.put(tmp_path / "new", tmp_path / "old")
    assert [p.name for p in tmp_path.iterdir()] == ["old"] and [p.name for p in (tmp_path / "old").iterdir()] == ["new"]


def test_what_is_not_its_own_stays_in_a_folder(tmp_path: Path) -> None:
    for folder, names in (("old", ("card", "notes")), ("new", ("card",))):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_text(folder)
    (tmp_path / "old" / "more").mkdir()
    (tmp_path / "old" / "gone").symlink_to("nowhere")
    files.put(tmp_path / "new", tmp_path / "old", replaced=("card",))
    assert sorted(p.name for p in (tmp_path / "old").iterdir()) == ["card", "gone", "more", "notes"]
    assert [(tmp_path / "old" / name).read_text() for name in ("card", "notes")] == ["new", "old"]
    assert [p.name for p in tmp_path.iterdir()] == ["old"]


def test_a_link_to_a_folder_stays_one(tmp_path: Path) -> None:
    """Otherwise a bundle lies on another disk than it was linked to, and what else was there is moved after it."""
    real = tmp_path / "disk" / "real"
    real.mkdir(parents=True)
    for name in ("card", "notes"):
        (real / name).write_text("old")
    (tmp_path / "link").symlink_to(real)
    with files.writing(tmp_path / "link", ("card",)) as partial:
        partial.mkdir()
        (partial / "card").write_text("new")
    assert (tmp_path / "link").is_symlink() and [p.name for p in (tmp_path / "disk").iterdir()] == ["real"]
    assert [(real / name).read_text() for name in ("card", "notes")] == ["new", "old"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["disk", "link"]


def test_a_long_name_is_no_hindrance(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 255)
    for _ in range(2):
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "file").touch()
        files.put(tmp_path / "new", long)
    assert [p.name for p in tmp_path.iterdir()] == [long.name]


def test_what_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    replace = os.replace

    def fails(source: Path, target: Path) -> None:
        if Path(source).name == "new":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr("os.replace", fails)
    with pytest.raises(OSError, match="No space"):
        files.put(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "old").is_file()


def full() -> OSError:
    """As writing to a file on a full disk raises it: without a name."""
    return OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("inside", [None, "more"])
def test_a_full_disk_is_told_with_the_name_of_what_was_to_be_written(inside: str | None, tmp_path: Path) -> None:
    target = tmp_path / "new" / "card"
    with pytest.raises(OSError, match="No space") as caught, files.writing(target) as partial:
        error = full()
        error.filename = None if inside is None else str(partial / inside)
        raise error
    assert caught.value.filename == str(target) and caught.value.errno == errno.ENOSPC
    assert not list(target.parent.iterdir())


def test_an_error_of_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, files.writing(tmp_path / "card"):
        (tmp_path / "missing").read_bytes()
    assert caught.value.filename == str(tmp_path / "missing")


def test_no_room_for_temporary_files_names_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    wanted = f"^{tmp_path}: no room for temporary files .No space left on device.; set TMPDIR to another place$"
    with pytest.raises(DuoTokError, match=wanted), files.temporary_folder() as folder, files.naming(folder / "x"):
        raise full()
    with pytest.raises(OSError, match="No space") as caught, files.temporary_folder():
        raise full()  # of a file elsewhere
    assert caught.value.filename is None and not list(tmp_path.iterdir())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    for opened in (files.temporary_folder().__enter__, files.temporary_file):
        with pytest.raises(DuoTokError, match=r"missing: no room for temporary files .No such file"):
            opened()


def test_what_killed_writers_left_of_sounds_takes_no_room_for_ever(tmp_path: Path) -> None:
    old, new = files.temporary(tmp_path / "a.wav"), files.temporary(tmp_path / "b.wav")
    mine = [tmp_path / name for name in (".a.partial", "x.partial", f"{old.name}.wav")]
    for path in (old, new, *mine):
        path.write_bytes(b"x")
        if path != new:
            os.utime(path, (0, 0))
    write(tmp_path / "song.wav", torch.zeros(1, 100), 48_000)
    assert {*tmp_path.iterdir()} == {new, *mine, tmp_path / "song.wav"}
