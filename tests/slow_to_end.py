"""A stand-in for a trainer that needs a moment to end well, and Ctrl-C for the one that waits for it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

SAVES = """
import signal, sys, time
from pathlib import Path

def save(*_):
    time.sleep(0.3)
    Path(sys.argv[1], "saved").touch()
    sys.exit(1)

signal.signal(signal.SIGTERM, save)
Path(sys.argv[1], "began").touch()
time.sleep(60)
"""


def slow_to_end(folder: Path) -> list[str]:
    """A command that writes `folder`/began, and told to end `folder`/saved."""
    return [sys.executable, "-c", SAVES, str(folder)]


def ctrl_c_when_it_has_begun(folder: Path) -> Callable[[float], None]:
    """In place of `time.sleep`."""
    sleep = time.sleep

    def interrupted(seconds: float) -> None:
        for _ in range(6000):
            if (folder / "began").exists():
                raise KeyboardInterrupt
            sleep(0.01)

    return interrupted
