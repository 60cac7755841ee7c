"""The commands of a kit as child processes: their output is logged and shown, and several may run in parallel.

Python's standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from duotok.training.kit.plan import KitError, Training

POLL = 0.2  # seconds


class Child:
    """A command whose output goes to a log file and is shown from there. On Linux it is killed with this process."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log, self.began, self.last, self.error = log, time.monotonic(), "", ""
        with log.open("ab") as file:
            self.reader = log.open("rb")
            self.reader.seek(0, 2)
            self.process = subprocess.Popen(
                command, env=environment, stdout=file, stderr=subprocess.STDOUT, preexec_fn=kill_with_parent
            )

    def show(self, name: str = "") -> None:
        """Print its output since the last call, each line after `name` where several run."""
        for line in self.reader.read().decode(errors="replace").splitlines():
            if line.strip():
                self.last = line.strip()
                self.error = self.last.removeprefix("error: ") if self.last.startswith("error: ") else self.error
                print(f"{name}{': ' if name else ''}{line}", flush=True)

    def ended(self, name: str = "") -> bool:
        over = self.process.poll() is not None
        self.show(name)
        if over:
            self.reader.close()
        return over

    def wait(self) -> None:
        """Show its output until it has ended."""
        try:
            while not self.ended():
                time.sleep(POLL)
        except BaseException:
            end_and_wait([self.process])
            raise

    def check(self, name: str) -> float:
        """Seconds that it took. Raises KitError when it failed."""
        if self.process.returncode:
            reason = self.error or self.last or "it said nothing"
            raise KitError(f"{name} ended with {self.process.returncode}: {reason} (all of it: {self.log})")
        return time.monotonic() - self.began


def kill_with_parent() -> None:
    """In a child on Linux: die with run.py, so that no trainer goes on unnoticed and keeps the run's lock."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def end_and_wait(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Tell commands to end and wait until they have: a trainer writes a checkpoint first. Ctrl-C meanwhile kills them."""
    running = [process for process in processes if process.poll() is None]
    if not running:
        return
    print("waits until what is under way has ended well; press Ctrl-C to stop it at once", file=sys.stderr, flush=True)
    try:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    except KeyboardInterrupt:
        for process in running:
            process.kill()
        raise


def waits_for(training: Training, among: Iterable[str]) -> set[str]:
    """The runs `among` these that must finish before a training begins."""
    return {*training.needs} & {*among}


def side_by_side(
    trainings: Sequence[Training], parallel: int, arrays: Callable[[Training], Child], begin: Callable[[Training], Child | None],
    end: Callable[[Training, Child], None],
) -> None:  # fmt: skip
    """Run `parallel` trainings at a time, each as soon as the runs that it needs have finished.

    arrays: starts the derivation of a training's arrays, only one at a time; begin: starts the training, None when it was done
    before. When one fails, the running ones finish; then KitError is raised.
    """
    waiting = list(trainings)
    running: dict[str, tuple[Training, Child, bool]] = {}  # True: still deriving arrays
    failed: list[str] = []
    try:
        while waiting or running:
            for training in _ready(waiting, running.keys()):
                deriving = any(state for _, _, state in running.values())
                if failed or deriving or len(running) >= parallel:
                    break
                running[training.run] = (training, arrays(training), True)
                waiting.remove(training)
            for run, (training, child, deriving) in list(running.items()):
                if not child.ended(run):
                    continue
                del running[run]
                try:
                    child.check(run)
                except KitError as error:
                    failed.append(str(error))
                    print(f"{run}: failed, the others go on to their end", flush=True)
                    continue
                if not deriving:
                    end(training, child)
                elif (started := begin(training)) is not None:
                    running[run] = (training, started, False)
            if failed and not running:
                raise KitError("; ".join(failed))
            time.sleep(POLL)
    finally:
        end_and_wait([child.process for _, child, _ in running.values()])


def _ready(waiting: Sequence[Training], running: Collection[str]) -> list[Training]:
    open_runs = {*running, *(training.run for training in waiting)}
    return [training for training in waiting if not waits_for(training, open_runs)]
