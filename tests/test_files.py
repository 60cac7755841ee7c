"""What takes a name is on the disk before, and its folder knows the name after: shown on the calls to the system."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch
from tests.tiny import tiny_bundle

from duotok import files
from duotok.audio.io import Writer, write
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


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such call")
def test_two_folders_change_places(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert files._exchanged(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "one" / "other").exists() and (tmp_path / "other" / "one").exists()
    assert not files._exchanged(tmp_path / "one", tmp_path / "nowhere")


def killed_at(event: int, work: Callable[[], None]) -> bool:
    """Call `work` in a process that is killed before it changes the file system for the nth time; False when it came to its end."""
    child = os.fork()
    if child == 0:
        seen = []

        def watch(name: str, arguments: tuple[object, ...]) -> None:
            if name in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink"):
                seen.append(name)
                if len(seen) == event:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("exchange", [True, False])
def test_a_kill_at_any_moment_leaves_one_whole_folder(
    exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own files are all old or all new, and what else lies there is there. Without an exchange the next writer brings it back."""
    if not exchange:
        monkeypatch.setattr(files, "_exchanged", lambda one, other: False)
    kept = {"notes": "mine", "more/deep": "mine too", "link": "notes"}

    def write(folder: Path, content: str) -> None:
        for name in ("card", "weights"):
            (folder / name).write_text(content)

    def work(target: Path) -> None:
        with files.writing(target, ("card", "weights", "gone")) as partial:
            partial.mkdir()
            write(partial, "new")

    event, found, killed = 0, list[str](), True
    while killed:
        event += 1
        target = tmp_path / str(event) / "bundle"
        (target / "more").mkdir(parents=True)
        write(target, "old")
        for name in ("notes", "more/deep", "gone"):
            (target / name).write_text(kept.get(name, ""))
        (target / "link").symlink_to("notes")
        killed = killed_at(event, lambda target=target: work(target))  # type: ignore[misc]
        assert target.is_dir() or not exchange, event
        for aside in target.parent.glob(f".*{files.ASIDE}"):
            assert sorted(path.name for path in aside.iterdir()) == ["card", "gone", "link", "more", "notes", "weights"]
        files.recover(target)
        (content,) = {(target / name).read_text() for name in ("card", "weights")}
        found.append(content)
        assert (target / "gone").exists() == (content == "old")
        assert [(target / name).read_text() for name in ("notes", "more/deep")] == ["mine", "mine too"], event
        assert os.readlink(target / "link") == "notes"
        work(target)
        assert (target / "card").read_text() == "new" and (target / "more" / "deep").read_text() == "mine too"
        files.sweep(target)
        assert [path.name for path in target.parent.iterdir()] == ["bundle"]
    assert event > 8 and found == sorted(found, reverse=True) and {*found} == {"old", "new"}


def replace_card(target: Path) -> None:
    with files.writing(target, ("card",)) as partial:
        partial.mkdir()
        (partial / "card").write_text("new")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems move what is not replaced")
def test_what_is_not_replaced_is_the_same_file_or_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may be at work in it: what it writes there must not go to a copy that is deleted."""
    target, link = tmp_path / "bundle", os.link
    for name in ("card", "notes", "songs/one"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text("old")
    before = {name: (target / name).stat().st_ino for name in ("card", "notes", "songs", "songs/one")}

    def links(source: Path, place: Path) -> None:
        link(source, place)
        if Path(source).name == "one":
            (target / "songs" / "two").write_text("made meanwhile")

    monkeypatch.setattr("os.link", links)
    here = os.open(target / "songs", os.O_RDONLY)
    replace_card(target)
    os.close(os.open("three", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    assert {name for name, number in before.items() if (target / name).stat().st_ino != number} == {"card"}
    assert {path.name for path in (target / "songs").iterdir()} == {"one", "two", "three"}
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("exchange", [True, False])
def test_without_hard_links_it_is_the_same_file_too(
    exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the file is another user's, who has it still."""
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "notes").write_text("mine")
    before = (target / "notes").stat().st_ino

    def fails(source: Path, place: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", fails)
    if not exchange:
        monkeypatch.setattr(files, "_exchanged", lambda one, other: False)
    replace_card(target)
    assert (target / "notes").stat().st_ino == before and (target / "notes").read_text() == "mine"
    assert (target / "card").read_text() == "new" and [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_disk_that_is_mounted_in_a_folder_is_not_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "bundle"
    (target / "disk").mkdir(parents=True)
    (target / "disk" / "song").touch()
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path).name == "disk")
    with pytest.raises(OSError, match="mounted"):
        replace_card(target)
    assert (target / "disk" / "song").exists() and not (target / "card").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_for_a_new_file_or_folder_the_one_around_it_is_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a folder of a hundred thousand songs would be searched a hundred thousand times."""
    searched: list[str] = []
    for name in ("listdir", "scandir"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda path, real=real: searched.append(str(path)) or real(path))
    files.write_bytes(tmp_path / "song.duotok", b"tokens")
    with files.writing(tmp_path / "song") as partial:
        partial.mkdir()
        (partial / "song.wav").touch()
    assert (tmp_path / "song.duotok").read_bytes() == b"tokens" and (tmp_path / "song" / "song.wav").exists()
    assert str(tmp_path) not in searched


def test_a_folder_moved_aside_is_not_swept_away(tmp_path: Path) -> None:
    for age, name in enumerate(("first", "last")):
        aside = files.temporary(tmp_path / "bundle", files.ASIDE)
        aside.mkdir()
        (aside / name).touch()
        time.sleep(0.02 * (1 - age))
    files.sweep(tmp_path / "bundle")
    assert [path.name for path in tmp_path.rglob("*")] == ["bundle", "last"]


def test_what_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    replace = os.replace
    monkeypatch.setattr(files, "_exchanged", lambda one, other: False)

    def fails(source: Path, target: Path) -> None:
        if Path(source).name == "new":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr("os.replace", fails)
    with pytest.raises(OSError, match="No space"):
        files.put(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "old").is_file()


def test_a_lock_belongs_to_one_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, hold, removed = tmp_path / "parts" / "lock", files.hold, []

    def late(file: IO[bytes]) -> bool:
        """The process that had the lock removes it after it was opened here, and another makes a new one."""
        if not removed:
            removed.append(lock.unlink())
            lock.touch()
        return hold(file)

    monkeypatch.setattr(files, "hold", late)
    with files.held(lock) as ours, open(lock, "ab") as other:
        assert ours and removed and not hold(other), "what is held is the file that has the name"
        with files.held(lock) as theirs:
            assert not theirs
        assert lock.exists()
    assert not any(tmp_path.iterdir())
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "mine").touch()
    with files.held(lock) as ours:
        assert ours
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["mine"]


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


def test_an_array_on_a_full_disk_is_told_so(tmp_path: Path) -> None:
    """numpy keeps the reason of the system to itself."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="No space left") as caught, atomic_write(tmp_path / "a.npy") as file:
            np.save(file, np.zeros(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(tmp_path / "a.npy") and not list(tmp_path.iterdir())


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
    old, new = (files.temporary(tmp_path / name, files.SOUND_PARTIAL) for name in ("a.wav", "b.wav"))
    others = [
        tmp_path / ".a.partial",
        tmp_path / "x.partial",
        tmp_path / f"{old.name}.wav",
        files.temporary(tmp_path / "pack"),
    ]
    for path in (old, new, *others):
        path.write_bytes(b"x")
        if path != new:
            os.utime(path, (0, 0))
    write(tmp_path / "song.wav", torch.zeros(1, 100), 48_000)
    assert {*tmp_path.iterdir()} == {new, *others, tmp_path / "song.wav"}


@pytest.mark.skipif(os.name == "nt", reason="Windows removes no open file")
def test_a_sound_that_is_being_written_is_no_left_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long its writer slept, or took."""
    with Writer(tmp_path / "slow.wav", 48_000, 1) as slow:
        (partial,) = tmp_path.iterdir()
        os.utime(partial, (0, 0))
        monkeypatch.setattr(files, "_looked_through", set())  # as in another process
        write(tmp_path / "quick.wav", torch.zeros(1, 100), 48_000)
        slow.write(torch.zeros(1, 100))
    assert {path.name for path in tmp_path.iterdir()} == {"slow.wav", "quick.wav"}


def test_left_overs_are_told_by_the_clock_of_their_file_system(tmp_path: Path) -> None:
    """Another computer may serve it, whose clock goes after ours."""
    here, other = (files.temporary(tmp_path / name, files.SOUND_PARTIAL) for name in ("a.wav", "b.wav"))
    for path in (here, other):
        path.write_bytes(b"x")
        os.utime(path, (9_000, 9_000))
    files.remove_left_over(here)
    assert other.exists()


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY"])
def test_a_npy_is_read_or_refused_whatever_it_holds(tmp_path: Path, data: bytes) -> None:
    """numpy tells of a damaged header by errors of Python's parser, and of an empty file by EOFError."""
    path = tmp_path / "a.npy"
    np.save(path, np.arange(3))
    whole = path.read_bytes()
    path.write_bytes(data)
    with pytest.raises(ValueError):
        files.read_npy(path)
    refused = 0
    for bit in range(8 * 128):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            files.read_npy(path, mapped=bit % 2 == 0)
        except ValueError:
            refused += 1
    assert refused > 300
    path.write_bytes(whole)
    assert files.read_npy(path).tolist() == [0, 1, 2]
