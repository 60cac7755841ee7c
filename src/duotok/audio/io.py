"""Sound files as tensors: read, stream, probe, write, resample.

libsndfile comes first (wav, flac, mp3, ogg, opus, aiff, ...); what it cannot open, or can read only in part, goes to
PyAV, which brings its own ffmpeg (m4a, aac, webm, ...). Everything runs block by block, so a long file costs no more memory than a short one, and
`read` is the concatenation of `stream`, so that the two cannot differ.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from duotok.audio.channels import remix
from duotok.audio.opening import open_decoder
from duotok.audio.resampling import Resampler
from duotok.clock import SAMPLE_RATE
from duotok.errors import AudioError
from duotok.files import SOUND_PARTIAL, hold, put, remove_left_over, temporary

WRITE_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus")
_LOSSY = {".mp3": ("MP3", "MPEG_LAYER_III"), ".ogg": ("OGG", "VORBIS"), ".opus": ("OGG", "OPUS")}
# 120 dB over full scale: larger samples are not sound, and their power would overflow float32 later.
LARGEST_SAMPLE = 1e6
WAV_LIMIT_BYTES = 4_000_000_000

Samples = NDArray[np.float32]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AudioInfo:
    """What the header of a file states. `n_samples` counts samples of one channel at the file's own `rate`.

    `exact` is False where the container only states an estimate (some mp3, m4a, webm). `note`: one line
    where the container and its content differ; `cut`: whether the file ends before its container states.
    """

    path: Path
    rate: int
    channels: int
    n_samples: int
    format: str
    exact: bool = True
    note: str = ""
    cut: bool = False

    @property
    def seconds(self) -> float:
        return self.n_samples / self.rate


def probe(path: str | Path) -> AudioInfo:
    """Read the header of `path`. Raises AudioError when it is missing, empty or not audio."""
    with open_decoder(Path(path)) as decoder:
        return AudioInfo(
            Path(path), decoder.rate, decoder.channels, decoder.n_samples, decoder.format, decoder.exact, decoder.note,
            decoder.cut,
        )  # fmt: skip


def resample(audio: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Resample `[..., samples]` float32 with soxr HQ to exactly `ceil(samples * to_rate / from_rate)` samples."""
    if from_rate <= 0 or to_rate <= 0:
        raise ValueError(f"rates must be positive, got {from_rate} and {to_rate}")
    if from_rate == to_rate:
        return audio
    flat = audio.detach().reshape(-1, audio.shape[-1]).float().cpu().numpy()
    out = Resampler(from_rate, to_rate, flat.shape[0]).push(np.ascontiguousarray(flat.T), last=True)
    return torch.from_numpy(np.ascontiguousarray(out.T)).reshape(*audio.shape[:-1], out.shape[0])


def _check_samples(block: Samples, path: Path, before: int, rate: int) -> None:
    peak = float(np.abs(block).max()) if block.size else 0.0
    if peak <= LARGEST_SAMPLE:  # false for NaN as well
        return
    bad = ~(np.abs(block) <= LARGEST_SAMPLE).all(axis=1)
    where = (before + int(np.argmax(bad))) / rate
    raise AudioError(
        f"{path}: samples that are no sound (NaN, infinite or absurdly large) at {where:.3f} s; export the file again"
    )


def stream(
    path: str | Path,
    rate: int = SAMPLE_RATE,
    channels: int | None = None,
    block_seconds: float = 30.0,
    start: float = 0.0,
    seconds: float | None = None,
    strict: bool = False,
) -> Iterator[Tensor]:
    """Yield `[channels, samples]` float32 blocks of `block_seconds` (the last one shorter) at `rate`.

    Memory stays bounded. channels: None keeps the file's, 1 and 2 mix down (surround with the ITU weights) or
    duplicate. `start` and `seconds` cut in the file's own time. Raises AudioError, naming the file and the remedy, for anything
    that cannot be read as sound; with `strict` also for damage in the middle, where otherwise a warning is logged and
    what could be decoded is yielded.
    """
    path = Path(path)
    if rate <= 0 or block_seconds <= 0 or start < 0 or (seconds is not None and seconds <= 0):
        raise ValueError("rate, block_seconds and seconds must be positive, start must not be negative")
    return _blocks(path, rate, channels, max(1, round(block_seconds * rate)), start, seconds, strict)


def _blocks(
    path: Path, rate: int, channels: int | None, block: int, start: float, seconds: float | None, strict: bool
) -> Iterator[Tensor]:
    with open_decoder(path, strict) as decoder:
        if decoder.note and not start:
            log.warning("%s: %s", path, decoder.note)
        first = round(start * decoder.rate)
        count = None if seconds is None else max(1, round(seconds * decoder.rate))
        out_channels = decoder.channels if channels is None else channels
        resampler = Resampler(decoder.rate, rate, out_channels)
        buffer: list[Samples] = []
        buffered = 0
        for chunk, last in _with_last(decoder.blocks(first, count)):
            _check_samples(chunk, path, first + resampler.n_in, decoder.rate)
            if channels is not None:
                chunk = remix(chunk, decoder.layout, channels)
            ready = resampler.push(chunk, last=last)
            buffer.append(ready)
            buffered += len(ready)
            while buffered >= block:
                joined = np.concatenate(buffer)
                yield _tensor(joined[:block])
                buffer, buffered = [joined[block:]], buffered - block
        if resampler.n_in == 0:
            if first:
                raise AudioError(f"{path}: start = {start:g} s is past its end; choose an earlier start")
            raise AudioError(f"{path}: contains no sound (0 samples); export the file again")
        if buffered:
            yield _tensor(np.concatenate(buffer))


def _with_last(blocks: Iterator[Samples]) -> Iterator[tuple[Samples, bool]]:
    previous: Samples | None = None
    for block in blocks:
        if previous is not None:
            yield previous, False
        previous = block
    if previous is not None:
        yield previous, True


def _tensor(block: Samples) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(block.T, dtype=np.float32))


def read(
    path: str | Path,
    rate: int = SAMPLE_RATE,
    channels: int | None = None,
    start: float = 0.0,
    seconds: float | None = None,
) -> Tensor:
    """Read `path` whole, or `seconds` of it from `start`: `[channels, samples]` float32 at `rate`. See `stream`."""
    return torch.cat(list(stream(path, rate, channels, start=start, seconds=seconds)), dim=1)


class DiskFile:
    """A file for libsndfile, which does not report why writing failed: `error` keeps the system's first error.

    libsndfile may call again after closing, to complete a header that could not be written; such calls are ignored. An
    exception raised inside libsndfile's callbacks would be printed with its traceback and then lost.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "wb")  # noqa: SIM115
        if os.name != "nt":
            hold(self._file)  # so that it is no left-over (`files.remove_left_over`)
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return 0 if self._file.closed or self.error else self._file.write(data)
        except OSError as error:
            self.error = error
            return 0

    def seek(self, offset: int, whence: int = 0) -> int:
        try:  # seeking writes the buffer first
            return 0 if self._file.closed else self._file.seek(offset, whence)
        except OSError as error:
            self.error = self.error or error
            return 0

    def tell(self) -> int:
        return 0 if self._file.closed else self._file.tell()

    def close(self) -> None:
        """Raises nothing; `error` says whether all was written."""
        try:
            self._file.close()
        except OSError as error:
            self.error = self.error or error


def write_samples(
    path: Path, samples: NDArray[Any], rate: int, container: str, subtype: str, block: int | None = None, comment: str = ""
) -> None:  # fmt: skip
    """Write `[samples, channels]` by libsndfile, `block` rows at a time (None: all), with a comment. Raises OSError with the system's reason."""
    handle = DiskFile(path)
    try:
        with soundfile.SoundFile(
            handle, "w", samplerate=rate, channels=samples.shape[1], format=container, subtype=subtype
        ) as file:
            if comment:
                file.comment = comment
            step = block or max(1, len(samples))
            for start in range(0, len(samples), step):
                file.write(samples[start : start + step])
    except (RuntimeError, AssertionError):
        if handle.error is None:
            raise
    finally:
        handle.close()
    if handle.error is not None:
        raise handle.error


class Writer:
    """Write blocks of sound to a .wav (float32, or 16 bit), .flac (24 bit), .mp3, .ogg or .opus file, atomically.

    comment: text that the file carries, where its format can (`duotok.audio.marks` reads it). Sound over full scale is clipped by all
    but float wav, and a warning says by how much.

    The file appears under its name only when everything is written; if the block of the `with` statement fails, nothing
    stays. Folders are made as needed. Raises AudioError when the place cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        rate: int,
        channels: int,
        bits: int | None = None,
        n_samples: int | None = None,
        comment: str = "",
    ) -> None:
        self.path = Path(path)
        suffix = self.path.suffix.lower()
        if suffix not in WRITE_SUFFIXES:
            raise AudioError(f"{path}: cannot write '{suffix or 'no'}' files; name it {', '.join(WRITE_SUFFIXES)}")
        if bits not in (None, 16, 24, 32):
            raise ValueError(f"bits must be 16, 24 or 32, got {bits}")
        if suffix == ".wav":
            kind, subtype = "WAV", {16: "PCM_16", 24: "PCM_24"}.get(bits or 32, "FLOAT")
            if (n_samples or 0) * channels * (bits or 32) // 8 > WAV_LIMIT_BYTES:
                kind = "RF64"  # larger than plain wav can state
        elif suffix == ".flac":
            kind, subtype = "FLAC", "PCM_16" if bits == 16 else "PCM_24"
        else:
            kind, subtype = _LOSSY[suffix]
        self._clips, self._rate = subtype != "FLOAT", rate
        self._over, self._peak = 0, 0.0
        self._temporary = temporary(self.path, SOUND_PARTIAL)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_dir():
                raise AudioError(f"{path}: is a folder; give a file name")
            # Opened here, so that an error has the system's reason and not "System error."
            self._handle = DiskFile(self._temporary)
            remove_left_over(
                self._temporary
            )  # sounds are large, and a song that ends for want of memory is tried again
            self._file: Any = soundfile.SoundFile(
                self._handle, "w", samplerate=rate, channels=channels, format=kind, subtype=subtype
            )
            if comment:
                self._file.comment = comment
        except (OSError, RuntimeError) as error:
            self._discard()
            raise _unwritable(self.path, error) from None

    def write(self, audio: Tensor) -> None:
        """Append `[channels, samples]`. Raises AudioError for samples that could not be read again (NaN, infinite)."""
        samples = audio.detach().float().cpu().numpy().T
        size = np.abs(samples)
        peak = float(size.max()) if samples.size else 0.0
        if not peak <= LARGEST_SAMPLE:  # one NaN silences a whole ogg file, and ends the process in mp3
            raise AudioError(
                f"{self.path}: not written, its samples are no sound (NaN, infinite or absurdly large); make the sound again"
            )
        if self._clips and peak > 1.0:
            self._over += int((size > 1.0).any(axis=1).sum())
            self._peak = max(self._peak, peak)
        try:
            for first in range(0, len(samples), self._rate):  # libsndfile's vorbis cannot take long blocks
                self._file.write(samples[first : first + self._rate])
        except (OSError, RuntimeError, AssertionError) as error:  # AssertionError: soundfile could not write everything
            raise _unwritable(self.path, self._handle.error or error) from None
        if self._handle.error is not None:
            raise _unwritable(self.path, self._handle.error) from None

    def _discard(self) -> None:
        if hasattr(self, "_handle"):
            self._handle.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
            self._handle.close()
            if kind is None:
                if self._handle.error is not None:
                    raise self._handle.error
                put(self._temporary, self.path)
                if self._over:
                    log.warning(
                        "%s: %.3f s were over full scale and are clipped (peak %+.1f dBFS); .wav keeps them",
                        self.path,
                        self._over / self._rate,
                        20 * math.log10(self._peak),
                    )
        except (OSError, RuntimeError, AssertionError) as error:
            if kind is None:  # otherwise the first error is already being raised
                raise _unwritable(self.path, self._handle.error or error) from None
        finally:
            self._discard()


def _unwritable(path: Path, error: Exception) -> AudioError:
    if isinstance(error, FileExistsError | NotADirectoryError):
        return AudioError(f"{path}: cannot be written (a folder in its path is a file); choose another place")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, soundfile.LibsndfileError):
        reason = error.error_string.strip().rstrip(".")
    return AudioError(f"{path}: cannot be written ({reason}); choose another place")


def write(path: str | Path, audio: Tensor, rate: int, bits: int | None = None, comment: str = "") -> None:
    """Write `[channels, samples]` or `[samples]` to .wav (float32 unless `bits=16`) or .flac (24 bit), atomically. comment: as for `Writer`."""
    audio = audio.unsqueeze(0) if audio.ndim == 1 else audio
    if audio.ndim != 2:
        raise ValueError(f"audio must be [channels, samples], got {list(audio.shape)}")
    with Writer(path, rate, audio.shape[0], bits, audio.shape[1], comment) as writer:
        writer.write(audio)


def duration(n_samples: int, rate: int) -> str:
    """`3:05.2` for people."""
    seconds = n_samples / rate
    minutes = math.floor(seconds / 60)
    return f"{minutes}:{seconds - 60 * minutes:04.1f}"
