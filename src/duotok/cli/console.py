"""How the commands talk: facts to stdout, progress and one-line messages to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress

    from duotok.codec import DuoTok

Advance = Callable[[float], None]
_bars: list[Progress] = []


def say(text: str) -> None:
    """One line to stderr, above the progress bars if there are any."""
    if _bars:
        _bars[-1].console.print(text, markup=False, highlight=False, soft_wrap=True)
    else:
        print(text, file=sys.stderr, flush=True)


def put_json(value: Any, indent: int | None = None) -> None:
    """One JSON document to stdout; in ASCII, so that no file name can be unprintable."""
    print(json.dumps(value, indent=indent), flush=True)


class Bars:
    """One bar for all files and one for the file at work; nothing where stderr is no terminal."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        if progress is not None:
            self._all = progress.add_task("all", total=total, visible=total > 1)

    @contextmanager
    def file(self, name: str) -> Iterator[Advance]:
        """A bar for one file; yields what takes its fraction done."""
        if self._progress is None:
            yield lambda _: None
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


def open_model(name: str, device: str, precision: str = "fp32") -> DuoTok:
    """The model of a bundle on a device. Raises BundleError, or ConfigError for a device that is not there or a
    precision that does not exist."""
    import torch

    from duotok.codec import DuoTok
    from duotok.errors import ConfigError

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split()).split(". ")[0][:100]
        raise ConfigError(f"device '{device}': not usable here ({reason}); use --device cpu") from None
    return DuoTok.from_pretrained(name, device, precision)
