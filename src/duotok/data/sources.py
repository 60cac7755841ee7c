"""Sound files of recordings, on a disk or behind an fsspec URL."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from duotok.errors import AudioError, MissingExtraError
from duotok.files import temporary_folder


def is_url(place: str) -> bool:
    return "://" in place


def fingerprint(place: str) -> list[int] | None:
    """[bytes, time of the last change in ns] of a file, to notice changes; None for URLs and missing files."""
    if is_url(place):
        return None
    try:
        status = Path(place).stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


@contextlib.contextmanager
def local(place: str) -> Iterator[Path]:
    """A local path of the file; one behind a URL is fetched to a temporary file. Raises AudioError when it is missing."""
    if not is_url(place):
        yield Path(place)
        return
    try:
        import fsspec
    except ImportError:
        raise MissingExtraError(f"{place}: files behind URLs need fsspec; pip install 'duotok[train]'") from None
    with temporary_folder() as folder:
        path = folder / (place.rstrip("/").rsplit("/", 1)[-1] or "sound")
        try:
            system, inner = fsspec.core.url_to_fs(place)
            system.get_file(inner, str(path))
        except FileNotFoundError:
            raise AudioError(f"{place}: cannot be read (No such file or directory); check the name") from None
        except (OSError, ValueError, ImportError) as error:
            raise AudioError(f"{place}: cannot be read ({' '.join(str(error).split())})") from error
        yield path
