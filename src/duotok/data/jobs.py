"""Parallel work that can be killed at any moment and resumed: units, engines, and a ledger of finished units.

The ledger `WORK/ledger/STEP.jsonl` is append-only, one line a unit. A unit counts as done when the ledger says so for
the same stamp (the hash of its payload); a torn last line, from a kill while writing, counts as not written.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from duotok.data.engines import Engine, Function, JobError, LocalEngine, Outcome, RayEngine, engine
from duotok.files import PARTIAL, hold, remove, writing

__all__ = [
    "Engine", "JobError", "LocalEngine", "Outcome", "Pending", "RayEngine", "Results", "Unit", "atomic_write",
    "engine", "pending", "read_ledger", "run_units", "sweep",
]  # fmt: skip


@dataclass(frozen=True)
class Unit:
    """One piece of work: an id, unique within its step, and a payload (JSON-able) that describes it.

    place: keys that are passed to the function with the payload but do not count for the stamp: where WORK is now, how many
    threads to use.
    """

    id: str
    payload: dict[str, Any]
    place: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def stamp(self) -> str:
        """SHA-256 of the payload; a unit with a changed payload is done again."""
        return hashlib.sha256(json.dumps(self.payload, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Results:
    """By unit id: what the function returned, and why the others failed, in one line. kept: units done by an earlier run."""

    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    kept: int = 0


@dataclass(frozen=True)
class Entry:
    """The newest entry of a ledger on one unit."""

    stamp: str
    result: dict[str, Any] | None
    error: str


def read_ledger(path: Path) -> dict[str, Entry]:
    """Unit id -> its newest entry. Truncated or foreign lines are ignored, so their units are done again."""
    entries: dict[str, Entry] = {}
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return entries
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            row = json.loads(line)
            ok = bool(row["ok"])
            entries[row["unit"]] = Entry(row["stamp"], row["result"] if ok else None, "" if ok else str(row["error"]))
    return entries


Intact = Callable[[Unit, dict[str, Any]], bool]


@dataclass(frozen=True)
class Pending:
    """The state of a step: the units still to do, the results of earlier runs, and the errors of failed units."""

    todo: list[Unit] = field(default_factory=list)
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def _whole(unit: Unit, result: dict[str, Any]) -> bool:
    return True


def pending(units: Sequence[Unit], ledger: Path, *, retry: bool = False, intact: Intact = _whole) -> Pending:
    """What `run_units` would do; writes nothing."""
    entries = read_ledger(ledger)
    result = Pending()
    for unit in units:
        entry = entries.get(unit.id)
        if entry is None or entry.stamp != unit.stamp:
            result.todo.append(unit)
        elif entry.result is None and not retry:
            result.failed[unit.id] = entry.error
        elif entry.result is not None and intact(unit, entry.result):
            result.done[unit.id] = entry.result
        else:
            result.todo.append(unit)
    return result


def run_units(
    function: Function,
    units: Sequence[Unit],
    ledger: Path,
    engine: Engine,
    description: str,
    *,
    retry: bool = False,
    intact: Intact = _whole,
    folders: Iterable[Path] = (),
) -> Results:
    """Run `function` over the payloads of the units that are not in the ledger, and append each outcome to it.

    function: module-level; takes payload and place as one dictionary, returns something JSON-able; its files must appear
    atomically. retry: run failed units again. intact: whether the files of a done unit still exist (else it is done again).
    folders: where the units write; half-written files of a killed run are removed there. Any error within a unit becomes a
    ledger line. Raises JobError for errors that would end every unit: no disk space, a missing extra, no workers, or another
    run on the same ledger.
    """
    order = {unit.id: n for n, unit in enumerate(units)}
    if len(order) < len(units):
        twice = next(unit.id for n, unit in enumerate(units) if order[unit.id] != n)
        raise JobError(f"{description}: two units are called '{twice}'; rename one")
    with _opened(ledger) as file:
        for folder in folders:
            sweep(folder)
        before = pending(units, ledger, retry=retry, intact=intact)
        done, failed = dict(before.done), dict(before.failed)
        with _progress(description, len(before.todo)) as advance, contextlib.ExitStack() as stack:
            answers = engine.map(function, ({**unit.payload, **unit.place} for unit in before.todo))
            stack.callback(getattr(answers, "close", lambda: None))
            for index, outcome in answers:
                unit = before.todo[index]
                if outcome.fatal:
                    raise JobError(f"{description}: {outcome.error}; fix that, then run the same command again")
                _append(file, ledger, unit, outcome)
                if outcome.result is not None:
                    done[unit.id] = outcome.result
                else:
                    failed[unit.id] = outcome.error
                advance()
    return Results(
        {key: done[key] for key in sorted(done, key=order.__getitem__)},
        {key: failed[key] for key in sorted(failed, key=order.__getitem__)},
        kept=len(before.done),
    )


@contextlib.contextmanager
def _opened(ledger: Path) -> Iterator[IO[bytes]]:
    """The ledger, opened for appending and locked by this run."""
    ledger.parent.mkdir(parents=True, exist_ok=True)
    with open(ledger, "a+b", buffering=0) as file:  # nothing left to write when a full disk ends the job
        if not hold(file):
            raise JobError(f"{ledger}: another run is at work on this step; wait for it, or end it")
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":  # an earlier run was killed while writing
                file.write(b"\n")
        yield file


def _append(file: IO[bytes], ledger: Path, unit: Unit, outcome: Outcome) -> None:
    row: dict[str, Any] = {"unit": unit.id, "stamp": unit.stamp, "ok": outcome.ok}
    row |= {"result": outcome.result} if outcome.ok else {"error": outcome.error}
    line = json.dumps(row).encode() + b"\n"
    try:
        if file.write(line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise JobError(f"{ledger}: {error.strerror}; fix that, then run the same command again") from None


LINE_SECONDS = 60.0


class _Lines:
    def __init__(self, description: str, total: int) -> None:
        self._description, self._total, self._ended, self._last = description, total, 0, time.monotonic()

    def __call__(self) -> None:
        self._ended += 1
        if time.monotonic() - self._last >= LINE_SECONDS:
            self._last = time.monotonic()
            print(f"{self._description}: {self._ended} of {self._total}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _progress(description: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr; where that is no terminal, a line a minute, so that a log shows that a long job is alive."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if total == 0:
        yield lambda: None
        return
    if not console.is_terminal:
        yield _Lines(description, total)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(description, total=total)
        yield lambda: progress.advance(task)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A new file that appears under its name only when all of it is written. Makes folders; raises OSError."""
    with writing(path) as partial, open(partial, "wb") as file:
        yield file


def sweep(folder: Path, older: float = 0.0) -> None:
    """Remove half-written files of a killed run from `folder`: those that nobody has touched for `older` seconds. At 0 no other run
    may be writing there."""
    for partial in folder.glob(f".*{PARTIAL}"):
        with contextlib.suppress(OSError):  # another run may have finished it
            if not older or time.time() - partial.stat().st_mtime > older:
                remove(partial)
