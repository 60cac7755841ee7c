"""Paths of inputs and outputs: files, folders as trees; no name twice, no input as an output."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from duotok.errors import DuoTokError
from duotok.files import fitted, naming, short_hash, temporary_folder, text_of

if TYPE_CHECKING:
    from duotok.audio.finding import SearchResult

Job = tuple[Path, Path]
STREAM = Path("-")
_stdout: set[Path] = set()
ORIGIN_DIGITS = 16


def expand(
    inputs: Iterable[Path], find: Callable[[Path], list[Path]], what: str, search: SearchResult | None = None
) -> list[Job]:
    """(file, its path below the output folder) for each file; a folder gives its tree. A file that is given twice counts once.

    search: where `find` notes what it leaves out. Raises DuoTokError for a folder without any such file.
    """
    jobs: dict[str, Job] = {}
    for input_path in inputs:
        if input_path.is_dir():
            paths = find(input_path)
            if not paths:
                left_out = search.summary() if search is not None else ""
                others = f" but {left_out}; name another, or files themselves" if left_out else "; name another"
                raise DuoTokError(f"{input_path}: no {what} in this folder{others}")
            for path in paths:
                jobs.setdefault(os.path.abspath(path), (path, path.relative_to(input_path)))
        else:
            jobs.setdefault(os.path.abspath(input_path), (input_path, Path(input_path.name)))
    return list(jobs.values())


def targets(jobs: list[Job], out: Path | None, ending: str) -> list[Job]:
    """(file, output) for each of `expand`'s jobs; `ending` takes the place of the file's own.

    out: a folder, or the output file when it ends with `ending` and there is one job; None puts each beside its input.
    Two inputs that differ only in their ending keep it: `song.mp3.duotok`, `song.wav.duotok`; where these are equal too, a
    hash of their path is added.
    """
    if out is not None and len(jobs) == 1 and out.name.lower().endswith(ending) and not out.is_dir():
        return [(jobs[0][0], out)]

    def place(source: Path, below: Path, stem: str) -> Path:
        name = fitted(stem, ending)
        return source.with_name(name) if out is None else out / below.with_name(name)

    jobs = [(source, Path("stdin") if source == STREAM else below) for source, below in jobs]
    short = [place(source, below, below.stem) for source, below in jobs]
    result: list[Job] = []
    taken: set[Path] = set()
    for (source, below), target in zip(jobs, short, strict=True):
        if short.count(target) > 1:
            target = place(source, below, below.name)
        if target in taken:
            target = place(source, below, f"{below.stem}.{origin(source, target)[:8]}")
        taken.add(target)
        result.append((source, target))
    return result


def origin(source: Path, target: Path) -> str:
    """A hash of a source's path relative to its output; it distinguishes songs of the same name."""
    return short_hash(os.path.relpath(os.path.abspath(source), os.path.abspath(target.parent)), ORIGIN_DIGITS)


def check_writable(path: Path) -> None:
    """Raises DuoTokError when `path` cannot be written, before hours are spent on its content."""
    if path.is_dir():
        raise DuoTokError(f"{path}: is a folder; give a file name, or another folder")
    parent = path.parent
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        raise DuoTokError(f"{path}: cannot be written ({parent} is a file); choose another place with -o")
    if not os.access(parent, os.W_OK | os.X_OK):
        why = "read-only file system" if _read_only(parent) else "permission denied"
        raise DuoTokError(f"{path}: cannot be written ({parent}: {why}); choose another place with -o")


def _read_only(folder: Path) -> bool:
    """Whether the file system of `folder` is read-only; False where the system cannot tell (Windows)."""
    try:
        return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except (AttributeError, OSError):
        return False


def check_not_input(outputs: Iterable[Path], inputs: Iterable[Path | None]) -> None:
    """Raises DuoTokError when an output is one of the inputs, also by another name."""
    existing = [path for path in inputs if path is not None and path.exists()]
    for output in outputs:
        if output.exists() and any(output.samefile(path) for path in existing):
            raise DuoTokError(f"{output}: is an input, and would be replaced; choose another place with -o")


def check_free(outputs: Iterable[Path], made_here: Callable[[Path], bool], force: bool) -> None:
    """Raises DuoTokError when an output exists that this command did not make (by `made_here`), unless forced."""
    foreign = [path for path in outputs if os.path.lexists(path) and not made_here(path)]
    if foreign and not force:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise DuoTokError(
            f"{foreign[0]}{more}: there already, and not made by this command; choose another place, or --force replaces it"
        )


def streamed(path: Path) -> bool:
    """Whether an input can be read only once: `-`, /dev/stdin, a pipe."""
    if path == STREAM:
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)


@contextlib.contextmanager
def stream_copies(inputs: Iterable[Path], suffix: str = "") -> Iterator[dict[Path, Path]]:
    """A temporary copy of each input that can be read only once, for the duration of the block."""
    with contextlib.ExitStack() as stack:
        copies: dict[Path, Path] = {}
        for path in inputs:
            if not streamed(path) or path in copies:
                continue
            if path == STREAM and sys.stdin is None:
                raise DuoTokError("-: standard input is closed; pipe a file into it, or name one")
            folder = stack.enter_context(temporary_folder())
            copies[path] = folder / f"stdin{suffix}"
            with naming(copies[path]), open(copies[path], "wb") as file:
                if path == STREAM:
                    shutil.copyfileobj(sys.stdin.buffer, file)
                else:
                    with open(path, "rb") as source:
                        shutil.copyfileobj(source, file)
            if copies[path].stat().st_size == 0:
                raise DuoTokError(f"{'standard input' if path == STREAM else path}: nothing came; pipe a file into it")
        yield copies


@contextlib.contextmanager
def to_stdout(ending: str) -> Iterator[Path]:
    """A temporary file whose bytes go to standard output when the block ends without an error."""
    if sys.stdout is None:
        raise DuoTokError("-o -: standard output is closed; name a file")
    if sys.stdout.isatty():
        raise DuoTokError("-o -: standard output is a terminal; send it into a file or another program")
    with temporary_folder() as folder:
        place = folder / f"stdout{ending}"
        _stdout.add(place)
        yield place
        with naming(shown(place)), open(place, "rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()


def shown(path: Path) -> str:
    """A path for people and for JSON."""
    if path == STREAM:
        return "standard input"
    return "standard output" if path in _stdout else text_of(path)
