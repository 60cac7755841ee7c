"""Songs through their two steps on this machine: some processes read ahead, others compute, nobody waits for the other.

What is read ahead is bounded in songs and in bytes on disk. A process that dies takes nothing with it: its songs are done again,
each alone, and only the one that ends its process three times is given up (a reader: twice).
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from duotok.bulk.encoding import encode_group
from duotok.bulk.preparing import prepare
from duotok.data.engines import Function, JobError, Outcome, Worker, attempt, name_of
from duotok.errors import ConfigError

TRIES = 2
"""Times that a song is tried again after it ended the process that it was in."""
AHEAD_BYTES = 32 << 30
log = logging.getLogger(__name__)

Song = dict[str, Any]
Result = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """How the model is opened in every process, and how much it does at once: songs in a group, and windows in a batch."""

    name: str
    hash: str
    precision: str = "fp32"
    batch_size: int = 1

    def payload(self, songs: list[Song], device: str) -> dict[str, Any]:
        """For `encode_group`."""
        return {
            "model": self.name, "model_hash": self.hash, "device": device, "precision": self.precision, "batch_size": self.batch_size,
            "songs": songs,
        }  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One song. payload: for `prepare`."""

    number: int
    name: str
    payload: dict[str, Any]


@dataclass
class Times:
    """Seconds of all processes together: in the model, and in groups of songs altogether; and from the first group's beginning to the
    last one's end (of the clock, 0 on Ray)."""

    model: float = 0.0
    encoding: float = 0.0
    span: float = 0.0


class Pipeline(Protocol):
    """Yields (number of the job, result) as they end: `error` (`unread` if only the way to its files is to blame), or `same`, or codes;
    see `prepare` and `encode_group`."""

    times: Times

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Result]]: ...


class _Stopped(BaseException):
    """Raised in the thread of a unit that is to end."""


class Here:
    """A function in this process, in the thread that calls it, with what `Worker` has."""

    def __init__(self, function: Function) -> None:
        self.function, self.stopped = function, False
        self._thread: int | None = None
        self._lock = threading.Lock()

    def run(self, payload: dict[str, Any]) -> Outcome | None:
        try:
            with self._lock:
                if self.stopped:
                    return None
                self._thread = threading.get_ident()
            outcome = attempt(self.function, payload)
            with self._lock:
                self._thread = None
            return outcome
        except _Stopped:
            return None

    def stop(self) -> None:
        """End the running unit. A thread that computed on while Python leaves would abort the whole process."""
        with self._lock:
            self.stopped = True
            if self._thread is not None:
                number, error = ctypes.c_ulong(self._thread), ctypes.py_object(_Stopped)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(number, error)
                self._thread = None

    def end(self) -> None: ...


@dataclass(eq=False)
class _Prepared:
    job: Job
    facts: dict[str, Any]
    tries: int = 0
    failed: set[int] = field(default_factory=set)
    """Numbers of the computing processes that could not do it; another one is to try."""


@dataclass
class _Shelf:
    """What is read and not yet computed."""

    songs: int
    bytes: int
    waiting: list[_Prepared] = field(default_factory=list)
    reading: int = 0
    """Readers that may still bring something."""
    computing: int = 0
    """Groups under way, which may come back."""
    able: set[int] = field(default_factory=set)
    """Numbers of the computing processes that have not been given up."""
    closed: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait_for_room(self) -> bool:
        with self.changed:
            self.changed.wait_for(lambda: self.closed or (len(self.waiting) < self.songs and self._held() < self.bytes))
            return not self.closed

    def _held(self) -> int:
        return sum(int(p.facts["bytes"]) for p in self.waiting)

    def put(self, *prepared: _Prepared) -> None:
        with self.changed:
            self.waiting.extend(prepared)
            self.changed.notify_all()

    def _for(self, number: int) -> list[_Prepared]:
        """What a computing process may take: a song that it failed at only where no other is left to try."""
        return [p for p in self.waiting if number not in p.failed or p.failed >= self.able]

    def take(self, most: int, number: int) -> list[_Prepared]:
        """The song that waits longest, with those nearest to it in length; none when there will be no more."""
        with self.changed:
            self.changed.wait_for(
                lambda: self.closed or bool(self._for(number)) or not (self.waiting or self.reading or self.computing)
            )
            mine = self._for(number)
            if self.closed or not mine:
                return []
            first, *rest = mine
            rest = [] if first.tries else [p for p in rest if not p.tries]
            rest.sort(key=lambda p: abs(p.facts["seconds"] - first.facts["seconds"]))
            group = [first, *rest[: most - 1]]
            self.waiting = [p for p in self.waiting if p not in group]
            self.computing += 1
            self.changed.notify_all()
            return group

    def done(self, back: Iterable[_Prepared] = ()) -> None:
        with self.changed:
            self.waiting[:0] = back
            self.computing -= 1
            self.changed.notify_all()

    def give_up(self, number: int) -> int:
        """A computing process has lost its device; returns how many have not."""
        with self.changed:
            self.able.discard(number)
            self.closed |= not self.able  # nobody makes room for what is read
            self.changed.notify_all()
            return len(self.able)

    def left(self) -> None:
        with self.changed:
            self.reading -= 1
            self.changed.notify_all()

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()


class LocalPipeline:
    """devices: one for each process that computes; readers: processes that fetch and decode. With one device and one reader both
    are threads of this process.
    """

    def __init__(
        self, model: Model, devices: list[str], readers: int = 1, ahead_bytes: int = AHEAD_BYTES, apart: bool = False
    ) -> None:
        """apart: processes even for one. Raises ConfigError."""
        if not devices or readers < 1:
            raise ConfigError(f"devices = {devices}, readers = {readers}: at least one of each")
        self.model, self.devices, self.readers, self.ahead_bytes = model, devices, readers, ahead_bytes
        self.apart = apart or len(devices) > 1 or readers > 1
        self.times = Times()

    def _hand(self, function: Function) -> Worker | Here:
        return Worker(name_of(function)) if self.apart else Here(function)

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Result]]:
        """Raises JobError when nothing can go on: a full disk, no device left."""
        run = _Run(
            self,
            iter(jobs),
            [self._hand(prepare) for _ in range(self.readers)],
            [self._hand(encode_group) for _ in self.devices],
        )
        try:
            yield from run.results()
        finally:
            run.stop()


class _Run:
    def __init__(
        self, pipeline: LocalPipeline, jobs: Iterator[Job], readers: list[Worker | Here], computers: list[Worker | Here]
    ) -> None:
        self.pipeline, self.jobs, self.hands = pipeline, jobs, [*readers, *computers]
        size = pipeline.model.batch_size
        self.shelf = _Shelf(
            2 * size * len(computers) + len(readers),
            pipeline.ahead_bytes,
            reading=len(readers),
            able=set(range(len(computers))),
        )
        self.lock = threading.Lock()
        self.answers: queue.Queue[tuple[int, Result] | BaseException | None] = queue.Queue()
        self.began = float("inf")
        self.lost: list[str] = []
        self.threads = [threading.Thread(target=self._guard, args=(self._read, hand), daemon=True) for hand in readers]
        for number, hand in enumerate(computers):
            self.threads.append(threading.Thread(target=self._guard, args=(self._compute, hand, number), daemon=True))

    def results(self) -> Iterator[tuple[int, Result]]:
        for thread in self.threads:
            thread.start()
        working = len(self.threads)
        while working:
            answer = self.answers.get()
            if answer is None:
                working -= 1
            elif isinstance(answer, BaseException):
                raise answer
            else:
                yield answer
        if self.shelf.waiting:
            raise JobError(
                f"no device is left: {self.lost[-1] if self.lost else 'all ended'}; then run the same command again"
            )

    def stop(self) -> None:
        self.shelf.close()
        for hand in self.hands:
            hand.stop()
        for thread in self.threads:
            if thread.ident is not None:
                thread.join()

    def _guard(self, work: Any, hand: Worker | Here, *more: Any) -> None:
        try:
            work(hand, *more)
        except BaseException as error:
            self.answers.put(error)
        finally:
            hand.end()
            self.answers.put(None)

    def _read(self, hand: Worker | Here) -> None:
        try:
            while self.shelf.wait_for_room():
                with self.lock:
                    job = next(self.jobs, None)
                if job is None:
                    return
                outcome = hand.run(job.payload)
                if outcome is not None and not outcome.ok and isinstance(hand, Worker) and hand.died:
                    outcome = hand.run(job.payload)  # a process that was killed is no fault of the song
                if outcome is None:
                    return
                if outcome.fatal:
                    raise JobError(f"{outcome.error}; fix that, then run the same command again")
                if outcome.result is None:
                    self.answers.put((job.number, {"error": f"{outcome.error}"}))
                elif "file" not in outcome.result:
                    self.answers.put((job.number, outcome.result))
                else:
                    self.shelf.put(_Prepared(job, outcome.result))
        finally:
            self.shelf.left()

    def _compute(self, hand: Worker | Here, number: int) -> None:
        model, device = self.pipeline.model, self.pipeline.devices[number]
        while group := self.shelf.take(model.batch_size, number):
            back: list[_Prepared] = []
            try:
                songs = [{"name": p.job.name, **p.facts} for p in group]
                try:
                    outcome = hand.run(model.payload(songs, device))
                except JobError as error:
                    outcome = Outcome(error=str(error), fatal=True)
                if outcome is None:
                    return
                if outcome.fatal:  # the device, not a song
                    back = group
                    self._give_up(number, outcome.error)
                    return
                back = self._sort(group, outcome)
                for prepared in back:
                    prepared.failed.add(number)
            finally:
                self.shelf.done(back)

    def _give_up(self, number: int, why: str) -> None:
        """A device is lost; its songs are for the others."""
        self.lost.append(why)
        if left := self.shelf.give_up(number):
            log.warning("%s; its songs go to the other processes (%d)", why, left)

    def _sort(self, group: list[_Prepared], outcome: Outcome) -> list[_Prepared]:
        """Answer for the songs of a group; returns those that are to be done again, alone."""
        if outcome.result is None:
            results = [{"error": outcome.error, "again": True} for _ in group]
        else:
            results = outcome.result["songs"]
            with self.lock:
                self.pipeline.times.model += outcome.result["model"]
                self.pipeline.times.encoding += outcome.result["all"]
                now = time.monotonic()
                self.began = min(self.began, now - outcome.result["all"])
                self.pipeline.times.span = now - self.began
        back = []
        for prepared, result in zip(group, results, strict=True):
            prepared.tries += 1
            if result.get("again") and prepared.tries <= TRIES:
                back.append(prepared)
                continue
            with contextlib.suppress(OSError):
                Path(prepared.facts["file"]).unlink()
            self.answers.put((prepared.job.number, told(prepared.job.name, prepared.facts, result)))
        return back


def told(name: str, facts: dict[str, Any], result: Result) -> Result:
    """The result of a song from both of its steps."""
    if "error" in result:
        error = str(result["error"])
        return {"error": error if error.startswith(name) else f"{name}: {error}"}
    return {**result, "sha256": facts["sha256"], "marks": facts["marks"], "seconds": facts["seconds"]}
