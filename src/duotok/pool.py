"""Worker processes that leave with the one that started them, also when that is killed and can tell nobody.

Python's own pool with three things added: its workers watch their parent, an error cancels what has not begun, and a worker
that died is an error for people. loky 3.7 was tried: killed with -9 amid long tasks, a parent left both workers and their
trackers behind, and one dead worker failed every task under way as Python's own does; so it would add a dependency and need
the same additions. What must outlive a dead worker, unit by unit, is in `data/engines.py`: its workers get one unit at a
time, which is how the guilty one is known, and only JSON passes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import Any, TypeVar

from duotok.errors import DuoTokError

LOOK_EVERY = 0.5  # seconds
T = TypeVar("T")


class WorkerDied(DuoTokError):
    """A worker process ended in the middle of its work; the other tasks of its pool ended with it."""


class Pool(ProcessPoolExecutor):
    """Processes that begin afresh (`context`). Left by an error, it waits for tasks under way and begins no other."""

    def as_they_end(self, work: Callable[..., T], tasks: Iterable[tuple[Any, ...]]) -> Iterator[tuple[int, Future[T]]]:
        """(number of the task, its future) of `work(*task)` for every task, in the order in which they end."""
        running = {self.submit(work, *task): number for number, task in enumerate(tasks)}
        for future in as_completed(running):
            yield running[future], future

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown(wait=True, cancel_futures=kind is not None)


def result_of(future: Future[T]) -> T:
    """What a task returned, or raises what it raised. Raises WorkerDied when its process is gone."""
    try:
        return future.result()
    except BrokenProcessPool:
        raise WorkerDied("a worker process died, as when memory runs out; take fewer --workers") from None


def context(imports: Sequence[str] = ("torch",)) -> BaseContext:
    """How workers begin: on Linux forked from a server that has made these imports and nothing else, so that torch is imported
    once for all of them; elsewhere spawned. Never forked from this process: with torch's threads in it that can hang."""
    if not sys.platform.startswith("linux"):
        return multiprocessing.get_context("spawn")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(list(imports))  # of the server that the first pool of this process starts
    with _one_thread_in("OPENBLAS"):  # numpy's, which starts them when it is imported
        forkserver.ensure_running()
    return server


@contextlib.contextmanager
def _one_thread_in(library: str) -> Iterator[None]:
    name = f"{library}_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})


def pool(
    workers: int,
    begin: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
    threads: int | None = None,
    imports: Sequence[str] = ("torch",),
) -> Pool:
    """A pool whose processes call `begin(*arguments)` first.

    threads: of torch's arithmetic in each; None leaves torch alone. imports: modules that every worker needs (`context`).
    """
    return Pool(workers, context(imports), _begin, (dict(os.environ), begin, arguments, threads))


def _begin(
    environment: Mapping[str, str], begin: Callable[..., None] | None, arguments: tuple[Any, ...], threads: int | None
) -> None:
    begin_worker(environment)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    if begin is not None:
        begin(*arguments)


def begin_worker(environment: Mapping[str, str]) -> None:
    """What every worker does first: it takes its parent's environment (the server's is older) and watches its parent."""
    leave_with_parent()
    os.environ.clear()
    os.environ.update(environment)


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
