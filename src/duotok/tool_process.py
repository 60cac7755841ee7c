"""A tool in an environment of its own, started once and kept: a line of JSON to it, a line of JSON back.

Pins of other people's packages conflict with ours, so files are exchanged with them, never objects. The script on the other side
answers on what was its standard output, first with one line that says whether it is ready.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from duotok.errors import ConfigError, DuoTokError

LAST_LINES = 3
LONGEST = 300


class ToolError(DuoTokError):
    """A tool that hung, ended or answered nonsense; its last lines are in the message."""


class ToolProcess:
    """One running tool. `start`, then `ask` as often as wanted, from any thread; after a ToolError or an interrupt it is closed and
    can be started again.

    name: of the tool, for messages; slow, foreign: the remedies when it takes too long, and when it is no runner of ours.
    """

    def __init__(self, name: str, slow: str = "give it more time", foreign: str = "is that a Python?") -> None:
        self.name, self._slow, self._foreign = name, slow, foreign
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._buffer = b""
        self._lock = threading.Lock()

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, command: Sequence[str], timeout: float, **environment: str) -> dict[str, Any]:
        """Start `command`, with `environment` beside ours, and take its first answer.

        timeout: seconds. Raises ConfigError when it cannot be started, ToolError when it does not answer.
        """
        self.close()
        # Our own packages must not leak into the other environment.
        env = {
            k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        } | environment
        self._log = tempfile.TemporaryFile(prefix="duotok-tool-")  # noqa: SIM115
        self._buffer = b""
        try:
            self._process = subprocess.Popen(
                list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
                env={**(os.environ if env is None else env), "PYTHONUNBUFFERED": "1"},  # or its last words are not there yet
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self.close()
            raise ConfigError(f"{command[0]}: cannot be started ({error.strerror}); name another Python") from None
        with self._kept_in_step():
            return self._answer(timeout)

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        """The answer to `request`, both JSON objects. timeout: seconds. Raises ToolError."""
        with self._lock, self._kept_in_step():
            if self._process is None:  # another thread's request ended it
                raise ToolError(f"{self.name}: has ended; ask again")
            assert self._process.stdin is not None
            with contextlib.suppress(OSError):  # a tool that has died says so by its answer
                self._process.stdin.write(json.dumps(request).encode() + b"\n")
                self._process.stdin.flush()
            return self._answer(timeout)

    @contextlib.contextmanager
    def _kept_in_step(self) -> Iterator[None]:
        """An answer that comes after an interrupt would be taken for that of the next request: the tool is closed then."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _answer(self, timeout: float) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        pipe, until = self._process.stdout.fileno(), time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, until - time.monotonic())):
                    last = self.last_words()
                    self.close()
                    said = f" (its last words: {last})" if last else ""
                    raise ToolError(f"{self.name}: no answer within {timeout:g} s{said}; {self._slow}")
                block = os.read(pipe, 1 << 16)
                if not block:
                    code, last = self._process.wait(), self.last_words()
                    self.close()
                    raise ToolError(f"{self.name} ended with code {code} ({last or 'without a word'})")
                self._buffer += block
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            self.close()
            raise ToolError(f"{self.name}: no answer of our runner ({short(line)}); {self._foreign}")
        return answer

    def last_words(self) -> str:
        """The last lines that it wrote to its standard error, as one."""
        if self._log is None:
            return ""
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - 4000))
        lines = [line for line in self._log.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return short(" | ".join(line.strip() for line in lines[-LAST_LINES:]), keep_end=True)

    def close(self) -> None:
        """End the tool and whatever it started."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None and process.stdout is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
        if self._log is not None:
            self._log.close()
            self._log = None


def interpreter(python: str, hint: str = "") -> Path:
    """The Python that is meant: its file, the folder of its environment, or a script installed there (`.../bin/whisperx`).

    hint: how to make such an environment. Raises ConfigError when there is none.
    """
    path = Path(python).expanduser()
    hint = f"; {hint}" if hint else ""
    if path.is_dir():
        for place in (path / "bin" / "python", path / "Scripts" / "python.exe", path / "python.exe"):
            if place.is_file():
                return place
        raise ConfigError(f"{path}: no Python environment (no bin/python in it){hint}")
    if not path.is_file():
        raise ConfigError(f"{python}: no such Python{hint}")
    if not path.name.lower().startswith(("python", "pypy")):
        with open(path, "rb") as file:
            first = file.readline(512)
        script = Path(os.fsdecode(first[2:].split()[0])) if first.startswith(b"#!") and first[2:].split() else None
        if script is not None and script.is_file() and script.name.startswith(("python", "pypy")):
            return script
    if not os.access(path, os.X_OK):
        raise ConfigError(f"{path}: cannot be executed; name the python of the tool's environment")
    return path


def short(value: Any, keep_end: bool = False) -> str:
    """Any text in one line, cut."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    text = " ".join(text.split())
    return text[-LONGEST:] if keep_end else text[:LONGEST]
