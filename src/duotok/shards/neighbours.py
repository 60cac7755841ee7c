"""Segments that follow each other in a recording without a gap, and so can be joined into one piece."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from duotok.shards.store import ShardStore


def joined(store: ShardStore, indices: Sequence[int] | np.ndarray) -> list[list[int]]:
    """The segments `indices` grouped into pieces that have no gaps, in the order of recordings and time.

    A gap begins a new piece, and so does another set of stems: the parts of a track must not change inside a piece.
    """
    chosen = np.asarray(indices, dtype=np.int64)
    if not len(chosen):
        return []
    rows = store.segments.values(chosen, "recording", "start_frame", "frames", "stems")
    pieces: list[list[int]] = []
    end: tuple[str, list[str], int] | None = None
    for i in sorted(range(len(rows)), key=lambda i: (rows[i]["recording"], rows[i]["start_frame"])):
        row = rows[i]
        if end != (row["recording"], row["stems"], row["start_frame"]):
            pieces.append([])
        pieces[-1].append(int(chosen[i]))
        end = (row["recording"], row["stems"], row["start_frame"] + row["frames"])
    return pieces
