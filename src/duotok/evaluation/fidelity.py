"""How close two sounds are: seven-scale mel distance and STOI. SI-SDR is in `separation.measures`."""

from __future__ import annotations

import math
import warnings
from functools import cache

import torch
from torch import Tensor

from duotok.audio.features import POWER_FLOOR, mel_filters, squared_magnitude
from duotok.audio.io import resample
from duotok.audio.loudness import integrated_loudness
from duotok.clock import ANALYSIS_RATE
from duotok.errors import MetricError, MissingExtraError

LOUDNESS = -14.0
"""LUFS at which sounds are compared."""
SCALES = (32, 64, 128, 256, 512, 1024, 2048)


@cache
def _scale(n_fft: int, rate: int) -> tuple[Tensor, Tensor]:
    return torch.hann_window(n_fft), mel_filters(rate, n_fft, 5 * n_fft // 32)


def _log_mel(audio: Tensor, n_fft: int, rate: int) -> Tensor:
    window, filters = _scale(n_fft, rate)
    spectrum = torch.stft(audio, n_fft, n_fft // 4, window=window, center=True, pad_mode="reflect", return_complex=True)
    return (squared_magnitude(spectrum).transpose(-1, -2) @ filters).clamp_min(POWER_FLOOR).log()


def to_distance_rate(audio: Tensor, rate: int, at: int = ANALYSIS_RATE) -> Tensor:
    """Mono at 24 kHz (or `at`): `[samples]` or `[channels, samples]` at `rate` to `[samples]`."""
    mono = audio.mean(0) if audio.dim() == 2 else audio
    return resample(mono[None], rate, at)[0] if rate != at else mono


def level_of(target: Tensor, rate: int, lufs: float) -> float:
    """The factor that brings `target` to `lufs`; 1 for silence."""
    loudness = integrated_loudness([target[None] if target.dim() == 1 else target], rate)
    return 10 ** ((lufs - loudness) / 20) if math.isfinite(loudness) else 1.0


def mel_distance(
    estimate: Tensor, target: Tensor, rate: int, lufs: float | None = LOUDNESS, at: int = ANALYSIS_RATE
) -> float:
    """Seven-scale mel distance at 24 kHz (docs/parameters.md, evaluation): mean over scales of mean |ln max(M, 1e-5) - ln max(M', 1e-5)|.

    at: the rate of the spectra. The public evaluation code takes the codec's own; then values of codecs of unequal rates cannot be
    compared, because the scales are in samples and the mel bands reach up to half of the rate.
    estimate, target: `[samples]` or `[channels, samples]` at `rate`; the shorter length counts. Power mels, HTK, no norm.
    The floor makes the distance depend on level, so both are first scaled by one factor that brings the target to `lufs`
    (BS.1770-4; the paper's B.3 normalises as well and does not state to what; None: no scaling). The estimate's own error of
    level still counts.
    """
    a, b = to_distance_rate(estimate, rate, at), to_distance_rate(target, rate, at)
    n = min(len(a), len(b))
    a, b = a[:n], b[:n]
    if lufs is not None:
        factor = level_of(b, at, lufs)
        a, b = factor * a, factor * b
    return sum(float((_log_mel(a, s, at) - _log_mel(b, s, at)).abs().mean()) for s in SCALES) / len(SCALES)


def stoi(estimate: Tensor, target: Tensor, rate: int) -> float:
    """Short-time objective intelligibility (not extended), by pystoi. Raises MissingExtraError without it, MetricError where it has no
    answer: less than 0.4 s of the target that are no silence."""
    try:
        from pystoi import stoi as measure
    except ImportError:
        raise MissingExtraError("STOI needs pystoi: pip install 'duotok[eval]'") from None
    a, b = (x.mean(0) if x.dim() == 2 else x for x in (estimate, target))
    n = min(len(a), len(b))
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "error", "Not enough STFT frames"
        )  # pystoi returns 0.00001 then, which is no measurement
        try:
            return float(measure(b[:n].numpy(), a[:n].numpy(), rate, extended=False))
        except RuntimeWarning:
            raise MetricError("STOI has no answer; it needs 0.4 s of sound besides silence") from None
