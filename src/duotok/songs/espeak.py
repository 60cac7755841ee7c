"""Spoken words from espeak-ng: samples and phone times, each a pure function of voice, text, rate and pitch."""

from __future__ import annotations

import atexit
import functools
import json
import os
import re
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from duotok.errors import DuoTokError, MissingExtraError

INSTALL = "pip install 'duotok[songs]'"


@dataclass(frozen=True)
class Spoken:
    """A spoken word: samples [n] in -1..1, its rate, and phones as (start in seconds, IPA); `end` in seconds."""

    samples: NDArray[np.float64]
    rate: int
    phones: tuple[tuple[float, str], ...]
    end: float


class _Server:
    """The client's side of `_speak_server.py`; one for each process, started when first needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def _start(self) -> subprocess.Popen[bytes]:
        # a fork of this process must not share the parent's pipes
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return self._process
        try:
            import espeakng_loader
        except ImportError as error:
            raise MissingExtraError(f"singing needs espeakng-loader, which is not installed: {INSTALL}") from error
        script = Path(__file__).with_name("_speak_server.py")
        command = [sys.executable, "-I", "-S", str(script)]
        command += [espeakng_loader.get_library_path(), espeakng_loader.get_data_path()]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._owner = os.getpid()
        return self._process

    def ask(self, request: dict[str, object]) -> Spoken:
        process = self._start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer, read below, has the reason
        head = json.loads(self._read(process, struct.unpack("<I", self._read(process, 4))[0]))
        if "error" in head:
            raise DuoTokError(f"{head['error']}: reinstall espeakng-loader ({INSTALL})")
        samples = np.frombuffer(self._read(process, 2 * head["samples"]), "<i2").astype(np.float64) / 32768
        if not hasattr(os, "fork"):
            self.close()
        # a mark such as (en) means that espeak-ng speaks a foreign word by the rules of that language
        raw_phones = [(ms / 1000, re.sub(r"\(.*?\)", "", ipa)) for ms, ipa in head["phones"]]
        phones = tuple((start, ipa) for start, ipa in raw_phones if ipa)
        return Spoken(samples, head["rate"], phones, head["end"] / 1000)

    @staticmethod
    def _read(process: subprocess.Popen[bytes], count: int) -> bytes:
        assert process.stdout is not None
        data = process.stdout.read(count)
        if len(data) != count:
            raise DuoTokError(f"the espeak-ng server stopped: reinstall espeakng-loader ({INSTALL})")
        return data

    def close(self) -> None:
        if self._process is not None and self._owner == os.getpid():
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process.wait(timeout=5)
        self._process = None


_server = _Server()
atexit.register(_server.close)


@functools.lru_cache(maxsize=256)
def speak(voice: str, text: str, rate: int = 140, pitch: int = 40) -> Spoken:
    """Speak `text` with a flat pitch. `voice` is an espeak-ng name such as "en-us+f2"; `rate` in words a minute.

    Raises MissingExtraError without espeakng-loader, DuoTokError when espeak-ng does not know the voice.
    """
    return _server.ask({"voice": voice, "text": text, "rate": rate, "pitch": pitch})
