"""Where to cut a recording: dynamic programming over boundaries between token frames.

A boundary costs by what it would cut (a word, a line, a voice, a loud place); a segment costs by its length and by how much
it mixes voiced and voiceless stretches. The cheapest chain of segments wins; silence may be left out between two of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Costs = NDArray[np.float64]
Frames = NDArray[np.int64]

CANDIDATE_FRAMES = 12  # one candidate boundary, the cheapest, in each half second
LENGTH_WEIGHT = 1.0  # twice or half the target length costs as much as a cut in a voiceless but loud place
MIXING_PER_FRAME = 0.02
SILENCE_PER_FRAME = 0.02


@dataclass(frozen=True)
class Material:
    """What a recording of T frames is made of.

    cut: `[T + 1]` cost of a boundary before each frame and at the end; skip: `[T]` cost of leaving a frame out; voiced,
    free, silent: `[T]` masks: voice, a long stretch without voice, a long stretch without any sound.
    """

    cut: Costs
    skip: Costs
    voiced: NDArray[np.bool_]
    free: NDArray[np.bool_]
    silent: NDArray[np.bool_]


def candidates(cut: Costs) -> Frames:
    """Both ends, and the cheapest boundary of each block of frames between (the first of equals)."""
    inner = cut[1:-1]
    blocks = -(-len(inner) // CANDIDATE_FRAMES)
    padded = np.full(blocks * CANDIDATE_FRAMES, np.inf)
    padded[: len(inner)] = inner
    best = padded.reshape(blocks, CANDIDATE_FRAMES).argmin(1) + np.arange(blocks) * CANDIDATE_FRAMES + 1
    return np.concatenate([[0], best, [len(cut) - 1]]).astype(np.int64)


def _sums(values: NDArray[np.generic]) -> Costs:
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def best_cuts(material: Material, shortest: int, longest: int, target: int) -> Frames:
    """The cheapest segments `[segments, 2]` (first frame, frame after the last), in order, `shortest..longest` long.

    target: the preferred length. Empty when the recording is shorter than `shortest`. Frames with a high `skip` are always in
    a segment, since any recording that is long enough can be tiled.
    """
    frames = len(material.voiced)
    at = candidates(material.cut)
    if longest < frames < 2 * (shortest + CANDIDATE_FRAMES):
        # Hardly two segments fit: one candidate in each half second may leave no place for the boundary between them, or for the
        # end of a longest one. (All frames would be too many where segments are minutes long.)
        at = np.union1d(at, [frames - longest, longest, *range(shortest, frames - shortest + 1)])
    n = len(at)
    low, high = np.searchsorted(at, at - longest), np.searchsorted(at, at - shortest, side="right")
    width = int((high - low).max())
    if width <= 0:
        return np.zeros((0, 2), np.int64)
    first = np.minimum(low[:, None] + np.arange(width), n - 1)  # [n, width]: where a segment that ends here may begin
    begin, end = at[first], at[:, None]
    length = np.maximum(end - begin, 1)
    voiced, free, silent, skip = (
        _sums(values) for values in (material.voiced, material.free, material.silent, material.skip)
    )
    mixed = np.minimum(voiced[end] - voiced[begin], free[end] - free[begin])
    cost = (
        0.5 * (material.cut[begin] + material.cut[end])
        + LENGTH_WEIGHT * np.log2(length / target) ** 2
        + MIXING_PER_FRAME * mixed
        + SILENCE_PER_FRAME * (silent[end] - silent[begin])
    )
    leave = np.diff(skip[at], prepend=0.0)
    total, origin = np.full(n, np.inf), np.zeros(n, np.int64)
    total[0] = 0.0
    for j, (a, b) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        if j == 0:
            continue
        total[j], origin[j] = total[j - 1] + leave[j], -1
        if b > a:
            chains = total[a:b] + cost[j, : b - a]
            k = int(chains.argmin())
            if chains[k] <= total[j]:
                total[j], origin[j] = chains[k], a + k
    cuts, j = [], n - 1
    while j > 0:
        if origin[j] < 0:
            j -= 1
        else:
            cuts.append((at[origin[j]], at[j]))
            j = int(origin[j])
    return np.array(cuts[::-1], np.int64).reshape(-1, 2)
