"""Raters that are not there: known true scores, habits of raters and songs, noise, and the steps of the scale."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from duotok.listening.order import trials
from duotok.listening.plan import ListeningTest
from duotok.listening.ratings import Rating
from duotok.listening.scale import RANGES


def ratings(
    test: ListeningTest, truth: Mapping[str, float], raters: int, seed: int = 0, clickers: int = 0, noise: float = 0.5
) -> list[Rating]:
    """truth: condition -> mean score. The last `clickers` raters press anything."""
    low, high = RANGES[test.plan.method]
    random = np.random.default_rng(seed)
    size = noise * (high - low) / 4
    songs = {song: random.normal(0, size / 2) for song in sorted({clip.song for clip in test.plan.clips})}
    found = []
    for rater in range(1, raters + clickers + 1):
        habit = random.normal(0, size / 2)
        for trial in trials(test, rater):
            for sound in trial.sounds:
                if rater > raters:
                    score = int(random.integers(low, high + 1))
                else:
                    heard = truth[sound.system] + habit + songs[trial.clip.song] + random.normal(0, size)
                    score = int(np.clip(round(heard), low, high))
                found.append(Rating(rater, sound.id, score, 0))
    return found
