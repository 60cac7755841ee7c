"""WhisperX and FunASR, each in an environment of its own: their pins conflict with DuoTok's, so files are exchanged.

A tool is started once and kept (its models take long to load); each recording goes to it as a wav file and comes back as
the tool's own JSON, which `duotok.lyrics.speech` reads. Not verified here with the real tools.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from duotok import tool_process
from duotok.audio.io import Writer, stream
from duotok.errors import ConfigError
from duotok.files import temporary_folder
from duotok.lyrics import speech
from duotok.lyrics.repair import Draft, repair
from duotok.lyrics.types import Lyrics, LyricsError
from duotok.tool_process import ToolError, ToolProcess, short

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
    hint = f"make one: python3 -m venv ENV && ENV/bin/pip install {TOOLS[tool].install}" if tool in TOOLS else ""
    return tool_process.interpreter(python, hint)


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
        self._process = ToolProcess(self.tool.name, "give it more with --timeout", "is --python a Python?")

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
        with temporary_folder("duotok-words-") as folder:
            wav, out = folder / "audio.wav", folder / "words.json"
            length = _write_wav(audio, wav, start, seconds)
            self._start()
            request = {"audio": str(wav), "out": str(out), "language": language}
            try:
                answer = self._process.ask(request, self.config.timeout)
            except ToolError as error:
                raise LyricsError(str(error)) from None
            if "done" not in answer:
                raise LyricsError(f"{audio}: {self.tool.name} failed ({short(answer.get('error', answer))})")
            try:
                values = json.loads(out.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise LyricsError(f"{audio}: {self.tool.name} left no JSON ({error})") from None
            return repair(self.tool.parse(values, str(audio)), str(audio), seconds=length, may_be_empty=True)

    def _start(self) -> None:
        if self._process.runs:
            return
        config = self.config
        options = {
            "model": config.model or self.tool.model, "device": config.device,
            "compute_type": config.compute_type, "batch_size": config.batch_size,
        }  # fmt: skip
        command = [str(self.python), str(RUNNER), config.name, json.dumps(options)]
        try:
            answer = self._process.start(command, config.start_timeout)
        except ToolError as error:
            raise ConfigError(f"{self.python}: {config.name} does not start ({error})") from None
        if "ready" not in answer:
            reason = short(answer.get("fatal", answer))
            remedy = (
                f"{self.python} -m pip install {self.tool.install}"
                if "ModuleNotFound" in reason
                else "see its own manual"
            )
            self.close()
            raise ConfigError(f"{self.python}: {config.name} cannot be used there ({reason}); {remedy}")
        self.version = str(answer["ready"])

    def close(self) -> None:
        """End the tool and whatever it started."""
        self._process.close()


def _write_wav(audio: str | Path, wav: Path, start: float, seconds: float | None) -> float:
    """16 kHz mono 16 bit, block by block; its length in seconds."""
    samples = 0
    with Writer(wav, RATE, 1, bits=16) as writer:
        for block in stream(audio, RATE, 1, start=start, seconds=seconds):
            writer.write(block.clamp(-1, 1))
            samples += block.shape[1]
    return samples / RATE
