"""The renderer's training data: latents (50 Hz, or 25), codes (25 Hz) and levels of the segments' tracks, derived once.

A renderer trains on 30 s at a time (paper C.4), and segments are shorter: segments that follow each other in a recording
are joined into stretches, as packing does for language models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from duotok.clock import FRAME_SAMPLES
from duotok.errors import ConfigError
from duotok.model.tokenizer import Tokenizer
from duotok.records import SAMPLE_TYPES, SampleType, Split
from duotok.shards.index import track_parts
from duotok.shards.neighbours import joined
from duotok.shards.store import ShardStore
from duotok.training.batches.sounds import SegmentSound

Condition = Literal["code", "proj_out"]
SILENCE_DB = -55.0
RENDERED_TYPES: tuple[SampleType, ...] = tuple(kind for kind in SAMPLE_TYPES if kind != "other")
"""The four types of the paper's C.2: speech, sounds and unlabelled music train no renderer."""


@torch.no_grad()
def condition_vectors(tokenizer: Tokenizer, track: str, kind: Condition = "code") -> Tensor:
    """The renderer's conditioning for each code of a track: its vector `[codes, code_dim]`, or proj out of it `[codes, width]`."""
    branch = tokenizer.branch(track)
    table = branch.quantizer.table()
    return (table if kind == "code" else branch.projection_out(table)).detach().float().cpu()


@dataclass(frozen=True)
class LatentSegment:
    """One track of one segment: `latents [latent_frames, dim]`, `codes [frames]`; `counts`: the number of loud frames before each frame."""

    sound: SegmentSound
    track: str
    counts: np.ndarray

    @property
    def key(self) -> str:
        return self.sound.key

    @property
    def frames(self) -> int:
        return self.sound.frames

    @property
    def latents_per_frame(self) -> int:
        """Latent frames of a token frame."""
        return self.sound.store.rows_per_frame(self.sound.index, self.track, "latents")

    def latents(self, start: int = 0, frames: int | None = None) -> np.ndarray:
        frames, per_frame = self.frames - start if frames is None else frames, self.latents_per_frame
        return self.sound.store.rows(self.sound.index, self.track, "latents", per_frame * start, per_frame * frames)

    def codes(self, start: int = 0, frames: int | None = None) -> np.ndarray:
        rows = self.sound.store.rows(self.sound.index, self.track, "codes", start, frames)
        return rows.reshape(-1)

    def share_of_sound(self, start: int, frames: int) -> float:
        """Share of the frames from `start` that hold sound."""
        stop = min(start + frames, self.frames)
        return float(self.counts[stop] - self.counts[start]) / max(1, stop - start)


@dataclass(frozen=True)
class Stretch:
    """One track of segments (indices into `store`) that follow each other in a recording, read as one piece."""

    store: ShardStore
    track: str
    indices: tuple[int, ...]

    @cached_property
    def starts(self) -> np.ndarray:
        """First token frame of each segment in the stretch, then the number of all frames: `[segments + 1]`."""
        return np.concatenate([[0], np.cumsum(self.store.frames[list(self.indices)])])

    @property
    def frames(self) -> int:
        """Token frames."""
        return int(self.starts[-1])

    @property
    def key(self) -> str:
        """The key of the first segment."""
        return self.store.segments[self.indices[0]].segment.key

    @property
    def recording(self) -> str:
        return self.store.segments[self.indices[0]].segment.recording

    def _parts(self, start: int, frames: int) -> list[tuple[int, int, int]]:
        """(segment, first frame in it, frames) of the segments that cover `frames` token frames from `start`."""
        parts = []
        for index, first, stop in zip(self.indices, self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True):
            low, high = max(start, first), min(start + frames, stop)
            if low < high:
                parts.append((index, low - first, high - low))
        return parts

    def rows(self, name: str, start: int = 0, frames: int | None = None) -> np.ndarray:
        """Rows of a derived array for `frames` token frames from `start`; None: to the end."""
        per_frame = self.store.rows_per_frame(self.indices[0], self.track, name)
        parts = self._parts(start, self.frames - start if frames is None else frames)
        return np.concatenate(
            [self.store.rows(i, self.track, name, per_frame * low, per_frame * n) for i, low, n in parts]
        )

    def sound_hash(self, sounds: np.ndarray, start: int, frames: int, place: int) -> str:
        """Of the sound of `frames` token frames from `start`, and of where in it the frame `place` lies. sounds: `sound_hashes` of the track."""
        parts = [[int(sounds[index]), low, n] for index, low, n in self._parts(start, frames)]
        return hashlib.sha256(json.dumps([place - start, parts]).encode()).hexdigest()[:16]

    def mono(self, start: int, frames: int) -> Tensor:
        """Sound `[1920 frames]` of `frames` token frames from `start`, with the recording's gain."""
        parts = self._parts(start, frames)
        sounds = [
            SegmentSound(self.store, i).mono(self.track, low * FRAME_SAMPLES, n * FRAME_SAMPLES) for i, low, n in parts
        ]
        return torch.cat(sounds)

    def sound(self, start: int, frames: int, channels: int) -> Tensor:
        """The same as `[channels, 1920 frames]`, one channel or two."""
        if channels == 1:
            return self.mono(start, frames)[None]
        parts = self._parts(start, frames)
        sounds = [
            SegmentSound(self.store, i).stereo(self.track, low * FRAME_SAMPLES, n * FRAME_SAMPLES)
            for i, low, n in parts
        ]
        return torch.cat(sounds, dim=1)


@dataclass(frozen=True)
class LatentStretch(Stretch):
    """A stretch with latents and codes; `counts`: the number of loud frames before each frame, `[frames + 1]`."""

    counts: np.ndarray

    @property
    def latents_per_frame(self) -> int:
        """Latent frames of a token frame."""
        return self.store.rows_per_frame(self.indices[0], self.track, "latents")

    def latents(self, start: int = 0, frames: int | None = None) -> np.ndarray:
        return self.rows("latents", start, frames)

    def codes(self, start: int = 0, frames: int | None = None) -> np.ndarray:
        return self.rows("codes", start, frames).reshape(-1)

    def share_of_sound(self, start: int, frames: int) -> float:
        """Share of the frames from `start` that hold sound."""
        stop = min(start + frames, self.frames)
        return float(self.counts[stop] - self.counts[start]) / max(1, stop - start)


def rendered(store: ShardStore, track: str, *splits: Split) -> list[int]:
    """Segments that the renderer of a track learns from: of the four sample types, and with that track."""
    return store.select(*splits, types=RENDERED_TYPES, needs=(track,))


def sound_hashes(store: ShardStore, tracks: Sequence[str]) -> dict[str, np.ndarray]:
    """For each track, uint64 `[segments]`: a hash of a segment's gain and of the files that its track is the sum of; 0 where it has none."""
    hashes = {track: np.zeros(len(store), np.uint64) for track in tracks}
    for indices in store.shards.values():  # rows of one shard stand together: quick, and never all in memory
        rows = store.segments.values(indices, "gain_db", "sha256")
        for index, row in zip(indices.tolist(), rows, strict=True):
            parts = track_parts(tuple(row["sha256"]))
            for track in parts.keys() & hashes.keys():
                text = json.dumps([row["gain_db"], *(row["sha256"][stem] for stem in parts[track])])
                hashes[track][index] = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    return hashes


def places(store: ShardStore, track: str, *splits: Split) -> dict[int, tuple[Stretch, int]]:
    """Segment -> the stretch that it belongs to, and its first frame there."""
    place_of = {}
    for piece in joined(store, rendered(store, track, *splits)):
        stretch = Stretch(store, track, tuple(piece))
        place_of.update({index: (stretch, int(start)) for index, start in zip(piece, stretch.starts, strict=False)})
    return place_of


def _ready(store: ShardStore, split: Split, track: str, made_by: Mapping[str, str] | None) -> list[int]:
    """Segments whose latents and codes of `track` are there. Raises ConfigError when there is none, or another training has made them
    anew meanwhile. made_by: by which they must be made, by name (None: any)."""
    ready = [
        index
        for index in rendered(store, track, split)
        if all(store.has(index, track, name) for name in ("latents", "codes", "levels"))
    ]
    for name, maker in (made_by or {}).items():
        if not all(store.has(index, track, name, maker) for index in ready):
            raise ConfigError(
                f"{store.ranges.url}: another training has derived its own {name} of {track} meanwhile; run the same command again, "
                "once that has ended"
            )
    if not ready:
        raise ConfigError(
            f"{store.ranges.url}: no {split} segment with latents and codes of {track}; stage 4 needs some of the "
            f"types {', '.join(RENDERED_TYPES)}"
        )
    return ready


def _counts(levels: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(levels.reshape(-1) > SILENCE_DB)]).astype(np.int32)


def latent_segments(
    store: ShardStore, split: Split, track: str, least_frames: int = 1, made_by: Mapping[str, str] | None = None
) -> list[LatentSegment]:
    """Segments of a split whose latents and codes of `track` are there. Raises ConfigError when there is none, or they were not made by
    `made_by` (by name; None: any will do)."""
    return [
        LatentSegment(SegmentSound(store, index), track, _counts(store.rows(index, track, "levels")))
        for index in _ready(store, split, track, made_by)
        if store.segments[index].segment.frames >= least_frames
    ]


def latent_stretches(
    store: ShardStore, split: Split, track: str, made_by: Mapping[str, str] | None = None
) -> list[LatentStretch]:
    """The same segments with neighbours joined, so that a crop may cross from one into the next. Raises ConfigError likewise."""
    stretches = []
    for piece in joined(store, _ready(store, split, track, made_by)):
        plain = Stretch(store, track, tuple(piece))
        stretches.append(LatentStretch(store, track, plain.indices, _counts(plain.rows("levels"))))
    return stretches


def padding(stretches: Sequence[LatentStretch], size: int) -> float:
    """Share of padding in crops of `size` frames, where stretches are drawn in proportion to their frames."""
    frames = np.array([stretch.frames for stretch in stretches], dtype=np.float64)
    return float((frames * np.clip(size - frames, 0, None) / size).sum() / frames.sum())


def crop(segment: LatentSegment | LatentStretch, start: int, frames: int) -> tuple[Tensor, Tensor, int]:
    """Latents `[latents_per_frame frames, dim]`, codes `[frames]` (both padded with zeros) and the number of real latent frames."""
    real, per_frame = min(frames, segment.frames - start), segment.latents_per_frame
    codes = torch.from_numpy(segment.codes(start, real).astype(np.int64))
    latents = torch.from_numpy(segment.latents(start, real).astype(np.float32))
    missing = frames - real
    if missing:
        codes = torch.nn.functional.pad(codes, (0, missing))
        latents = torch.nn.functional.pad(latents, (0, 0, 0, per_frame * missing))
    return latents, codes, per_frame * real


def stack(crops: list[tuple[Tensor, Tensor, int]]) -> dict[str, Tensor]:
    """A batch of crops: `latents`, `codes`, `lengths` (real latent frames)."""
    latents, codes, lengths = zip(*crops, strict=True)
    return {"latents": torch.stack(latents), "codes": torch.stack(codes), "lengths": torch.tensor(lengths)}
