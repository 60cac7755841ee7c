"""Streaming resampling with an exact length."""

from __future__ import annotations

from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

Samples = NDArray[np.float32]


def resampled_length(n_samples: int, from_rate: int, to_rate: int) -> int:
    """Samples after resampling: `ceil(n_samples * to_rate / from_rate)`, in integers, so exact."""
    return -(-n_samples * to_rate // from_rate)


class Resampler:
    """Streaming high-quality resampling of `[samples, channels]` blocks whose total length comes out exact."""

    def __init__(self, from_rate: int, to_rate: int, channels: int) -> None:
        self.from_rate, self.to_rate = from_rate, to_rate
        self.n_in = self.n_out = 0
        self._soxr: Any = None
        if from_rate != to_rate:
            self._soxr = soxr.ResampleStream(from_rate, to_rate, channels, dtype="float32", quality="HQ")

    def push(self, block: Samples, last: bool = False) -> Samples:
        """Push `[samples, channels]`, get the samples that are ready; with `last=True` all that remain, exact in length."""
        self.n_in += len(block)
        if self._soxr is None:
            self.n_out += len(block)
            return block
        out: Samples = self._soxr.resample_chunk(np.ascontiguousarray(block, dtype=np.float32), last=last)
        target = resampled_length(self.n_in, self.from_rate, self.to_rate)
        out = out[: max(0, target - self.n_out)]
        if last:
            out = np.pad(out, ((0, target - self.n_out - len(out)), (0, 0)))
        self.n_out += len(out)
        return out
