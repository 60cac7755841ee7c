"""Two ways into a sound file behind one face: libsndfile, and PyAV for what libsndfile does not know."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from duotok.audio.channels import WAVE_LAYOUTS
from duotok.errors import AudioError

log = logging.getLogger(__name__)

BLOCK = 1 << 16
# A damaged header can state any rate; resampled from 1 Hz, a second of samples would fill the memory.
LOWEST_RATE, HIGHEST_RATE = 1000, 1_536_000
UNKNOWN_LENGTH = 1 << 40  # libsndfile states 2**63 - 1 where it cannot tell

Samples = NDArray[np.float32]


class Decoder(Protocol):
    """An open sound file at its own rate and channels."""

    rate: int
    channels: int
    layout: tuple[str, ...]
    n_samples: int
    exact: bool
    format: str

    def blocks(self, first: int, count: int | None) -> Iterator[Samples]:
        """`[samples, channels]` float32 from sample `first` on, at most `count` samples."""
        ...

    def close(self) -> None: ...


class _Unreadable(Exception):
    """This decoder cannot read the file; another may."""


_stderr_lock = threading.Lock()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep libmpg123, which prints notes to the process's stderr, from talking between our one-line errors."""
    with _stderr_lock:
        try:
            saved = os.dup(2)
        except OSError:  # no stderr to keep quiet
            yield
            return
        try:
            with open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def default_layout(channels: int) -> tuple[str, ...]:
    return WAVE_LAYOUTS.get(channels, ("?",) * channels)


def _cut_short(path: Path, samples: int, rate: int, why: str, strict: bool) -> None:
    if strict:
        raise AudioError(f"{path}: {why} after {samples / rate:.2f} s; get the file again")
    log.warning("%s: %s after %.2f s; what could be decoded is used", path, why, samples / rate)


class SndfileDecoder:
    """libsndfile."""

    def __init__(self, path: Path, strict: bool = False) -> None:
        self.path, self.strict = path, strict
        try:
            with _quiet():
                self._file: Any = soundfile.SoundFile(path)
        except (RuntimeError, TypeError, OSError) as error:
            raise _Unreadable(str(error)) from None
        self.rate, self.channels = int(self._file.samplerate), int(self._file.channels)
        self.exact = 0 <= self._file.frames < UNKNOWN_LENGTH
        self.n_samples = int(self._file.frames) if self.exact else 0
        self.format = f"{self._file.format}/{self._file.subtype}"
        self.layout = default_layout(self.channels)
        try:
            # Opening says little about a damaged file: one block must come out before this decoder is trusted.
            opening = self._read(1024)
            self._file.seek(0)
        except RuntimeError as error:
            self._file.close()
            raise _Unreadable(str(error)) from None
        if self._file.format == "RAW":
            self._file.close()
            raise _Unreadable("it has no header, and a name says nothing about its bytes")
        if (len(opening) == 0 and self.n_samples > 0) or self.rate <= 0:
            self._file.close()
            raise _Unreadable("nothing could be decoded")
        if self.channels > 2 and self._file.format == "OGG":
            self._file.close()
            raise _Unreadable("vorbis and opus have a channel order of their own, which PyAV puts right")

    def _read(self, size: int) -> Samples:
        block: Samples
        if self._file.format == "MP3":
            with _quiet():
                block = self._file.read(size, dtype="float32", always_2d=True)
        else:
            block = self._file.read(size, dtype="float32", always_2d=True)
        return block

    def blocks(self, first: int, count: int | None) -> Iterator[Samples]:
        if self.exact and first >= self.n_samples:
            return
        done = 0
        block_size = max(1024, BLOCK // -(-self.channels // 8))
        try:
            if first:
                self._file.seek(first)
            while count is None or done < count:
                size = block_size if count is None else min(block_size, count - done)
                block = self._read(size)
                if len(block) == 0:
                    break
                done += len(block)
                yield block
        except RuntimeError as error:
            if done == 0:
                raise AudioError(f"{self.path}: damaged ({_short(error)}); get the file again") from None
            _cut_short(self.path, first + done, self.rate, "damaged", self.strict)
            return
        wanted = self.n_samples - first if count is None else min(count, self.n_samples - first)
        if self.exact and done < wanted - 4 * 1152:  # encoders pad and trim a few frames of 1152
            _cut_short(self.path, first + done, self.rate, "cut off", self.strict)

    def close(self) -> None:
        self._file.close()


class _Nameless:
    """A file without its name: formats without a header are guessed from an ending, and any bytes would be sound."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


class AvDecoder:
    """PyAV, ffmpeg's demuxers and decoders: m4a, aac, webm, surround ogg, and odd files."""

    def __init__(self, path: Path, strict: bool = False) -> None:
        import av

        self.path, self.strict = path, strict
        self._bytes = _Nameless(path)
        try:
            self._container: Any = av.open(self._bytes)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self._bytes.close()
            raise _Unreadable(_short(error)) from None
        streams = self._container.streams.audio
        if not streams:
            self.close()
            raise _Unreadable("no audio in it")
        self._stream = streams[0]
        context = self._stream.codec_context
        if context is None:  # a codec that ffmpeg has no decoder for
            self.close()
            raise _Unreadable("no decoder for it")
        self.rate, self.channels = int(context.sample_rate or 0), int(context.channels or 0)
        if self.rate <= 0 or self.channels <= 0:
            self.close()
            raise _Unreadable("no audio in it")
        self.layout = tuple(channel.name for channel in context.layout.channels)
        if len(self.layout) != self.channels:
            self.layout = default_layout(self.channels)
        self.exact = False
        seconds = 0.0
        if self._stream.duration:
            seconds = float(self._stream.duration * self._stream.time_base)
        elif self._container.duration:
            seconds = self._container.duration / 1e6
        self.n_samples = max(0, round(seconds * self.rate))
        self.format = f"{self._container.format.name}/{context.name}"

    def _frames(self) -> Iterator[Any]:
        import av

        resampler = av.AudioResampler(format="flt", layout=self._stream.codec_context.layout, rate=self.rate)
        taken = 0
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
                decoded = packet.decode()
            except StopIteration:
                return
            except EOFError:
                return
            except (av.error.FFmpegError, ValueError) as error:
                if taken == 0:
                    raise AudioError(f"{self.path}: damaged ({_short(error)}); get the file again") from None
                _cut_short(self.path, taken, self.rate, "damaged", self.strict)
                return
            for frame in decoded:
                frame.pts = None
                for out in resampler.resample(frame):
                    taken += out.samples
                    yield out

    def blocks(self, first: int, count: int | None) -> Iterator[Samples]:
        # Seeking in compressed streams is only about right; decoding from the start is exact.
        position = done = 0
        gathered: list[Samples] = []
        held = 0
        for frame in self._frames():
            block: Samples = frame.to_ndarray().reshape(-1, self.channels)
            begin = max(0, first - position)
            position += len(block)
            block = block[begin:]
            if count is not None:
                block = block[: count - done]
            done += len(block)
            if len(block):
                gathered.append(block)
                held += len(block)
            if held >= BLOCK:
                yield np.concatenate(gathered)
                gathered, held = [], 0
            if count is not None and done >= count:
                break
        if gathered:
            yield np.concatenate(gathered)

    def close(self) -> None:
        self._container.close()
        self._bytes.close()


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "]" in text and text.startswith("[Errno"):
        text = text.split("]", 1)[1].strip().split(":", 1)[0]
    return text.rstrip(".") or type(error).__name__


@contextlib.contextmanager
def open_decoder(path: Path, strict: bool = False) -> Iterator[Decoder]:
    """Open `path` with the first decoder that can. Raises AudioError when it is missing, empty or not audio.

    strict: damage in the middle is an error as well, not a warning and a shorter sound.
    """
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise AudioError(f"{path}: is a folder; give an audio file in it")
        with open(path, "rb"):
            pass
    except OSError as error:
        mend = "check the name" if isinstance(error, FileNotFoundError) else "check its permissions"
        raise AudioError(f"{path}: cannot be read ({error.strerror}); {mend}") from None
    if size == 0:
        raise AudioError(f"{path}: is empty (0 bytes); get the file again")
    decoder: Decoder
    try:
        decoder = SndfileDecoder(path, strict)
    except _Unreadable:
        try:
            decoder = AvDecoder(path, strict)
        except _Unreadable:
            raise AudioError(
                f"{path}: not audio that can be read, or damaged; use wav, flac, mp3, ogg, opus or m4a"
            ) from None
    try:
        if not LOWEST_RATE <= decoder.rate <= HIGHEST_RATE:
            raise AudioError(f"{path}: {decoder.rate} samples a second is no rate of sound; repair the file's header")
        yield decoder
    finally:
        decoder.close()
