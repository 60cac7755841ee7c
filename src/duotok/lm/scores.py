"""The result of scoring one model on songs: bits and rank of every target token. One safetensors file, no pickle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from duotok.errors import DuoTokError, TokenFileError
from duotok.sealed_arrays import read_arrays, save_arrays

FORMAT = 2  # sealed
KINDS: dict[str, type[np.generic]] = {"bits": np.float32, "ranks": np.int32, "codes": np.int32}


@dataclass(frozen=True, eq=False)
class SongScore:
    """One codebook of one stream of one song, in the order of time: T target tokens.

    size: V; bits float32 `[T]`: -log2 of the token's probability among the V codes; ranks int32 `[T]`: 0 is the model's
    first guess; codes int32 `[T]`: the tokens themselves. Raises ValueError when lengths differ.
    """

    song: str
    stream: str
    codebook: int
    size: int
    bits: NDArray[np.float32]
    ranks: NDArray[np.int32]
    codes: NDArray[np.int32]

    def __post_init__(self) -> None:
        if not len(self.bits) == len(self.ranks) == len(self.codes):
            raise ValueError(
                f"{self.song}: {len(self.bits)} bits, {len(self.ranks)} ranks, {len(self.codes)} codes; they go together"
            )


def save_scores(path: str | Path, scores: Sequence[SongScore], facts: dict[str, Any]) -> None:
    """Write scores and `facts` (JSON-able: model, codec, protocol, settings), atomically. Equal scores give equal bytes."""
    arrays = {
        name: np.concatenate([np.asarray(getattr(s, name), dtype=kind) for s in scores] or [np.zeros(0, kind)])
        for name, kind in KINDS.items()
    }
    rows = [[s.song, s.stream, s.codebook, s.size, len(s.bits)] for s in scores]
    header = {"format": FORMAT, "facts": facts, "rows": rows}
    try:
        save_arrays(Path(path), {name: torch.from_numpy(array) for name, array in arrays.items()}, header)
    except OSError as error:
        raise DuoTokError(f"{path}: cannot be written ({error.strerror}); choose another place") from None


def load_scores(path: str | Path) -> tuple[list[SongScore], dict[str, Any]]:
    """Scores and facts of a file. Raises TokenFileError when it is missing, foreign, damaged or of another version."""
    try:
        tensors, header = read_arrays(Path(path))
        arrays = {name: tensors[name].numpy() for name in KINDS}
        version = header["format"]
    except FileNotFoundError:
        raise TokenFileError(f"{path}: no such file; evaluate a language model first") from None
    except (ValueError, KeyError, TypeError):
        raise TokenFileError(f"{path}: no scores of DuoTok, or damaged; evaluate again") from None
    if version != FORMAT:
        raise TokenFileError(f"{path}: scores of format {version}, this DuoTok reads {FORMAT}; evaluate again")
    ends = np.cumsum([row[4] for row in header["rows"]], dtype=np.int64)
    if any(len(values) != (ends[-1] if len(ends) else 0) for values in arrays.values()):
        raise TokenFileError(f"{path}: damaged; evaluate again")
    parts = {name: np.split(values, ends[:-1]) for name, values in arrays.items()}
    scores = [
        SongScore(song, stream, codebook, size, *(parts[name][i] for name in KINDS))
        for i, (song, stream, codebook, size, _) in enumerate(header["rows"])
    ]
    return scores, header["facts"]
