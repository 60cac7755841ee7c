"""Channels that are each other's negative are turned back before anybody adds them."""

from __future__ import annotations

import torch

from duotok.audio.channels import Upright, correlation, upright

GENERATOR = torch.Generator().manual_seed(0)
CENTRE, LEFT, RIGHT = torch.randn(3, 48_000, generator=GENERATOR)
WIDE = torch.stack([CENTRE + 0.7 * LEFT, CENTRE + 0.7 * RIGHT])
OVER = torch.tensor([[1.0], [-1.0]])


def test_a_turned_channel_is_turned_back_and_an_upright_one_is_left() -> None:
    assert correlation(WIDE) > 0.5
    assert torch.equal(upright(WIDE), WIDE)
    assert torch.equal(upright(WIDE * OVER), WIDE)
    for other in (WIDE[:1], torch.stack([LEFT, RIGHT]), torch.stack([LEFT, 0 * LEFT]), torch.zeros(2, 10)):
        assert torch.equal(upright(other), other)


def test_a_song_that_is_turned_over_from_its_middle_on() -> None:
    both = Upright()
    first, second, third = both.push(WIDE), both.push(WIDE * OVER), both.push(WIDE * OVER)
    assert torch.equal(first, WIDE) and torch.equal(third, WIDE)
    assert both.turned and both.lowest < -0.5
    assert torch.equal(second[:, 480:], WIDE[:, 480:])  # a fade, no click
    quiet = both.push(1e-3 * torch.stack([LEFT, RIGHT]))  # says nothing: goes on as before
    assert torch.equal(quiet, 1e-3 * torch.stack([LEFT, -RIGHT]))
