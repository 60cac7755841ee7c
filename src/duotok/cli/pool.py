"""Files one after another, or several at a time in processes of their own."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

from duotok.cli.console import Advance, Bars, open_model, say
from duotok.errors import DuoTokError

T = TypeVar("T")
Facts = dict[str, Any]
Work = Callable[[Any, T, Advance], Facts]
"""A module's function of (model, task, progress): does one file and tells what became of it."""

_model: Any = None


def attempt(work: Work[T], model: Any, task: T, advance: Advance) -> Facts:
    """What became of one file; whatever goes wrong with it ends it alone."""
    try:
        return work(model, task, advance)
    except DuoTokError as error:
        return {"status": "failed", "error": str(error)}
    except (OSError, ValueError, RuntimeError, MemoryError) as error:  # no file may end a batch
        reason = " ".join(str(error).split())[:200]
        return {"status": "failed", "error": f"{getattr(task, 'name', task)}: {type(error).__name__}: {reason}"}


def _begin(model: str, device: str, threads: int) -> None:
    global _model
    from duotok.cli.main import warn_in_lines

    warn_in_lines()
    _model = open_model(model, device, threads)


def _one(work: Work[T], task: T, name: str) -> Facts:
    with Bars(None, 1).file(name) as advance:
        return attempt(work, _model, task, advance)


def run(
    work: Work[T], tasks: Sequence[tuple[str, T]], model: Any, opening: tuple[str, str, int], workers: int, bars: Bars
) -> Iterator[tuple[int, Facts]]:
    """(number, what became of it) for each (name, task), as they end. model: the open one, for work in this process;
    opening: its name, device and threads, for workers."""
    if workers <= 1 or len(tasks) <= 1:
        for number, (name, task) in enumerate(tasks):
            with bars.file(name) as advance:
                facts = attempt(work, model, task, advance)
            yield number, facts
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(tasks)), context, _begin, (opening[0], opening[1], opening[2] or 1))
    running: dict[Future[Facts], int] = {
        pool.submit(_one, work, task, name): number for number, (name, task) in enumerate(tasks)
    }
    try:
        for done in as_completed(running):
            number = running[done]
            error = done.exception()
            if error is not None:
                say(f"error: a worker ended ({type(error).__name__}); give fewer --workers")
            with bars.file(tasks[number][0]):
                pass
            facts = done.result() if error is None else {"status": "failed", "error": f"{tasks[number][0]}: {error}"}
            yield number, facts
    except BaseException:
        with contextlib.suppress(Exception):
            pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
