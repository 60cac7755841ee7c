"""Segments for trainers that use audio: memory-mapped 48 kHz int16, or decoded where that is not derived."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from duotok.clock import FRAME_SAMPLES, SAMPLE_RATE
from duotok.random import item_seed
from duotok.records import Segment, Split
from duotok.shards.mixture import Component, Mixture
from duotok.shards.store import ShardStore


@dataclass(frozen=True)
class SegmentSound:
    """One segment of a store."""

    store: ShardStore
    index: int

    @property
    def segment(self) -> Segment:
        return self.store.segments[self.index].segment

    @property
    def key(self) -> str:
        return self.segment.key

    @property
    def frames(self) -> int:
        """Token frames."""
        return self.segment.frames

    @property
    def samples(self) -> int:
        return self.frames * FRAME_SAMPLES

    @property
    def seconds(self) -> float:
        return self.samples / SAMPLE_RATE

    @property
    def gain(self) -> float:
        """The factor that brings the recording to -18 LUFS."""
        return float(10 ** (self.segment.gain_db / 20))

    def has(self, track: str) -> bool:
        return track in self.store.tracks(self.index)

    def stereo(self, track: str, start: int = 0, samples: int | None = None) -> Tensor:
        """`[2, samples]` from sample `start`, with the recording's gain."""
        return self._read(track, start, samples, 2) * self.gain

    def mono(self, track: str, start: int = 0, samples: int | None = None) -> Tensor:
        """`[samples]` from sample `start`, with the recording's gain."""
        return self._read(track, start, samples, 1)[0] * self.gain

    def _read(self, track: str, start: int, samples: int | None, channels: int) -> Tensor:
        samples = self.samples - start if samples is None else samples
        first, last = start // FRAME_SAMPLES, -(-(start + samples) // FRAME_SAMPLES)
        audio = self.store.audio(self.index, track, first, last - first, channels)
        begin = start - first * FRAME_SAMPLES
        return audio[:, begin : begin + samples]

    def loudness(self, track: str, start: int, samples: int) -> float:
        """Root mean square of a stretch, from every 61st sample where the sound is memory-mapped."""
        if self.store.has(self.index, track, "pcm"):
            rows = self.store.rows(self.index, track, "pcm", start, samples)[::61]
            return self.gain * float(np.sqrt(np.square(rows.astype(np.float32) / 32768).mean()))
        return float(self.stereo(track, start, samples).square().mean().sqrt())


class TrackComponent(Component):
    """A component of a mixture, with the track to take from its segments."""

    track: str = Field(default="mix", description="mix, vocals or accompaniment")


class TrackMixture:
    """A mixture of tracks: the segment, at least `seconds` long, and the track at each position."""

    def __init__(
        self, store: ShardStore, split: Split, components: dict[str, TrackComponent], seed: int, seconds: float
    ) -> None:
        self.store = store
        self.tracks = {name: component.track for name, component in components.items()}
        with_track = {
            name: Component(
                **component.model_dump(exclude={"track", "needs", "seconds"}),
                needs=(*component.needs, component.track),
                seconds=max(seconds, component.seconds),
            )
            for name, component in components.items()
        }
        self.mixture = Mixture(store, split, with_track, seed)

    def draw(self, position: int) -> tuple[SegmentSound, str]:
        name, index, _ = self.mixture.draw(position)
        return SegmentSound(self.store, index), self.tracks[name]


def span(rng: np.random.Generator, sound: SegmentSound, track: str, size: int, least: float, tries: int = 6) -> int:
    """Start of a crop of `size` samples, preferably one whose root mean square is over `least`."""
    start = 0
    for _ in range(tries):
        start = int(rng.integers(0, sound.samples - size + 1))
        if sound.loudness(track, start, size) > least:
            break
    return start


def pick(store: ShardStore, split: Split, component: Component, longer_than: int) -> list[SegmentSound]:
    """The sounds that pass the filter of a component and are longer than `longer_than` samples."""
    indices = store.select(
        split, types=component.types, kinds=component.kinds, corpora=component.corpora, needs=component.needs,
        lyrics=component.lyrics,
    )  # fmt: skip
    sounds = (SegmentSound(store, index) for index in indices)
    return [sound for sound in sounds if sound.samples > longer_than]


def excerpts(
    store: ShardStore, split: Split, component: TrackComponent, seconds: float, most: int | None = None
) -> list[tuple[SegmentSound, int]]:
    """Up to `most` (None: all) fixed loud excerpts (sound, first sample), from as many different recordings as there are."""
    size = int(seconds * SAMPLE_RATE) // FRAME_SAMPLES * FRAME_SAMPLES
    with_track = component.model_copy(update={"needs": (*component.needs, component.track)})
    ranked: dict[str, list[tuple[float, SegmentSound, int]]] = {}
    for sound in pick(store, split, with_track, size - 1):
        starts = range(0, sound.samples - size + 1, size)
        louder = [(sound.loudness(component.track, start, size), sound, start) for start in starts]
        ranked.setdefault(sound.segment.recording, []).extend(louder)
    for loudest in ranked.values():
        loudest.sort(key=lambda entry: -entry[0])
    turns = [
        loudest[i]
        for i in range(max(map(len, ranked.values()), default=0))
        for loudest in ranked.values()
        if i < len(loudest)
    ]
    return [(sound, start) for level, sound, start in turns if level > 0][:most]


def torch_rng(seed: int, step: int) -> torch.Generator:
    """A CPU generator for draws that must be equal in all processes."""
    return torch.Generator().manual_seed(item_seed(seed, step, -1))
