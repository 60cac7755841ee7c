"""Distance of spectra at several resolutions, as the losses of neural vocoders have it (Yamamoto et al. 2020, arXiv 1910.11480)."""

from __future__ import annotations

import torch
from torch import Tensor

from duotok.audio.features import squared_magnitude
from duotok.clock import ANALYSIS_RATE
from duotok.evaluation.fidelity import level_of, to_distance_rate

RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
"""FFT size, hop and window in samples at 24 kHz: 5, 10 and about 2 ms apart."""
FLOOR = 1e-8
"""Least power of a bin."""


def stft_distance(estimate: Tensor, target: Tensor, rate: int, lufs: float | None = -14.0) -> float:
    """Multi-resolution STFT distance at 24 kHz: mean over resolutions of spectral convergence plus log-magnitude distance.

    Spectral convergence |M' - M|_2 / |M|_2 (Frobenius), log-magnitude mean |ln M' - ln M|; M of the target. estimate, target:
    `[samples]` or `[channels, samples]` at `rate`; the shorter length counts. lufs: as in `mel_distance`. 0 for equal sounds;
    raises ValueError for sound shorter than half the longest FFT (43 ms).
    """
    a, b = to_distance_rate(estimate, rate), to_distance_rate(target, rate)
    n = min(len(a), len(b))
    if n <= RESOLUTIONS[1][0] // 2:
        raise ValueError(f"{n} samples at 24 kHz; a spectrum needs more than {RESOLUTIONS[1][0] // 2}")
    factor = 1.0 if lufs is None else level_of(b[:n], ANALYSIS_RATE, lufs)
    a, b = factor * a[:n], factor * b[:n]
    total = 0.0
    for n_fft, hop, length in RESOLUTIONS:
        x, y = (_magnitude(sound, n_fft, hop, length) for sound in (a, b))
        total += float((y - x).norm() / y.norm() + (y.log() - x.log()).abs().mean())
    return total / len(RESOLUTIONS)


def _magnitude(audio: Tensor, n_fft: int, hop: int, length: int) -> Tensor:
    window = torch.hann_window(length)
    spectrum = torch.stft(audio, n_fft, hop, length, window, return_complex=True)
    return squared_magnitude(spectrum).clamp_min(FLOOR).sqrt()
