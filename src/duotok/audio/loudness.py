"""Integrated loudness after ITU-R BS.1770-4, block by block: any length in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

# BS.1770-4: blocks of 400 ms every 100 ms, an absolute gate at -70 LUFS, a relative one 10 LU below the mean.
HOPS_PER_SECOND = 10
HOPS_PER_BLOCK = 4
ABSOLUTE_GATE = -70.0
RELATIVE_GATE = -10.0
OFFSET = -0.691


def k_weighting(rate: int) -> NDArray[np.float64]:
    """The two K-weighting biquads for any rate as second-order sections `[2, 6]`.

    BS.1770 tabulates 48 kHz only; these are the analogue prototypes that give its table there (as libebur128 has them).
    """
    shelf_hz, gain_db, q = 1681.974450955533, 3.999843853973347, 0.7071752369554196
    k = math.tan(math.pi * shelf_hz / rate)
    vh = 10.0 ** (gain_db / 20.0)
    vb = vh**0.4996667741545416
    a0 = 1.0 + k / q + k * k
    shelf = [
        (vh + vb * k / q + k * k) / a0,
        2.0 * (k * k - vh) / a0,
        (vh - vb * k / q + k * k) / a0,
        1.0,
        2.0 * (k * k - 1.0) / a0,
        (1.0 - k / q + k * k) / a0,
    ]
    high_hz, q = 38.13547087602444, 0.5003270373238773
    k = math.tan(math.pi * high_hz / rate)
    a0 = 1.0 + k / q + k * k
    high_pass = [1.0, -2.0, 1.0, 1.0, 2.0 * (k * k - 1.0) / a0, (1.0 - k / q + k * k) / a0]
    return np.array([shelf, high_pass])


def channel_weights(channels: int) -> NDArray[np.float64]:
    """Left, right and centre 1, surrounds 1.41, the effects channel 0 (wav order)."""
    table = {5: [1, 1, 1, 1.41, 1.41], 6: [1, 1, 1, 0, 1.41, 1.41]}
    return np.array(table.get(channels, [1.0] * channels), dtype=np.float64)


class LoudnessMeter:
    """Push `[channels, samples]` blocks of any size, then call `integrated()`."""

    def __init__(self, rate: int) -> None:
        if rate < 100:
            raise ValueError(f"rate must be at least 100 Hz, got {rate}")
        self.rate = rate
        self.hop = round(rate / HOPS_PER_SECOND)
        self._sections = k_weighting(rate)
        self._state: NDArray[np.float64] | None = None
        self._weights = np.ones(1)
        self._hops: list[float] = []  # weighted sum of squares of each full hop
        self._rest = np.zeros(0)

    def push(self, block: Tensor) -> None:
        """Take the next `[channels, samples]`."""
        from scipy.signal import sosfilt  # takes a second to import

        samples = block.detach().cpu().numpy().astype(np.float64, copy=False)
        if samples.ndim != 2:
            raise ValueError(f"blocks must be [channels, samples], got {list(samples.shape)}")
        if self._state is None:
            self._state = np.zeros((2, samples.shape[0], 2))
            self._weights = channel_weights(samples.shape[0])
        if samples.shape[1] == 0:
            return
        weighted, self._state = sosfilt(self._sections, samples, axis=1, zi=self._state)
        # Summed channel by channel: the rounding of a matrix product depends on the number of threads.
        squares = (self._weights[:, None] * np.square(weighted)).sum(axis=0)
        power = np.concatenate([self._rest, squares])
        full = len(power) // self.hop
        self._hops.extend(power[: full * self.hop].reshape(full, self.hop).sum(axis=1).tolist())
        self._rest = power[full * self.hop :]

    def integrated(self) -> float:
        """LUFS; -inf for silence. Sound shorter than one block of 400 ms is taken as one block of its own length."""
        hops = np.array(self._hops)
        if len(hops) < HOPS_PER_BLOCK:
            n = len(hops) * self.hop + len(self._rest)
            blocks = np.array([(hops.sum() + self._rest.sum()) / n]) if n else np.zeros(0)
        else:
            blocks = np.convolve(hops, np.ones(HOPS_PER_BLOCK), mode="valid") / (HOPS_PER_BLOCK * self.hop)
        blocks = blocks[_lufs(blocks) > ABSOLUTE_GATE]
        if len(blocks) == 0:
            return -math.inf
        gate = float(_lufs(blocks.mean())) + RELATIVE_GATE
        return float(_lufs(blocks[_lufs(blocks) > gate].mean()))


def _lufs(power: NDArray[np.float64] | np.floating) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        return np.asarray(OFFSET + 10.0 * np.log10(power))


def integrated_loudness(blocks: Iterable[Tensor], rate: int) -> float:
    """Integrated loudness in LUFS (ITU-R BS.1770-4) of `[channels, samples]` blocks at `rate`; -inf when silent."""
    meter = LoudnessMeter(rate)
    for block in blocks:
        meter.push(block)
    return meter.integrated()
