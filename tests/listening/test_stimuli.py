"""Clips, anchors, loudness."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.signal import freqz

from duotok.listening import stimuli

RATE = 48_000


@pytest.mark.parametrize(("hz", "down", "far"), [(3500.0, 4000.0, 4500.0), (7000.0, 8000.0, 9000.0)])
def test_anchors_are_those_of_bs_1534(hz: float, down: float, far: float) -> None:
    """0.1 dB of ripple at most up to the edge, 25 dB down at 4 kHz, 50 dB at 4.5 kHz (the 7 kHz one: at twice these)."""
    _, response = freqz(stimuli._low_pass(hz), worN=np.arange(0, 24_000, 20.0), fs=RATE)
    decibels = 20 * np.log10(np.abs(response) + 1e-12)
    at = lambda frequency: int(frequency / 20)  # noqa: E731
    assert np.abs(decibels[: at(hz) + 1]).max() < 0.1
    assert decibels[at(down) :].max() < -25 and decibels[at(far) :].max() < -50


def test_an_anchor_keeps_time_and_length() -> None:
    n = RATE // 2
    low = 0.3 * torch.sin(2 * torch.pi * 440 * torch.arange(n) / RATE)
    high = 0.3 * torch.sin(2 * torch.pi * 6000 * torch.arange(n) / RATE)
    heard = stimuli.low_pass((low + high)[None].repeat(2, 1), 3500.0)
    assert heard.shape == (2, n)
    assert torch.allclose(heard[:, 2000:-2000], low[None, 2000:-2000].expand(2, -1), atol=2e-3)


def test_all_sounds_have_one_loudness_below_clipping() -> None:
    assert stimuli.common_loudness({"a": (-30.0, -12.0), "b": (-10.0, -1.0)}) == (-23.0, "")
    target, lowered = stimuli.common_loudness({"a": (-30.0, -12.0), "spiky": (-30.0, -2.0)})
    assert (target, lowered) == (-29.0, "spiky"), "its peak comes to -1 dBFS, and the others are as soft"


def test_the_noise_is_as_loud_as_the_clips() -> None:
    noise = stimuli.noise(-23.0, 0)
    assert abs(stimuli.loudness(noise) + 23.0) < 0.01 and stimuli.peak_db(noise) < -1
    assert torch.equal(noise, stimuli.noise(-23.0, 0))


def test_clips_do_not_overlap_and_follow_the_seed() -> None:
    track = np.ones(40)
    starts = stimuli.choose_starts([track], 3.0, 4, (1, 2))
    assert starts == stimuli.choose_starts([track], 3.0, 4, (1, 2)) != stimuli.choose_starts([track], 3.0, 4, (1, 3))
    assert len(starts) == 4 and all(b - a >= 3.0 for a, b in pairwise(starts))
    assert starts[-1] + 3.0 <= 20.0


def test_clips_lie_where_no_track_is_quiet() -> None:
    vocals, band = np.full(100, 1e-6), np.ones(100)
    vocals[60:70] = 1.0
    band[:20] = 1e-6
    for seed in range(10):
        (start,) = stimuli.choose_starts([vocals, band], 2.0, 1, (seed,))
        assert 28.5 <= start <= 34.5, "within 6 dB of the loudest two seconds of the voice"


def test_tracks_that_take_turns_meet_where_the_softer_one_is_loudest() -> None:
    one, other = np.full(20, 1e-9), np.full(20, 1e-9)
    one[:10], other[10:] = 1.0, 1.0
    (start,) = stimuli.choose_starts([one, other], 2.0, 1, (0,))
    assert 3.0 < start < 5.0, "two seconds over the change"


def test_a_song_too_short_gives_fewer() -> None:
    assert stimuli.choose_starts([np.ones(5)], 3.0, 1, (0,)) == []
    assert len(stimuli.choose_starts([np.ones(8)], 2.0, 3, (0,))) <= 2
