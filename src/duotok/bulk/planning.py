"""A listing on disk, and the place in the store of every song in it: little memory however many there are."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from duotok.bulk.listing import Listing
from duotok.bulk.places import Place
from duotok.bulk.plan import Plan, key_of, sealed
from duotok.bulk.sources import SongEntry
from duotok.files import writing
from duotok.records import SPLITS

if TYPE_CHECKING:
    import pyarrow

ROWS = 10_000
SHOWN = 5


class Planned(NamedTuple):
    """A listed song with its place. shard: split << 32 | number."""

    entry: SongEntry
    shard: int
    place: int


class ListedSongs:
    """The songs of a run, read from the listing in order. counts: shard -> how many of them it has."""

    def __init__(
        self, path: Path, shards: NDArray[np.int64], places: NDArray[np.int64], twice: NDArray[np.bool_]
    ) -> None:
        self._path = path.absolute()  # Arrow takes a relative one with a colon for a URL
        self._shards, self._places, self._twice = shards, places, twice
        numbers, counts = np.unique(shards[~twice], return_counts=True)
        self.counts: dict[int, int] = dict(zip(numbers.tolist(), counts.tolist(), strict=True))

    def __len__(self) -> int:
        return int((~self._twice).sum())

    def __iter__(self) -> Iterator[Planned]:
        import pyarrow.parquet as pq

        at = 0
        with pq.ParquetFile(self._path) as table:
            for batch in table.iter_batches(ROWS):
                for row in batch.to_pylist():
                    if not self._twice[at]:
                        yield Planned(_entry(row), int(self._shards[at]), int(self._places[at]))
                    at += 1


def _entry(row: dict[str, Any]) -> SongEntry:
    sources, marks = json.loads(row["sources"]), json.loads(row["marks"])
    places = {role: Place(*place) for role, place in sources.items()}
    return SongEntry(row["id"], SPLITS[row["split"]], row["identity"], places, marks, row["problem"])


def listed(path: Path, entries: Iterable[SongEntry], plan: Plan, listing: Listing) -> ListedSongs:
    """Write the listing to `path`, and the plan with the places of songs that are new. A second song of an id is left out and named."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [("id", pa.string()), ("split", pa.uint8()), ("identity", pa.string()), ("sources", pa.string()), ("marks", pa.string()),
         ("problem", pa.string())]
    )  # fmt: skip
    keys: list[NDArray[np.uint64]] = []
    identities: list[NDArray[np.uint64]] = []
    splits: list[NDArray[np.int64]] = []
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path.absolute(), schema, compression="zstd") as writer:
        for batch in _batches(entries, ROWS):
            keys.append(np.array([key_of(_utf8(entry.id)) for entry in batch], np.uint64))
            identities.append(np.array([key_of(_utf8(entry.identity)) for entry in batch], np.uint64))
            splits.append(np.array([SPLITS.index(entry.split) for entry in batch], np.int64))
            columns = {
                "id": [_utf8(e.id) for e in batch], "split": splits[-1].astype(np.uint8), "identity": [_utf8(e.identity) for e in batch],
                "sources": [json.dumps(e.sources) for e in batch], "marks": [json.dumps(e.marks) for e in batch],
                "problem": [_utf8(e.problem) for e in batch],
            }  # fmt: skip
            writer.write_table(pa.table(columns, schema=schema))
    every = np.concatenate(keys) if keys else np.zeros(0, np.uint64)
    split = np.concatenate(splits) if splits else np.zeros(0, np.int64)
    firsts = np.zeros(len(every), bool)
    firsts[np.unique(every, return_index=True)[1]] = True
    known, shards, places = plan.find(every)
    moved = firsts & known & (shards >> 32 != split)
    fresh = firsts & ~known
    for number in range(len(SPLITS)):
        mine = fresh & (split == number)
        order = np.arange(int(mine.sum()))
        shards[mine] = (number << 32) + plan.next[SPLITS[number]] + order // plan.shard_songs
        places[mine] = order % plan.shard_songs
    if fresh.any():
        _extend(plan.path, every[fresh], shards[fresh], places[fresh])
    songs = ListedSongs(path, shards, places, ~firsts)
    if not firsts.all():
        listing.broken.append(
            f"{_some_of(path, ~firsts)}: two songs of one id, only the first is taken; rename one, give ids in a list, or name "
            "sources apart with NAME=SOURCE"
        )
    for before, now in sorted(set(zip((shards[moved] >> 32).tolist(), split[moved].tolist(), strict=True))):
        some = moved & (shards >> 32 == before) & (split == now)
        listing.broken.append(
            f"{_some_of(path, some)}: {SPLITS[before]} in the store, where a song keeps its first split, and {SPLITS[now]} in the sources; "
            "make another store if that is to change"
        )
    if firsts.any():
        _note_split_identities(path, np.concatenate(identities), np.where(firsts, shards >> 32, -1), listing)
    return songs


def _note_split_identities(
    path: Path, identities: NDArray[np.uint64], splits: NDArray[np.int64], listing: Listing
) -> None:
    """Note identities with songs in several splits. identities: keys, one a row of the listing; splits: numbers, -1 for a row that is
    left out."""
    _, firsts, numbers = np.unique(identities, return_index=True, return_inverse=True)
    lowest, highest = np.full(numbers.max() + 1, len(SPLITS)), np.full(numbers.max() + 1, -1)
    np.minimum.at(lowest, numbers[splits >= 0], splits[splits >= 0])
    np.maximum.at(highest, numbers, splits)
    cut = np.flatnonzero(lowest < highest)
    if len(cut):
        names = _column(path, "identity").take(np.sort(firsts[cut])[:SHOWN]).to_pylist()
        names += ["..."] if len(cut) > SHOWN else []
        count = f"{len(cut)} {'identities' if len(cut) > 1 else 'identity'}"
        listing.notes.append(
            f"{count} with songs in several splits ({', '.join(names)}), so what is held out is no other music than what is learned; give "
            "all songs of each the same split, in a new store where these are in one already"
        )


def knows(plan: Plan, id: str) -> bool:
    """Whether a song has a place."""
    return bool(plan.find(np.array([key_of(_utf8(id))], np.uint64))[0][0])


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _batches(entries: Iterable[SongEntry], size: int) -> Iterator[list[SongEntry]]:
    iterator = iter(entries)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _extend(path: Path, keys: NDArray[np.uint64], shards: NDArray[np.int64], places: NDArray[np.int64]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "key": keys, "split": (shards >> 32).astype(np.uint8), "shard": (shards & 0xFFFFFFFF).astype(np.int32), "place": places.astype(np.int32),
    }  # fmt: skip
    table = pa.table(columns)
    if path.exists():
        table = pa.concat_tables([pq.read_table(path.absolute(), page_checksum_verification=True), table])
    with writing(path) as partial:
        pq.write_table(sealed(table), partial.absolute(), compression="zstd", write_page_checksum=True)


def _some_of(path: Path, chosen: NDArray[np.bool_]) -> str:
    """The ids of some rows of a listing, and how many more there are."""
    ids = _column(path, "id").take(np.flatnonzero(chosen)[:SHOWN]).to_pylist()
    more = f" and {int(chosen.sum()) - len(ids)} more" if chosen.sum() > len(ids) else ""
    return f"{', '.join(ids)}{more}"


def _column(path: Path, name: str) -> pyarrow.ChunkedArray:
    """A column of a listing."""
    import pyarrow.parquet as pq

    return pq.read_table(path.absolute(), columns=[name])[name]
