"""Bytes of the files in one folder, local or behind any fsspec URL, by offset and size; remote ranges may be kept."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from duotok.errors import MissingExtraError
from duotok.files import write_bytes
from duotok.records import CorpusError

WAITS = (0.5, 2.0, 8.0)
"""Seconds before a remote store is asked again."""

T = TypeVar("T")


class Ranges:
    """The files of a folder, read-only. Holds no open file, so it survives fork and travels to spawned processes.

    url: a path, or a URL of fsspec (`s3://bucket/shards`, `memory://shards`, ...); cache: folder for ranges of a remote
    store that have a known hash, without a limit, safe to delete at any time.
    """

    def __init__(self, url: str | Path, cache: Path | None = None) -> None:
        self.url = str(url).rstrip("/")
        self.local = Path(url) if "://" not in self.url else None
        self.cache = Path(cache) if cache is not None and self.local is None else None
        self._opened: tuple[int, Any, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def _remote(self) -> tuple[Any, str]:
        # Filesystems with connections do not survive a fork: each process opens its own.
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                import fsspec
            except ImportError:
                raise MissingExtraError(f"{self.url}: needs fsspec: pip install 'duotok[train]'") from None
            try:
                system, folder = fsspec.core.url_to_fs(self.url)
            except (ImportError, ValueError) as error:
                raise CorpusError(
                    f"{self.url}: this kind of URL cannot be opened ({error}); install what it needs, or check the address"
                ) from error
            self._opened = (os.getpid(), system, folder.rstrip("/"))
        return self._opened[1], self._opened[2]

    def place(self, name: str) -> str:
        """The name of a file for messages."""
        return f"{self.url}/{name}"

    def sizes(self) -> dict[str, int]:
        """Bytes of every file in the folder. Raises CorpusError when there is no such folder."""
        try:
            if self.local is not None:
                return {entry.name: entry.stat().st_size for entry in os.scandir(self.local) if entry.is_file()}
            system, folder = self._remote()
            entries = patiently(lambda: system.ls(folder, detail=True))
            return {str(f["name"]).rsplit("/", 1)[-1]: int(f["size"]) for f in entries if f["type"] == "file"}
        except OSError as error:
            raise CorpusError(
                f"{self.url}: no shards there ({_reason(error)}); run `duotok data shard` first"
            ) from None

    def read(self, name: str, offset: int = 0, size: int | None = None, sha256: str = "") -> bytes:
        """`size` bytes (None: to the end) from `offset`. Raises CorpusError when the file does not have them.

        sha256: hash of these bytes, the key of a remote range in the cache; it is checked only when the range is cached.
        """
        cached = self._kept(sha256)
        if cached is not None and cached.is_file():
            with contextlib.suppress(OSError):  # fetched again where the copy cannot be read
                data = cached.read_bytes()
                if len(data) == size:
                    return data
        try:
            data = self._fetch(name, offset, size)
        except OSError as error:
            raise CorpusError(
                f"{self.place(name)}: cannot be read ({_reason(error)}); {self._remedy(error)}"
            ) from error
        if size is not None and len(data) != size:
            raise CorpusError(
                f"{self.place(name)}: ends {size - len(data)} bytes too early; it changed since the manifest was written, "
                "run `duotok data shard` again"
            )
        if cached is not None:
            if hashlib.sha256(data).hexdigest() != sha256:
                raise CorpusError(f"{self.place(name)}: other bytes at {offset} than the manifest says; copy it again")
            self._keep(cached, data)
        return data

    def _kept(self, sha256: str) -> Path | None:
        return self.cache / sha256[:2] / sha256 if self.cache is not None and sha256 else None

    def forget(self, sha256: str) -> bool:
        """Remove the copy of a range from the cache, as one that is damaged; whether there was one."""
        cached = self._kept(sha256)
        if cached is None or not cached.is_file():
            return False
        with contextlib.suppress(OSError):
            cached.unlink()
            return True
        return False

    def _remedy(self, error: OSError) -> str:
        if isinstance(error, FileNotFoundError):
            return "copy it there again"
        if isinstance(error, PermissionError):
            return "check its permissions"
        return "check the disk" if self.local is not None else "check the connection and your access, and run again"

    def _fetch(self, name: str, offset: int, size: int | None) -> bytes:
        if self.local is not None:
            with (self.local / name).open("rb") as file:
                file.seek(offset)
                return file.read(-1 if size is None else size)
        system, folder = self._remote()
        end = None if size is None else offset + size
        data: bytes = patiently(lambda: system.cat_file(f"{folder}/{name}", start=offset, end=end))
        return data

    def _keep(self, path: Path, data: bytes) -> None:
        try:
            write_bytes(path, data)
        except OSError as error:  # a full cache disk must not stop a run that can do without
            warnings.warn(f"{path.parent}: nothing more is cached ({_reason(error)})", stacklevel=2)
            self.cache = None


def patiently(work: Callable[[], T]) -> T:
    """Ask a remote store, with retries after transient errors (after `WAITS`). Raises OSError for any error of its backend."""
    for wait in (*WAITS, None):
        try:
            return work()
        except PermissionError:
            raise
        except Exception as error:  # botocore, aiohttp and others raise types of their own
            failure = _failure_of_server(error) if isinstance(error, FileNotFoundError) else error
            if failure is None:
                raise
            if wait is None or getattr(failure, "status", 0) in (401, 403):
                raise OSError(f"{type(failure).__name__}: {' '.join(str(failure).split())[:200]}") from None
        time.sleep(wait)
    raise AssertionError


def _failure_of_server(error: FileNotFoundError) -> BaseException | None:
    """fsspec tells any failure of a web server as a file that is not there; what it was, None when the file is not there."""
    cause = error.__cause__
    from_server = isinstance(cause, TimeoutError) or type(cause).__module__.partition(".")[0] == "aiohttp"
    return cause if from_server and getattr(cause, "status", 0) not in (404, 410) else None


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
