"""STORE/plan.parquet: the place that every song ever listed has in a store, for ever."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from duotok.errors import TokenFileError
from duotok.records import DIGEST, SPLITS

if TYPE_CHECKING:
    import pyarrow

PLAN = "plan.parquet"


def key_of(id: str) -> int:
    """64 bits of a song's id."""
    return int.from_bytes(hashlib.blake2b(id.encode("utf-8", "surrogateescape"), digest_size=8).digest())


COLUMNS = ("key", "split", "shard", "place")


def sealed(table: pyarrow.Table) -> pyarrow.Table:
    """The table of a plan with a hash of its columns among its metadata."""
    return table.replace_schema_metadata({DIGEST: _digest(table)})


def _digest(table: pyarrow.Table) -> str:
    digest = hashlib.sha256()
    for name in COLUMNS:
        digest.update(np.ascontiguousarray(table[name].to_numpy()).data)
    return digest.hexdigest()


class Plan:
    """The place of every song: numbers only in memory, 20 bytes a song. New songs get the next places of their split, in new
    shards of `shard_songs`, so that no shard that is complete ever changes for the sake of others."""

    def __init__(self, path: Path, shard_songs: int) -> None:
        self.path, self.shard_songs = path, shard_songs
        self._keys: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._shards: NDArray[np.int64] = np.zeros(0, np.int64)
        self._places: NDArray[np.int64] = np.zeros(0, np.int64)
        self.next = dict.fromkeys(SPLITS, 0)
        """Split -> number of the first shard that is not in use."""
        self.sizes: dict[tuple[str, int], int] = {}
        if path.exists():
            self._load()

    def _load(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(self.path.absolute(), page_checksum_verification=True)
            written = (table.schema.metadata or {}).get(DIGEST.encode())  # none in a store of an earlier DuoTok
            if table.column_names != [*COLUMNS] or (written is not None and written != _digest(table).encode()):
                raise ValueError("not as it was written")
        except PermissionError:
            raise TokenFileError(f"{self.path}: cannot be read (Permission denied); check its permissions") from None
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise TokenFileError(f"{self.path}: damaged ({str(error).splitlines()[0]}); start another store") from None
        order = np.argsort(table["key"].to_numpy(), kind="stable")
        self._keys = table["key"].to_numpy()[order]
        splits = table["split"].to_numpy()
        numbers = splits.astype(np.int64) << 32 | table["shard"].to_numpy()
        self._shards, self._places = numbers[order], table["place"].to_numpy()[order]
        for number, count in zip(*np.unique(numbers, return_counts=True), strict=True):
            split, shard = SPLITS[int(number) >> 32], int(number) & 0xFFFFFFFF
            self.sizes[split, shard] = int(count)
            self.next[split] = max(self.next[split], shard + 1)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
        """Which are known, and their shards (split << 32 | number) and places; places of the others mean nothing."""
        if not len(self._keys):
            return np.zeros(len(keys), bool), np.zeros(len(keys), np.int64), np.zeros(len(keys), np.int64)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return self._keys[at] == keys, self._shards[at], self._places[at]
