"""Separated stems on disk: `vocals` and `accompaniment` of one recording, always both, whose sum is the mix.

FLAC, 16 or 24 bit: the accompaniment is the mix minus the vocals as stored, rounded once, so the two files sum to the mix
within half a step. Opus, about a quarter of the size: both tracks are coded, and their sum is the mix up to coding noise.
The bytes are a function of the sound (and of the coder's version): Opus gets a fixed serial number and no date.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

import numpy as np
import soundfile
import torch
from torch import Tensor

from duotok.audio.io import DiskFile
from duotok.audio.marks import MARK
from duotok.clock import SAMPLE_RATE
from duotok.data.engines import no_space
from duotok.errors import AudioError, ConfigError
from duotok.files import put, temporary
from duotok.tracks import TRACKS

EXTENSIONS = ("flac", "opus")
COMMENT = f"{MARK}data separate"
OPUS_BITS = 80_000  # bits a second and channel
# Samples in a frame of the Opus coder.
OPUS_FRAME = 960


def stem_files(folder: Path, extension: str) -> dict[str, Path]:
    """The paths of a recording's stems."""
    return {track: folder / f"{track}.{extension}" for track in TRACKS}


def stems_in(folder: Path) -> dict[str, Path]:
    """The stems in a folder; {} when there are none. They are written together, so a single one does not count."""
    for extension in EXTENSIONS:
        files = stem_files(folder, extension)
        if all(path.is_file() for path in files.values()):
            return files
    return {}


def remove_stems(folder: Path) -> None:
    """Remove stems of any kind, so that old and new ones cannot be mixed up."""
    for extension in EXTENSIONS:
        for path in stem_files(folder, extension).values():
            path.unlink(missing_ok=True)


class _File(Protocol):
    def write(self, samples: Any) -> None: ...
    def close(self) -> None: ...


class _Flac:
    """int32 `[samples, channels]`, already scaled to `bits`."""

    def __init__(self, path: Path, channels: int, bits: int) -> None:
        self._handle = DiskFile(path)
        self._shift = 32 - bits
        self._file: Any = soundfile.SoundFile(
            self._handle, "w", samplerate=SAMPLE_RATE, channels=channels, format="FLAC", subtype=f"PCM_{bits}"
        )
        self._file.comment = COMMENT

    def write(self, samples: Any) -> None:
        try:
            self._file.write(samples << self._shift)
        except Exception as error:
            raise self._handle.error or error from None
        if self._handle.error is not None:
            raise self._handle.error

    def close(self) -> None:
        try:
            self._file.close()
        finally:
            self._handle.close()
        if self._handle.error is not None:
            raise self._handle.error


class OpusFile:
    """An Opus file of float32 `[samples, channels]`; target: a path, or a file to write to; bits: a second and channel; comment: as
    for `duotok.audio.io.Writer`."""

    def __init__(self, target: Path | IO[bytes], channels: int, bits: int = OPUS_BITS, comment: str = "") -> None:
        import av

        self._av, self._channels, self._given = av, channels, 0
        self._container: Any = av.open(
            str(target) if isinstance(target, Path) else target, "w", format="ogg",
            options={"fflags": "+bitexact", "serial_offset": "1"},
        )  # fmt: skip
        if comment:
            self._container.metadata["comment"] = comment
        layout = "stereo" if channels == 2 else "mono"
        self._stream: Any = self._container.add_stream("libopus", rate=SAMPLE_RATE, layout=layout)
        self._stream.bit_rate = bits * channels
        self._stream.codec_context.flags |= av.codec.context.Flags.bitexact

    def write(self, samples: Any) -> None:
        for start in range(0, len(samples), OPUS_FRAME * 50):
            block = np.ascontiguousarray(samples[start : start + OPUS_FRAME * 50], dtype=np.float32)
            frame = self._av.AudioFrame.from_ndarray(
                block.reshape(1, -1), format="flt", layout=self._stream.codec_context.layout.name
            )
            frame.sample_rate, frame.pts = SAMPLE_RATE, self._given
            self._given += len(block)
            for packet in self._stream.encode(frame):
                self._container.mux(packet)

    def close(self) -> None:
        try:
            for packet in self._stream.encode(None):
                self._container.mux(packet)
        finally:
            self._container.close()


class StemWriter:
    """Write the stems of one recording block by block; the files appear together when all is written.

    `clipped` counts samples of a stem beyond full scale, which FLAC cannot hold. Raises AudioError (or OSError when the
    disk is full) when the folder cannot be written; no partial files stay.
    """

    def __init__(self, folder: Path, channels: int, extension: str = "flac", bits: int = 16) -> None:
        if extension not in EXTENSIONS:
            raise ConfigError(f"stems as '{extension}': use {' or '.join(EXTENSIONS)}")
        if bits not in (16, 24):
            raise ConfigError(f"stems of {bits} bits: use 16 or 24")
        self.folder, self.extension, self.bits, self.clipped = folder, extension, bits, 0
        self._files: dict[str, _File] = {}
        self._partial: dict[str, Path] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for track, path in stem_files(folder, extension).items():
                self._partial[track] = temporary(path, ".partial")
                self._files[track] = (
                    OpusFile(self._partial[track], channels, comment=COMMENT)
                    if extension == "opus"
                    else _Flac(self._partial[track], channels, bits)
                )
        except Exception as error:
            self._discard()
            raise self._unwritable(error) from error

    def write(self, vocals: Tensor, mix: Tensor) -> None:
        """Append `[channels, samples]` of both."""
        try:
            if self.extension == "opus":
                self._files["vocals"].write(vocals.T.numpy())
                self._files["accompaniment"].write((mix - vocals).T.numpy())
                return
            full = 2 ** (self.bits - 1)
            scaled = torch.round(vocals.double() * full)
            clamped_vocals = scaled.clamp(-full, full - 1)
            residual = torch.round(mix.double() * full - clamped_vocals)
            clamped_residual = residual.clamp(-full, full - 1)
            self.clipped += int((scaled != clamped_vocals).sum() + (residual != clamped_residual).sum())
            for track, values in (("vocals", clamped_vocals), ("accompaniment", clamped_residual)):
                self._files[track].write(np.ascontiguousarray(values.T.to(torch.int32).numpy()))
        except Exception as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: Exception) -> Exception:
        if no_space(error):
            return error
        reason = (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())
        return AudioError(f"{self.folder}: stems cannot be written ({reason}); choose another place")

    def _discard(self) -> None:
        for path in self._partial.values():
            path.unlink(missing_ok=True)

    def __enter__(self) -> StemWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        failed: list[Exception] = []
        for file in self._files.values():
            try:
                file.close()
            except Exception as error:
                failed.append(error)
        try:
            if kind is None and not failed:
                for partial in self._partial.values():
                    partial.stat()  # raises if another run has removed it: that run's stems must stay then
                remove_stems(self.folder)
                for track, path in stem_files(self.folder, self.extension).items():
                    put(self._partial[track], path)
        except OSError as error:
            failed.append(error)
        finally:
            self._discard()
        if kind is None and failed:
            raise self._unwritable(failed[0]) from failed[0]
