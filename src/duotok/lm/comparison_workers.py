"""Runs of a comparison side by side, each in a process of its own: on several cores, or several GPUs of one machine."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duotok.lm.comparison import Comparison, Report, Runner

LOG = "log.txt"

_own: Comparison | None = None


def side_by_side(comparison: Comparison, numbers: Sequence[int], runner: Runner, report: Report, workers: int) -> None:
    """Do some runs, `workers` at a time; what each says goes into `log.txt` of its folder.

    The first error stops those that have not begun and is raised when those that have are done.
    """
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads half
    threads = max(1, (os.cpu_count() or 1) // workers)
    slots = context.Queue()
    for slot in range(workers):
        slots.put(slot)
    settings = (comparison.given, threads, slots)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=settings) as pool:
        futures = {pool.submit(_do, number, runner): number for number in numbers}
        try:
            for done, future in enumerate(as_completed(futures), 1):
                took = future.result()
                report(f"{comparison.title(futures[future])}: done in {took:.0f} s, {len(numbers) - done} to go")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(given: tuple[Path, Path, tuple[str, ...]], threads: int, slots: multiprocessing.Queue[int]) -> None:
    global _own
    import torch

    from duotok.lm.comparison import Comparison

    torch.set_num_threads(threads)
    slot, gpus = slots.get(), torch.cuda.device_count()
    if gpus:
        torch.cuda.set_device(slot % gpus)
    _own = Comparison(*given)


def _do(number: int, runner: Runner) -> float:
    assert _own is not None
    began = time.monotonic()
    with _spoken_into(_own.runs[number].folder / LOG):
        _own.do(number, runner)
    return time.monotonic() - began


@contextmanager
def _spoken_into(path: Path) -> Iterator[None]:
    """Standard output and error go to the end of a file, also those of libraries below Python."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [os.dup(1), os.dup(2)]
    with path.open("ab") as file:
        try:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, old in enumerate(kept, 1):
                os.dup2(old, number)
                os.close(old)
