"""Channels that are each other's negative are turned back before anybody adds them."""

from __future__ import annotations

import torch

from duotok.audio.channels import INVERTED_BELOW, PolarityFix, correlation, fix_polarity, is_inverted

GENERATOR = torch.Generator().manual_seed(0)
CENTRE, LEFT, RIGHT = torch.randn(3, 48_000, generator=GENERATOR)
WIDE = torch.stack([CENTRE + 0.7 * LEFT, CENTRE + 0.7 * RIGHT])
OVER = torch.tensor([[1.0], [-1.0]])


def test_a_turned_channel_is_turned_back_and_an_upright_one_is_left() -> None:
    assert correlation(WIDE) > 0.5
    assert torch.equal(fix_polarity(WIDE), WIDE)
    assert torch.equal(fix_polarity(WIDE * OVER), WIDE)
    for other in (WIDE[:1], torch.stack([LEFT, RIGHT]), torch.stack([LEFT, 0 * LEFT]), torch.zeros(2, 10)):
        assert torch.equal(fix_polarity(other), other)


def test_a_song_that_is_turned_over_from_its_middle_on() -> None:
    both = PolarityFix()
    first, second, third = both.push(WIDE), both.push(WIDE * OVER), both.push(WIDE * OVER)
    assert torch.equal(first, WIDE) and torch.equal(third, WIDE)
    assert both.inverted and both.lowest_correlation < -0.5
    assert torch.equal(second[:, 480:], WIDE[:, 480:])  # a fade, no click
    quiet = both.push(1e-3 * torch.stack([LEFT, RIGHT]))  # says nothing: goes on as before
    assert torch.equal(quiet, 1e-3 * torch.stack([LEFT, -RIGHT]))


def band(sound: torch.Tensor, low: float, high: float) -> torch.Tensor:
    spectrum = torch.fft.rfft(sound)
    hertz = torch.fft.rfftfreq(sound.shape[-1], 1 / 48_000)
    return torch.fft.irfft(spectrum * ((hertz >= low) & (hertz < high)), sound.shape[-1])


def test_a_wide_mix_is_not_taken_for_a_turned_one() -> None:
    """Negative together, as the old threshold of -0.2 saw it, but not everywhere."""
    low, middle, high = band(CENTRE, 20, 250), band(LEFT, 250, 1000), band(RIGHT, 1000, 4000)
    bass = 3 * low
    for wide in (
        torch.stack([bass + 9 * middle + 9 * high, bass - 9 * middle - 9 * high]),  # width from 250 Hz up
        torch.stack([9 * low + middle + high, -9 * low + middle + high]),  # a delay of some ms: the bass is against it
    ):
        assert correlation(wide) < INVERTED_BELOW and not is_inverted(wide)
        both = PolarityFix()
        assert torch.equal(both.push(wide), wide) and not both.inverted
    wet = torch.stack([CENTRE + 2 * LEFT, 0.5 * CENTRE - 0.8 * RIGHT])  # decorrelated
    assert torch.equal(fix_polarity(wet), wet)


def test_a_turned_channel_is_found_when_bands_are_empty() -> None:
    for low, high in ((20, 250), (1000, 4000), (5000, 9000)):
        sound = band(WIDE, low, high)
        assert is_inverted(sound * OVER) and not is_inverted(sound)
    assert is_inverted(WIDE[:, :16_000] * OVER, 16_000)
