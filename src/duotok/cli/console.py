"""Output of the commands: facts to stdout, progress and one-line messages to stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress

    from duotok.codec.duotok import DuoTok

Advance = Callable[[float], None]
_bars: list[Progress] = []


def say(text: str) -> None:
    """One line to stderr, above the progress bars if there are any. Bytes of names that are no UTF-8 are escaped."""
    text = text.encode("utf-8", "backslashreplace").decode()
    if _bars:
        _bars[-1].console.print(text, markup=False, highlight=False, soft_wrap=True)
    else:
        print(text, file=sys.stderr, flush=True)


def put_json(value: Any, indent: int | None = None) -> None:
    """One JSON document to stdout; in ASCII, so that no file name can be unprintable."""
    print(json.dumps(value, indent=indent), flush=True)


LINE_SECONDS = 60.0


class _Lines:
    """Without a terminal: a line a minute, so that a log shows that a long job is alive."""

    def __init__(self, name: str) -> None:
        self._name, self._last = name, time.monotonic()

    def __call__(self, fraction: float) -> None:
        if time.monotonic() - self._last >= LINE_SECONDS:
            self._last = time.monotonic()
            say(f"{self._name}: {fraction:.0%}")


class Bars:
    """One bar for all files and one for each file in progress; a line a minute where stderr is no terminal."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        if progress is not None:
            self._all = progress.add_task("all", total=total, visible=total > 1)

    @contextmanager
    def file(self, name: str) -> Iterator[Advance]:
        """A bar for one file; yields the function that sets its fraction."""
        if self._progress is None:
            yield _Lines(name)
            return
        bars = self._progress
        task = bars.add_task(name if len(name) <= 40 else f"...{name[-37:]}", total=1.0)
        try:
            yield lambda fraction: bars.update(task, completed=fraction)
        finally:
            bars.remove_task(task)
            bars.advance(self._all)


@contextmanager
def progress_bars(total: int) -> Iterator[Bars]:
    """Bars for `total` files."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield Bars(None, total)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        _bars.append(progress)
        try:
            yield Bars(progress, total)
        finally:
            _bars.remove(progress)


def default_threads() -> int:
    """Number of threads: the idle cores that this process may use, 4 at most.

    Threads that wait for a busy core make a job many times slower. OMP_NUM_THREADS overrides the result.
    """
    requested = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if requested.isdigit() and int(requested) > 0:
        return int(requested)
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, int(quota) / int(period))
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, min(4, round(cores - busy)))


def open_model(name: str, device: str, threads: int = 0, precision: str = "fp32") -> DuoTok:
    """The model of a bundle on a device, with so many threads (0: `default_threads`).

    Raises BundleError, or ConfigError for a device that is not usable or an unknown precision.
    """
    import torch

    from duotok.codec.duotok import DuoTok
    from duotok.devices import check_device

    check_device(device, "--device ")
    torch.set_num_threads(threads or default_threads())
    return DuoTok.from_pretrained(name, device, precision)
