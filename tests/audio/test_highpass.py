"""The high-pass of the front end: offsets and rumble go, music stays, block by block as all at once."""

from __future__ import annotations

import math

import pytest
import torch

from duotok.audio.highpass import HighPass, highpass

RATE = 24_000


def tone(hz: float, seconds: float = 2.0) -> torch.Tensor:
    return torch.sin(2 * math.pi * hz * torch.arange(round(seconds * RATE)) / RATE)[None]


def test_offsets_and_rumble_go_music_stays() -> None:
    music = 0.1 * tone(440)
    assert (highpass(music + 0.01, 10, RATE) - highpass(music, 10, RATE)).abs().max() < 1e-6
    for hz, least, most in ((2, 0.0, 0.05), (10, 0.69, 0.73), (40, 0.99, 1.001), (1000, 0.999, 1.001)):
        rest = highpass(tone(hz), 10, RATE)[:, RATE:]
        assert least <= float(rest.square().mean().sqrt() / math.sqrt(0.5)) <= most, hz


def test_blocks_are_as_the_whole_and_nothing_is_nothing() -> None:
    sound = 0.1 * torch.randn(2, 3 * RATE, generator=torch.Generator().manual_seed(0))
    whole = highpass(sound, 10, RATE)
    through = HighPass(10, RATE)
    parts = [through.push(sound[:, a:b]) for a, b in ((0, RATE), (RATE, RATE), (RATE, RATE + 7), (RATE + 7, 3 * RATE))]
    assert (torch.cat(parts, dim=1)[:, RATE:] - whole[:, RATE:]).abs().max() < 1e-6
    assert torch.equal(highpass(sound, 0, RATE), sound)
    assert torch.equal(highpass(-sound, 10, RATE), -whole)
    assert highpass(sound[0], 10, RATE).shape == sound[0].shape
    with pytest.raises(ValueError, match="high-pass at 12000 Hz"):
        HighPass(12_000, RATE)
