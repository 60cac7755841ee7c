"""Worker processes that end with the process that started them, even when that one is killed."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait
from typing import Any

LOOK_EVERY = 0.5  # seconds


def pool(
    workers: int, begin: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()
) -> ProcessPoolExecutor:
    """A pool of spawned processes (forking one with torch's threads in it can hang); each calls `begin(*arguments)` first."""
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (begin, arguments))


def _begin(begin: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    leave_with_parent()
    if begin is not None:
        begin(*arguments)


def leave_with_parent() -> None:
    """End this process, whatever it is doing, once its parent is gone."""
    parent = multiprocessing.parent_process()
    parent_pid = os.getppid()

    def watch() -> None:
        if parent is not None:
            wait([parent.sentinel])
        else:  # not started by multiprocessing
            while os.getppid() == parent_pid:
                time.sleep(LOOK_EVERY)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="leave with parent").start()
