"""Files into one tar that is cut into pieces below a size, each with its SHA-256. Python's standard library only."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, cast

from duotok.files import sha256

BLOCK = 1 << 20


class Pieces:
    """A writable stream over the files `PREFIX001`, `PREFIX002` ... of `size` bytes each."""

    def __init__(self, folder: Path, prefix: str, size: int) -> None:
        self.folder, self.prefix, self.size = folder, prefix, size
        self.done: list[dict[str, Any]] = []
        self.file: io.BufferedWriter | None = None
        self.count, self.hash = 0, hashlib.sha256()

    def write(self, data: bytes) -> int:
        remaining = memoryview(data)
        while remaining:
            if self.file is None:
                self.file = (self.folder / self._name()).open("wb")
            part = remaining[: self.size - self.count]
            self.file.write(part)
            self.hash.update(part)
            self.count += len(part)
            remaining = remaining[len(part) :]
            if self.count == self.size:
                self.close()
        return len(data)

    def _name(self) -> str:
        return f"{self.prefix}{len(self.done) + 1:03d}"

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.done.append({"name": self._name(), "bytes": self.count, "sha256": self.hash.hexdigest()})
            self.file, self.count, self.hash = None, 0, hashlib.sha256()


def cut(files: Iterable[tuple[str, Path]], folder: Path, prefix: str, size: int) -> list[dict[str, Any]]:
    """Write files (name in the tar, path) as pieces of at most `size` bytes into `folder`; returns their names, lengths and hashes.

    The same files give the same bytes: members have no time and no owner.
    """
    pieces = Pieces(folder, prefix, size)
    try:
        with tarfile.open(fileobj=cast(IO[bytes], pieces), mode="w|", bufsize=BLOCK) as tar:
            for name, path in files:
                member = tarfile.TarInfo(name)
                member.size, member.mode = path.stat().st_size, 0o644
                with path.open("rb") as file:
                    tar.addfile(member, file)
    finally:
        pieces.close()
    return pieces.done


def entries(folder: Path, names: Iterable[str]) -> list[dict[str, Any]]:
    """Name, length and SHA-256 of files in `folder`."""
    return [{"name": name, "bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in names]
