"""File names, atomic writing of files and folders, hashes and locks. Python's standard library only.

A new file or folder takes its name only when all of it is on the disk, so a power cut or a kill leaves no half of one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Container, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from duotok.errors import FULL, DuoTokError

if TYPE_CHECKING:
    import numpy as np

PACKAGE = Path(__file__).parent
"""The folder of this package, with the bundles, recipes and songs that come with it."""
LONGEST_NAME = 255
"""Bytes of a name that common file systems take."""


_OF_WRITING = (*FULL, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
_SHORT = re.compile(r"\d+ requested and \d+ written")
"""What numpy says when a disk takes no more of an array, instead of what the system said."""
PARTIAL = ".partial"
"""Ending of the names of files that are still being written."""
ASIDE = ".old"
"""Ending of the name of a folder that is being replaced, where two cannot change places in one step."""
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
LEFT_OVER = 3600.0
"""Seconds after which a hidden file that nobody has touched is one of a killed writer."""
SOUND_PARTIAL = f".sound{PARTIAL}"
"""Ending of the names of sounds that are still being written, and held meanwhile."""
_LEFT_OVER_SOUND = re.compile(rf"\.[0-9a-f]{{16}}\.[0-9a-f]{{8}}{re.escape(SOUND_PARTIAL)}")
_looked_through: set[Path] = set()


def text_of(name: str | Path) -> str:
    """A name for people and for files of UTF-8: bytes that are no UTF-8 as `\\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def short_hash(text: str | Path, digits: int = 8) -> str:
    """The first hex digits of the SHA-256 of a name."""
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:digits]


def temporary(path: Path, ending: str = PARTIAL) -> Path:
    """A unique hidden name beside `path`, short even where the name of `path` is long."""
    return path.with_name(f".{short_hash(path.name, 16)}.{uuid.uuid4().hex[:8]}{ending}")


def fitted(stem: str, ending: str) -> str:
    """`stem + ending`; where that name would be too long, the stem is cut and followed by its hash."""
    if len(os.fsencode(stem + ending)) <= LONGEST_NAME:
        return stem + ending
    suffix = f"-{short_hash(stem)}{ending}"
    head = os.fsencode(stem)[: LONGEST_NAME - len(os.fsencode(suffix))]
    while head and head[-1] & 0xC0 == 0x80:  # not in the middle of a character
        head = head[:-1]
    if head and head[-1] >= 0xC0:
        head = head[:-1]
    return os.fsdecode(head) + suffix


def flush(path: Path) -> None:
    """Wait until a file, or a folder with all in it, is on the disk. Raises OSError."""
    if path.is_symlink():  # its target is not ours
        return
    if path.is_dir():
        for entry in sorted(path.iterdir()):
            flush(entry)
        _flush_folder(path)
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems cannot flush a folder
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def put(written: Path, target: Path, replaced: Container[str] | None = None) -> None:
    """Rename `written` to `target` in one step, replacing what had that name. Raises OSError.

    `written` lies in the folder of `target`. replaced: the names in a folder that are replaced, while all others come into the new
    folder (None: all are replaced). Folders change places, so that a kill at any moment leaves the old or the new one, whole;
    where the system has no such call, the old one is moved aside for a moment, and `recover` brings it back.
    """
    flush(written)
    if not (written.is_dir() and target.is_dir() and any(target.iterdir())):
        os.replace(written, target)
        _flush_folder(target.parent)
        return
    others = [] if replaced is None else [path for path in target.iterdir() if path.name not in replaced]
    others = [path for path in others if not os.path.lexists(written / path.name)]
    for path in others:
        _link(path, written / path.name)
    _flush_folder(written)
    if not _exchanged(written, target):
        old = temporary(target, ASIDE)
        os.replace(target, old)
        try:
            os.replace(written, target)
        except OSError:
            os.replace(old, target)
            raise
        os.replace(old, written)  # what is half removed must not be brought back
    for path in others:
        _put_back(written / path.name, path)
    _flush_folder(target.parent)
    remove(written)  # the old one


def _exchanged(one: Path, other: Path) -> bool:
    """Give two folders each other's name in one step (Linux); False where the system or its file system cannot."""
    try:
        import ctypes

        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (
        ImportError,
        AttributeError,
        OSError,
        TypeError,
    ):  # a Python without it; Windows has no library without a name
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def _put_back(original: Path, copy: Path) -> None:
    """Give a file or folder its name back where a copy has it: a process may be at work in the folder, and the file have another owner."""
    with contextlib.suppress(OSError):  # the copy will do
        if os.path.samestat(original.lstat(), copy.lstat()):
            return
        if original.is_dir() and not original.is_symlink():
            _exchanged(original, copy)
        else:
            os.replace(original, copy)


def _link(source: Path, target: Path) -> None:
    """The same file, or the files of a folder, under a second name; a copy where the file system has no hard links."""
    if os.path.ismount(source):
        raise OSError(errno.EBUSY, "another disk is mounted in this folder", str(source))
    if source.is_symlink():
        target.symlink_to(os.readlink(source))
    elif source.is_dir():
        shutil.copytree(source, target, symlinks=True, copy_function=_link_file)
        for folder, _, _ in os.walk(target):
            _flush_folder(Path(folder))
    else:
        _link_file(source, target)


def _link_file(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
        flush(Path(target))


def recover(target: Path) -> None:
    """Give a folder its name back that a killed `put` had moved aside, if nothing has that name. Raises nothing."""
    if os.path.lexists(target):
        return
    with contextlib.suppress(OSError, ValueError):
        aside = target.parent.glob(f".{short_hash(target.name, 16)}.*{ASIDE}")
        newest = max(aside, key=lambda path: path.stat().st_ctime_ns, default=None)
        if newest is not None:
            os.replace(newest, target)


def sha256(path: Path) -> str:
    """The hash of a file, in 64 hex digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def writing(target: Path, replaced: Container[str] | None = None) -> Iterator[Path]:
    """A hidden name beside `target` to write a file or a folder under; on leaving, it becomes `target`.

    Nothing half-written stays, and the old content stays until then. replaced: as for `put`. Makes the parent folder. A link to
    a folder stays one: what it leads to is written. Raises OSError, which names `target` and not the hidden name.
    """
    if target.is_symlink() and target.is_dir():
        target = target.resolve()
    partial = temporary(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with naming(partial):
            yield partial
            if replaced is not None and partial.is_dir():  # for one file or song more a folder of many is not searched
                recover(target)
            put(partial, target, replaced)
    except OSError as error:
        if _within(error, partial):
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise
    finally:
        remove(partial)


@contextlib.contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Where `path` is written: errors of the system that have no name, as those of a full disk, get its."""
    try:
        yield
    except OSError as error:
        number = errno.ENOSPC if _SHORT.fullmatch(str(error)) else error.errno
        if error.filename is None and number in _OF_WRITING:
            raise OSError(number, os.strerror(number), str(path)) from error  # libraries have their own, longer words
        raise


def _within(error: OSError, folder: Path) -> bool:
    """Whether an error is about a folder, or what lies in it; copying names what is read first."""
    names = (error.filename, error.filename2)
    return any(isinstance(name, str) and Path(name).is_relative_to(folder) for name in names)


@contextlib.contextmanager
def temporary_folder(prefix: str = "duotok-") -> Iterator[Path]:
    """A folder for what is needed during the block only, where TMPDIR says. Raises DuoTokError where no such folder can be written, or
    one is full."""
    try:
        made = tempfile.TemporaryDirectory(prefix=prefix)
    except OSError as error:
        raise DuoTokError(no_temporary_room(error)) from error
    with made as name:
        try:
            yield Path(name)
        except OSError as error:
            if _within(error, Path(name)) and error.errno in (*FULL, errno.EFBIG):
                raise DuoTokError(no_temporary_room(error)) from error
            raise


def temporary_file(prefix: str = "duotok-") -> IO[bytes]:
    """An open file without a name where TMPDIR says, which is gone when it is closed, even by a kill. Raises DuoTokError."""
    try:
        return tempfile.TemporaryFile(prefix=prefix)
    except OSError as error:
        raise DuoTokError(no_temporary_room(error)) from error


def no_temporary_room(error: OSError) -> str:
    """What to say of an error of the system in writing temporary files."""
    return (
        f"{tempfile.tempdir or 'TMPDIR'}: no room for temporary files ({error.strerror}); set TMPDIR to another place"
    )


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically. Raises OSError."""
    with writing(path) as partial:
        partial.write_bytes(data)


def read_npy(path: Path, mapped: bool = False) -> np.ndarray:
    """The array of a .npy. Raises OSError or ValueError whatever the file holds: numpy lets its parser's errors through as they come."""
    import numpy as np

    try:
        array: np.ndarray = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (OSError, ValueError):
        raise
    except Exception as error:
        raise ValueError("no .npy, or a damaged one") from error
    return array


def sweep(path: Path) -> None:
    """Remove the temporary files that killed writers of `path` left beside it. Call it only while no process writes `path`."""
    recover(path)
    for leftover in path.parent.glob(f".{short_hash(path.name, 16)}.*"):
        remove(leftover)


def remove_left_over(mine: Path) -> None:
    """Remove the sounds that killed writers left beside `mine`, a file that was made just now and so has the time of the file system, which
    may be another computer's: hidden ones (`SOUND_PARTIAL`) that nobody has touched for an hour and no process holds. Once a process and
    folder."""
    if mine.parent in _looked_through:
        return
    _looked_through.add(mine.parent)
    with contextlib.suppress(OSError):  # another process was faster
        now = mine.stat().st_mtime
        for entry in list(os.scandir(mine.parent)):
            unfinished = _LEFT_OVER_SOUND.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
            if unfinished and now - entry.stat().st_mtime > LEFT_OVER and not _is_written(Path(entry.path)):
                remove(Path(entry.path))


def _is_written(path: Path) -> bool:
    """Whether a process holds this file (`hold`), as one may that is slow, or slept for a night. Windows removes no open file."""
    if os.name == "nt":
        return False
    try:
        with path.open("r+b") as file:
            return not hold(file)
    except OSError:  # not ours
        return True


def remove(path: Path) -> None:
    """Delete a file, or a folder with all in it, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        path.unlink()


def hold(file: IO[Any]) -> bool:
    """Lock an open file, without waiting; False when another process has locked it. Closing the file unlocks it.

    This is not the package filelock, because the scripts of a kit run before any package is installed.
    """
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks
        return True
    return True


@contextlib.contextmanager
def held(lock: Path) -> Iterator[bool]:
    """Hold a lock file for the block; False when another process holds it. It is removed afterwards, and so is its folder where it was
    the last thing in it. Raises OSError when it cannot be made."""
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = open(lock, "ab")  # noqa: SIM115
        except FileNotFoundError:  # another process removed the folder just now
            continue
        with file:
            if not hold(file):
                yield False
                return
            if not _is_file_of(file, lock):  # the process that had it removed it before we locked it
                continue
            try:
                yield True
            finally:
                with contextlib.suppress(OSError):  # Windows removes no open file
                    lock.unlink()
                    lock.parent.rmdir()
            return


def _is_file_of(file: IO[Any], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False
