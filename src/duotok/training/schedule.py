"""Learning rate of a step: a pure function, so that nothing of it needs saving."""

from __future__ import annotations

import math


def learning_rate(step: int, *, peak: float, warmup: int, steps: int, floor: float) -> float:
    """Linear warm-up to `peak`, then half a cosine down to `floor` x `peak` at `steps` (paper, Tables 7 and 8)."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * half_cosine((step - warmup) / max(1, steps - warmup), floor)


def timed_rate(step: int, share: float, *, peak: float, warmup: int, floor: float) -> float:
    """The same for a run that lasts so many minutes, of which `share` is used: 0 to 1."""
    return peak * half_cosine(share, floor) * min(1.0, (step + 1) / max(1, warmup))


def half_cosine(progress: float, floor: float) -> float:
    """From 1 down to `floor` while progress goes from 0 to 1."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
