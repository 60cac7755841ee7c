"""A run that is told to end: SIGTERM, which SLURM, Kubernetes and torchrun send before they kill."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Leaving:
    """Inside, SIGTERM is noted and ends nothing, however often it comes: SLURM sends it to every process of a job, and torchrun
    once more to its workers. Outside of the main thread signals stay as they are, because Python cannot change them."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Leaving:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def deaf(worker: int) -> None:
    """For loader workers: what ends a job may signal all of its processes, and the trainer still needs a batch to end well.
    They leave when the trainer does."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
