"""Quality of a separation: scale-invariant signal-to-distortion ratio (Le Roux et al. 2019, arXiv 1811.02508).

With estimate e, target t and a = <e, t> / |t|^2, channels together and without removal of the mean:

    SI-SDR = 10 log10(|a t|^2 / |e - a t|^2)

A silent target has none, since no scale fits. Two definitions treat that case, each under its own name: `SiSdr` gives NaN, for
figures of whole recordings; `floored_si_sdr` has a floor, for means over chunks, each of which needs a figure. On a target
that is not silent they agree.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FLOOR = 1e-10
"""Added to both energies, so that a perfect estimate has a figure."""


class SiSdr:
    """SI-SDR of one whole recording, from blocks `[channels, samples]`, accumulated as three sums, |e|^2, |t|^2 and <e, t>.

    10 log10((p + floor) / (|e|^2 - p + floor)) with p = <e, t>^2 / |t|^2, which is |a t|^2.
    """

    def __init__(self) -> None:
        self._ee = self._tt = self._et = 0.0

    def add(self, estimate: Tensor, target: Tensor) -> None:
        e, t = estimate.double(), target.double()
        self._ee += float((e * e).sum())
        self._tt += float((t * t).sum())
        self._et += float((e * t).sum())

    def decibels(self) -> float:
        """NaN where the target is silent."""
        if self._tt == 0.0:
            return math.nan
        part = self._et * self._et / self._tt
        return 10.0 * math.log10((part + FLOOR) / (max(self._ee - part, 0.0) + FLOOR))


def floored_si_sdr(estimate: Tensor, target: Tensor) -> Tensor:
    """SI-SDR in dB of each of several chunks `[..., channels, samples]` as one tensor `[...]`, finite also for silence.

    10 log10((|a t|^2 + floor) / (|e - a t|^2 + floor)) with a = <e, t> / (|t|^2 + floor): for a silent target minus the
    estimate's energy above the floor, so that a mean over chunks also counts how well silence is kept silent.
    """
    e, t = estimate.flatten(-2).double(), target.flatten(-2).double()
    scale = (e * t).sum(-1, keepdim=True) / (t.square().sum(-1, keepdim=True) + FLOOR)
    projection = scale * t
    ratio = (projection.square().sum(-1) + FLOOR) / ((projection - e).square().sum(-1) + FLOOR)
    return 10.0 * torch.log10(ratio)
