"""Sound files of recordings, on a disk or behind an fsspec URL."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from duotok.errors import AudioError, MissingExtraError


def is_url(place: str) -> bool:
    return "://" in place


def fingerprint(place: str) -> list[int] | None:
    """[bytes, time of the last change in ns] of a file, to see that it is another one now; None for URLs and no file."""
    if is_url(place):
        return None
    try:
        found = Path(place).stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


@contextlib.contextmanager
def local(place: str) -> Iterator[Path]:
    """The file on this machine; one behind a URL is fetched for the time being. Raises AudioError when it is not there."""
    if not is_url(place):
        yield Path(place)
        return
    try:
        import fsspec
    except ImportError:
        raise MissingExtraError(f"{place}: files behind URLs need fsspec; pip install 'duotok[train]'") from None
    with tempfile.TemporaryDirectory(prefix="duotok-") as folder:
        path = Path(folder) / (place.rstrip("/").rsplit("/", 1)[-1] or "sound")
        try:
            system, inner = fsspec.core.url_to_fs(place)
            system.get_file(inner, str(path))
        except FileNotFoundError:
            raise AudioError(f"{place}: cannot be read (No such file or directory); check the name") from None
        except (OSError, ValueError, ImportError) as error:
            raise AudioError(f"{place}: cannot be read ({' '.join(str(error).split())})") from error
        yield path
