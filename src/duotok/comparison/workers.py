"""Runs of a comparison side by side, each in a process of its own: on several cores, or several GPUs of one machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

from duotok.comparison.run import Runner
from duotok.comparison.study import Comparison, Result
from duotok.errors import DuoTokError
from duotok.pool import WorkerDied, context, pool

LOG = "log.txt"

Report = Callable[[str], None]

Arguments = tuple[Path, Path, tuple[str, ...]]
_opened: dict[Arguments, Comparison] = {}


def conduct(comparison: Comparison, runner: Runner, report: Report = lambda _: None, workers: int = 1) -> Result:
    """Train and score the runs that are not done, then compute the result. Called again after a stop, it resumes.

    workers: runs side by side, each in a process of its own (then `runner` is a function of a module).
    """
    missing = []
    for number, run in enumerate(comparison.runs):
        todo = comparison.todo(run)
        report(f"{comparison.title(number)}: {f'{len(todo)} to score' if todo else 'done'}")
        missing += [number] if todo else []
    if workers > 1 and len(missing) > 1:
        side_by_side(comparison, missing, runner, report, workers)
    else:
        for number in missing:
            report(comparison.title(number))
            comparison.do(number, runner)
    return comparison.result()


def side_by_side(comparison: Comparison, numbers: Sequence[int], runner: Runner, report: Report, workers: int) -> None:
    """Do some runs, `workers` at a time; the output of each goes into `log.txt` of its folder.

    After an error no further run is started, and the error is raised once the running ones are done. An interruption ends
    them at once; their checkpoints stay. Raises what a run raises, with the run's name; DuoTokError when a process dies.
    """
    slots = context().Queue()
    for slot in range(workers):
        slots.put(slot)
    waiting, running = list(numbers), dict[Future[float], int]()
    problem: Exception | None = None
    with pool(workers, _begin, (slots,), threads=max(1, (os.cpu_count() or 1) // workers)) as processes:
        try:
            while running or (waiting and problem is None):
                # Submit no more than can run at once: a pool may take a task that can no longer be cancelled.
                while waiting and problem is None and len(running) < workers:
                    number = waiting.pop(0)
                    running[processes.submit(_do, comparison.arguments, number, runner)] = number
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    number = running.pop(future)
                    failed = future.exception()
                    if failed is None:
                        report(
                            f"{comparison.title(number)}: done in {future.result():.0f} s, {len(waiting) + len(running)} to go"
                        )
                    else:
                        problem = problem or _run_error(failed, comparison, number)
        except BaseException:
            for process in list((processes._processes or {}).values()):
                process.terminate()
            raise
    if problem is not None:
        raise problem


def _run_error(problem: BaseException, comparison: Comparison, number: int) -> Exception:
    """The error of a run with the run's name and log, and its type where it is one of ours."""
    place = f"{comparison.title(number)} (log: {comparison.runs[number].folder / LOG})"
    if isinstance(problem, BrokenProcessPool):
        return WorkerDied(f"{place}: its process died, as when memory runs out; take fewer --workers")
    if isinstance(problem, DuoTokError):
        return type(problem)(f"{place}: {problem}")
    return problem if isinstance(problem, Exception) else RuntimeError(f"{place}: {problem!r}")


def _begin(slots: multiprocessing.Queue[int]) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    slot, gpus = slots.get(), torch.cuda.device_count()
    if gpus:
        torch.cuda.set_device(slot % gpus)


def _do(arguments: Arguments, number: int, runner: Runner) -> float:
    began = time.monotonic()
    if arguments not in _opened:
        _opened[arguments] = Comparison(*arguments)
    comparison = _opened[arguments]
    with _output_to(comparison.runs[number].folder / LOG):
        comparison.do(number, runner)
    return time.monotonic() - began


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Append standard output and error to a file, with that of native libraries and the traceback of a failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _flush()
    saved = [os.dup(1), os.dup(2)]
    with path.open("ab") as file:
        try:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
            yield
        except Exception:
            traceback.print_exc()
            raise
        finally:
            _flush()
            for number, old in enumerate(saved, 1):
                os.dup2(old, number)
                os.close(old)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
