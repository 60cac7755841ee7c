"""Whether the music stays the same: harmony by chroma, melody by fundamental frequency.

A mel distance does not measure them: sounds with the same spectral envelope and other notes are close to each other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from duotok.audio.features import Chroma
from duotok.clock import ANALYSIS_RATE, MEL_HOP
from duotok.evaluation.fidelity import to_distance_rate

SOUNDING_DB = -40.0
"""Frames softer than this against the loudest one of the target do not count."""
LOWEST_HZ, HIGHEST_HZ = 65.0, 1000.0
WINDOW = 800
"""Samples at 24 kHz in which the period is searched: 33 ms."""
VOICED = 0.15
"""Largest cumulative mean normalised difference of a voiced frame (de Cheveigne and Kawahara 2002, YIN)."""
CENTS = 50.0


def chroma_correlation(estimate: Tensor, target: Tensor, rate: int) -> float:
    """Mean over frames (10 ms) of the correlation between the 12 chroma bins of both; 1: the same notes, 0: no relation.

    estimate, target: `[samples]` or `[channels, samples]` at `rate`; the shorter length counts, and only frames in which the
    target sounds. 0 where there is no such frame. Frames in which the estimate has no chroma count as 0.
    """
    a, b = _same_length(estimate, target, rate)
    module = Chroma()
    sounding = _sounding(b)
    if not bool(sounding.any()):
        return 0.0
    estimate_chroma, target_chroma = (_centred(module(sound)[sounding]) for sound in (a, b))
    return float((estimate_chroma * target_chroma).sum(-1).mean())


def f0(audio: Tensor) -> Tensor:
    """Fundamental frequency in Hz of each 10 ms of mono sound `[samples]` at 24 kHz by YIN: `[frames]`, 0 where unvoiced.

    frames = samples // 240. From 65 to 1,000 Hz.
    """
    shortest, longest = round(ANALYSIS_RATE / HIGHEST_HZ), round(ANALYSIS_RATE / LOWEST_HZ)
    count = audio.shape[-1] // MEL_HOP
    reach = WINDOW + longest + 1
    left_padding = (reach - MEL_HOP) // 2
    padded = torch.nn.functional.pad(audio.double(), (left_padding, reach))
    blocks = [
        _periods(
            padded[first * MEL_HOP :][: (min(500, count - first) - 1) * MEL_HOP + reach].unfold(0, reach, MEL_HOP),
            shortest,
        )
        for first in range(0, count, 500)
    ]
    return torch.cat(blocks).float() if blocks else torch.zeros(0)


def f0_agreement(estimate: Tensor, target: Tensor, rate: int) -> float | None:
    """Share of the target's voiced frames in which the estimate is voiced and within 50 cents: 0 to 1.

    estimate, target: as for `chroma_correlation`. None where the target has less than half a second of voiced frames.
    """
    a, b = _same_length(estimate, target, rate)
    estimate_f0, target_f0 = f0(a), f0(b)
    voiced = (target_f0 > 0) & _sounding(b)
    if int(voiced.sum()) < 50:
        return None
    estimate_f0, target_f0 = estimate_f0[voiced], target_f0[voiced]
    near = (1200 * (estimate_f0.clamp_min(1e-3) / target_f0).log2()).abs() <= CENTS
    return float(near.float().mean())


def _same_length(estimate: Tensor, target: Tensor, rate: int) -> tuple[Tensor, Tensor]:
    """Mono at 24 kHz, both of one length, a whole number of frames."""
    a, b = to_distance_rate(estimate, rate), to_distance_rate(target, rate)
    n = min(len(a), len(b)) // MEL_HOP * MEL_HOP
    return a[:n], b[:n]


def _sounding(audio: Tensor) -> Tensor:
    """Bool `[frames]`."""
    power = audio.reshape(-1, MEL_HOP).square().mean(-1)
    if not len(power):
        return torch.zeros(0, dtype=torch.bool)
    return power > max(float(power.max()) * 10 ** (SOUNDING_DB / 10), 1e-10)


def _centred(chroma: Tensor) -> Tensor:
    """Rows without their mean, of length 1; 0 where all bins are alike."""
    rows = chroma - chroma.mean(-1, keepdim=True)
    length = rows.norm(dim=-1, keepdim=True)
    return torch.where(length > 1e-6, rows / length.clamp_min(1e-6), torch.zeros_like(rows))


def _periods(frames: Tensor, shortest: int) -> Tensor:
    """YIN of `frames [n, WINDOW + lags]`: Hz, 0 where unvoiced."""
    lags = frames.shape[1] - WINDOW
    size = 1 << frames.shape[1].bit_length()
    head = torch.fft.rfft(frames[:, :WINDOW], size)
    products = torch.fft.irfft(torch.fft.rfft(frames, size) * head.conj(), size)[:, :lags]
    sums = torch.nn.functional.pad(frames.square().cumsum(1), (1, 0))
    energy = sums[:, WINDOW : WINDOW + lags] - sums[:, :lags]
    difference = (energy[:, :1] + energy - 2 * products).clamp_min(0)
    steps = torch.arange(1, lags, dtype=frames.dtype)
    normalised = torch.ones_like(difference)
    normalised[:, 1:] = difference[:, 1:] * steps / difference[:, 1:].cumsum(1).clamp_min(1e-12)
    inner = normalised[:, shortest:-1]
    valley = (inner <= normalised[:, shortest - 1 : -2]) & (inner < normalised[:, shortest + 1 :])
    below = valley & (inner < VOICED)
    first = below.int().argmax(1)
    lag = first + shortest
    left, middle, right = (normalised.gather(1, (lag + k)[:, None])[:, 0] for k in (-1, 0, 1))
    shift = (left - right) / (2 * (left - 2 * middle + right)).clamp_min(1e-12)
    hertz = ANALYSIS_RATE / (lag + shift.clamp(-1, 1))
    return torch.where(below.any(1) & (energy[:, 0] > 1e-8), hertz, torch.zeros_like(hertz))
