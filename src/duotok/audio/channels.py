"""Any number of channels to one or two: surround folded with the ITU-R BS.775 weights, scaled never to clip; a channel
whose polarity is inverted against the other one is inverted back, so that their sum does not cancel."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

HALF = 0.5**0.5
# What each named channel gives to left and right. The low-frequency effects channel is left out, as BS.775 does.
GAINS: dict[str, tuple[float, float]] = {
    "FL": (1.0, 0.0),
    "FR": (0.0, 1.0),
    "FC": (HALF, HALF),
    "LFE": (0.0, 0.0),
    "BL": (HALF, 0.0),
    "BR": (0.0, HALF),
    "SL": (HALF, 0.0),
    "SR": (0.0, HALF),
    "BC": (0.5, 0.5),
    "FLC": (0.9, 0.4),
    "FRC": (0.4, 0.9),
    "DL": (1.0, 0.0),
    "DR": (0.0, 1.0),
}
# Order in wav, flac and aiff when the file names none.
WAVE_LAYOUTS: dict[int, tuple[str, ...]] = {
    1: ("FC",),
    2: ("FL", "FR"),
    3: ("FL", "FR", "FC"),
    4: ("FL", "FR", "BL", "BR"),
    5: ("FL", "FR", "FC", "BL", "BR"),
    6: ("FL", "FR", "FC", "LFE", "BL", "BR"),
    7: ("FL", "FR", "FC", "LFE", "BC", "SL", "SR"),
    8: ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"),
}


def stereo_weights(layout: tuple[str, ...]) -> NDArray[np.float32]:
    """`[channels, 2]` weights; no side's weights sum to more than 1. Channels of unknown place go to both sides."""
    weights = np.array([GAINS.get(name, (HALF, HALF)) for name in layout], dtype=np.float32)
    largest = weights.sum(axis=0).max()
    if largest == 0:  # nothing but effects channels
        return np.full_like(weights, 1 / len(layout))
    return weights / np.float32(max(1.0, largest))


def remix(block: NDArray[np.float32], layout: tuple[str, ...], channels: int) -> NDArray[np.float32]:
    """`[samples, n]` in `layout` to `[samples, channels]`, channels 1 or 2; a mono file becomes two equal channels."""
    present = block.shape[1]
    if channels not in (1, 2):
        raise ValueError(f"channels must be 1 or 2, or None to keep the file's; got {channels}")
    if present == channels:
        return block
    if present == 1:
        return np.repeat(block, 2, axis=1)
    stereo = block if present == 2 else block @ stereo_weights(layout)
    return stereo if channels == 2 else stereo.mean(axis=1, keepdims=True, dtype=np.float32)


INVERTED_BELOW, NORMAL_ABOVE = -0.3, 0.2
"""Below the first correlation of left and right one channel may be inverted; above the second none is."""
BANDS = ((20.0, 250.0), (250.0, 1000.0), (1000.0, 4000.0))
"""Hz. An inverted channel is inverted in all of these bands; delay, reverb and stereo effects invert only some."""
FAINT = 1e-4
"""Share of the power below which a band is ignored."""
FADE = 480


def correlation(stereo: Tensor) -> float:
    """Correlation of the two channels of `[2, samples]`, -1 to 1; 0 where one is silent."""
    left, right = stereo.double() - stereo.double().mean(dim=1, keepdim=True)
    power = float(left.square().sum() * right.square().sum())
    return float(left @ right) / power**0.5 if power > 0 else 0.0


def is_inverted(stereo: Tensor, rate: int = 48_000) -> bool:
    """Whether the channels of `[2, samples]` are each other's negative: together, and in every one of `BANDS`.

    Measured against wide mixes: `python -m benchmarks.stereo`.
    """
    if correlation(stereo) >= INVERTED_BELOW:
        return False
    left, right = torch.fft.rfft(stereo.double(), n=1 << (stereo.shape[1] - 1).bit_length())
    hertz = torch.linspace(0, rate / 2, len(left), dtype=torch.float64)
    shared, power = (left * right.conj()).real, left.abs().square() + right.abs().square()
    for low, high in BANDS:
        inside = (hertz >= low) & (hertz < high)
        if power[inside].sum() > FAINT * power.sum() and shared[inside].sum() >= 0:
            return False
    return True


class PolarityFix:
    """Inverts the right channel where it is the negative of the left one: `[2, samples]` blocks in, the same out.

    A block (some seconds) that `is_inverted` is corrected, one that correlates above `NORMAL_ABOVE` is not, one between is
    treated like the block before it; changes fade over `FADE` samples. `inverted`: whether any block was corrected;
    `lowest_correlation`: the lowest of all corrected blocks.
    """

    def __init__(self, rate: int = 48_000) -> None:
        self._rate = rate
        self.inverted = False
        self.lowest_correlation = 0.0
        self._sign = 1.0
        self._started = False

    def push(self, block: Tensor) -> Tensor:
        """The next block, corrected."""
        if block.shape[0] != 2 or block.shape[1] == 0:
            return block
        coefficient, previous_sign = correlation(block), self._sign
        if coefficient < INVERTED_BELOW and is_inverted(block, self._rate):
            self._sign, self.inverted, self.lowest_correlation = -1.0, True, min(self.lowest_correlation, coefficient)
        elif coefficient > NORMAL_ABOVE:
            self._sign = 1.0
        started, self._started = self._started, True
        if self._sign == previous_sign == 1.0:
            return block
        gains = torch.full((block.shape[1],), self._sign)
        if started and self._sign != previous_sign:
            fade = min(FADE, len(gains))
            gains[:fade] = torch.linspace(previous_sign, self._sign, fade)
        return torch.stack([block[0], block[1] * gains])


def fix_polarity(stereo: Tensor) -> Tensor:
    """A whole `[2, samples]` (or any other number of channels, as it is) with its right channel inverted where needed."""
    return PolarityFix().push(stereo)
