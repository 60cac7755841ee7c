"""Where units of work run: in processes on this machine, or on a Ray cluster, with the same functions.

Only JSON passes between the processes (no pickle of ours), and a function is sent by its name `module:function`, so it
must be a module-level function that the other process can import.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import logging
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from duotok.errors import FULL, ConfigError, DuoTokError, MissingExtraError, of_system
from duotok.pool import begin_worker, context

Function = Callable[[dict[str, Any]], dict[str, Any]]
# Ray schedules block by block; more blocks than this cost more than they spread.
RAY_BLOCKS = 2000
CONNECT_SECONDS = 10.0
log = logging.getLogger(__name__)
_CHILDREN = threading.Lock()  # Python asks for every child's end when it starts one; only one of two askers is told


class JobError(DuoTokError):
    """A job cannot go on: no disk space, no cluster, workers that do not start."""


@dataclass(frozen=True)
class Outcome:
    """The end of one unit: its result, or its error in one line; `fatal` when every other unit would fail too; what another process
    would have logged as a warning meanwhile."""

    result: dict[str, Any] | None = None
    error: str = ""
    fatal: bool = False
    warnings: Sequence[str] = ()

    @property
    def ok(self) -> bool:
        return not self.error


class Engine(Protocol):
    """Runs a function over payloads and yields (index of the payload, outcome) as units end, in any order."""

    def map(self, function: Function, payloads: Iterable[dict[str, Any]]) -> Iterator[tuple[int, Outcome]]: ...


def no_space(error: BaseException | None) -> bool:
    """Whether a full disk or quota caused this error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def attempt(function: Function, payload: dict[str, Any]) -> Outcome:
    """Run one unit. Any error becomes an outcome, so that one broken recording does not stop the others."""
    try:
        return Outcome(json.loads(json.dumps(function(payload), allow_nan=False)))
    except (MissingExtraError, ConfigError) as error:
        return Outcome(error=_line(error), fatal=True)
    except (DuoTokError, OSError) as error:
        return Outcome(error=_line(error), fatal=no_space(error))
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return Outcome(error=f"unexpected {type(error).__name__} at {where}: {_line(error)}", fatal=no_space(error))


def _line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'system'}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def name_of(function: Function) -> str:
    """`module:function`. Raises ValueError for a function that another process cannot import."""
    name = f"{function.__module__}:{function.__qualname__}"
    if "<" in name or function.__module__ == "__main__":
        raise ValueError(
            f"{name} cannot be imported by a worker; make it a module-level function of an installed module"
        )
    return name


def function_of(name: str) -> Function:
    module, _, qualified_name = name.partition(":")
    target: Any = importlib.import_module(module)
    for part in qualified_name.split("."):
        target = getattr(target, part)
    function: Function = target
    return function


class LocalEngine:
    """Processes on this machine, each computing on one thread. A single worker runs inside this process, unless `apart`.

    When a worker dies (out of memory, a crash in a decoder), only its unit fails.
    """

    def __init__(self, workers: int = 1, apart: bool = False) -> None:
        if workers < 1:
            raise ConfigError(f"workers = {workers}: must be at least 1")
        self.workers = workers
        self.apart = apart

    def map(self, function: Function, payloads: Iterable[dict[str, Any]]) -> Iterator[tuple[int, Outcome]]:
        jobs = enumerate(payloads)
        if self.workers == 1 and not self.apart:
            for index, payload in jobs:
                yield index, attempt(function, payload)
            return
        yield from _Pool(name_of(function), jobs, self.workers).run()


class Worker:
    """A process that runs units of one function, one at a time; it is started again when it dies."""

    def __init__(self, function: str) -> None:
        self.function = function
        self.stopped = False
        self.died = False
        """Whether the process ended in the last unit."""
        self._lock = threading.Lock()  # stop() comes from another thread
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def run(self, payload: dict[str, Any]) -> Outcome | None:
        """The outcome of a unit, None after stop(). Raises JobError when the process cannot start working."""
        if self._process is None:
            self._start()
        if self._process is None or self._pipe is None:
            return None
        answer = _ask(self._pipe, payload)
        self.died = answer is None
        if answer is not None:
            for line in answer.warnings:
                log.warning("%s", line)
            return answer
        code = self._code(self._process)
        self._pipe.close()
        self._process = self._pipe = None
        if self.stopped:
            return None
        if code >= 0:
            raise JobError(f"a worker process ended with code {code}; see its error output above")
        return Outcome(error=_killed(-code))

    def _start(self) -> None:
        with self._lock, _CHILDREN:
            if self.stopped:
                return
            try:
                workers = context()
                pipe, theirs = workers.Pipe()
                process = workers.Process(  # type: ignore[attr-defined]
                    target=serve, args=(self.function, theirs, dict(os.environ)), daemon=True
                )
                process.start()
            except OSError as error:
                raise JobError(f"a worker process cannot be started ({of_system(error)})") from None
            theirs.close()
            self._process, self._pipe = process, pipe

    @staticmethod
    def _code(process: BaseProcess) -> int:
        """The exit code of a process that has closed its pipe."""
        process.join()
        with _CHILDREN:
            code = process.exitcode
        return code if code is not None else 0

    def stop(self) -> None:
        """End the running unit; `run` returns None from now on."""
        with self._lock:
            self.stopped = True
            if self._process is not None:
                self._process.terminate()

    def end(self) -> None:
        """Close the input of the process, at which it exits; kill it after a timeout."""
        process, pipe = self._process, self._pipe
        if process is None or pipe is None:
            return
        pipe.close()
        process.join(10)
        if process.exitcode is None:
            process.kill()
            process.join()


class _Pool:
    """Several workers, each fed by a thread: it sends a unit, waits for the answer, sends the next."""

    def __init__(self, function: str, jobs: Iterator[tuple[int, dict[str, Any]]], workers: int) -> None:
        self.jobs = jobs
        self.lock = threading.Lock()
        self.workers = [Worker(function) for _ in range(workers)]
        self.answers: queue.Queue[tuple[int, Outcome] | BaseException | None] = queue.Queue()

    def run(self) -> Iterator[tuple[int, Outcome]]:
        threads = [threading.Thread(target=self._tend, args=(worker,), daemon=True) for worker in self.workers]
        for thread in threads:
            thread.start()
        working = len(threads)
        try:
            while working:
                answer = self.answers.get()
                if answer is None:
                    working -= 1
                elif isinstance(answer, BaseException):
                    raise answer
                else:
                    yield answer
        finally:
            for worker in self.workers:
                worker.stop()
            for thread in threads:
                thread.join()

    def _tend(self, worker: Worker) -> None:
        try:
            while not worker.stopped:
                with self.lock:
                    job = next(self.jobs, None)
                if job is None:
                    return
                answer = worker.run(job[1])
                if answer is not None:
                    self.answers.put((job[0], answer))
        except BaseException as error:
            self.answers.put(error)
        finally:
            worker.end()
            self.answers.put(None)


def _ask(pipe: Connection, payload: dict[str, Any]) -> Outcome | None:
    """The worker's answer, or None when the process has died."""
    try:
        pipe.send_bytes(json.dumps(payload).encode())
        return Outcome(**json.loads(pipe.recv_bytes()))
    except (OSError, EOFError):
        return None


def _killed(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if name == "SIGKILL":
        return "its worker was killed (SIGKILL, as when memory runs out); use fewer --workers, then --retry"
    return f"its worker crashed ({name}); look at the files of this unit"


def serve(function: str, pipe: Connection, environment: dict[str, str]) -> None:
    """The main loop of a worker process: payloads in, outcomes out, as JSON."""
    os.dup2(2, 1)  # what libraries print is no result
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, _leave)  # exits by an exception, so that temporary files are removed
    begin_worker(environment)
    work = function_of(function)
    _one_thread()
    answer_all(work, pipe)


def answer_all(work: Function, pipe: Connection) -> None:
    """One outcome for each payload, until the other side is closed or killed; then there is nobody to be told."""
    kept = _Kept(logging.WARNING)
    logging.getLogger("duotok").addHandler(kept)
    with contextlib.suppress(EOFError, OSError):
        while True:
            outcome = replace(attempt(work, json.loads(pipe.recv_bytes())), warnings=tuple(kept.lines))
            kept.lines.clear()
            pipe.send_bytes(json.dumps(asdict(outcome)).encode())


class _Kept(logging.Handler):
    """Keeps the lines of a worker for the process that asked: the terminal is its, and may be of another machine."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _one_thread() -> None:
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


class RayEngine:
    """Ray Data on a cluster: `address` as ray.init takes it ("auto", "ray://host:10001"); None starts one here.

    All machines must see WORK and the audio under the same paths.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = address

    def map(self, function: Function, payloads: Iterable[dict[str, Any]]) -> Iterator[tuple[int, Outcome]]:
        items = [{"index": n, "payload": json.dumps(payload)} for n, payload in enumerate(payloads)]
        if not items:
            return
        ray = connected(self.address)
        rows = ray.data.from_items(items, override_num_blocks=min(len(items), RAY_BLOCKS))
        try:
            for row in rows.map(_ray_row, fn_kwargs={"function": name_of(function)}).iter_rows():
                yield row["index"], Outcome(**json.loads(row["outcome"]))
        except ray.exceptions.RayError as error:
            raise JobError(f"Ray: {_line(error)[:200]}; fix the cluster, then run the same command again") from None


def _ray_row(row: dict[str, Any], function: str) -> dict[str, Any]:
    try:
        outcome = _ray_worker(function).run(json.loads(row["payload"]))
    except JobError as error:
        outcome = Outcome(error=_line(error), fatal=True)
    assert outcome is not None
    return {"index": row["index"], "outcome": json.dumps(asdict(outcome))}


@functools.lru_cache(maxsize=1)
def _ray_worker(function: str) -> Worker:
    """A process besides Ray's own, because Ray Data would retry a unit that kills its process for ever."""
    return Worker(function)


def connected(address: str | None) -> Any:
    """The module ray, connected to a cluster (None: one that is started here). Raises JobError, MissingExtraError."""
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingExtraError("--engine ray needs Ray; pip install 'duotok[ray]', or use --engine local") from None
    if not ray.is_initialized():
        _check_address(address)
        try:
            ray.init(address=address or "local", logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, OSError, ValueError, RuntimeError) as error:
            raise JobError(
                f"--address {address}: cannot join that Ray cluster ({_line(error)[:200]}); if it wants a token, set "
                "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
            ) from None
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # failed units are in the ledger
    return ray


def _check_address(address: str | None) -> None:
    """Raises JobError when nobody listens at HOST:PORT; Ray itself would try for many minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise JobError(f"--address {address}: no Ray cluster there ({error.strerror or error}); start one") from None


def engine(name: str, workers: int, address: str | None = None) -> Engine:
    """The engine of the options --engine, --workers and --address. Raises ConfigError for an unknown name."""
    if name == "local":
        if address:
            raise ConfigError(f"--address {address}: is for --engine ray")
        return LocalEngine(workers)
    if name == "ray":
        return RayEngine(address)
    raise ConfigError(f"--engine {name}: use local or ray")
