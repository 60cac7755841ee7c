"""Random access to shards: the sound of any segment by its place in the tar, on a disk or behind a URL."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from duotok.clock import FRAME_SAMPLES, SAMPLE_RATE
from duotok.records import CorpusError
from duotok.shards.derived import DerivedArrays
from duotok.shards.index import SegmentIndex, Stored


class ShardStore(SegmentIndex):
    """A folder of shards and the arrays derived from it.

    url, cache: as for the index; derived: local folder of derived arrays (none: everything is computed from the sound); verify:
    check the hash of every file that is read; writable: whether arrays may be derived, false for a dry run. Raises CorpusError when
    a shard is missing or was changed.
    """

    def __init__(
        self,
        url: str | Path,
        derived: Path | None = None,
        cache: Path | None = None,
        verify: bool = False,
        writable: bool = True,
    ) -> None:
        self._arguments = (url, derived, cache, verify, writable)
        super().__init__(url, cache)
        self.verify = verify
        self.derived = DerivedArrays(self, Path(derived), writable) if derived is not None else None

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process reads the manifest itself.
        return (ShardStore, self._arguments, {"without_validation": self.without_validation})

    # reading

    @property
    def format(self) -> str:
        """How sound is stored: flac or opus."""
        return str(self.summary.get("format", "flac"))

    def tracks(self, index: int) -> tuple[str, ...]:
        """Tracks that `audio` can return."""
        return tuple(self.segments[index].parts)

    def audio(
        self, index: int, track: str, start_frame: int = 0, frames: int | None = None, channels: int | None = None
    ) -> Tensor:
        """Sound as stored, without gain: float32 `[channels, frames x 1920]` at 48 kHz from token frame `start_frame`.

        A track that is not stored is the sum of its parts. channels: None keeps the file's (the most of any part), 1 is
        the mean, 2 repeats mono. Raises CorpusError when the segment has no such track or its bytes are not its sound.
        """
        stored = self.segments[index]
        if track not in stored.parts:
            raise CorpusError(f"{stored.segment.key}: no {track}; it has {', '.join(stored.parts)}")
        frames = stored.segment.frames - start_frame if frames is None else frames
        if start_frame < 0 or frames < 1 or start_frame + frames > stored.segment.frames:
            last = start_frame + frames
            raise ValueError(f"{stored.segment.key}: frames {start_frame} to {last} of {stored.segment.frames}")
        total: np.ndarray | None = None
        for stem in stored.parts[track]:
            sound = self._sound(index, stem, start_frame, frames, channels)
            total = sound if total is None else total + sound
        assert total is not None
        return torch.from_numpy(np.ascontiguousarray(total.T))

    def _sound(self, index: int, stem: str, start: int, frames: int, channels: int | None) -> np.ndarray:
        """float32 `[samples, channels]` of a stored stem."""
        if channels is not None and self.has(index, stem, "pcm"):
            rows = self.rows(index, stem, "pcm", start * FRAME_SAMPLES, frames * FRAME_SAMPLES)
            sound = rows.astype(np.float32) / np.float32(32768)
        else:
            sound = self._decode(index, stem, start * FRAME_SAMPLES, frames * FRAME_SAMPLES)
        if channels == 1:
            sound = sound.mean(axis=1, keepdims=True, dtype=np.float32)
        return np.repeat(sound, 2, axis=1) if channels == 2 and sound.shape[1] == 1 else sound

    def file(self, index: int, stem: str) -> bytes:
        """The bytes of a stored stem's file (FLAC or Opus), as in the shard."""
        stored = self.segments[index]
        data = self.ranges.read(stored.shard, stored.offsets[stem], stored.sizes[stem], stored.sha256[stem])
        if self.verify and hashlib.sha256(data).hexdigest() != stored.sha256[stem]:
            if self.ranges.forget(stored.sha256[stem]):  # only the copy in the cache was damaged
                return self.file(index, stem)
            raise CorpusError(f"{self._place(stored, stem)}: other bytes than the manifest says; copy the shard again")
        return data

    def _decode(self, index: int, stem: str, start: int, count: int) -> np.ndarray:
        data = self.file(index, stem)
        stored = self.segments[index]
        try:
            with soundfile.SoundFile(io.BytesIO(data)) as file:
                if file.samplerate != SAMPLE_RATE or file.frames != stored.segment.frames * FRAME_SAMPLES:
                    raise CorpusError(
                        f"{self._place(stored, stem)}: {file.frames} samples at {file.samplerate} Hz; the manifest says "
                        f"{stored.segment.frames * FRAME_SAMPLES} at {SAMPLE_RATE}, make the shards again"
                    )
                file.seek(start)
                sound: np.ndarray = file.read(count, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            reason = str(error.error_string)
            raise CorpusError(
                f"{self._place(stored, stem)}: no {self.format.upper()} ({reason}); copy the shard again"
            ) from None
        if len(sound) != count:
            raise CorpusError(f"{self._place(stored, stem)}: ends too early; copy the shard again")
        return sound

    def _place(self, stored: Stored, stem: str) -> str:
        return f"{self.ranges.place(stored.shard)}: {stored.segment.key}.{stem}.{self.format}"

    # derived arrays

    def has(self, index: int, track: str, name: str, made_by: str | None = None) -> bool:
        """Whether `rows` can give the derived array `name` (made_by: as made by that)."""
        return self.derived is not None and self.derived.has(index, track, name, made_by)

    def _derived(self, track: str, name: str) -> DerivedArrays:
        if self.derived is None:
            raise CorpusError(f"{self.ranges.url}: no folder of derived arrays was named, so no {track}.{name}")
        return self.derived

    def rows_per_frame(self, index: int, track: str, name: str) -> int:
        """Rows of a derived array for each token frame. Raises CorpusError when it is missing."""
        return self._derived(track, name).rows_per_frame(index, track, name)

    def rows(self, index: int, track: str, name: str, start: int = 0, count: int | None = None) -> np.ndarray:
        """Rows of a derived array of one segment: memory-mapped, read-only. Raises CorpusError when it is missing."""
        return self._derived(track, name).rows(index, track, name, start, count)
