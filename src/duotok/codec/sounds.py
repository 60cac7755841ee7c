"""The sounds of one song at the rate and channels of a codec, on disk, read in windows: memory does not grow with length."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import IO

import numpy as np
import torch
from torch import Tensor

from duotok.audio.alignment import Alignment
from duotok.audio.channels import PolarityFix, remix
from duotok.audio.decoders import default_layout
from duotok.audio.io import resample, stream
from duotok.codec.contract import Source
from duotok.codec.spool import BLOCK_SECONDS, AudioSource, check_stem
from duotok.errors import AudioError
from duotok.files import no_temporary_room, temporary_file

log = logging.getLogger(__name__)

TOLERATED_SECONDS = 0.2
"""Lossy files of one song differ by some padding; more is worth a word."""


class Heard(AudioSource):
    """A source that can be read at any rate, resampled once."""

    def at(self, rate: int, channels: int) -> Iterator[Tensor]:
        """float32 `[channels, samples]` blocks at `rate`; one channel is the mean of two, whose polarity is fixed as `AudioSource` does."""
        if channels != 1:
            yield from self._stereo(rate)
            return
        polarity = PolarityFix(rate)
        for block in self._stereo(rate):
            yield polarity.push(block).mean(0, keepdim=True)
        self.warn_of(polarity)

    def _stereo(self, rate: int) -> Iterator[Tensor]:
        if not isinstance(self._source, Tensor):
            yield from stream(self._source, rate, 2, BLOCK_SECONDS)
            return
        audio = self._source.detach().float().cpu()
        audio = audio[None] if audio.ndim == 1 else audio
        stereo = remix(audio.numpy().T, default_layout(audio.shape[0]), 2).T
        whole = resample(torch.from_numpy(np.ascontiguousarray(stereo)), self._rate, rate)
        yield from torch.split(whole, round(BLOCK_SECONDS * rate), dim=1)


class Sounds:
    """The given sounds of a song, and every track that can be computed from them.

    vocals, accompaniment: as given, or the mix minus the other one, which has to belong to it (`check_stem`); mix: as given, or
    the sum of both. The length is that of the mix when it was given and is used, and otherwise that of the longer stem.
    """

    def __init__(
        self, given: Mapping[str, Source | None], rate: int, tracks: Sequence[str], to_rate: int, channels: int
    ) -> None:
        """given: "mix", "vocals", "accompaniment" -> source at `rate`, or None. Raises AudioError when `tracks` cannot be
        computed from them, when one cannot be read, or when a stem is not that of the mix."""
        available = [name for name, source in given.items() if source is not None]
        if not available:
            raise AudioError("nothing to encode; give a song, or both stems")
        self._sums = {track: _sum(track, available) for track in tracks}
        used = [name for name in available if any(name in parts for parts in self._sums.values())]
        self._channels = channels
        heard = {name: Heard(given[name], rate, "audio" if name == "mix" else name) for name in used}
        self._files: dict[str, IO[bytes]] = {}
        self._lengths: dict[str, int] = {}
        try:
            for name in used:
                self._files[name] = temporary_file()
                self._lengths[name] = sum(self._put(name, block) for block in heard[name].at(to_rate, channels))
            self.n_samples = self._lengths.get("mix", max(self._lengths.values()))
            for stem in {name for parts in self._sums.values() for name, sign in parts.items() if sign < 0}:
                self._check(heard["mix"], heard[stem], stem, to_rate)
        except BaseException:
            self.close()
            raise
        if max(self._lengths.values()) - min(self._lengths.values()) > TOLERATED_SECONDS * to_rate:
            durations = ", ".join(f"{name} {n / to_rate:.2f} s" for name, n in self._lengths.items())
            log.warning("sounds that differ in length (%s); are they of one song?", durations)

    def _check(self, mix: Heard, stem: Heard, name: str, rate: int) -> None:
        meter, size = Alignment(rate), round(BLOCK_SECONDS * rate)
        for start in range(0, self.n_samples, size):
            stop = min(start + size, self.n_samples)
            meter.push(self._read("mix", start, stop), self._read(name, start, stop))
        check_stem(mix.name, stem.name, meter.fit())

    def _put(self, name: str, block: Tensor) -> int:
        try:
            self._files[name].write(np.ascontiguousarray(block.numpy().T, dtype=np.float32).tobytes())
            self._files[name].flush()
        except OSError as error:
            raise AudioError(no_temporary_room(error)) from error
        return block.shape[1]

    def window(self, track: str, start: int, stop: int) -> Tensor:
        """Samples `[start, stop)` of a track, zeros after the end of the song: float32 `[channels, samples]`."""
        parts = [sign * self._read(name, start, stop) for name, sign in self._sums[track].items()]
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]

    def _read(self, name: str, start: int, stop: int) -> Tensor:
        size = 4 * self._channels
        end = max(start, min(stop, self._lengths[name], self.n_samples))
        file = self._files[name]
        file.seek(size * start)
        samples = np.frombuffer(file.read(size * (end - start)), dtype=np.float32).reshape(-1, self._channels)
        return torch.from_numpy(np.pad(samples, ((0, stop - end), (0, 0))).T.copy())

    def close(self) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):  # bytes that found no room; that is being raised already
                file.close()

    def __enter__(self) -> Sounds:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


OTHER = {"vocals": "accompaniment", "accompaniment": "vocals"}


def _sum(track: str, available: Sequence[str]) -> dict[str, float]:
    """The available sounds whose sum is a track, each with its sign. Raises AudioError when they do not suffice."""
    if track in available:
        return {track: 1.0}
    if track == "mix" and {*OTHER} <= {*available}:
        return dict.fromkeys(OTHER, 1.0)
    other = OTHER.get(track)
    if other in available and "mix" in available:
        return {"mix": 1.0, str(other): -1.0}
    have = " and ".join("the mix" if name == "mix" else name for name in available)
    title = "the mix" if track == "mix" else track
    raise AudioError(
        f"{title} cannot be had from {have} alone, and this codec separates nothing; give both stems, or one and the mix"
    )
