"""A run that is told to end: by SIGTERM, which SLURM, Kubernetes and torchrun send before they kill, or by Ctrl-C (SIGINT)."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from duotok.distributed import rank

SAME_PRESS = 0.5  # seconds; a terminal and a launcher may both pass on one press of Ctrl-C
TOLD = "Ctrl-C: the run finishes what it is at, writes a checkpoint and ends; press it again to stop at once, without one\n"


class Leaving:
    """Inside, SIGTERM is noted and ends nothing, however often it comes: SLURM sends it to every process of a job, and torchrun
    once more to its workers. Outside of the main thread signals stay as they are, because Python cannot change them."""

    def __init__(self) -> None:
        self.terminated = self.interrupted = False
        self._before: Any = None
        self._pressed = 0.0

    @property
    def asked(self) -> bool:
        """Whether this process was told to end."""
        return self.terminated or self.interrupted

    def __enter__(self) -> Leaving:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._terminate)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    @contextmanager
    def after_a_step(self) -> Iterator[None]:
        """Inside, where there are steps to lose, the first Ctrl-C is noted as well, and the second stops at once. Where it is ignored,
        as in a job that a shell runs in the background, it stays so."""
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
            yield
            return
        signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self.terminated = True

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.interrupted:
            self.interrupted, self._pressed = True, now
            if rank() == 0:
                os.write(2, TOLD.encode())  # not through sys.stderr, in the middle of whose writing a signal may come
        elif now - self._pressed > SAME_PRESS:
            raise KeyboardInterrupt


def deaf(worker: int) -> None:
    """For loader workers: what ends a job may signal all of its processes, and the trainer still needs a batch to end well.
    They leave when the trainer does."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
