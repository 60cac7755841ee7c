"""Tokens of a song as the sequences that language models are trained on, and back.

parallel: one row a frame, one number for each codebook, as the codec gives them.
interleaved: one number at a time, codebook after codebook within a frame, each with numbers of its own (or `shared` ones).
delayed: one row a step; codebook k comes k steps late (or `delays`), so that it can be predicted from those before (MusicGen, LeVo).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from duotok.errors import ConfigError, TokenFileError
from duotok.lm.streams import CodecIdentity

Kind = Literal["parallel", "interleaved", "delayed"]
KINDS: tuple[Kind, ...] = ("parallel", "interleaved", "delayed")
LARGEST_ID = 2**31 - 1
LONGEST_DELAY = 4096

Ids = NDArray[np.int32]
Codes = Mapping[str, NDArray[np.integer[Any]]]


@dataclass(frozen=True)
class Layout:
    """How songs of one codec are written as integers. Raises ConfigError for settings that do not fit together.

    first_id: the smallest number of an interleaved sequence; its first three numbers are PAD, BOS, EOS, the codes follow. shared: all
    codebooks have the same numbers, and the place tells which one is meant (YuE); they must be equally large. delays: steps that each
    codebook comes late in a delayed sequence, by default 0, 1, 2 ... In a delayed sequence the number after the last code of a codebook
    stands where it has ended (EOS), the one after that where it has not begun (PAD): LeVo's choice.
    """

    codec: CodecIdentity
    kind: Kind = "interleaved"
    first_id: int = 0
    shared: bool = False
    delays: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"layout '{self.kind}': choose {', '.join(KINDS)}")
        sizes = self.sizes
        if self.shared and len(set(sizes)) > 1:
            raise ConfigError(f"shared numbers need codebooks of one size, these have {', '.join(map(str, sizes))}")
        if self.kind != "interleaved" and (self.shared or self.first_id):
            raise ConfigError(f"layout {self.kind}: only interleaved sequences have a first number and shared ones")
        if self.kind != "delayed" and self.delays:
            raise ConfigError(f"layout {self.kind}: only delayed sequences have delays")
        if self.delays and (
            len(self.delays) != len(sizes) or not 0 <= min(self.delays) <= max(self.delays) <= LONGEST_DELAY
        ):
            raise ConfigError(
                f"delays {', '.join(map(str, self.delays))}: give {len(sizes)} numbers from 0 to {LONGEST_DELAY}, one for each codebook"
            )
        if not 0 <= self.first_id <= LARGEST_ID - self.vocabulary:
            raise ConfigError(
                f"first number {self.first_id}: the largest would be over {LARGEST_ID}; choose a smaller one"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(column.size for column in self.codec.columns)

    @property
    def pad(self) -> int:
        return self.first_id

    @property
    def bos(self) -> int:
        return self.first_id + 1

    @property
    def eos(self) -> int:
        return self.first_id + 2

    @property
    def offsets(self) -> tuple[int, ...]:
        """What is added to the codes of each codebook."""
        if self.kind != "interleaved":
            return (0,) * len(self.sizes)
        start = self.first_id + 3
        if self.shared:
            return (start,) * len(self.sizes)
        return tuple(itertools.accumulate((start, *self.sizes[:-1])))

    @property
    def vocabulary(self) -> int:
        """Numbers that an interleaved sequence knows, from `first_id` on; of the others the largest of a codebook, with its two specials."""
        if self.kind == "interleaved":
            return 3 + (self.sizes[0] if self.shared else sum(self.sizes))
        return max(self.sizes) + (2 if self.kind == "delayed" else 0)

    @property
    def late(self) -> tuple[int, ...]:
        """Steps that each codebook comes late."""
        return (self.delays or tuple(range(len(self.sizes)))) if self.kind == "delayed" else (0,) * len(self.sizes)

    @property
    def width(self) -> int:
        """Numbers in a row; 0: the sequence is flat."""
        return 0 if self.kind == "interleaved" else len(self.sizes)

    def as_json(self) -> dict[str, Any]:
        """Everything that another program needs to read the sequences."""
        columns = zip(self.codec.columns, self.offsets, self.late, strict=True)
        description: dict[str, Any] = {
            "layout": self.kind,
            "vocabulary": self.first_id + self.vocabulary if self.kind == "interleaved" else self.vocabulary,
            "first_id": self.first_id, "shared": self.shared, "delays": list(self.delays),
            "codec": self.codec.as_json(),
            "columns": [
                {"stream": c.stream, "codebook": c.codebook, "size": c.size, "offset": offset, "delay": delay}
                for c, offset, delay in columns
            ],
        }  # fmt: skip
        if self.kind == "interleaved":
            description["specials"] = {"pad": self.pad, "bos": self.bos, "eos": self.eos}
        elif self.kind == "delayed":
            description["specials"] = {"eos": [size for size in self.sizes], "pad": [size + 1 for size in self.sizes]}
        return description | {"how": HOW[self.kind]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Layout:
        """Undo `as_json`. Raises ValueError, KeyError, TypeError or ConfigError for anything else."""
        return cls(
            CodecIdentity.from_json(values["codec"]), values["layout"], int(values["first_id"]), bool(values["shared"]),
            tuple(int(delay) for delay in values["delays"]),
        )  # fmt: skip

    def lay_out(self, tokens: Codes) -> Ids:
        """A song as int32: `[frames x codebooks + 2]` (interleaved), `[frames, codebooks]` (parallel) or
        `[frames + longest delay + 1, codebooks]` (delayed; the last row of each is EOS or PAD)."""
        rows = np.stack([tokens[column.stream][column.codebook] for column in self.codec.columns], axis=1).astype(
            np.int64
        )
        if self.kind == "parallel":
            return rows.astype(np.int32)
        if self.kind == "interleaved":
            ids = (rows + np.array(self.offsets)).ravel()
            return np.concatenate([[self.bos], ids, [self.eos]]).astype(np.int32)
        frames = len(rows)
        sizes = np.array(self.sizes)
        sequence = np.broadcast_to(sizes + 1, (frames + max(self.late) + 1, len(sizes))).copy()
        for k, delay in enumerate(self.late):
            sequence[delay : delay + frames, k] = rows[:, k]
            sequence[delay + frames, k] = sizes[k]
        return sequence.astype(np.int32)

    def read_back(self, ids: NDArray[np.integer[Any]], name: str = "sequence") -> dict[str, NDArray[np.int32]]:
        """Stream -> int32 `[codebooks, frames]` of a sequence, also of one that a model has written: BOS, EOS and PAD at its ends, and an
        unfinished last frame, are left out. Raises TokenFileError, beginning with `name`, for any other sequence."""
        ids = np.asarray(ids)
        if ids.dtype.kind not in "iu" or ids.ndim != (1 if self.kind == "interleaved" else 2):
            shape = "a row of whole numbers" if self.kind == "interleaved" else "rows of whole numbers"
            raise TokenFileError(f"{name}: {ids.dtype} {list(ids.shape)} is no {self.kind} sequence, which is {shape}")
        rows = (
            self._flat(ids.astype(np.int64)) if self.kind == "interleaved" else self._rows(ids.astype(np.int64), name)
        )
        if not len(rows):
            raise TokenFileError(f"{name}: no whole frame in it")
        for k, column in enumerate(self.codec.columns):
            low, high = int(rows[:, k].min()), int(rows[:, k].max())
            if low < 0 or high >= column.size:
                at = int(np.flatnonzero((rows[:, k] < 0) | (rows[:, k] >= column.size))[0])
                raise TokenFileError(
                    f"{name}: {int(rows[at, k]) + self.offsets[k]} in frame {at} is no code of {column.name}, which has "
                    f"{self.offsets[k]} to {self.offsets[k] + column.size - 1}"
                )
        streams: dict[str, list[NDArray[np.int32]]] = {}
        for k, column in enumerate(self.codec.columns):
            streams.setdefault(column.stream, []).append(rows[:, k].astype(np.int32))
        return {stream: np.stack(codes) for stream, codes in streams.items()}

    def behind_the_end(self, ids: NDArray[np.integer[Any]]) -> int:
        """Numbers behind the end of a sequence that `read_back` takes, other than EOS and PAD: it leaves them out."""
        if self.kind == "parallel":
            return 0
        if self.kind == "interleaved":
            ids = _trimmed_start(ids, (self.pad, self.bos))
            ends = np.flatnonzero(np.isin(ids, (self.pad, self.eos)))
            return int((~np.isin(ids[ends[0] :], (self.pad, self.eos))).sum()) if len(ends) else 0
        columns = [(ids[delay:, k], size) for k, (delay, size) in enumerate(zip(self.late, self.sizes, strict=True))]
        first = min((int(np.argmax(codes >= size)) for codes, size in columns if (codes >= size).any()), default=None)
        if first is None or first > min(len(codes) for codes, _ in columns):  # a codebook that comes late was cut short
            return 0
        return sum(int((codes[first:] < size).sum()) for codes, size in columns)

    def _flat(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        ids = _trimmed(ids, (self.pad, self.bos), (self.pad, self.eos))
        whole = len(ids) // len(self.sizes)
        rows: NDArray[np.int64] = ids[: whole * len(self.sizes)].reshape(whole, len(self.sizes)) - np.array(
            self.offsets
        )
        return rows

    def _rows(self, ids: NDArray[np.int64], name: str) -> NDArray[np.int64]:
        if ids.shape[1] != len(self.sizes):
            raise TokenFileError(f"{name}: rows of {ids.shape[1]} numbers; the codec has {len(self.sizes)} codebooks")
        if self.kind == "parallel":
            return ids
        columns = []
        for k, (delay, size) in enumerate(zip(self.late, self.sizes, strict=True)):
            codes = ids[delay:, k]
            ends = np.flatnonzero((codes == size) | (codes == size + 1))
            columns.append(codes[: ends[0]] if len(ends) else codes)
        frames = min(map(len, columns))
        rows: NDArray[np.int64] = np.stack([codes[:frames] for codes in columns], axis=1)
        return rows


def _trimmed(ids: NDArray[np.int64], before: Sequence[int], after: Sequence[int]) -> NDArray[np.int64]:
    """Without the numbers of `before` at the beginning; up to the first of `after` behind them."""
    ids = _trimmed_start(ids, before)
    ends = np.flatnonzero(np.isin(ids, after))
    return ids[: ends[0]] if len(ends) else ids


def _trimmed_start(ids: NDArray[Any], before: Sequence[int]) -> NDArray[Any]:
    others = np.flatnonzero(~np.isin(ids, before))
    return ids[others[0] :] if len(others) else ids[:0]


HOW = {
    "parallel": "input_ids[t][c] is the code of columns[c] in frame t.",
    "interleaved": "input_ids is bos, then for each frame one number for each column in order, then eos; code = number - columns[c].offset, "
    "where c is the place of the number within its frame.",
    "delayed": "input_ids[t][c] is the code of columns[c] in frame t - columns[c].delay; specials.pad[c] where it has not begun or is over, "
    "specials.eos[c] in the step after its last frame.",
}
