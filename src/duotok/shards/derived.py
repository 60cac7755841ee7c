"""Arrays that follow from the sound of segments and a model, computed once: features, masks, latents, codes.

    DERIVED/SHARD/TRACK.NAME.npy     rows of the shard's segments, concatenated, memory-mapped
    DERIVED/SHARD/TRACK.NAME.json    which segments of the shard, made by what, from which shard, with which sound of neighbours;
                                     sha256 of the .npy, crc32 of the rows of each segment; sealed
A .npy without its .json does not count. `deriving.py` computes them. Opening one checks its length; the rows of a segment are checked when
a process first asks for some of them, so nothing is read that is not needed; `damaged` reads all of them.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from duotok.clock import FRAME_SAMPLES
from duotok.files import read_npy, sha256
from duotok.records import CorpusError
from duotok.seals import is_sealed, read_json
from duotok.shards.index import SegmentIndex

KINDS: dict[str, tuple[tuple[int, ...], str]] = {
    "pcm": ((FRAME_SAMPLES,), "int16"),  # [rows, 2]: a stem's samples as its file has them
    "mel": ((4,), "float16"),  # [rows, 128]
    "chroma": ((4,), "float16"),  # [rows, 12]
    "masks": ((4,), "float16"),  # [rows, stems x bins]
    "latents": ((1, 2), "float16"),  # [rows, 64]: as many as the autoencoder has
    "hidden": ((1,), "float16"),  # [rows, width]
    "levels": ((1,), "float16"),  # [rows]: dB of full scale
    "codes": ((1,), "int32"),  # [rows]
}
"""Name -> rows for each token frame (those that are possible) and the type that is stored."""
OPEN_MAPS = 64


def possible_rows(name: str) -> tuple[int, ...]:
    """Rows for each token frame that an array of this name may have. Raises CorpusError for an unknown name."""
    if name not in KINDS:
        raise CorpusError(f"derived array '{name}' is unknown; there are {', '.join(KINDS)}")
    return KINDS[name][0]


@dataclass(frozen=True)
class _Open:
    """A mapped array; per_frame: rows of a token frame; `starts`: segment index -> first row; sha256: None in those of an earlier DuoTok;
    contexts: segment index -> a hash of the sound that its rows were made from, where that is not its own alone (None: it is, or not known);
    crc32: segment index -> of its rows (empty in those of an earlier DuoTok)."""

    array: np.ndarray
    per_frame: int
    starts: dict[int, int]
    made_by: str
    sha256: str | None
    contexts: dict[int, str | None]
    crc32: dict[int, int]

    def goes_on_from(self, earlier: _Open) -> bool:
        """Whether this is the same array, or the same rows with those of more segments, as when another selection grew."""
        if self.made_by != earlier.made_by:
            return False
        return self.sha256 == earlier.sha256 or self.starts.keys() > earlier.starts.keys()


class DerivedArrays:
    """The folder of derived arrays of one index. A few files stay mapped. writable: false in a dry run, which derives none."""

    def __init__(self, index: SegmentIndex, folder: Path, writable: bool = True) -> None:
        self.index, self.folder, self.writable = index, folder, writable
        self._maps: OrderedDict[tuple[str, str, str], _Open] = OrderedDict()
        self._first: dict[tuple[str, str, str], _Open] = {}  # without arrays: what each was when it was opened first
        self._checked: dict[tuple[str, str, str, str | None], set[int]] = {}  # segments whose rows were found whole
        self.identity = functools.cache(index.identity)

    def path(self, shard: str, track: str, name: str) -> Path:
        """The .npy of one shard, track and name."""
        return self.folder / shard.removesuffix(".tar") / f"{track}.{name}.npy"

    def forget(self) -> None:
        """Close all maps, because files were replaced."""
        self._maps.clear()
        self._first.clear()
        self._checked.clear()

    def open(self, shard: str, track: str, name: str) -> _Open | None:
        """The array of a shard; None when there is none, or when it belongs to other contents of the shard.

        Raises CorpusError when the file is damaged, or is no longer the one that was opened since `forget`.
        """
        key = (shard, track, name)
        if key not in self._maps:
            opened, first = self._load(*key), self._first.get(key)
            if first is not None and (opened is None or not opened.goes_on_from(first)):
                raise CorpusError(
                    f"{self.path(*key)}: was replaced by another training; run the same command again, once that has ended"
                )
            if opened is None:
                return None
            if first is None:
                self._first[key] = dataclasses.replace(opened, array=np.empty(0))  # so that no file stays mapped
            self._maps[key] = opened
            while len(self._maps) > OPEN_MAPS:
                self._maps.popitem(last=False)
        self._maps.move_to_end(key)
        return self._maps[key]

    def _load(self, shard: str, track: str, name: str) -> _Open | None:
        path = self.path(shard, track, name)
        try:
            stamp = read_json(path.with_suffix(".json").read_text(encoding="utf-8"))
            if "sha256" in stamp and not is_sealed(stamp):  # those of an earlier DuoTok have neither
                raise ValueError(f"{path.with_suffix('.json').name} is not as it was written")
            if stamp["shard"] != self.identity(shard):
                return None
            array = read_npy(path, mapped=True)
            indices = self.index.shards[shard][stamp["segments"]]
            frames = self.index.frames[indices]
            total, possible = int(frames.sum()), possible_rows(name)
            if total == 0 or len(array) not in [per_frame * total for per_frame in possible]:
                raise ValueError(f"{len(array)} rows instead of {' or '.join(str(p * total) for p in possible)}")
            if "crc32" in stamp and array.dtype != np.dtype(KINDS[name][1]):  # the same bytes, read in another order
                raise ValueError(f"numbers of type {array.dtype.str}")
        except FileNotFoundError:
            return None
        except PermissionError:
            raise CorpusError(f"{path}: cannot be read (Permission denied); check its permissions") from None
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise CorpusError(f"{path}: cannot be read ({error}); delete it and derive it again") from None
        per_frame = len(array) // total
        starts = per_frame * (np.cumsum(frames) - frames)
        places = dict(zip(indices.tolist(), starts.tolist(), strict=True))
        contexts = dict(zip(places, stamp.get("contexts") or [None] * len(places), strict=True))
        crc32 = dict(zip(places, stamp["crc32"], strict=True)) if "crc32" in stamp else {}
        return _Open(array, per_frame, places, str(stamp["made_by"]), stamp.get("sha256"), contexts, crc32)

    def damaged(self) -> list[str]:
        """Read all arrays and compare their hashes: a line for each that is not as it was written."""
        problems = []
        for path in sorted(self.folder.glob("*/*.npy")):
            try:
                stamp = read_json(path.with_suffix(".json").read_text(encoding="utf-8"))
                whole = "sha256" not in stamp or (is_sealed(stamp) and stamp["sha256"] == sha256(path))
            except FileNotFoundError:
                continue  # does not count
            except (OSError, ValueError, TypeError):
                whole = False
            if not whole:
                problems.append(f"{path}: not as it was written; delete it, and it is derived again")
        return problems

    def kept(
        self, shard: str, track: str, name: str, made_by: str, contexts: Mapping[int, str | None] | None = None
    ) -> dict[int, np.ndarray]:
        """Segment -> rows that exist and were made by `made_by`, from the sound of `contexts` where both are known. Nothing of them is read."""
        opened = self.open(shard, track, name)
        if opened is None or opened.made_by != made_by:
            return {}
        now = contexts or {}
        stale = {
            i for i, before in opened.contexts.items() if None not in (before, now.get(i)) and before != now.get(i)
        }
        return {index: self._all_rows(index, opened) for index in opened.starts if index not in stale}

    def contexts(self, shard: str, track: str, name: str) -> dict[int, str | None]:
        """Segment -> the hash of the sound that its rows were made from, as `derive` was told it; None where it was not."""
        opened = self.open(shard, track, name)
        return {} if opened is None else opened.contexts

    def is_whole(self, shard: str, track: str, name: str) -> bool:
        """Whether an array has the hash that was taken when it was written: reads all of it."""
        opened = self.open(shard, track, name)
        try:
            return opened is None or opened.sha256 in (None, sha256(self.path(shard, track, name)))
        except OSError:
            return False

    def has(self, index: int, track: str, name: str, made_by: str | None = None) -> bool:
        """Whether `rows` can give it (made_by: as made by that)."""
        opened = self.open(self.index.segments[index].shard, track, name)
        return opened is not None and index in opened.starts and made_by in (None, opened.made_by)

    def _opened(self, index: int, track: str, name: str) -> _Open:
        stored = self.index.segments[index]
        opened = self.open(stored.shard, track, name)
        if opened is None or index not in opened.starts:
            path = self.path(stored.shard, track, name)
            raise CorpusError(f"{path}: nothing there for {stored.segment.key}; derive {track}.{name} first")
        return opened

    def rows_per_frame(self, index: int, track: str, name: str) -> int:
        """Rows for each token frame. Raises CorpusError when the array is missing."""
        return self._opened(index, track, name).per_frame

    def rows(self, index: int, track: str, name: str, start: int = 0, count: int | None = None) -> np.ndarray:
        """Rows `start` to `start + count` (None: all) of a segment, not copied. Raises CorpusError when they are missing or damaged."""
        stored, opened = self.index.segments[index], self._opened(index, track, name)
        total = stored.segment.frames * opened.per_frame
        count = total - start if count is None else count
        if start < 0 or count < 0 or start + count > total:
            raise ValueError(f"{stored.segment.key}: rows {start} to {start + count} of {total}")
        checked = self._checked.setdefault((stored.shard, track, name, opened.sha256), set())
        rows = self._all_rows(index, opened)
        if index not in checked and index in opened.crc32:
            if zlib.crc32(rows.data) != opened.crc32[index]:
                raise CorpusError(
                    f"{self.path(stored.shard, track, name)}: not as it was written (the rows of {stored.segment.key}); "
                    "delete it, and it is derived again"
                )
            checked.add(index)
        return rows[start : start + count]

    def _all_rows(self, index: int, opened: _Open) -> np.ndarray:
        first = opened.starts[index]
        return opened.array[first : first + int(self.index.frames[index]) * opened.per_frame]
