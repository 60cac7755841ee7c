"""Sounds made comparable: where a clip lies, the low-pass anchor, one loudness for all without clipping."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import fftconvolve, firwin
from torch import Tensor

from duotok.audio.loudness import integrated_loudness
from duotok.clock import SAMPLE_RATE

LUFS = -23.0
"""Loudness of every sound (EBU R 128's), unless one of them would clip."""
CEILING_DB = -1.0
"""Highest peak in dBFS."""
FADE_SECONDS = 0.01
GRID_SECONDS = 0.5
"""Clips begin at multiples of this."""
NEAR_LOUDEST_DB = 6.0


@cache
def _low_pass(hz: float) -> NDArray[np.float64]:
    """Flat to `hz`, over 50 dB down at 8/7 of it: sharper than ITU-R BS.1534-3 asks of its anchors (-25 dB at 4 kHz and -50 dB
    at 4.5 kHz for that of 3.5 kHz; 0.1 dB of ripple). Linear phase, odd length."""
    width = hz / 7
    taps = 2 * math.ceil(3.75 * SAMPLE_RATE / width / 2) + 1  # Kaiser's formula for 60 dB
    return np.asarray(firwin(taps, hz + width / 2, window=("kaiser", 5.653), fs=SAMPLE_RATE))


def low_pass(audio: Tensor, hz: float) -> Tensor:
    """The anchor of `[channels, samples]` at 48 kHz: the same without what lies above `hz`; no delay."""
    filtered = fftconvolve(audio.double().numpy(), _low_pass(hz)[None], mode="same", axes=1)
    return torch.from_numpy(filtered.astype(np.float32))


def faded(audio: Tensor) -> Tensor:
    """`[channels, samples]` at 48 kHz with 10 ms of fade at both ends, so that cuts do not click."""
    n = min(round(FADE_SECONDS * SAMPLE_RATE), audio.shape[1] // 2)
    ramp = torch.linspace(0, 1, n)
    audio = audio.clone()
    audio[:, :n] *= ramp
    audio[:, audio.shape[1] - n :] *= ramp.flip(0)
    return audio


def loudness(audio: Tensor) -> float:
    """LUFS of `[channels, samples]` at 48 kHz (BS.1770-4); -inf for silence."""
    return integrated_loudness([audio], SAMPLE_RATE)


def peak_db(audio: Tensor) -> float:
    """The largest sample in dBFS."""
    return 20 * math.log10(max(float(audio.abs().max()), 1e-10))


def common_loudness(measured: Mapping[str, tuple[float, float]]) -> tuple[float, str]:
    """The loudness of all sounds, and which one lowered it ("" for none).

    measured: name -> (LUFS, peak in dBFS). -23 LUFS; where that would bring a peak over -1 dBFS, all sounds of the test are
    softer by the same amount, so that neither loudness nor clipping tells them apart.
    """
    target, lowered = LUFS, ""
    for name, (lufs, peak) in measured.items():
        highest = lufs - peak + CEILING_DB
        if highest < target:
            target, lowered = highest, name
    return target, lowered


def noise(lufs: float, seed: int) -> Tensor:
    """Four seconds of pink noise from 40 Hz at a loudness, `[2, samples]` at 48 kHz: to set the volume by. It tells nothing of the clips."""
    n = 4 * SAMPLE_RATE
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(n))
    hertz = np.fft.rfftfreq(n, 1 / SAMPLE_RATE)
    pink = np.fft.irfft(np.where(hertz < 40, 0, spectrum / np.sqrt(np.maximum(hertz, 1))), n)
    stereo = faded(torch.from_numpy((pink / np.abs(pink).max()).astype(np.float32)).repeat(2, 1))
    return stereo * 10 ** ((lufs - loudness(stereo)) / 20)


def levels(audio: Tensor) -> NDArray[np.float64]:
    """Mean square of every half second of `[channels, samples]` at 48 kHz; what is left at the end does not count."""
    step = round(GRID_SECONDS * SAMPLE_RATE)
    full = audio.shape[1] // step
    return audio[:, : full * step].double().square().mean(0).reshape(full, step).mean(1).numpy()


def choose_starts(
    tracks: Sequence[NDArray[np.float64]], seconds: float, count: int, seed: Sequence[int]
) -> list[float]:
    """Seconds where `count` clips of `seconds` begin that do not overlap, of a song whose tracks have these `levels`.

    A start is eligible when in every track its clip is within 6 dB of that track's loudest clip; of these one is drawn. Where
    none is (tracks that take turns), the start whose weakest track is nearest to that. Fewer than `count` when the song is
    too short.
    """
    blocks = math.ceil(round(seconds / GRID_SECONDS, 6))
    length = min(len(track) for track in tracks)
    free = np.ones(max(0, length - blocks + 1), dtype=bool)
    if not len(free):
        return []
    sums = [np.convolve(track[:length], np.ones(blocks), "valid") for track in tracks]
    weakest = np.min([10 * np.log10(np.maximum(power, 1e-20) / max(power.max(), 1e-20)) for power in sums], axis=0)
    random = np.random.default_rng(list(seed))
    starts: list[float] = []
    while len(starts) < count and free.any():
        eligible = np.flatnonzero(free & (weakest >= -NEAR_LOUDEST_DB))
        if len(eligible):
            chosen = int(random.choice(eligible))
        else:
            chosen = int(np.argmax(np.where(free, weakest, -np.inf)))
        starts.append(chosen * GRID_SECONDS)
        free[max(0, chosen - blocks + 1) : chosen + blocks] = False
    return sorted(starts)
