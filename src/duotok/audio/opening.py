"""Choose the decoder of a file, and check what its container states.

libsndfile trusts headers. So its length is compared with a second source: the sizes and links of the container
(`duotok.audio.containers`), and for mp3 and flac the packets that ffmpeg's demuxer counts. Where the two differ, the file
is read to its real end and one line says so.
"""

from __future__ import annotations

import contextlib
import functools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from duotok.audio.channels import remix
from duotok.audio.containers import Layout, Slice, examine, wave_layout
from duotok.audio.decoders import (
    HIGHEST_RATE,
    LOWEST_RATE,
    AvDecoder,
    Decoder,
    Samples,
    SndfileDecoder,
    Unreadable,
    counted_samples,
)
from duotok.audio.resampling import Resampler, resampled_length
from duotok.errors import AudioError

TOLERATED_SECONDS = 0.3
RAW = ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")
DAMAGED = "some of its pages are broken or missing, with the sound in them"


class LinkedDecoder:
    """Whole files appended to each other (chained ogg, several wav), each read by libsndfile, at the rate of the first."""

    def __init__(self, path: Path, starts: tuple[int, ...], strict: bool = False) -> None:
        ends: tuple[int | None, ...] = (*starts[1:], None)
        self._parts: list[SndfileDecoder] = []
        try:
            for start, end in zip(starts, ends, strict=True):
                self._parts.append(SndfileDecoder(path, strict, Slice(path, start, end)))
        except Unreadable:
            self.close()
            raise
        first = self._parts[0]
        self.rate, self.channels, self.layout, self.format = first.rate, first.channels, first.layout, first.format
        self.exact = all(part.exact for part in self._parts)
        self.n_samples = sum(resampled_length(part.n_samples, part.rate, self.rate) for part in self._parts)
        self.note, self.cut = "", False

    def blocks(self, first: int, count: int | None) -> Iterator[Samples]:
        """See `Decoder.blocks`."""
        position, stop = 0, None if count is None else first + count
        for block in self._all():
            begin, end = max(0, first - position), len(block) if stop is None else max(0, stop - position)
            position += len(block)
            if len(block[begin:end]):
                yield block[begin:end]
            if stop is not None and position >= stop:
                return

    def _all(self) -> Iterator[Samples]:
        for part in self._parts:
            resampler = Resampler(part.rate, self.rate, self.channels)
            for block in part.blocks(0, None):
                yield resampler.push(_channels(block, part, self.channels))
            yield resampler.push(np.zeros((0, self.channels), np.float32), last=True)

    def close(self) -> None:
        for part in self._parts:
            part.close()


def _channels(block: Samples, part: Decoder, channels: int) -> Samples:
    if part.channels == channels:
        return block
    stereo = remix(block, part.layout, min(2, channels))
    return np.pad(stereo, ((0, 0), (0, channels - stereo.shape[1])))


@functools.lru_cache(maxsize=64)
def _cached_layout(path: Path, size: int, modified: int) -> Layout | None:
    try:
        return examine(path)
    except (OSError, OverflowError, ValueError, IndexError, struct.error):  # an invalid header
        return None


def _open(path: Path, strict: bool) -> Decoder:
    """The decoder that reads all of a file. Raises Unreadable."""
    status = path.stat()
    layout = _cached_layout(path, status.st_size, status.st_mtime_ns)
    if layout is not None and layout.links:
        with contextlib.suppress(Unreadable):
            linked = LinkedDecoder(path, (0, *layout.links), strict)
            linked.note = (
                f"{len(layout.links) + 1} files joined to one; all {linked.n_samples / linked.rate:.2f} s are read"
            )
            if layout.damaged:
                linked.cut, linked.note = True, f"{linked.note}, but {DAMAGED}"
            return linked
    try:
        plain = SndfileDecoder(path, strict)
    except Unreadable:
        decoder: Decoder = AvDecoder(path, strict)
        if layout is not None:
            _note_truncation(decoder, layout)
        return decoder
    kind = plain.format.partition("/")[0]
    if kind == "WAVEX" and plain.channels > 2:
        plain.layout = wave_layout(path, plain.channels) or plain.layout
    if kind in ("MP3", "FLAC"):
        return _by_packets(path, strict, plain, kind)
    if layout is None:
        return plain
    subtype = plain.format.partition("/")[2]
    if layout.beyond and (subtype in RAW or (not plain.n_samples and subtype == "")):
        return _raw(path, strict, plain, layout, subtype)
    _note_truncation(plain, layout)
    return plain


def _note_truncation(decoder: Decoder, layout: Layout) -> None:
    """Note on the decoder that its file ends too early."""
    seconds = decoder.n_samples / decoder.rate
    if layout.stated is not None and layout.cut and layout.available:
        stated = seconds * layout.stated / layout.available
        decoder.cut, decoder.note = True, f"is cut off: {stated:.2f} s by its header, {seconds:.2f} s in it"
    elif layout.broken:
        decoder.cut, decoder.note = True, f"is cut off: it ends in the middle after {seconds:.2f} s"
    elif layout.damaged:
        decoder.cut, decoder.note = True, f"is damaged: {DAMAGED}"
    elif layout.unended:
        decoder.note = f"has no end mark; {seconds:.2f} s are in it, and it may be cut off"


def _raw(path: Path, strict: bool, plain: SndfileDecoder, layout: Layout, subtype: str) -> Decoder:
    """The samples behind a header that counts too few of them."""
    plain.close()
    raw: dict[str, Any] = {
        "format": "RAW", "samplerate": plain.rate, "channels": plain.channels, "subtype": subtype,
        "endian": "BIG" if layout.big else "LITTLE",
    }  # fmt: skip
    decoder = SndfileDecoder(path, strict, Slice(path, layout.start), raw)
    decoder.layout, decoder.format = plain.layout, plain.format
    decoder.note = (
        f"its header counts {plain.n_samples / plain.rate:.2f} s, {decoder.n_samples / plain.rate:.2f} s are in it; "
        "all of it is read"
    )
    return decoder


def _by_packets(path: Path, strict: bool, plain: SndfileDecoder, kind: str) -> Decoder:
    """libsndfile for an mp3 or flac that it reads whole, otherwise ffmpeg."""
    counted, rate = counted_samples(path), plain.rate
    if counted is None:
        return plain
    stated, gap = plain.n_samples, TOLERATED_SECONDS * rate
    estimated = kind == "MP3" and not _counts_its_frames(path)
    if counted > stated + gap or not plain.exact:
        with contextlib.suppress(Unreadable):
            decoder = AvDecoder(path, strict)
            plain.close()
            decoder.n_samples, decoder.exact = counted, False
            if estimated:
                decoder.note = f"its header has no length; {counted / rate:.2f} s by its packets, all of it is read"
            elif plain.exact:
                decoder.note = (
                    f"its header counts {stated / rate:.2f} s, {counted / rate:.2f} s are in it; all of it is read"
                )
            return decoder
    if counted < stated - gap and not estimated:
        with contextlib.suppress(Unreadable):
            decoder = AvDecoder(path, strict)  # libsndfile drops about the last second
            plain.close()
            decoder.n_samples, decoder.exact, decoder.cut = counted, False, True
            decoder.note = f"is cut off: {stated / rate:.2f} s by its header, {counted / rate:.2f} s in it"
            return decoder
    if estimated:
        plain.n_samples, plain.exact = counted, False
    return plain


def _counts_its_frames(path: Path) -> bool:
    """Whether the first frame of an mp3 states the number of frames (Xing, Info or VBRI)."""
    with open(path, "rb") as file:
        head = file.read(10)
        start = 0
        if head[:3] == b"ID3":
            a, b, c, d = head[6:10]
            start = 10 + (a << 21 | b << 14 | c << 7 | d)
        file.seek(start)
        frame = file.read(4096)
    return any(mark in frame for mark in (b"Xing", b"Info", b"VBRI"))


@contextlib.contextmanager
def open_decoder(path: Path, strict: bool = False) -> Iterator[Decoder]:
    """Open `path` with the first decoder that can. Raises AudioError when it is missing, empty or not audio.

    strict: damage in the middle, or an end before the one that the container states, is an error as well, not a warning and
    a shorter sound.
    """
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise AudioError(f"{path}: is a folder; give an audio file in it")
        with open(path, "rb"):
            pass
    except OSError as error:
        remedy = "check the name" if isinstance(error, FileNotFoundError) else "check its permissions"
        raise AudioError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    if size == 0:
        raise AudioError(f"{path}: is empty (0 bytes); get the file again")
    try:
        decoder = _open(path, strict)
    except Unreadable:
        raise AudioError(
            f"{path}: not audio that can be read, or damaged; use wav, flac, mp3, ogg, opus or m4a"
        ) from None
    try:
        if not LOWEST_RATE <= decoder.rate <= HIGHEST_RATE:
            raise AudioError(f"{path}: {decoder.rate} samples a second is no rate of sound; repair the file's header")
        if strict and decoder.cut:
            raise AudioError(f"{path}: {decoder.note}; get the file again")
        yield decoder
    finally:
        decoder.close()
