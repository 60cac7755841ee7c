"""The manifest of a folder of shards: which segments there are, and where each lies.

The manifest says where the sound of each stem lies, so that a shard is never read in order: a crop costs one range request.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from rich.console import Console
from rich.progress import track as progress

from duotok.errors import MissingExtraError
from duotok.records import CorpusError, SampleType, Segment
from duotok.seals import is_sealed, read_json
from duotok.shards.ranges import Ranges
from duotok.tracks import ACCOMPANIMENT_STEMS, TRACKS

if TYPE_CHECKING:
    import pyarrow

MANIFEST = "manifest.parquet"
SUMMARY = "shards.json"
PARTS = {"mix": TRACKS, "accompaniment": ACCOMPANIMENT_STEMS}
"""Tracks that are the sum of others where the shard does not hold them."""


@dataclass(frozen=True)
class Stored:
    """A segment and where it lies: its shard, its position there, byte offset, size and hash of each stem's file."""

    segment: Segment
    shard: str
    index: int
    offsets: dict[str, int]
    sizes: dict[str, int]
    sha256: dict[str, str]

    @functools.cached_property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """Every track that can be had, with the stored stems that it is the sum of."""
        return track_parts(tuple(self.offsets))


@functools.lru_cache(maxsize=256)
def track_parts(stems: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The tracks that stored stems give -> the stems that each is the sum of."""
    parts: dict[str, tuple[str, ...]] = {stem: (stem,) for stem in stems}
    for track in ("accompaniment", "mix"):
        if track not in parts and all(part in parts for part in PARTS[track]):
            parts[track] = tuple(stem for part in PARTS[track] for stem in parts[part])
    return parts


class Segments(Sequence[Stored]):
    """All segments by key, built from the manifest's columns on access, so that millions need no objects."""

    def __init__(self, table: pyarrow.Table, order: np.ndarray) -> None:
        self._table, self._order = table, order
        self._get = functools.lru_cache(maxsize=4096)(self._make)

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> Stored: ...
    @overload
    def __getitem__(self, index: slice) -> list[Stored]: ...
    def __getitem__(self, index: int | slice) -> Stored | list[Stored]:
        if isinstance(index, slice):
            return [self._get(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"segment {index} of {len(self)}")
        return self._get(int(index) % len(self))

    def _make(self, index: int) -> Stored:
        row = self._table.slice(int(self._order[index]), 1).to_pylist(maps_as_pydicts="strict")[0]
        place = {name: row.pop(name) for name in ("shard", "index", "offsets", "sizes", "sha256")}
        for name in ("tags", "types", "stems"):
            row[name] = tuple(row[name])
        row["words"] = tuple((w["text"], w["start"], w["end"]) for w in row["words"])
        return Stored(Segment(**row), **place)

    def values(self, indices: np.ndarray, *names: str) -> list[dict[str, Any]]:
        """Some columns of many segments at once; quick for those of one shard, which stand together."""
        places = self._order[indices]
        low, high = int(places.min()), int(places.max())
        table = self._table.select(names).slice(low, high - low + 1).take(places - low)
        rows: list[dict[str, Any]] = table.to_pylist(maps_as_pydicts="strict")
        return rows

    def column(self, name: str) -> np.ndarray:
        """One number of every segment, in the order of keys."""
        values: np.ndarray = self._table.column(name).to_numpy()[self._order]
        return values

    def groups(self, name: str) -> tuple[list[str], np.ndarray]:
        """The texts that stand in a column (a list of texts: joined by commas), and which of them each segment has."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self._table.column(name)
        if pa.types.is_list(column.type):
            column = pc.binary_join(column, ",")
        encoded = pc.dictionary_encode(pc.fill_null(column, "")).unify_dictionaries()
        codes = [chunk.indices.to_numpy() for chunk in encoded.chunks]
        texts = encoded.chunk(0).dictionary.to_pylist() if codes else []
        return texts, np.concatenate(codes)[self._order] if codes else np.zeros(0, np.int32)

    def where(self, name: str, holds: Callable[[str], bool]) -> np.ndarray:
        """Bool `[segments]`: whether the text in a column (a list of texts: joined by commas) fulfils `holds`."""
        texts, codes = self.groups(name)
        fits: np.ndarray = np.array([bool(text) and holds(text) for text in texts], dtype=bool)[codes]
        return fits

    def filled(self, name: str) -> np.ndarray:
        """Bool `[segments]`: whether the text in a column is more than white space, or a list has anything in it."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self._table.column(name)
        if pa.types.is_list(column.type):
            filled = pc.greater(pc.fill_null(pc.list_value_length(column), 0), 0)
        else:
            filled = pc.not_equal(pc.utf8_trim_whitespace(pc.fill_null(column, "")), "")
        ordered: np.ndarray = filled.to_numpy()[self._order]
        return ordered


def import_pyarrow() -> None:
    """Raises MissingExtraError where pyarrow is not installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise MissingExtraError("shards need pyarrow: pip install 'duotok[train]'") from None


class SegmentIndex:
    """The segments of a folder of shards, and filters to select them.

    url: folder that holds manifest.parquet and the tars, a path or a URL of fsspec; cache: local folder that keeps what is fetched
    from a URL; tables_only: the tars may be missing, as nothing is read from them. without_validation (an
    attribute): train songs stand in for validation, for libraries too small to spare any.
    Raises CorpusError when a shard is missing or was changed.
    """

    without_validation = False

    def __init__(self, url: str | Path, cache: Path | None = None, tables_only: bool = False) -> None:
        import_pyarrow()
        self.ranges = Ranges(url, cache)
        self.summary, table = self._read_manifest()
        import pyarrow.compute as pc

        self.segments = Segments(table, pc.sort_indices(table.column("key")).to_numpy())
        self.frames: np.ndarray = self.segments.column("frames")
        if not tables_only:
            self._check_files(table)

    def __len__(self) -> int:
        return len(self.segments)

    def _read_manifest(self) -> tuple[dict[str, Any], pyarrow.Table]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._found = self.ranges.sizes()
        for name in (MANIFEST, SUMMARY):
            if name not in self._found:
                raise CorpusError(f"{self.ranges.place(name)}: missing; run `duotok data shard` to the end")
        try:
            summary = read_json(self.ranges.read(SUMMARY))
            hashes = dict(summary["sha256"])
            sized = dict(summary.get("bytes", {}))
            # Without a seal they are of an earlier DuoTok.
            whole = is_sealed(summary) if "seal" in summary else not sized or {*sized} == {*hashes} - {MANIFEST}
        except (ValueError, KeyError, TypeError) as error:
            raise CorpusError(f"{self.ranges.place(SUMMARY)}: not a summary of shards ({error!r})") from None
        if not whole:
            raise CorpusError(
                f"{self.ranges.place(SUMMARY)}: not as it was written; copy it again or run `duotok data shard`"
            )
        data = self.ranges.read(MANIFEST)
        if hashes.get(MANIFEST) != hashlib.sha256(data).hexdigest():
            raise CorpusError(
                f"{self.ranges.place(MANIFEST)}: is not the one of {SUMMARY}; run `duotok data shard` to the end"
            )
        try:
            # Not pq.read_table: its threads may still free `data` when Python has ended, which aborts the process.
            table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
        except pa.ArrowInvalid as error:
            raise CorpusError(f"{self.ranges.place(MANIFEST)}: cannot be read ({error})") from None
        columns = {*Segment.__dataclass_fields__, "shard", "index", "offsets", "sizes", "sha256"}
        if columns - set(table.column_names):
            missing = ", ".join(sorted(columns - set(table.column_names)))
            raise CorpusError(f"{self.ranges.place(MANIFEST)}: no column {missing}; make the shards again")
        return summary, table.select(sorted(columns))

    def _check_files(self, table: pyarrow.Table) -> None:
        """Raises CorpusError unless every shard exists with the size in the summary."""
        import pyarrow.compute as pc

        names = pc.unique(table.column("shard")).to_pylist()
        missing = sorted(set(names) - set(self._found))
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise CorpusError(
                f"{self.ranges.place(missing[0])}{more}: missing; copy it there or run `duotok data shard`"
            )
        for name, size in self.summary.get("bytes", {}).items():
            if name in names and self._found[name] != size:
                raise CorpusError(
                    f"{self.ranges.place(name)}: {self._found[name]} bytes, {size} when it was written; copy it again"
                )

    def check_hashes(self) -> None:
        """Read every shard and compare its hash. Raises CorpusError naming the first one that differs."""
        names = [name for name in self.summary["sha256"] if name in self._found and name != MANIFEST]
        for name in progress(names, "hashes of shards", console=Console(stderr=True), transient=True):
            hasher, step = hashlib.sha256(), 1 << 24
            for offset in range(0, self._found[name], step):
                hasher.update(self.ranges.read(name, offset, min(step, self._found[name] - offset)))
            if hasher.hexdigest() != self.summary["sha256"][name]:
                raise CorpusError(f"{self.ranges.place(name)}: other bytes than when it was written; copy it again")

    def split_hashes(self) -> dict[str, str]:
        """Split -> a hash of its shards; validation is train where nothing else judges."""
        of: dict[str, list[str]] = {}
        for name, value in sorted(self.summary["sha256"].items()):
            if name != MANIFEST:
                of.setdefault(name.rpartition("-")[0], []).append(value)
        hashes = {split: hashlib.sha256("".join(values).encode()).hexdigest() for split, values in of.items()}
        return {**hashes, "validation": hashes["train"]} if self.without_validation and "train" in hashes else hashes

    # choosing

    def where(
        self, *splits: str, types: Sequence[SampleType] = (), kinds: Sequence[str] = (), corpora: Sequence[str] = (),
        needs: Sequence[str] = (), lyrics: bool = False,
    ) -> np.ndarray:  # fmt: skip
        """Indices of segments `[n]`, by key: of a split, with one of the types, kinds and corpora (all when none is named),
        that can give every track of `needs`, and have words when `lyrics`."""
        chosen = np.ones(len(self), dtype=bool)
        if self.without_validation:
            splits = tuple("train" if split == "validation" else split for split in splits)
        for name, allowed in (("split", splits), ("kind", kinds), ("corpus", corpora)):
            if allowed:
                chosen &= self.segments.where(name, set(allowed).__contains__)
        if types:
            chosen &= self.segments.where("types", lambda joined: bool({*types} & {*joined.split(",")}))
        if needs:
            chosen &= self.segments.where("stems", lambda joined: {*needs} <= {*track_parts(tuple(joined.split(",")))})
        if lyrics:
            chosen &= self.segments.filled("text")
        return np.flatnonzero(chosen)

    def select(
        self, *splits: str, types: Sequence[SampleType] = (), kinds: Sequence[str] = (), corpora: Sequence[str] = (),
        needs: Sequence[str] = (), lyrics: bool = False,
    ) -> list[int]:  # fmt: skip
        """`where` as a list."""
        indices: list[int] = self.where(
            *splits, types=types, kinds=kinds, corpora=corpora, needs=needs, lyrics=lyrics
        ).tolist()
        return indices

    @functools.cached_property
    def shards(self) -> dict[str, np.ndarray]:
        """Shard -> indices of its segments in the order in which they lie there."""
        names, codes = self.segments.groups("shard")
        order = np.lexsort((self.segments.column("index"), codes))
        ends = np.cumsum(np.bincount(codes, minlength=len(names)))
        by_shard = dict(zip(names, np.split(order, ends[:-1]), strict=True))
        return {name: by_shard[name] for name in sorted(by_shard)}

    def identity(self, shard: str) -> str:
        """A hash of what a shard holds, by the manifest: arrays derived from other contents do not fit."""
        rows = self.segments.values(self.shards[shard], "key", "frames", "gain_db", "sha256")
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
