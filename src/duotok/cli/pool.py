"""Files processed one after another, or several at a time in worker processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from duotok.cli.console import Advance, Bars, open_model, say
from duotok.errors import DuoTokError
from duotok.pool import pool

if TYPE_CHECKING:
    from duotok.codec.duotok import DuoTok

T = TypeVar("T")
Facts = dict[str, Any]
Work = Callable[[Any, T, Advance], Facts]
"""A module-level function of (model, task, progress) that processes one file and returns its facts."""

_model: Any = None


class Opening(NamedTuple):
    """How a model is opened, here and in workers."""

    name: str
    device: str
    threads: int = 0
    precision: str = "fp32"

    def model(self) -> DuoTok:
        """See `open_model`."""
        return open_model(self.name, self.device, self.threads, self.precision)


def attempt(work: Work[T], model: Any, task: T, advance: Advance) -> Facts:
    """The facts of one file; an error fails this file alone."""
    try:
        return work(model, task, advance)
    except DuoTokError as error:
        return {"status": "failed", "error": str(error)}
    except (OSError, ValueError, RuntimeError, MemoryError) as error:  # no file may end a batch
        reason = " ".join(str(error).split())[:200]
        return {"status": "failed", "error": f"{getattr(task, 'name', task)}: {type(error).__name__}: {reason}"}


def _begin(opening: Opening) -> None:
    global _model
    from duotok.cli.main import warn_in_lines

    warn_in_lines()
    _model = opening.model()


def _attempt_in_worker(work: Work[T], task: T, name: str) -> Facts:
    with Bars(None, 1).file(name) as advance:
        return attempt(work, _model, task, advance)


def run(
    work: Work[T], tasks: Sequence[tuple[str, T]], model: Any, opening: Opening, workers: int, bars: Bars
) -> Iterator[tuple[int, Facts]]:
    """(number, facts) for each (name, task), as they end. model: the open model, for work in this process; opening: the same
    for workers, with one thread each unless it states a number."""
    if workers <= 1 or len(tasks) <= 1:
        for number, (name, task) in enumerate(tasks):
            with bars.file(name) as advance:
                facts = attempt(work, model, task, advance)
            yield number, facts
        return
    processes = pool(min(workers, len(tasks)), _begin, (opening._replace(threads=opening.threads or 1),))
    try:
        for number, done in processes.as_they_end(_attempt_in_worker, ((work, task, name) for name, task in tasks)):
            error = done.exception()
            if error is not None:
                say(f"error: a worker ended ({type(error).__name__}); give fewer --workers")
            with bars.file(tasks[number][0]):
                pass
            facts = done.result() if error is None else {"status": "failed", "error": f"{tasks[number][0]}: {error}"}
            yield number, facts
    except BaseException:
        with contextlib.suppress(Exception):
            processes.shutdown(wait=False, cancel_futures=True)
        raise
    processes.shutdown()
