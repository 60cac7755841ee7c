"""A high-pass that removes constant offsets (DC) and inaudible rumble, block by block."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEAD_SECONDS = 0.25


class HighPass:
    """A second-order Butterworth high-pass at `hz` for `[channels, samples]` blocks at `rate`; 0 Hz lets all through.

    It begins as if the sound had always had the mean of its first quarter of a second (of the first block, if that is
    shorter), so that a constant offset leaves no step at the beginning. Exactly odd: the filtered negative is the negative of the filtered.
    """

    def __init__(self, hz: float, rate: int) -> None:
        if not 0 <= hz < rate / 2:
            raise ValueError(f"a high-pass at {hz:g} Hz for sound at {rate} Hz; choose from 0 up to below {rate / 2:g}")
        self._sections: NDArray[np.float64] | None = None if hz == 0 else _sections(hz, rate)
        self._state: NDArray[np.float64] | None = None
        self._lead = round(LEAD_SECONDS * rate)

    def push(self, block: Tensor) -> Tensor:
        """The next `[channels, samples]`, filtered: float32 of the same shape."""
        if self._sections is None or block.shape[-1] == 0:
            return block
        from scipy.signal import sosfilt, sosfilt_zi

        samples = block.detach().cpu().numpy().astype(np.float64)
        if self._state is None:
            self._state = sosfilt_zi(self._sections)[:, None, :] * samples[:, : self._lead].mean(axis=1)[None, :, None]
        filtered, self._state = sosfilt(self._sections, samples, axis=1, zi=self._state)
        return torch.from_numpy(filtered.astype(np.float32))


def _sections(hz: float, rate: int) -> NDArray[np.float64]:
    from scipy.signal import butter  # takes a second to import

    sections: NDArray[np.float64] = butter(2, hz, "highpass", fs=rate, output="sos")
    return sections


def highpass(audio: Tensor, hz: float, rate: int) -> Tensor:
    """A whole sound `[samples]` or `[channels, samples]` through `HighPass`."""
    return HighPass(hz, rate).push(audio.reshape(-1, audio.shape[-1])).reshape(audio.shape)
