"""Loudness against hand arithmetic and against pyloudnorm."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from duotok.audio.loudness import integrated_loudness


def programme(rate: int, seconds: float) -> np.ndarray:
    """Something like music: brown noise with a fade, pauses and a loud end: `[samples, 2]`."""
    rng = np.random.default_rng(0)
    n = round(rate * seconds)
    white = rng.standard_normal((n, 2))
    spectrum = np.fft.rfft(white, axis=0) / np.maximum(np.fft.rfftfreq(n, 1 / rate), 50.0)[:, None]
    x = np.fft.irfft(spectrum, n, axis=0)
    x *= np.linspace(0.05, 1.0, n)[:, None]
    x[n // 3 : n // 2] *= 1e-4
    return x / np.abs(x).max() * 0.5


def test_sine_of_the_standard() -> None:
    # BS.1770-4: a 997 Hz sine at 0 dBFS in one channel reads -3.01 LKFS.
    t = torch.arange(48_000 * 2) / 48_000
    assert integrated_loudness([torch.sin(2 * math.pi * 997 * t)[None]], 48_000) == pytest.approx(-3.01, abs=0.02)


@pytest.mark.parametrize("rate", [24_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_agrees_with_pyloudnorm(rate: int, channels: int) -> None:
    pyloudnorm = pytest.importorskip("pyloudnorm")
    x = programme(rate, 6.0)[:, :channels]
    blocks = [torch.from_numpy(x.T[:, i : i + 7001].copy()) for i in range(0, len(x), 7001)]
    ours = integrated_loudness(blocks, rate)
    # pyloudnorm's default filters stray from BS.1770's table as the rate falls; "DeMan" has the table's filters.
    assert ours == pytest.approx(pyloudnorm.Meter(rate, "DeMan").integrated_loudness(x), abs=0.05)
    if rate >= 44_100:
        assert ours == pytest.approx(pyloudnorm.Meter(rate).integrated_loudness(x), abs=0.05)


def test_block_sizes_do_not_matter() -> None:
    x = torch.from_numpy(programme(48_000, 2.0).T.copy())
    whole = integrated_loudness([x], 48_000)
    assert integrated_loudness(iter(x.split(999, dim=1)), 48_000) == pytest.approx(whole, abs=1e-9)


def test_silence_and_nothing() -> None:
    assert integrated_loudness([torch.zeros(2, 48_000)], 48_000) == -math.inf
    assert integrated_loudness([], 48_000) == -math.inf
    assert integrated_loudness([torch.zeros(2, 0)], 48_000) == -math.inf


def test_20_ms_is_still_measured() -> None:
    t = torch.arange(960) / 48_000
    value = integrated_loudness([torch.sin(2 * math.pi * 997 * t)[None]], 48_000)
    assert -6 < value < 0
