"""WhisperX and FunASR, each in an environment of its own: their pins conflict with DuoTok's, so files are exchanged.

A tool is started once and kept (its models take long to load); each recording goes to it as a wav file and comes back as
the tool's own JSON, which `duotok.lyrics.speech` reads. Not verified here with the real tools.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from duotok.audio.io import Writer, stream
from duotok.errors import ConfigError
from duotok.lyrics import speech
from duotok.lyrics.repair import Draft, repair
from duotok.lyrics.types import Lyrics, LyricsError

RUNNER = Path(__file__).parent / "runners" / "transcribe_runner.py"
RATE = 16_000
CHINESE = "zh"


@dataclass(frozen=True)
class Tool:
    """A recognizer: how it is installed, its default model, and the parser of its JSON."""

    name: str
    install: str
    model: str
    parse: Callable[[Any, str], Draft]


TOOLS = {
    "whisperx": Tool("whisperx", "whisperx", "large-v3", speech.whisperx),
    "funasr": Tool("funasr", "funasr torch torchaudio", "paraformer-zh", speech.funasr),
}


@dataclass(frozen=True)
class ToolConfig:
    """python: the interpreter of the tool's environment, that environment's folder, or a script installed in it
    (`.../bin/whisperx`). model: the tool's own name; "" is the default. timeout, start_timeout: seconds for a recording,
    and for loading the models (which may fetch them first).
    """

    name: str
    python: str
    model: str = ""
    device: str = "auto"
    compute_type: str = ""
    batch_size: int = 8
    timeout: float = 1800.0
    start_timeout: float = 3600.0


def route(language: str, chosen: str) -> str:
    """The tool for a recording: "auto" gives Chinese to FunASR and all else to WhisperX; another choice is kept."""
    if chosen == "auto":
        return "funasr" if language == CHINESE else "whisperx"
    return chosen


def interpreter(python: str, tool: str = "") -> Path:
    """The Python behind `ToolConfig.python`. Raises ConfigError when there is none."""
    path = Path(python).expanduser()
    hint = f"; make one: python3 -m venv ENV && ENV/bin/pip install {TOOLS[tool].install}" if tool in TOOLS else ""
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


class Transcriber:
    """A running tool. Use as a context manager, or call `close`.

    Raises ConfigError when the environment or the tool in it is missing; LyricsError for a recording that it cannot transcribe.
    """

    def __init__(self, config: ToolConfig) -> None:
        if config.name not in TOOLS:
            raise ConfigError(f"transcriber '{config.name}' is unknown; there are {', '.join(TOOLS)}")
        self.config, self.tool = config, TOOLS[config.name]
        self.python = interpreter(config.python, config.name)
        self.version = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._buffer = b""

    def __enter__(self) -> Transcriber:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def transcribe(
        self, audio: str | Path, language: str = "", start: float = 0.0, seconds: float | None = None
    ) -> Lyrics:
        """Lyrics of a sound file, or of `seconds` of it from `start`; times count from there.

        language: ISO 639-1, "" lets the tool find out. A recording without words gives no lines.
        """
        with tempfile.TemporaryDirectory(prefix="duotok-words-") as folder:
            wav, out = Path(folder) / "audio.wav", Path(folder) / "words.json"
            length = _write_wav(audio, wav, start, seconds)
            self._start()
            self._send({"audio": str(wav), "out": str(out), "language": language})
            answer = self._answer(self.config.timeout)
            if "done" not in answer:
                raise LyricsError(f"{audio}: {self.tool.name} failed ({_short(answer.get('error', answer))})")
            try:
                values = json.loads(out.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise LyricsError(f"{audio}: {self.tool.name} left no JSON ({error})") from None
            return repair(self.tool.parse(values, str(audio)), str(audio), seconds=length, may_be_empty=True)

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        config = self.config
        options = {
            "model": config.model or self.tool.model, "device": config.device,
            "compute_type": config.compute_type, "batch_size": config.batch_size,
        }  # fmt: skip
        # Our own packages must not leak into the other environment.
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
        self._log = tempfile.TemporaryFile(prefix="duotok-tool-")  # noqa: SIM115
        self._buffer = b""
        try:
            self._process = subprocess.Popen(
                [str(self.python), str(RUNNER), config.name, json.dumps(options)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=env, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise ConfigError(f"{self.python}: cannot be started ({error.strerror}); check --python") from None
        try:
            answer = self._answer(config.start_timeout)
        except LyricsError as error:
            raise ConfigError(f"{self.python}: {config.name} does not start ({error})") from None
        if "ready" not in answer:
            reason = _short(answer.get("fatal", answer))
            remedy = (
                f"{self.python} -m pip install {self.tool.install}"
                if "ModuleNotFound" in reason
                else "see its own manual"
            )
            self.close()
            raise ConfigError(f"{self.python}: {config.name} cannot be used there ({reason}); {remedy}")
        self.version = str(answer["ready"])

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        with contextlib.suppress(OSError):  # reading the answer reports a tool that has died
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()

    def _answer(self, timeout: float) -> dict[str, Any]:
        """The next line of the runner. Raises LyricsError when it takes longer than `timeout` or the tool ends."""
        assert self._process is not None and self._process.stdout is not None
        pipe, deadline = self._process.stdout.fileno(), time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.close()
                    raise LyricsError(f"{self.tool.name}: no answer within {timeout:g} s; give it more with --timeout")
                block = os.read(pipe, 1 << 16)
                if not block:
                    code, last_line = self._process.wait(), self._last_log_line()
                    self.close()
                    raise LyricsError(f"{self.tool.name} ended with code {code} ({last_line or 'without a word'})")
                self._buffer += block
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            self.close()
            raise LyricsError(f"{self.tool.name}: no answer of our runner ({_short(line)}); is --python a Python?")
        return answer

    def _last_log_line(self) -> str:
        if self._log is None:
            return ""
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - 4000))
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return _short(lines[-1]) if lines else ""

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


def _write_wav(audio: str | Path, wav: Path, start: float, seconds: float | None) -> float:
    """16 kHz mono 16 bit, block by block; its length in seconds."""
    samples = 0
    with Writer(wav, RATE, 1, bits=16) as writer:
        for block in stream(audio, RATE, 1, start=start, seconds=seconds):
            writer.write(block.clamp(-1, 1))
            samples += block.shape[1]
    return samples / RATE


def _short(value: Any) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return " ".join(text.split())[:200]
