"""New files and folders take their names only when they lie on the disk whole: after a power cut as after a kill."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Container
from pathlib import Path

from duotok import paths


def flush(path: Path) -> None:
    """Wait until a file, or a folder with all in it, is on the disk. Raises OSError."""
    if path.is_symlink():  # what it points to is not ours
        return
    if path.is_dir():
        for entry in sorted(path.iterdir()):
            flush(entry)
        _flush_folder(path)
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems cannot, and lose nothing that we could keep
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def put(temporary: Path, target: Path, own: Container[str] | None = None) -> None:
    """Give what was written as `temporary` its name, in one step, over what had it before. Raises OSError.

    `temporary` lies in the folder of `target`. A folder that had the name is moved aside first and then deleted; own: the
    names in it that are replaced, where the others move into the new folder (None: all are replaced).
    """
    flush(temporary)
    old: Path | None = None
    if temporary.is_dir() and target.is_dir() and any(target.iterdir()):
        old = paths.temporary(target, ".old")
        os.replace(target, old)
    try:
        os.replace(temporary, target)
    except OSError:
        if old is not None:
            os.replace(old, target)
        raise
    if old is not None and own is not None:
        for path in list(old.iterdir()):
            if path.name not in own:
                os.replace(path, target / path.name)
        _flush_folder(target)
    _flush_folder(target.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def sha256(path: Path) -> str:
    """The hash of a file, in 64 hex digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
