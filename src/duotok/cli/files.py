"""Which input becomes which output: files as they are, folders as trees."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from duotok.errors import DuoTokError

Job = tuple[Path, Path]


def expand(inputs: Iterable[Path], find: Callable[[Path], list[Path]], what: str) -> list[Job]:
    """(file, its path below the output folder) for each file; a folder gives its tree.

    Raises DuoTokError for a folder that holds nothing of the kind, or an input that is not there.
    """
    jobs: list[Job] = []
    for given in inputs:
        if given.is_dir():
            found = find(given)
            if not found:
                raise DuoTokError(f"{given}: no {what} in this folder; name another")
            jobs.extend((path, path.relative_to(given)) for path in found)
        else:
            jobs.append((given, Path(given.name)))
    return jobs


def targets(jobs: list[Job], out: Path | None, ending: str) -> list[Job]:
    """(file, output) for each of `expand`'s jobs; `ending` takes the place of the file's own.

    out: a folder, or the very file when it ends with `ending` and there is one job; None puts each beside its input.
    Two inputs that differ only in their ending keep it: `song.mp3.duotok`, `song.wav.duotok`.
    """
    if out is not None and len(jobs) == 1 and out.name.lower().endswith(ending) and not out.is_dir():
        return [(jobs[0][0], out)]

    def place(source: Path, below: Path, name: str) -> Path:
        return source.with_name(name) if out is None else out / below.with_name(name)

    short = [place(source, below, below.stem + ending) for source, below in jobs]
    result = []
    for (source, below), target in zip(jobs, short, strict=True):
        if short.count(target) > 1:
            target = place(source, below, below.name + ending)
        result.append((source, target))
    seen: dict[Path, Path] = {}
    for source, target in result:
        if target in seen:
            raise DuoTokError(f"{source} and {seen[target]} would both become {target}; give them one at a time")
        seen[target] = source
    return result


def check_writable(path: Path) -> None:
    """Raises DuoTokError when `path` cannot be written, before hours go into what should stand there."""
    if path.is_dir():
        raise DuoTokError(f"{path}: is a folder; give a file name, or another folder")
    parent = path.parent
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        raise DuoTokError(f"{path}: cannot be written ({parent} is a file); choose another place with -o")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise DuoTokError(f"{path}: cannot be written ({parent}: permission denied); choose another place with -o")
