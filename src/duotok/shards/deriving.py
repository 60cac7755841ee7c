"""Computing derived arrays, in this process or in several. Arrays that exist and were made the same way are kept.

The .json of an array is removed before the .npy is replaced and written after it: a .npy without it does not count.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import IO

import numpy as np
from rich.console import Console
from rich.progress import Progress

from duotok.files import hold, put
from duotok.pool import pool, result_of
from duotok.records import CorpusError
from duotok.seals import seal
from duotok.shards.derived import KINDS, DerivedArrays, possible_rows
from duotok.shards.store import ShardStore

log = logging.getLogger(__name__)
Make = Callable[[int, str], dict[str, np.ndarray]]
Context = Callable[[int, str], str]
"""(segment, track) -> a hash of all the sound that its rows follow from: where that is not its own alone, others may change it."""


class NotDerived(CorpusError):
    """Derived arrays are missing, and none may be derived (a dry run)."""


def derive(
    store: ShardStore, name: str, function: Callable[[int, str], np.ndarray], *, tracks: Sequence[str], made_by: str,
    select: Sequence[int] | np.ndarray | None = None, workers: int = 1, context: Context | None = None,
) -> None:  # fmt: skip
    """Fill the derived array `name` of `tracks` with `function(index, track)`: `[frames x rows of a frame, ...]` each.

    Segments without a track are left out; select: only these segments. Existing rows that were made by the same `made_by`
    (and from the same sound of neighbours, where `context` tells) stay, all others are computed, shard by shard; a file
    appears when it is complete. With workers > 1 `function` goes to spawned processes, so it must be importable (a module's
    function, functools.partial of one, an object of a module's class). Raises CorpusError for a wrong number of rows, a full
    disk, or a second process at the same file.
    """
    derive_many(
        store, (name,), _Single(name, function), tracks=tracks, made_by=made_by, select=select, workers=workers, context=context
    )  # fmt: skip


@dataclass(frozen=True)
class _Single:
    name: str
    function: Callable[[int, str], np.ndarray]

    def __call__(self, index: int, track: str) -> dict[str, np.ndarray]:
        return {self.name: self.function(index, track)}


def derive_many(
    store: ShardStore, names: Sequence[str], function: Make, *, tracks: Sequence[str], made_by: str,
    select: Sequence[int] | np.ndarray | None = None, workers: int = 1, context: Context | None = None,
) -> None:  # fmt: skip
    """As `derive`, for several arrays that come from one pass: `function` returns name -> rows."""
    derived = _derived(store)
    for name in names:
        possible_rows(name)
    chosen = {track: store.where(needs=(track,)) for track in tracks}
    if select is not None:
        chosen = {track: np.intersect1d(indices, np.asarray(select)) for track, indices in chosen.items()}
    derived.forget()
    missing = ((shard, _missing(derived, shard, names, chosen, made_by, context)) for shard in store.shards)
    jobs = [(shard, files) for shard, files in missing if files]
    title = f"{', '.join(names)} of {', '.join(tracks)}"
    if jobs and not derived.writable:
        raise NotDerived(f"{derived.folder}: {title} not derived yet for {len(jobs)} of {len(store.shards)} shards")
    common = (store, function, made_by)
    console = Console(stderr=True)
    # without a terminal rich writes a blank line for every bar
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=sum(len(store.shards[shard]) for shard, _ in jobs))
        if workers <= 1 or len(jobs) <= 1:
            for job in jobs:
                _fill(*common, *job, lambda: bar.advance(task))
        else:
            with pool(min(workers, len(jobs)), _start_worker, common, threads=1) as processes:
                for number, future in processes.as_they_end(_work, jobs):
                    result_of(future)
                    bar.advance(task, len(store.shards[jobs[number][0]]))
    derived.forget()


Wanted = dict[int, str | None]
"""Segment that a file will hold -> its context. What else the file holds stays in it."""
MissingFiles = dict[tuple[str, str], Wanted]
"""By track and name."""


def _derived(store: ShardStore) -> DerivedArrays:
    if store.derived is None:
        raise CorpusError(f"{store.ranges.url}: opened without a folder for derived arrays; name one")
    return store.derived


def _missing(
    derived: DerivedArrays, shard: str, names: Sequence[str], chosen: dict[str, np.ndarray], made_by: str,
    context: Context | None,
) -> MissingFiles:  # fmt: skip
    indices = derived.index.shards[shard]
    files: MissingFiles = {}
    for track, possible in chosen.items():
        available = indices[np.isin(indices, possible)].tolist()
        wanted: Wanted = {index: None if context is None else context(index, track) for index in available}
        for name in names:
            if not wanted.keys() <= derived.kept(shard, track, name, made_by, wanted).keys():
                files[track, name] = wanted
    return files


_common: tuple[ShardStore, Make, str] | None = None


def _start_worker(store: ShardStore, function: Make, made_by: str) -> None:
    global _common
    _common = (store, function, made_by)


def _work(shard: str, files: MissingFiles) -> None:
    assert _common is not None
    _fill(*_common, shard, files, lambda: None)


def _fill(
    store: ShardStore, function: Make, made_by: str, shard: str, files: MissingFiles, advance: Callable[[], None]
) -> None:
    """Write the missing files of one shard; `advance` is called after each segment."""
    derived = _derived(store)
    with contextlib.ExitStack() as stack:
        outputs = [
            stack.enter_context(_Output(derived, shard, track, name, wanted, made_by))
            for (track, name), wanted in files.items()
        ]
        for index in store.shards[shard].tolist():
            for track in dict.fromkeys(output.track for output in outputs):
                takers = [output for output in outputs if output.track == track and index in output.indices]
                arrays = function(index, track) if any(index not in output.kept for output in takers) else {}
                for output in takers:
                    output.put(index, output.kept[index] if index in output.kept else arrays[output.name])
            advance()
        for output in outputs:
            output.finish()


class _Output:
    """A .npy that is being written: rows in order, under a locked temporary name until `finish`."""

    def __init__(self, derived: DerivedArrays, shard: str, track: str, name: str, wanted: Wanted, made_by: str) -> None:
        self.derived, self.shard, self.track, self.name, self.made_by = derived, shard, track, name, made_by
        self.wanted = wanted
        self.kept = derived.kept(shard, track, name, made_by, wanted)
        self.contexts = wanted | {index: derived.contexts(shard, track, name)[index] for index in self.kept}
        self.path = derived.path(shard, track, name)
        self.partial = self.path.with_name(f".{self.path.name}.partial")
        self.shape: tuple[int, ...] | None = None
        self.per_frame = 0
        self.file: IO[bytes] | None = None
        self.digest = hashlib.sha256()
        self.crc32: list[int] = []

    def __enter__(self) -> _Output:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self.partial.open("ab")
        if not (hold(self.file) and self._is_partial()):
            self.file.close()
            raise CorpusError(f"{self.path}: another process is making it; wait for it to end")
        self.file.truncate(0)
        # The copies get a hash of their own, which would hide any damage for good.
        if self.kept and not self.derived.is_whole(self.shard, self.track, self.name):
            log.warning("%s: not as it was written; all of it is derived again", self.path)
            self.kept, self.contexts = {}, self.wanted
        order = self.derived.index.shards[self.shard].tolist()
        self.indices = dict.fromkeys(index for index in order if index in self.wanted or index in self.kept)
        return self

    def _is_partial(self) -> bool:
        """Whether the open file still has its name: the process that held it may just have given it its final one."""
        assert self.file is not None
        try:
            return os.path.samestat(os.fstat(self.file.fileno()), self.partial.stat())
        except FileNotFoundError:
            return False

    def put(self, index: int, rows: np.ndarray) -> None:
        possible, dtype = KINDS[self.name]
        frames = int(self.derived.index.frames[index])
        if self.shape is None:
            self.shape = rows.shape[1:]
            self.per_frame = next((p for p in possible if len(rows) == p * frames), possible[-1])
            total = int(self.derived.index.frames[list(self.indices)].sum()) * self.per_frame
            header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (total, *self.shape)}
            beginning = io.BytesIO()
            np.lib.format.write_array_header_1_0(beginning, header)
            self._write(beginning.getvalue())
        expected = frames * self.per_frame
        if rows.shape != (expected, *self.shape):
            key = self.derived.index.segments[index].segment.key
            raise CorpusError(
                f"{self.path}: {list(rows.shape)} rows for {key} instead of {[expected, *self.shape]}; "
                "delete the file if its width has changed"
            )
        data = np.ascontiguousarray(rows.astype(dtype, casting="same_kind", copy=False)).data
        self.crc32.append(zlib.crc32(data))
        self._write(data)

    def _write(self, data: bytes | memoryview) -> None:
        assert self.file is not None
        self.digest.update(data)
        try:
            self.file.write(data)
        except OSError as error:
            raise CorpusError(f"{self.path}: not written ({error.strerror}); nothing is lost, go on later") from None

    def finish(self) -> None:
        """Give the file, then its stamp, their final names."""
        assert self.file is not None
        positions = {index: at for at, index in enumerate(self.derived.index.shards[self.shard].tolist())}
        stamp = {
            "made_by": self.made_by,
            "shard": self.derived.identity(self.shard),
            "segments": [positions[index] for index in self.indices],
            "sha256": self.digest.hexdigest(),
            "crc32": self.crc32,
        }
        if any(self.contexts.values()):
            stamp["contexts"] = [self.contexts[index] for index in self.indices]
        place = self.path.with_suffix(".json")
        written = place.with_name(f".{place.name}.partial")
        try:
            self.file.flush()
            written.write_text(json.dumps(seal(stamp)), encoding="utf-8")
            place.unlink(missing_ok=True)
            put(self.partial, self.path)
            put(written, place)
        except OSError as error:
            written.unlink(missing_ok=True)
            raise CorpusError(f"{self.path}: not written ({error.strerror}); nothing is lost, go on later") from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.file is not None
        if kind is not None:
            self.partial.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a full disk was reported already
            self.file.close()
