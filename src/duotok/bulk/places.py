"""Where the bytes of a sound lie: a file, a URL of fsspec, or a member of a tar in either; how to get them, and whether they changed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from duotok.errors import FULL, AudioError, MissingExtraError
from duotok.files import text_of
from duotok.records import CorpusError
from duotok.shards.ranges import patiently

BLOCK = 8 << 20
"""Bytes that are asked of a store at a time."""
_CHANGES = (
    "size",
    "etag",
    "md5",
    "md5hash",
    "crc32c",
    "checksum",
    "mtime",
    "lastmodified",
    "last_modified",
    "updated",
    "created",
    "sha256",
)


class Place(NamedTuple):
    """uri: a path or URL; of a member of a tar also its name, and where its bytes begin and how many they are."""

    uri: str
    name: str = ""
    offset: int = 0
    size: int = -1

    @property
    def shown(self) -> str:
        """For messages."""
        return text_of(f"{self.uri}:{self.name}" if self.name else self.uri)

    @property
    def suffix(self) -> str:
        return ending_of(self.name or self.uri)


class UnreadError(AudioError):
    """The bytes could not be had; of the sound it says nothing."""


def ending_of(uri: str) -> str:
    """`.mp3`, also of a web address with a query behind it, as signed ones have."""
    web = uri.startswith(("http://", "https://"))
    return os.path.splitext(uri.partition("?")[0] if web else uri)[1].lower()


def is_remote(uri: str) -> bool:
    return "://" in uri


def _is_name_with_colons(uri: str) -> bool:
    """Whether the `::` of a URL is part of a name, as in `s3://bucket/her :: song.mp3`; fsspec takes any for a chain of URLs."""
    import fsspec
    from fsspec.archive import AbstractArchiveFileSystem

    first, colons, rest = uri.partition("::")
    return bool(
        colons and "://" in first and "://" not in rest
        and not issubclass(fsspec.get_filesystem_class(first.partition("://")[0]), AbstractArchiveFileSystem)
    )  # fmt: skip


def opened_file(uri: str) -> Any:
    """A file or URL, open for reading bytes. Raises OSError and CorpusError."""
    if not is_remote(uri):
        return open(uri, "rb")
    system, path = opened(uri)
    return patiently(lambda: system.open(path, "rb"))


def opened(uri: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it. Raises CorpusError for a URL that cannot be opened."""
    try:
        import fsspec
    except ImportError:
        raise MissingExtraError(f"{uri}: needs fsspec: pip install 'duotok[train]'") from None
    try:
        if _is_name_with_colons(uri):
            kind = fsspec.get_filesystem_class(uri.partition("://")[0])
            system, path = kind(**kind._get_kwargs_from_urls(uri)), kind._strip_protocol(uri)
        else:
            system, path = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError, OSError) as error:
        raise CorpusError(f"{uri}: this kind of URL cannot be opened ({' '.join(str(error).split())[:160]})") from None
    return system, path


def stated(state: os.stat_result) -> str:
    """What tells a local file from a changed one: size, and the times of change. The second cannot be set back."""
    return f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}"


def described(info: dict[str, Any]) -> str:
    """The same of a remote file, from what its store says of it; "" where it says nothing but a name."""
    facts = sorted(
        (key.lower(), str(value)) for key, value in info.items() if key.lower() in _CHANGES and value is not None
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16] if len(facts) > 1 else ""


def fingerprint(uri: str) -> str:
    """`stated` or `described` of a file as it is now; "" where its store does not say. Raises OSError, CorpusError."""
    if not is_remote(uri):
        return stated(os.stat(uri))
    system, path = opened(uri)
    return described(patiently(lambda: system.info(path)))


@contextlib.contextmanager
def fetched(place: Place, folder: Path) -> Iterator[tuple[Path, str]]:
    """A local file with these bytes, and their SHA-256. A copy in `folder`, removed afterwards, unless it is one already.

    Raises UnreadError when they cannot be read, AudioError when the file changes meanwhile.
    """
    try:
        if not is_remote(place.uri) and not place.name:
            before = stated(os.stat(place.uri))
            with open(place.uri, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            yield Path(place.uri), digest
            if stated(os.stat(place.uri)) != before:
                raise AudioError(f"{place.shown}: was changed while it was read; run the same command again")
            return
        with tempfile.TemporaryDirectory(prefix="fetched-", dir=folder) as own:
            copy = Path(own) / f"sound{place.suffix}"
            yield copy, _copied(place, copy)
    except FileNotFoundError as error:
        if error.filename is not None and str(error.filename) != place.uri and not is_remote(place.uri):
            raise
        raise UnreadError(
            f"{place.shown}: is not there; it was removed since it was listed, or its name is wrong"
        ) from None
    except OSError as error:
        if error.errno in FULL:  # where the copy, or what is made of it, is put
            raise
        reason = error.strerror or " ".join(str(error).split())[:200] or type(error).__name__
        raise UnreadError(f"{place.shown}: cannot be read ({reason}); check it, then --retry") from None


def _copied(place: Place, copy: Path) -> str:
    """Copy the bytes of a place block by block; returns their SHA-256."""
    digest, done = hashlib.sha256(), 0
    with copy.open("wb") as out:
        for block in _blocks(place):
            digest.update(block)
            out.write(block)
            done += len(block)
    if place.size >= 0 and done != place.size:
        raise UnreadError(f"{place.shown}: ends {place.size - done} bytes too early; the tar is cut, copy it again")
    return digest.hexdigest()


def _blocks(place: Place) -> Iterator[bytes]:
    if not is_remote(place.uri):
        with open(place.uri, "rb") as file:
            file.seek(place.offset)
            left = place.size
            while left and (block := file.read(BLOCK if left < 0 else min(BLOCK, left))):
                left -= len(block) if left > 0 else 0
                yield block
        return
    system, path = opened(place.uri)
    size = place.size if place.size >= 0 else patiently(lambda: system.info(path))["size"]
    if size is None:  # some servers do not say
        yield patiently(lambda: system.cat_file(path))
        return
    for start in range(place.offset, place.offset + size, BLOCK):
        end = min(start + BLOCK, place.offset + size)
        block = patiently(lambda start=start, end=end: system.cat_file(path, start=start, end=end))  # type: ignore[misc]
        if not start and place.size < 0 and len(block) == size:  # of a server that gives no parts, the whole file
            yield block
            return
        if len(block) != end - start:
            raise OSError(f"{len(block)} bytes came for {end - start}; the server gives no parts, or the file changed")
        yield block
