"""Distances against what is known by hand, and against another implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from duotok.audio.loudness import integrated_loudness
from duotok.clock import ANALYSIS_RATE
from duotok.errors import MetricError
from duotok.evaluation.fidelity import SCALES, level_of, mel_distance, stoi
from duotok.evaluation.opus import lag_of, opus
from duotok.separation.measures import floored_si_sdr


def noise(
    seconds: float = 1.0, rate: int = ANALYSIS_RATE, channels: int = 1, level: float = 0.2, seed: int = 0
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return level * torch.randn(channels, round(seconds * rate), generator=generator)


def by_transformers(a: Tensor, b: Tensor) -> float:
    """The same definition (docs/parameters.md, evaluation) with the filters of transformers, in float64."""
    total = 0.0
    for n_fft in SCALES:
        top, bands = ANALYSIS_RATE / 2, 5 * n_fft // 32
        mel = mel_filter_bank(n_fft // 2 + 1, bands, 0.0, top, ANALYSIS_RATE, norm=None, mel_scale="htk")
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
        logs = []
        for x in (a, b):
            padded = np.pad(x[0].double().numpy(), n_fft // 2, mode="reflect")
            frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[:: n_fft // 4] * window
            logs.append(np.log(np.maximum(np.abs(np.fft.rfft(frames)) ** 2 @ mel, 1e-5)))
        total += float(np.abs(logs[0] - logs[1]).mean())
    return total / len(SCALES)


def test_identical_is_zero() -> None:
    sound = noise(channels=2)
    assert mel_distance(sound, sound, ANALYSIS_RATE) == 0.0
    assert mel_distance(noise(rate=48_000), noise(rate=48_000), 48_000) == 0.0


@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_transformers(seed: int) -> None:
    a, b = noise(seed=seed), noise(seed=seed + 10, level=0.05)
    a = a * torch.linspace(0, 1, a.shape[1])  # silence, too: the floor counts
    assert mel_distance(a, b, ANALYSIS_RATE, lufs=None) == pytest.approx(by_transformers(a, b), abs=2e-4)


def test_a_gain_is_its_logarithm() -> None:
    """Noise far above the floor, twice as loud: power times four everywhere, so the distance is ln 4."""
    sound = noise(level=0.5)
    assert mel_distance(2 * sound, sound, ANALYSIS_RATE) == pytest.approx(math.log(4), abs=0.01)


def test_symmetric_and_in_mono() -> None:
    a, b = noise(channels=2), noise(channels=2, seed=5)
    distance = mel_distance(a, b, ANALYSIS_RATE, lufs=None)
    assert distance > 0.1
    assert distance == mel_distance(b, a, ANALYSIS_RATE, lufs=None)
    assert distance == pytest.approx(mel_distance(a.mean(0), b.mean(0, keepdim=True), ANALYSIS_RATE, lufs=None))


def test_the_same_song_at_another_level_is_as_far() -> None:
    """The floor of the logarithm made a soft copy look closer: .71 at full level, .29 at -24 dB."""
    target, error = noise(2.0, channels=2, level=0.2), noise(2.0, channels=2, seed=3, level=0.02)
    found = [mel_distance(g * (target + error), g * target, ANALYSIS_RATE) for g in (1.0, 0.25, 0.063, 4.0)]
    assert found == pytest.approx([found[0]] * 4, rel=1e-3) and found[0] > 0.05
    raw = [mel_distance(g * (target + error), g * target, ANALYSIS_RATE, lufs=None) for g in (1.0, 0.001)]
    assert raw[1] < 0.9 * raw[0]
    factor = level_of(target, ANALYSIS_RATE, -14.0)
    assert integrated_loudness([factor * target], ANALYSIS_RATE) == pytest.approx(-14.0, abs=1e-3)
    assert mel_distance(target + error, target, ANALYSIS_RATE) == pytest.approx(
        mel_distance(factor * (target + error), factor * target, ANALYSIS_RATE, lufs=None), rel=1e-3
    )
    assert level_of(torch.zeros(2, 9600), ANALYSIS_RATE, -14.0) == 1.0


def test_a_wrong_level_of_the_estimate_still_counts() -> None:
    target = noise(2.0, level=0.2)
    assert mel_distance(0.5 * target, target, ANALYSIS_RATE) == pytest.approx(math.log(4), abs=0.02)


def test_stoi_falls_with_noise() -> None:
    pytest.importorskip("pystoi")
    rate, n = 16_000, 32_000
    t = torch.arange(n) / rate
    voice = torch.sin(2 * math.pi * 3 * t).clamp_min(0) * torch.sin(2 * math.pi * 300 * t) + noise(
        2.0, rate, level=0.01
    )
    values = [stoi(voice + noise(2.0, rate, level=level, seed=9), voice, rate) for level in (0.0, 0.1, 1.0)]
    assert values[0] == pytest.approx(1.0, abs=1e-3)
    assert values[0] > values[1] > values[2]
    from pystoi import stoi as measure

    worse = voice + noise(2.0, rate, level=0.3, seed=9)
    direct, exchanged = (
        measure(x.flatten().numpy(), y.flatten().numpy(), rate, extended=False)
        for x, y in ((voice, worse), (worse, voice))
    )
    assert stoi(worse, voice, rate) == pytest.approx(direct) != pytest.approx(exchanged, abs=1e-3)


def test_stoi_of_too_little_is_no_number() -> None:
    pytest.importorskip("pystoi")
    sound = torch.nn.functional.pad(noise(0.25, 16_000, level=0.1), (0, 16_000))
    with pytest.raises(MetricError, match=r"STOI has no answer; it needs 0\.4 s"):
        stoi(sound, sound, 16_000)


def test_opus_is_aligned_and_at_its_rate() -> None:
    rate = 48_000
    t = torch.arange(3 * rate) / rate
    glide = 0.3 * torch.sin(2 * math.pi * (200 * t + 60 * t**2)) * (0.6 + 0.4 * torch.sin(2 * math.pi * 3 * t))
    sound = glide.expand(2, -1)
    coded = opus(sound, 24_000)
    assert coded.audio.shape == (1, 3 * rate)
    assert 8 < coded.kbps < 40
    assert float(floored_si_sdr(coded.audio, sound[:1])) > 10
    assert mel_distance(opus(sound, 6000).audio, sound, rate) < 2.5


@pytest.mark.parametrize("silent", [0, 31])
def test_the_delay_of_a_codec_is_found_behind_silence(silent: int) -> None:
    original = np.pad(noise(0.5, 48_000)[0].numpy(), (silent * 48_000, 0))
    assert lag_of(np.pad(original, (312, 0))[: len(original)], original) == 312


def test_opus_of_silence_and_of_little() -> None:
    silence = opus(torch.zeros(1, 5000)).audio
    assert silence.shape == (1, 5000) and float(silence.abs().max()) < 1e-3
    assert opus(noise(0.001, 48_000)).audio.shape == (1, 48)
