"""The length of a run, in steps or in minutes of this machine's time, and the schedule of the learning rate.

The learning rate is a pure function of the step or of the share of the time, so that nothing of it needs saving.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from duotok.distributed import of_first


class Budget:
    """The share of a run that is done, and when the next check of it is due.

    Counted in steps, everything is a function of the step. Counted in minutes, the clock decides: schedules follow the
    share of the time that is used, held-out figures and checkpoints come at `checks` evenly spaced moments, and the run
    ends early enough for the last of them; a moment that would leave no time to train before the last is passed over. All
    processes go by the clock of the first.
    """

    def __init__(
        self, steps: int, minutes: float | None = None, checks: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.steps, self.minutes, self.checks, self.clock = steps, minutes, checks, clock
        self.go_on(0.0)

    def go_on(self, used: float, reserve: float = 0.0) -> None:
        """Start the clock, after `used` seconds of earlier training, in which a check took up to `reserve` seconds."""
        self.used, self.reserve, self.started = used, reserve, self.clock() - used
        self._checked = int(self.share(0) * self.checks) if self.timed else 0

    @property
    def timed(self) -> bool:
        return self.minutes is not None

    def tick(self) -> None:
        """Read the clock, once a step."""
        if self.minutes is None:
            return
        self.used = of_first(self.clock() - self.started)

    def share(self, step: int) -> float:
        """The share of the run that is done before step `step`, 0 to 1."""
        if self.minutes is None:
            return min(1.0, step / self.steps)
        return min(1.0, self.used / (60 * self.minutes))

    def over(self, done: int) -> bool:
        """Whether the run ends after `done` steps."""
        if self.minutes is None:
            return done >= self.steps
        return self.used >= 60 * self.minutes - self.reserve

    def due(self, done: int, every: int) -> bool:
        """Whether an event of every `every` steps (or of the next moment of `checks`) is due after `done` steps.

        With minutes the answer is the same for every `every`, until `took` or `checked` is called.
        """
        if self.minutes is None:
            return done % every == 0
        time_for_two = self.used + 2 * self.reserve < 60 * self.minutes
        return time_for_two and int(self.share(done) * self.checks) > self._checked

    def took(self, seconds: float) -> None:
        """Record that a check, or a part of one, took so long, since the last check must fit into the budget as well. All processes call it."""
        # The first process alone logs and draws, and all must end together.
        self.reserve = max(self.reserve, of_first(seconds))

    def checked(self, took: float) -> None:
        """Record that a check is done, and how many seconds it took. All processes call it."""
        if self.minutes is None:
            return
        self.took(took)
        self._checked = int(self.share(0) * self.checks)

    def minutes_left(self) -> float | None:
        """None when steps are counted."""
        return None if self.minutes is None else max(0.0, self.minutes - self.used / 60)


def learning_rate(step: int, *, peak: float, warmup: int, steps: int, floor: float) -> float:
    """Linear warm-up to `peak`, then half a cosine down to `floor` x `peak` at `steps` (paper, Tables 7 and 8)."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * half_cosine((step - warmup) / max(1, steps - warmup), floor)


def timed_rate(step: int, share: float, *, peak: float, warmup: int, floor: float) -> float:
    """The same schedule for a run with a time budget, of which `share` is used, 0 to 1."""
    return peak * half_cosine(share, floor) * min(1.0, (step + 1) / max(1, warmup))


def half_cosine(progress: float, floor: float) -> float:
    """From 1 down to `floor` while progress goes from 0 to 1."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
