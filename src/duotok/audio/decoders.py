"""Two decoders of sound files with one interface: libsndfile, and PyAV for what libsndfile does not know."""

from __future__ import annotations

import contextlib
import functools
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
from duotok.audio.containers import Slice
from duotok.errors import AudioError

log = logging.getLogger(__name__)

BLOCK = 1 << 16
# A damaged header can state any rate; resampled from 1 Hz, a second of samples would fill the memory.
LOWEST_RATE, HIGHEST_RATE = 1000, 1_536_000
LOST_SECONDS = 0.1
LONGEST_PACKET = 1.0  # seconds; what a damaged container says beyond this is not believed
COUNTED_BYTES = 1 << 29  # films are not read through to count their sound
STATES_LENGTH = ("mov", "mp4", "m4a", "matroska", "webm", "asf", "tta", "ape", "wv", "avi")
"""ffmpeg's containers whose header states a length; for others it guesses one from the bit rate."""
UNKNOWN_LENGTH = 1 << 40  # libsndfile states 2**63 - 1 where it cannot tell

Samples = NDArray[np.float32]


class Decoder(Protocol):
    """An open sound file at its own rate and channels.

    note: one line where the container and its content differ, else ""; cut: whether the file ends before its container
    states, or lacks parts of it.
    """

    rate: int
    channels: int
    layout: tuple[str, ...]
    n_samples: int
    exact: bool
    format: str
    note: str
    cut: bool

    def blocks(self, first: int, count: int | None) -> Iterator[Samples]:
        """`[samples, channels]` float32 from sample `first` on, at most `count` samples."""
        ...

    def close(self) -> None: ...


class Unreadable(Exception):
    """This decoder cannot read the file; another may."""


_stderr_lock = threading.Lock()
if hasattr(os, "register_at_fork"):  # a child would have the lock closed for good, and no stderr
    os.register_at_fork(
        before=_stderr_lock.acquire, after_in_parent=_stderr_lock.release, after_in_child=_stderr_lock.release
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep libmpg123, which prints notes to the process's stderr, from printing between our one-line errors."""
    with _stderr_lock:
        try:
            saved = os.dup(2)
        except OSError:  # there is no stderr
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


def cut_short(path: Path, samples: int, rate: int, why: str, strict: bool) -> None:
    if strict:
        raise AudioError(f"{path}: {why} after {samples / rate:.2f} s; get the file again")
    log.warning("%s: %s after %.2f s; what could be decoded is used", path, why, samples / rate)


class SndfileDecoder:
    """libsndfile. source: a part of the file to read (None: all of it); raw: the sample format of a part without a header."""

    def __init__(
        self, path: Path, strict: bool = False, source: Slice | None = None, raw: dict[str, Any] | None = None
    ) -> None:
        self.path, self.strict, self._source = path, strict, source
        self.note, self.cut = "", False
        try:
            with _quiet():
                # Bytes, because a name need not be text in any encoding.
                opened = os.fsencode(path) if source is None else source
                self._file: Any = soundfile.SoundFile(opened, **(raw or {}))
        except (RuntimeError, TypeError, OSError, AssertionError) as error:
            if source is not None:
                source.close()
            raise Unreadable(str(error)) from None
        self.rate, self.channels = int(self._file.samplerate), int(self._file.channels)
        self.exact = 0 <= self._file.frames < UNKNOWN_LENGTH
        self.n_samples = int(self._file.frames) if self.exact else 0
        self.format = f"{self._file.format}/{self._file.subtype}"
        self.layout = default_layout(self.channels)
        try:
            # A damaged file can often be opened: one block must be decoded before this decoder is trusted.
            opening = self._read(1024)
            self._file.seek(0)
        except RuntimeError as error:
            self._file.close()
            raise Unreadable(str(error)) from None
        if self._file.format == "RAW" and raw is None:
            self._file.close()
            raise Unreadable("it has no header, and a name says nothing about its bytes")
        if (len(opening) == 0 and self.n_samples > 0) or self.rate <= 0:
            self._file.close()
            raise Unreadable("nothing could be decoded")
        if self.channels > 2 and self._file.format == "OGG":
            self._file.close()
            raise Unreadable("vorbis and opus have a channel order of their own, which PyAV puts right")

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
                raise AudioError(f"{self.path}: damaged ({short(error)}); get the file again") from None
            if self.cut:
                return
            rest = self._rest(first + done, None if count is None else count - done)
            if rest is None:
                cut_short(self.path, first + done, self.rate, "damaged", self.strict)
            else:
                yield from rest
            return
        expected = self.n_samples - first if count is None else min(count, self.n_samples - first)
        if self.exact and not self.cut and done < expected - 4 * 1152:  # encoders pad and trim a few frames of 1152
            cut_short(self.path, first + done, self.rate, "cut off", self.strict)

    def _rest(self, first: int, count: int | None) -> Iterator[Samples] | None:
        """The rest of an mp3 after damage that stops libsndfile; None where it stops ffmpeg as well."""
        if self._file.format != "MP3" or self._source is not None or self.strict:
            return None
        try:
            fallback = AvDecoder(self.path)
        except Unreadable:
            return None
        if (fallback.rate, fallback.channels) != (self.rate, self.channels):
            fallback.close()
            return None
        log.warning("%s: damaged at %.2f s; what follows is read as well", self.path, first / self.rate)

        def blocks() -> Iterator[Samples]:
            with contextlib.closing(fallback):
                yield from fallback.blocks(first, count)

        return blocks()

    def close(self) -> None:
        self._file.close()
        if self._source is not None:
            self._source.close()


class AvDecoder:
    """PyAV, ffmpeg's demuxers and decoders: m4a, aac, webm, surround ogg, and odd files."""

    def __init__(self, path: Path, strict: bool = False) -> None:
        import av

        self.path, self.strict = path, strict
        self.note, self.cut = "", False
        self._handle = Slice(path)
        try:
            self._container: Any = av.open(self._handle, "r")
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self._handle.close()
            raise Unreadable(short(error)) from None
        streams = self._container.streams.audio
        if not streams:
            self.close()
            raise Unreadable("no audio in it")
        if len(streams) > 1:
            self.note = f"holds {len(streams)} sound tracks; the first one is read"
        self._stream = streams[0]
        context = self._stream.codec_context
        if context is None:  # a codec that ffmpeg has no decoder for
            self.close()
            raise Unreadable("no decoder for it")
        self.rate, self.channels = int(context.sample_rate or 0), int(context.channels or 0)
        if self.rate <= 0 or self.channels <= 0:
            self.close()
            raise Unreadable("no audio in it")
        self.layout = tuple(channel.name for channel in context.layout.channels)
        if len(self.layout) != self.channels:
            self.layout = default_layout(self.channels)
        self.exact = False
        seconds = 0.0
        if self._stream.duration and self._stream.time_base:
            seconds = float(self._stream.duration * self._stream.time_base)
        elif self._container.duration:
            seconds = self._container.duration / 1e6
        self.format = f"{self._container.format.name}/{context.name}"
        stated = max(0, round(seconds * self.rate))
        counted = counted_samples(path)
        self.n_samples = stated if counted is None else counted
        states = any(name in STATES_LENGTH for name in self._container.format.name.split(","))
        self._stated = stated if states else 0
        if counted is not None and stated and states:
            if counted < stated - self.rate // 2:
                self.cut = True
                self.note = f"is cut off: {stated / self.rate:.2f} s by its header, {counted / self.rate:.2f} s in it"
            else:
                self.n_samples = stated  # closer than the packets, which the encoder padded

    def _frames(self) -> Iterator[Samples]:
        """All samples in blocks of any size; silence for what cannot be decoded, so that what follows keeps its time."""
        import av

        layout = self._stream.codec_context.layout
        resampler: Any = None
        n_decoded, previous_kind, lost, reason = 0, None, 0.0, ""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, EOFError):
                break
            except (av.error.FFmpegError, ValueError) as error:
                if n_decoded and not self.cut:
                    cut_short(self.path, n_decoded, self.rate, "damaged", self.strict)
                reason = short(error)
                break
            try:
                decoded = packet.decode()
            except EOFError:
                break
            except (av.error.FFmpegError, ValueError) as error:
                # One packet only: the header of an appended file, or damage after which the decoder goes on.
                seconds = float((packet.duration or 0) * (packet.time_base or 0))
                lost, reason = lost + seconds, short(error)
                if n_decoded:
                    yield np.zeros((round(min(seconds, LONGEST_PACKET) * self.rate), self.channels), np.float32)
                continue
            for frame in decoded:
                frame.pts = None
                kind = frame.format.name, frame.layout.name, frame.sample_rate
                if kind != previous_kind:  # an appended file may have another format
                    previous_kind, rest = kind, [] if resampler is None else resampler.resample(None)
                    resampler = av.AudioResampler(format="flt", layout=layout, rate=self.rate)
                    for out in rest:
                        n_decoded += out.samples
                        yield self._samples(out)
                for out in resampler.resample(frame):
                    n_decoded += out.samples
                    yield self._samples(out)
        if resampler is not None:
            yield from map(self._samples, resampler.resample(None))
        if not n_decoded and reason:
            raise AudioError(f"{self.path}: damaged ({reason}); get the file again")
        if lost > LOST_SECONDS and not self.cut:
            if self.strict:
                raise AudioError(f"{self.path}: damaged, {lost:.2f} s of it cannot be decoded; get the file again")
            log.warning("%s: damaged, %.2f s of it cannot be decoded and are silent", self.path, lost)

    def _samples(self, frame: Any) -> Samples:
        block: Samples = frame.to_ndarray().reshape(-1, self.channels)
        return block

    def blocks(self, first: int, count: int | None) -> Iterator[Samples]:
        # Seeking in compressed streams is only about right; decoding from the start is exact.
        position = done = 0
        buffer: list[Samples] = []
        buffered = 0
        for block in self._frames():
            begin = max(0, first - position)
            position += len(block)
            block = block[begin:]
            if count is not None:
                block = block[: count - done]
            done += len(block)
            if len(block):
                buffer.append(block)
                buffered += len(block)
            if buffered >= BLOCK:
                yield np.concatenate(buffer)
                buffer, buffered = [], 0
            if count is not None and done >= count:
                break
        if buffer:
            yield np.concatenate(buffer)
        missing = self._stated - position
        if missing > self.rate // 2 and (count is None or done < count) and not self.cut:
            cut_short(self.path, position, self.rate, "cut off", self.strict)

    def close(self) -> None:
        self._container.close()
        self._handle.close()


def counted_samples(path: Path) -> int | None:
    """Samples of one channel in the packets of the first sound track, counted without decoding; None where ffmpeg cannot.

    Padding by the encoder counts, so the result may be about 0.1 s too long.
    """
    status = path.stat()
    return _count_samples(path, status.st_size, status.st_mtime_ns) if status.st_size <= COUNTED_BYTES else None


@functools.lru_cache(maxsize=64)
def _count_samples(path: Path, size: int, modified: int) -> int | None:
    import av

    try:
        with contextlib.closing(Slice(path)) as file, av.open(file, "r") as container:
            if not container.streams.audio:
                return None
            stream = container.streams.audio[0]
            rate, base, ticks = stream.codec_context.sample_rate, stream.time_base, 0
            packets = container.demux(stream)
            with contextlib.suppress(av.error.FFmpegError, ValueError):
                for packet in packets:
                    ticks += packet.duration or 0
            return round(ticks * base * rate) if ticks and base and rate else None
    except (av.error.FFmpegError, OSError, ValueError, AttributeError):
        return None


def short(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "]" in text and text.startswith("[Errno"):
        text = text.split("]", 1)[1].strip().split(":", 1)[0]
    return text.rstrip(".") or type(error).__name__
