"""The tokenizer's input and targets: log-mel and chroma at 100 Hz from 24 kHz mono sound.

Framing: frame t is centred on sample 240 t + 120, so n samples (a multiple of 240) give exactly n / 240 frames and a
token frame (40 ms) owns exactly four of them. Where 24 kHz, 2048/240 and the bins are from: docs/parameters.md, tokenizer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from duotok.clock import ANALYSIS_RATE, MEL_HOP

MEL_BINS = 128
CHROMA_BINS = 12
POWER_FLOOR = 1e-5
# Near the mean and standard deviation of ln(mel power) of training data at -18 LUFS (`python -m benchmarks.mel_statistics`).
MEL_MEAN = -2.5
MEL_STD = 4.8
# Lower frequencies are removed first: nobody hears them, but they would fill the lowest bands.
HIGHPASS_HZ = 10.0


def mel_filters(rate: int, n_fft: int, n_mels: int, f_min: float = 0.0, f_max: float | None = None) -> Tensor:
    """Triangular filters on the HTK mel scale, not normalised: `[n_fft // 2 + 1, n_mels]`."""
    f_max = rate / 2 if f_max is None else f_max

    def to_mel(hz: float) -> float:
        return 2595.0 * math.log10(1.0 + hz / 700.0)

    bins = torch.linspace(0, rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    mels = torch.linspace(to_mel(f_min), to_mel(f_max), n_mels + 2, dtype=torch.float64)
    corners = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    slopes = corners[None, :] - bins[:, None]
    widths = corners[1:] - corners[:-1]
    down = -slopes[:, :-2] / widths[:-1]
    up = slopes[:, 2:] / widths[1:]
    return torch.minimum(down, up).clamp_min(0.0).float()


def octave_widths(rate: int, n_mels: int, even_from: float = 50.0) -> Tensor:
    """Widths of the mel bands in octaves, 1 on average `[n_mels]`: weights with which every octave above `even_from` Hz counts alike.

    Unweighted, the 2.6 octaves up to 300 Hz are 12 % of 128 bands at 24 kHz; so weighted they are 40 %.
    """
    mels = torch.arange(1, n_mels + 1) * (math.log1p(rate / 2 / 700) / (n_mels + 1))
    hertz = 700 * torch.expm1(mels)
    widths = (hertz + 700) / hertz.clamp_min(even_from)
    return widths / widths.mean()


def chroma_filters(rate: int, n_fft: int, n_chroma: int = CHROMA_BINS) -> Tensor:
    """Soft chroma: each bin's pitch class as a Gaussian bump, octaves weighted around 440 Hz: `[n_fft // 2 + 1, 12]`.

    D. Ellis' definition (A 440, centre octave 5, width 2 octaves, columns of unit length), C first.
    """
    frequencies = torch.arange(1, n_fft, dtype=torch.float64) * rate / n_fft
    octaves = torch.log2(frequencies / (440.0 / 16))
    bins = n_chroma * octaves
    bins = torch.cat([bins[:1] - 1.5 * n_chroma, bins])
    widths = torch.cat([(bins[1:] - bins[:-1]).clamp_min(1.0), torch.ones(1, dtype=torch.float64)])
    distance = bins[None, :] - torch.arange(n_chroma, dtype=torch.float64)[:, None]
    half = round(n_chroma / 2)
    distance = torch.remainder(distance + half + 10 * n_chroma, n_chroma) - half
    weights = torch.exp(-0.5 * (2 * distance / widths[None, :]) ** 2)
    weights = weights / weights.norm(dim=0, keepdim=True).clamp_min(1e-12)
    weights = weights * torch.exp(-0.5 * (((bins / n_chroma) - 5.0) / 2.0) ** 2)[None, :]
    weights = torch.roll(weights, -3 * (n_chroma // 12), dims=0)
    return weights[:, : n_fft // 2 + 1].T.float().contiguous()


def squared_magnitude(spectrum: Tensor) -> Tensor:
    """Squared magnitudes of a complex tensor, in its shape. Faster than summing the pairs of `view_as_real`, with the same bits."""
    return spectrum.real.square() + spectrum.imag.square()


class PowerSpectrum(nn.Module):
    """Power STFT with frame t centred on sample `hop * (t + 0.5)`: `[..., samples]` to `[..., frames, n_fft // 2 + 1]`.

    samples must be a multiple of `hop`. With `margins=True` the caller supplies `margin` true samples on both sides
    (a window of a longer file) instead of zeros.
    """

    window: Tensor

    def __init__(self, n_fft: int, hop: int) -> None:
        super().__init__()
        self.n_fft, self.hop, self.margin = n_fft, hop, (n_fft - hop) // 2
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, audio: Tensor, margins: bool = False) -> Tensor:
        if not margins:
            audio = F.pad(audio, (self.margin, self.margin))
        frames = audio.unfold(-1, self.n_fft, self.hop) * self.window
        return squared_magnitude(torch.fft.rfft(frames))


class LogMel(nn.Module):
    """Normalised natural-log mel power: `[..., samples]` at 24 kHz to `[..., samples / 240, 128]`.

    `(ln max(M, 1e-5) - mean) / std`: the floor is that of the seven-scale mel distance, so both ignore the same sounds.
    """

    filters: Tensor

    def __init__(self, mean: float = MEL_MEAN, std: float = MEL_STD) -> None:
        super().__init__()
        self.mean, self.std = mean, std
        self.power = PowerSpectrum(2048, MEL_HOP)
        self.margin = self.power.margin
        self.register_buffer("filters", mel_filters(ANALYSIS_RATE, 2048, MEL_BINS), persistent=False)

    def forward(self, audio: Tensor, margins: bool = False) -> Tensor:
        mel = self.power(audio, margins) @ self.filters
        normalised: Tensor = (mel.clamp_min(POWER_FLOOR).log() - self.mean) / self.std
        return normalised

    def denormalise(self, mel: Tensor) -> Tensor:
        """Back to ln power."""
        return mel * self.std + self.mean


class Chroma(nn.Module):
    """Soft 12-bin chroma (C first), each frame scaled to a maximum of 1, silence 0: `[..., samples]` to `[..., samples / 240, 12]`."""

    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.power = PowerSpectrum(4096, MEL_HOP)
        self.margin = self.power.margin
        self.register_buffer("filters", chroma_filters(ANALYSIS_RATE, 4096), persistent=False)

    def forward(self, audio: Tensor, margins: bool = False) -> Tensor:
        chroma = self.power(audio, margins) @ self.filters
        peak = chroma.amax(-1, keepdim=True)
        return torch.where(peak > 1e-3, chroma / peak.clamp_min(1e-3), torch.zeros_like(chroma))
