"""Find a sound inside another one: its delay, its level, and what remains of the other one without it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

LONGEST_LAG = 0.5
"""Seconds that a sound may be early or late and still be found."""
FAINT = 1e-3
"""Root mean square below which there is nothing to compare."""
SPECTRUM_SECONDS = 0.08


@dataclass(frozen=True)
class Fit:
    """How a part lies in a whole. lag: seconds by which it is late there (negative: early); gain_db: its level there against its
    own, over all or where it is strongest, whichever is nearer to 0; inverted: its polarity is reversed there; coherence: 0 to 1,
    how much of the part was found; residual_db: power of (whole - part), both as they are, against the whole.
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
    """Push blocks of a whole and of a part, `[channels, samples]` and equally long, then call `fit()`.

    Cross-spectra of the blocks are summed. The lag is the peak of the whitened correlation, if the plain one agrees. What a
    separator was not sure of it has made softer: its stem has the level of the whole only where it is strongest.
    """

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._cross: NDArray[np.complex128] | None = None
        self._size = 0
        self._whole = self._part = self._product = 0.0
        self._samples = 0
        self._strong = np.zeros(2)

    def push(self, whole: Tensor, part: Tensor) -> None:
        """The next block of both. Blocks longer than the first are cut to its length for the correlation."""
        whole_mono = whole.mean(0).double().numpy()
        part_mono = part.mean(0).double().numpy()
        if whole_mono.size == 0:
            return
        if self._cross is None:
            reach = round(LONGEST_LAG * self.rate)
            self._size = 1 << (whole_mono.size + reach).bit_length()
            self._cross = np.zeros(self._size // 2 + 1, np.complex128)
        self._whole += float(whole_mono @ whole_mono)
        self._part += float(part_mono @ part_mono)
        self._product += float(whole_mono @ part_mono)
        self._samples += whole_mono.size
        self._strong += _strong_levels(whole_mono, part_mono, round(SPECTRUM_SECONDS * self.rate))
        room = self._size - round(LONGEST_LAG * self.rate)
        self._cross += np.fft.rfft(part_mono[:room], self._size) * np.conj(np.fft.rfft(whole_mono[:room], self._size))

    def fit(self) -> Fit | None:
        """None where one of the two is silent or too faint."""
        if self._cross is None or min(self._whole, self._part) < FAINT**2 * self._samples:
            return None
        reach = round(LONGEST_LAG * self.rate)
        plain = _lags(np.fft.irfft(self._cross), reach)
        level = np.abs(self._cross)
        white = _lags(np.fft.irfft(self._cross / np.maximum(level, 1e-3 * level.max())), reach)
        lag = int(np.abs(white).argmax()) - reach
        peak, at_zero = float(plain[lag + reach]), self._product
        if peak**2 < 1.1 * at_zero**2:
            lag, peak = 0, at_zero
        gain = peak / self._part
        if lag == 0 and self._strong[1] > 0:
            gain = min((gain, float(self._strong[0] / self._strong[1])), key=lambda g: abs(math.log(max(abs(g), 1e-6))))
        residual = max(self._whole + self._part - 2 * self._product, 1e-12 * self._whole)
        return Fit(
            lag / self.rate,
            20 * math.log10(max(abs(gain), 1e-6)),
            peak < 0,
            min(1.0, peak**2 / (self._whole * self._part)),
            10 * math.log10(residual / self._whole),
        )


def _strong_levels(whole: NDArray[np.float64], part: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Products of the spectra of both, and of the part with itself, in short frames, each weighed by the part's power squared."""
    n = len(part) // size
    window = np.hanning(size)
    one, two = (np.fft.rfft(sound[: n * size].reshape(n, size) * window) for sound in (whole, part))
    power = (two * two.conj()).real
    return np.array([np.sum(power**2 * (one * two.conj()).real), np.sum(power**3)])


def _lags(correlation: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Lags `-reach` to `reach`."""
    return np.concatenate([correlation[-reach:], correlation[: reach + 1]])
