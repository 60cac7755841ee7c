"""What a container states against what is in the file: data sizes of wav, w64, aiff, au and caf, the links of ogg.

Libraries trust the header. A recorder that was switched off, a broken download, or two files that were joined leave headers
that state too little or too much; here they are compared with the size of the file.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

# What writers store while the size is not known yet.
UNKNOWN = (0, 0x7FFFFFFF, 0x80000000)
UNKNOWN_FROM = 0xFFFF0000
TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")
MOST_CHUNKS = 10_000
LEAST = 4096
"""Fewer bytes than this after the data are ignored."""


@dataclass(frozen=True)
class Layout:
    """Where the sound of a file lies. Offsets and sizes in bytes.

    start, stated: first byte and size of the data by the header (stated None where it is left open); available: bytes from
    start to the end of the file; beyond: whether sound goes on after the stated size; links: where further whole files
    begin that were appended to the first; broken: the file ends inside a page of ogg; damaged: pages of ogg fail their checksum or
    are missing; unended: its last page of ogg is not marked as the last; big: big-endian samples.
    """

    start: int = 0
    stated: int | None = None
    available: int = 0
    beyond: bool = False
    links: tuple[int, ...] = ()
    broken: bool = False
    damaged: bool = False
    unended: bool = False
    big: bool = False

    @property
    def cut(self) -> bool:
        """Whether the file ends before its header says."""
        return self.broken or (self.stated is not None and self.stated > self.available + 2)


def examine(path: Path) -> Layout | None:
    """The layout of a wav, rf64, w64, aiff, au, caf or ogg file; None for other files. Raises OSError."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(16)
        if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
            return _chunks(file, size, b"data", ">" if head[:4] == b"RIFX" else "<")
        if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
            return _chunks(file, size, b"SSND", ">")
        if head[:4] == b".snd":
            start, stated = struct.unpack(">II", head[4:12])
            open_ended = stated >= UNKNOWN_FROM
            beyond = not open_ended and size - start > stated + LEAST
            return Layout(start, None if open_ended else stated, max(0, size - start), beyond, big=True)
        if head[:4] == b"caff":
            return _caf(file, size)
        if head[:4] == b"OggS":
            return _ogg(file, size)
        if head[:4] == b"riff":
            return _w64(file, size)
    return None


SPEAKERS = ("FL", "FR", "FC", "LFE", "BL", "BR", "FLC", "FRC", "BC", "SL", "SR")
"""By the bits of a wav's channel mask."""


def wave_layout(path: Path, channels: int) -> tuple[str, ...]:
    """The places of a wav's channels by its mask; () where it has none, or not one for each channel. Raises OSError."""
    with open(path, "rb") as file:
        order = ">" if file.read(12)[:4] == b"RIFX" else "<"
        for _ in range(MOST_CHUNKS):
            head = file.read(8)
            if len(head) < 8 or head[:4] == b"data":
                break
            size = struct.unpack(order + "I", head[4:])[0]
            if head[:4] == b"fmt ":
                content = file.read(24)
                if size < 40 or len(content) < 24 or content[:2] not in (b"\xfe\xff", b"\xff\xfe"):
                    break
                mask = struct.unpack(order + "I", content[20:])[0]
                names = tuple(name for bit, name in enumerate(SPEAKERS) if mask >> bit & 1)
                return names if len(names) == channels == mask.bit_count() else ()
            file.seek(size + size % 2, os.SEEK_CUR)
    return ()


def _chunks(file: IO[bytes], size: int, data_name: bytes, order: str) -> Layout | None:
    """RIFF and IFF: chunks of a name, a size of 32 bits, and the content filled up to an even length."""
    at, long_size = 12, None
    for _ in range(MOST_CHUNKS):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return None  # no data in it: the library reports that
        name, stated = head[:4], struct.unpack(order + "I", head[4:])[0]
        if name == b"ds64":
            long_size = struct.unpack("<Q", file.read(16)[8:16])[0]
        if name == data_name:
            break
        at += 8 + stated + stated % 2
    else:
        return None
    start = at + 8
    if data_name == b"SSND":
        file.seek(start)
        offset = struct.unpack(">I", file.read(4).ljust(4, b"\0"))[0]
        start, stated = start + 8 + offset, max(0, stated - 8 - offset)
    if stated >= UNKNOWN_FROM and long_size:
        stated = long_size
    available = max(0, size - start)
    big = order == ">"
    if stated in UNKNOWN or (stated >= UNKNOWN_FROM and stated > available):
        return Layout(start, None, available, beyond=stated == 0 and available > LEAST, big=big)
    beyond, links = _after_data(file, start + stated, size, order)
    return Layout(start, stated, available, beyond, links, big=big)


def _after_data(file: IO[bytes], at: int, size: int, order: str) -> tuple[bool, tuple[int, ...]]:
    """What follows the data: whether it is sound that the header does not count, and where appended files begin."""
    links = []
    while size - at >= LEAST:
        file.seek(at)
        head = file.read(64)
        if not head[0] and head[1:2].isalpha():  # the padding byte of an odd length
            at, head = at + 1, head[1:]
        if head.startswith(TAGS):
            break
        name, length = head[:4], struct.unpack(order + "I", head[4:8])[0]
        if name in (b"RIFF", b"RIFX", b"RF64", b"FORM"):
            links.append(at)
        elif not name.isascii() or not name.decode().isprintable() or at + 8 + length > size + 1:
            return _has_content(file, at, size), tuple(links)
        at += 8 + length + length % 2
    return False, tuple(links)


def _has_content(file: IO[bytes], at: int, size: int) -> bool:
    """Whether there is anything but zeros from byte `at` on."""
    file.seek(at)
    while block := file.read(1 << 20):
        if block.count(0) != len(block):
            return True
    return False


def _caf(file: IO[bytes], size: int) -> Layout | None:
    at = 8
    for _ in range(MOST_CHUNKS):
        file.seek(at)
        head = file.read(12)
        if len(head) < 12:
            return None
        stated = struct.unpack(">q", head[4:])[0]
        if head[:4] == b"data":
            start = at + 16
            return Layout(start, None if stated < 0 else stated - 4, max(0, size - start))
        at += 12 + max(0, stated)
    return None


def _w64(file: IO[bytes], size: int) -> Layout | None:
    at = 40
    for _ in range(MOST_CHUNKS):
        file.seek(at)
        head = file.read(24)
        if len(head) < 24:
            return None
        length = struct.unpack("<Q", head[16:])[0]
        if head[:4] == b"data":
            return Layout(at + 24, length - 24, max(0, size - at - 24))
        at += max(24, -(-length // 8) * 8)
    return None


def _ogg(file: IO[bytes], size: int) -> Layout:
    """Walks the pages: where a stream begins after another one had begun to sound, a link begins.

    Decoders leave out pages that fail their checksum, a second of sound each, and tell nobody.
    """
    at, begun, ended, damaged = 0, False, False, False
    links: list[int] = []
    following: dict[int, int] = {}  # stream -> the number of its next page
    while at + 27 <= size:
        file.seek(at)
        head = file.read(27)
        if head[:4] != b"OggS":
            page = _next_page(file, at, size)
            if page is None:
                break
            at = page
            continue
        flags, segments = head[5], head[26]
        stream, number, checksum = struct.unpack("<III", head[14:26])
        table = file.read(segments)
        end = at + 27 + segments + sum(table)
        if end > size and _next_page(file, at + 4, size) is None:
            return Layout(0, None, size, links=tuple(links), broken=True, damaged=damaged)
        file.seek(at + 27 + segments)
        if _checksum(head[:22] + bytes(4) + head[26:] + table + file.read(sum(table))) != checksum:
            damaged, at = True, at + 4
            continue
        first = bool(flags & 2)  # of a stream, whose name another one in a joined file may have had
        damaged = damaged or (not first and number != following.get(stream, number))
        following[stream] = number + 1
        if first:
            if begun:
                links.append(at)
                begun = False
        else:
            begun = True
        ended = bool(flags & 4)
        at = end
    return Layout(0, None, size, links=tuple(links), damaged=damaged, unended=not ended)


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _checksum(page: bytes) -> int:
    """The CRC of ogg: zlib's of reversed bits, without its inversions."""
    crc = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)


def _next_page(file: IO[bytes], at: int, size: int) -> int | None:
    """Offset of the next page after bytes that belong to none."""
    while size - at > 3:
        file.seek(at)
        block = file.read(1 << 16)
        offset = block.find(b"OggS")
        if offset >= 0:
            return at + offset
        at += len(block) - 3
    return None


class Slice:
    """Bytes `[start, stop)` of a file as a file object with read, seek and tell.

    It has no name. ffmpeg takes names for addresses ("a:b.mp3"), wants them in UTF-8, and guesses formats without a header
    from an ending, so that any bytes would pass as sound.
    """

    def __init__(self, path: Path, start: int = 0, stop: int | None = None) -> None:
        self._file: IO[bytes] = open(path, "rb")  # noqa: SIM115 - closed by close()
        self._start, self._stop = start, path.stat().st_size if stop is None else stop
        self._file.seek(start)

    def read(self, count: int = -1) -> bytes:
        remaining = self._stop - self._file.tell()
        return self._file.read(remaining if count < 0 else max(0, min(count, remaining)))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: self._start, os.SEEK_CUR: self._file.tell(), os.SEEK_END: self._stop}[whence]
        return self._file.seek(max(self._start, base + offset)) - self._start

    def tell(self) -> int:
        return self._file.tell() - self._start

    def write(self, data: bytes) -> int:
        raise OSError("read only")

    def close(self) -> None:
        self._file.close()
