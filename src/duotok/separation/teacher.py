"""Teacher masks for stage 2: the share of each of the four stems in the sound, over time and frequency.

BS-RoFormer's own masks are complex and unbounded; the student learns magnitude ratios |S_k| / sum_j |S_j| of the
separated stems instead (the paper, equation 3, speaks of soft masks only), in mono, on the tokenizer's
frames: 100 Hz, frame t centred on sample 240 t + 120 at 24 kHz. Bands are the 128 mel bands (magnitude: root of the band's
energy), the 1025 bins of the transform below them, or BS-RoFormer's own bins up to 12 kHz (558 at 44.1 kHz, n_fft 2048,
hop 441: the paper preset).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from duotok.audio.features import POWER_FLOOR, LogMel
from duotok.audio.io import resample
from duotok.clock import ANALYSIS_RATE, MEL_HOP
from duotok.errors import AudioError
from duotok.separation.separator import Separator
from duotok.tracks import STEMS

Grid = Literal["mel", "stft", "roformer"]
BINS: dict[int, Grid] = {128: "mel", 1025: "stft", 558: "roformer"}
"""Grid by the number of bins of a mask."""
FRAMES_PER_TOKEN = 4
BLOCK_FRAMES = 2_000  # 20 s of mel frames at a time: memory stays bounded


def ratio_masks(stems: Tensor, sample_rate: int = 48_000, grid: Grid = "mel") -> Tensor:
    """Magnitude ratio masks of `stems [stems, channels, samples]`: float16 `[stems, mel_frames, bands]` in [0, 1].

    mel_frames is four times the number of 40 ms token frames (the sound is filled up with silence). Where the mix is
    audible the masks of a band sum to one; they fade to zero below the floor of the log-mel, where shares are meaningless.
    """
    if stems.dim() != 3 or stems.shape[-1] == 0:
        raise AudioError(f"teacher masks: stems of shape {tuple(stems.shape)}; give [stems, channels, samples]")
    mono = stems.float().mean(1)
    token_samples = sample_rate * FRAMES_PER_TOKEN * MEL_HOP // ANALYSIS_RATE
    mono = F.pad(mono, (0, -mono.shape[-1] % token_samples))
    magnitudes = _roformer(mono, sample_rate) if grid == "roformer" else _analysis(mono, sample_rate, grid)
    return torch.cat([(m / (m.sum(0, keepdim=True) + POWER_FLOOR**0.5)).half() for m in magnitudes], dim=1)


def _analysis(mono: Tensor, sample_rate: int, grid: Grid) -> Iterator[Tensor]:
    """Magnitudes `[stems, mel_frames, bands]` of `mono [stems, samples]` at 24 kHz, block by block."""
    mono = resample(mono, sample_rate, ANALYSIS_RATE)
    mel = LogMel()
    frames = mono.shape[-1] // MEL_HOP
    padded = F.pad(mono, (mel.margin, mel.margin))
    for first in range(0, frames, BLOCK_FRAMES):
        last = min(first + BLOCK_FRAMES, frames)
        power = mel.power(padded[:, first * MEL_HOP : last * MEL_HOP + 2 * mel.margin], margins=True)
        yield (power @ mel.filters if grid == "mel" else power).sqrt()


def _roformer(mono: Tensor, sample_rate: int) -> Iterator[Tensor]:
    """The same on BS-RoFormer's grid."""
    rate, n_fft, hop, bins = 44_100, 2048, 441, 558
    mono = resample(mono, sample_rate, rate)
    frames = mono.shape[-1] // hop
    left = (n_fft - hop) // 2
    padded, window = F.pad(mono, (left, n_fft - hop - left)), torch.hann_window(n_fft)
    for first in range(0, frames, BLOCK_FRAMES):
        last = min(first + BLOCK_FRAMES, frames)
        piece = padded[:, first * hop : (last - 1) * hop + n_fft].unfold(-1, n_fft, hop) * window
        yield torch.fft.rfft(piece)[..., :bins].abs()


def teacher_masks(separator: Separator, audio: Tensor, grid: Grid = "mel") -> Tensor:
    """Masks of a mix `audio [channels, samples]` from `separator`: float16 `[4, mel_frames, bands]` (see STEMS).

    Raises AudioError when the separator does not return the four stems.
    """
    missing = [stem for stem in STEMS if stem not in separator.stems]
    if missing:
        raise AudioError(f"teacher masks: the separator gives no {', '.join(missing)}; ask it for {', '.join(STEMS)}")
    separated = separator.separate(audio)
    return ratio_masks(torch.stack([separated[stem] for stem in STEMS]), separator.sample_rate, grid)
