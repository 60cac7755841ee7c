"""Whether a sound is in another one: how late, how loud, and what is left of the other without it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

LONGEST_LAG = 0.5
"""Seconds that a sound may be early or late to be found."""
FAINT = 1e-3
"""Root mean square below which there is nothing to compare."""


@dataclass(frozen=True)
class Fit:
    """How a part stands in a whole. lag: seconds that it comes late (negative: early) against its place in the whole;
    gain_db: its level in the whole against its own; inverted: of the other sign there; coherence: 0 to 1, how much of the
    part is found; residual_db: power of the whole minus the part as they are, against the whole.
    """

    lag: float
    gain_db: float
    inverted: bool
    coherence: float
    residual_db: float

    def __str__(self) -> str:
        turned = ", turned over" if self.inverted else ""
        return (
            f"{1000 * self.lag:+.1f} ms, {self.gain_db:+.1f} dB{turned}, coherence {self.coherence:.2f}, "
            f"residual {self.residual_db:+.1f} dB"
        )


class Alignment:
    """Feed blocks of a whole and of a part, `[channels, samples]` and equally long, ask `fit()` at the end.

    Cross-spectra of the blocks are summed. The lag is the peak of the whitened correlation, if the plain one agrees.
    """

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._cross: NDArray[np.complex128] | None = None
        self._size = 0
        self._whole = self._part = self._both = 0.0
        self._samples = 0

    def push(self, whole: Tensor, part: Tensor) -> None:
        """The next block of both. Blocks longer than the first are cut to its length for the correlation."""
        one = whole.mean(0).double().numpy()
        two = part.mean(0).double().numpy()
        if one.size == 0:
            return
        if self._cross is None:
            reach = round(LONGEST_LAG * self.rate)
            self._size = 1 << (one.size + reach).bit_length()
            self._cross = np.zeros(self._size // 2 + 1, np.complex128)
        self._whole += float(one @ one)
        self._part += float(two @ two)
        self._both += float(one @ two)
        self._samples += one.size
        room = self._size - round(LONGEST_LAG * self.rate)
        self._cross += np.fft.rfft(two[:room], self._size) * np.conj(np.fft.rfft(one[:room], self._size))

    def fit(self) -> Fit | None:
        """None where one of the two is silent, or too faint to tell."""
        if self._cross is None or min(self._whole, self._part) < FAINT**2 * self._samples:
            return None
        reach = round(LONGEST_LAG * self.rate)
        plain = _lags(np.fft.irfft(self._cross), reach)
        level = np.abs(self._cross)
        white = _lags(np.fft.irfft(self._cross / np.maximum(level, 1e-3 * level.max())), reach)
        lag = int(np.abs(white).argmax()) - reach
        best, here = float(plain[lag + reach]), self._both
        if best**2 < 1.1 * here**2:
            lag, best = 0, here
        gain = best / self._part
        residual = max(self._whole + self._part - 2 * self._both, 1e-12 * self._whole)
        return Fit(
            lag / self.rate,
            20 * math.log10(max(abs(gain), 1e-6)),
            gain < 0,
            min(1.0, best**2 / (self._whole * self._part)),
            10 * math.log10(residual / self._whole),
        )


def _lags(correlation: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Lags `-reach` to `reach`."""
    return np.concatenate([correlation[-reach:], correlation[: reach + 1]])
