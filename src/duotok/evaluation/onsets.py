"""Whether the rhythm stays: where notes and hits begin in both sounds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from duotok.audio.features import LogMel
from duotok.clock import MEL_HOP, MEL_RATE
from duotok.evaluation.fidelity import level_of, to_distance_rate

WITHIN = 0.05
"""Seconds that an onset may be off (MIREX, mir_eval)."""
BEFORE, AFTER = 3, 3
"""A peak is the highest of so many frames (10 ms) before and after it."""
MEAN_BEFORE, MEAN_AFTER = 10, 7
"""and above the mean of these by ABOVE."""
ABOVE = 0.25
"""Mean rise over mel bands, in nepers of power, over the mean of its surroundings."""
APART = 3
"""Frames that two onsets are apart at least."""
LEVEL = -14.0
LAG = 2
"""Frames back with which a frame is compared (Boeck and Widmer 2013)."""


def onset_strength(audio: Tensor, rate: int) -> Tensor:
    """Half-wave rectified rise of log-mel power over 20 ms, mean over bands: `[frames]`, one every 10 ms.

    audio: `[samples]` or `[channels, samples]`; brought to -14 LUFS, because the floor of the logarithm depends on level.
    """
    mono = to_distance_rate(audio, rate)
    mono = mono[: len(mono) // MEL_HOP * MEL_HOP]
    if not len(mono):
        return torch.zeros(0)
    mono = level_of(mono, MEL_RATE * MEL_HOP, LEVEL) * mono
    mel = LogMel(mean=0.0, std=1.0)(mono[None])[0]
    wide = F.max_pool1d(mel[None], 3, stride=1, padding=1)[0]  # over bands: vibrato is no onset
    rise = (mel[LAG:] - wide[:-LAG]).clamp_min(0).mean(-1) if len(mel) > LAG else mel.new_zeros(0)
    return F.pad(rise, (min(LAG, len(mel)), 0))


def onsets(audio: Tensor, rate: int) -> list[float]:
    """Seconds at which something begins, in order: peaks of `onset_strength`."""
    strength = onset_strength(audio, rate)
    if not len(strength):
        return []
    padded = F.pad(strength[None, None], (BEFORE, AFTER))
    highest = F.max_pool1d(padded, BEFORE + AFTER + 1, stride=1)[0, 0]
    sums = F.pad(strength.double().cumsum(0), (1, 0))
    frame = torch.arange(len(strength))
    first, last = (frame - MEAN_BEFORE).clamp_min(0), (frame + MEAN_AFTER + 1).clamp_max(len(strength))
    mean = ((sums[last] - sums[first]) / (last - first)).float()
    found = list[float]()
    for place in ((strength == highest) & (strength >= mean + ABOVE)).nonzero()[:, 0].tolist():
        if not found or place - found[-1] >= APART:
            found.append(place)
    return [(place + 0.5) / MEL_RATE for place in found]


def matched(reference: Sequence[float], estimate: Sequence[float], within: float = WITHIN) -> int:
    """The most pairs of one time of each, at most `within` seconds apart, each time in one pair at most. Both in order.

    As all windows are equally wide, taking the earliest that fits is the best matching there is.
    """
    count = place = 0
    for time in reference:
        while place < len(estimate) and estimate[place] < time - within - 1e-9:
            place += 1
        if place < len(estimate) and estimate[place] <= time + within + 1e-9:
            count, place = count + 1, place + 1
    return count


def onset_f1(estimate: Tensor, target: Tensor, rate: int, fewest: int = 4) -> float | None:
    """F1 of the estimate's onsets against the target's, within 50 ms: 0 to 1; 1: the same rhythm.

    None where the target has fewer than `fewest`. estimate, target: `[samples]` or `[channels, samples]`; the shorter length counts.
    """
    n = min(estimate.shape[-1], target.shape[-1])
    wanted, found = onsets(target[..., :n], rate), onsets(estimate[..., :n], rate)
    if len(wanted) < fewest:
        return None
    return 2 * matched(wanted, found) / (len(wanted) + len(found))
