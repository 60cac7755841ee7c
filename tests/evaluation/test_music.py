"""Harmony and melody: the same notes agree, others do not, whatever the timbre, the level and the noise."""

from __future__ import annotations

import math

import pytest
import torch

from duotok.evaluation.music import chroma_correlation, f0, f0_agreement

RATE = 24_000
GENERATOR = torch.Generator().manual_seed(0)


def tune(semitones: float = 0.0, partials: int = 6, rate: int = RATE) -> torch.Tensor:
    """A C major scale, a third of a second a note: `[samples]`."""
    t = torch.arange(rate // 3) / rate
    notes = []
    for step in (0, 2, 4, 5, 7, 9, 11, 12):
        hertz = 261.626 * 2 ** ((step + semitones) / 12)
        notes.append(sum((torch.sin(2 * math.pi * k * hertz * t) / k for k in range(1, partials + 1)), torch.zeros(1)))
    return 0.1 * torch.cat(notes)


def test_f0_of_known_tones() -> None:
    for hertz in (70.0, 110.0, 261.63, 440.0, 880.0):
        t = torch.arange(RATE) / RATE
        sound = sum((torch.sin(2 * math.pi * k * hertz * t) / k for k in (1, 2, 3)), torch.zeros(1))
        found = f0(sound)
        assert len(found) == 100
        assert (1200 * (found[10:-10] / hertz).log2()).abs().max() < 5, hertz
    assert float((f0(torch.randn(RATE, generator=GENERATOR)) > 0).float().mean()) < 0.1
    assert not f0(torch.zeros(RATE)).any() and len(f0(torch.zeros(100))) == 0


def test_the_same_notes_agree_whatever_the_timbre_and_level() -> None:
    other = 0.3 * tune(partials=2) + 0.002 * torch.randn(len(tune()), generator=GENERATOR)
    assert f0_agreement(other, tune(), RATE) == pytest.approx(1.0, abs=0.06)
    assert chroma_correlation(other, tune(), RATE) > 0.8
    assert chroma_correlation(tune(), tune(), RATE) == pytest.approx(1.0, abs=1e-4)
    at_48 = torch.stack([tune(rate=48_000)] * 2)
    assert f0_agreement(at_48, at_48, 48_000) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("semitones", [0.7, 1.0, 6.0, -12.0])
def test_other_notes_do_not(semitones: float) -> None:
    assert (f0_agreement(tune(semitones), tune(), RATE) or 0) < 0.06
    if semitones in (1.0, 6.0):
        assert chroma_correlation(tune(semitones), tune(), RATE) < 0.4


def test_noise_in_the_bands_of_the_music_has_none_of_its_notes() -> None:
    target = tune()
    spectrum = torch.fft.rfft(target)
    phases = torch.exp(2j * math.pi * torch.rand(len(spectrum), generator=GENERATOR))
    drone = torch.fft.irfft(spectrum.abs() * phases, len(target))
    assert (f0_agreement(drone, target, RATE) or 0) < 0.3 and chroma_correlation(drone, target, RATE) < 0.7


def test_nothing_to_compare() -> None:
    silence = torch.zeros(RATE)
    assert chroma_correlation(tune(), silence, RATE) == 0.0 and f0_agreement(tune(), silence, RATE) is None
    assert chroma_correlation(silence, tune(), RATE) == 0.0 and f0_agreement(silence, tune(), RATE) == 0.0
