"""Random remixing for the separator: stems of different recordings, processed and mixed at random.

Every treatment is linear, so it is applied to a track and to its known stems alike and the sums stay exact. Where a
stem is not known (most accompaniments are one file), its target is zero and its `known` flag is off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from duotok.clock import SAMPLE_RATE
from duotok.records import CorpusError, Split
from duotok.shards.mixture import Component
from duotok.shards.store import ShardStore
from duotok.tracks import STEMS
from duotok.training.batches.sounds import SegmentSound, pick, span

SPEEDS = (0.84, 0.9, 0.95, 1.05, 1.1, 1.2)
SILENT = 1e-3  # rms (-60 dB) below which a crop counts as silent
AUDIBLE = 0.01
Table = tuple[tuple[str, float], ...]
Pools = dict[str, list[SegmentSound]]


@dataclass(frozen=True)
class Remix:
    """`mix [2, samples]`, `stems [4, 2, samples]` in the order of STEMS, `known [4]`; accompaniment = mix - vocals."""

    mix: Tensor
    stems: Tensor
    known: Tensor


@dataclass
class TrackSound:
    """A track of a mixture: its sound `[2, samples]` and its stems `[4, 2, samples]` (zero where not known)."""

    audio: Tensor
    stems: Tensor
    known: Tensor

    def scale(self, factor: float) -> None:
        self.audio, self.stems = self.audio * factor, self.stems * factor


def decibels(value: float) -> float:
    """The factor of a gain in dB."""
    return float(10 ** (value / 20))


def rms(audio: Tensor) -> float:
    return float(audio.square().mean().sqrt())


class Remixer:
    """Draws mixtures from the segments of one split. Empty pools are skipped.

    Voices come from segments with singing, bands from all segments; `generated`: the songs of DuoTok's own generator.
    """

    POOLS = {
        "song": Component(kinds=("song",), needs=("vocals", "accompaniment")),
        "voice": Component(kinds=("voice",), types=("vocals",), needs=("vocals",)),
        "speech": Component(kinds=("speech",), needs=("vocals",)),
        "instrumental": Component(kinds=("instrumental",), needs=("accompaniment",)),
    }
    VOCALS = (("song", 0.42), ("voice", 0.28), ("generated", 0.22), ("speech", 0.08))
    ACCOMPANIMENT = (("instrumental", 0.5), ("song", 0.25), ("generated", 0.25))
    COHERENT = (("song", 0.65), ("generated", 0.35))

    def __init__(self, store: ShardStore, split: Split, samples: int) -> None:
        self.samples = samples
        longest = int(samples * max(SPEEDS)) + 2
        self.pools = {name: pick(store, split, component, longest) for name, component in self.POOLS.items()}
        songs = self.pools["song"]
        self.pools["song"] = [s for s in songs if not s.segment.generated]
        self.pools["generated"] = [s for s in songs if s.segment.generated]
        self.sung = {
            name: [s for s in pool if s.segment.activity != "instrumental" and s.has("vocals")]
            for name, pool in self.pools.items()
        }
        self.drum_pool = [s for s in songs if s.has("drums")]
        self.full_pool = [s for s in self.drum_pool if s.has("bass")]

    def _weights(self, table: Table, pools: Pools) -> tuple[list[str], np.ndarray]:
        names = [name for name, _ in table if pools[name]]
        weights = np.array([weight for name, weight in table if pools[name]])
        return names, weights / weights.sum() if names else weights

    def has(self, table: Table, pools: Pools) -> bool:
        return any(pools[name] for name, _ in table)

    def draw(self, rng: Generator) -> Remix:
        """One mixture. Raises CorpusError when there are neither vocals nor accompaniment."""
        vocals, accompaniment = self.has(self.VOCALS, self.sung), self.has(self.ACCOMPANIMENT, self.pools)
        if not vocals and not accompaniment:
            raise CorpusError(
                "separator: the shards hold neither vocals nor accompaniment long enough for a crop; add longer recordings"
            )
        mode = rng.random()
        tracks: list[TrackSound]
        if self.has(self.COHERENT, self.pools) and mode < 0.4:
            tracks = self._coherent(rng)
        elif not accompaniment or (vocals and mode > 0.96):
            tracks = [self._vocals(rng)]
        elif not vocals or mode > 0.9:
            tracks = [self._accompaniment(rng)]
        else:
            tracks = [self._vocals(rng), self._accompaniment(rng)]
            if rng.random() < 0.1:  # a second voice
                second = self._vocals(rng)
                level = decibels(-rng.uniform(3, 12)) * rms(tracks[0].audio) / max(rms(second.audio), SILENT)
                second.scale(min(level, 16.0))
                tracks[0].audio, tracks[0].stems = tracks[0].audio + second.audio, tracks[0].stems + second.stems
            ratio = float(np.clip(rng.normal(-3, 6), -18, 12))
            level = decibels(ratio) * rms(tracks[1].audio) / max(rms(tracks[0].audio), SILENT)
            tracks[0].scale(min(level, 16.0))
        mix = torch.stack([t.audio for t in tracks]).sum(0)
        stems = torch.stack([t.stems for t in tracks]).sum(0)
        known = torch.stack([t.known for t in tracks]).all(0)
        if rng.random() < 0.15:  # a mono mix
            mix = mix.mean(0, keepdim=True).expand(2, -1)
            stems = stems.mean(1, keepdim=True).expand(-1, 2, -1)
        factor = 0.1 * decibels(rng.normal(0, 2)) / max(rms(mix), SILENT)
        return Remix(mix * factor, stems * factor, known)

    # sources

    def _pick(self, rng: Generator, table: Table, pools: Pools) -> SegmentSound:
        names, chances = self._weights(table, pools)
        pool = pools[names[int(rng.choice(len(names), p=chances))]]
        return pool[int(rng.integers(len(pool)))]

    def _size(self, rng: Generator) -> int:
        """Samples to read: other than `samples` when the crop is to be played faster or slower."""
        return int(self.samples * SPEEDS[int(rng.integers(len(SPEEDS)))]) if rng.random() < 0.5 else self.samples

    def _vocals(self, rng: Generator) -> TrackSound:
        sound, size = self._pick(rng, self.VOCALS, self.sung), self._size(rng)
        audio = sound.stereo("vocals", span(rng, sound, "vocals", size, AUDIBLE), size)
        dry = sound.segment.kind in ("voice", "speech")
        audio = self._treat(rng, audio[None], reverb=0.7 if dry else 0.15, pan=0.5 if dry else 0.15)[0]
        stems = torch.zeros(len(STEMS), 2, self.samples)
        stems[0] = audio
        return TrackSound(audio, stems, torch.ones(len(STEMS), dtype=torch.bool))

    def _accompaniment(self, rng: Generator) -> TrackSound:
        if len(self.full_pool) > 1 and rng.random() < 0.15:
            return self._stem_remix(rng)
        sound, size = self._pick(rng, self.ACCOMPANIMENT, self.pools), self._size(rng)
        parts, known = self._parts(sound, span(rng, sound, "accompaniment", size, AUDIBLE), size)
        return self._as_track(self._treat(rng, parts, reverb=0.05, pan=0.1), known)

    def _stem_remix(self, rng: Generator) -> TrackSound:
        """Drums, bass and other from three recordings whose stems are known."""
        audio = torch.zeros(2, self.samples)
        stems = torch.zeros(len(STEMS), 2, self.samples)
        for index, pool in ((1, self.drum_pool), (2, self.full_pool), (3, self.full_pool)):
            sound, size = pool[int(rng.integers(len(pool)))], self._size(rng)
            parts, _ = self._parts(sound, span(rng, sound, "accompaniment", size, AUDIBLE), size)
            stem = self._treat(rng, parts[1 + index][None], reverb=0.05, pan=0.1)[0]
            stems[index] = stem * decibels(rng.normal(0, 3))
            audio = audio + stems[index]
        return TrackSound(audio, stems, torch.ones(len(STEMS), dtype=torch.bool))

    def _coherent(self, rng: Generator) -> list[TrackSound]:
        """Both tracks of one song from the same place; half of the time with changed levels."""
        sound, size = self._pick(rng, self.COHERENT, self.pools), self._size(rng)
        start = span(rng, sound, "vocals" if rng.random() < 0.8 else "accompaniment", size, AUDIBLE)
        parts, known = self._parts(sound, start, size)
        parts = torch.cat((parts, sound.stereo("vocals", start, size)[None]))
        if rng.random() < 0.5:
            parts = self._treat(rng, parts, reverb=0.0, pan=0.1)
        else:
            parts = shape_spectrum(parts, self.samples)
        vocals = parts[-1]
        accompaniment = self._as_track(parts[:-1], known)
        if rng.random() < 0.5:
            gain = decibels(rng.normal(0, 4))
            vocals = vocals * gain
        stems = torch.zeros_like(accompaniment.stems)
        stems[0] = vocals
        return [TrackSound(vocals, stems, torch.ones(len(STEMS), dtype=torch.bool)), accompaniment]

    def _parts(self, sound: SegmentSound, start: int, size: int) -> tuple[Tensor, Tensor]:
        """The accompaniment, then its stems (its vocals are known: zero), `[1 + 4, 2, size]`; which stems are known."""
        parts = torch.zeros(1 + len(STEMS), 2, size)
        known = torch.tensor([True, False, False, False])
        parts[0] = sound.stereo("accompaniment", start, size)
        for index, stem in enumerate(STEMS[1:3], start=1):
            if sound.has(stem):
                parts[1 + index] = sound.stereo(stem, start, size)
                known[index] = True
        if bool(known[1:3].all()):
            parts[4] = parts[0] - parts[2] - parts[3]
            known[3] = True
        return parts, known

    @staticmethod
    def _as_track(parts: Tensor, known: Tensor) -> TrackSound:
        return TrackSound(parts[0], parts[1:], known)

    # treatments, alike for a track and its stems

    def _treat(self, rng: Generator, parts: Tensor, reverb: float, pan: float) -> Tensor:
        """Speed, EQ, band limit; reverb and balance with those probabilities; swap, polarity: `[parts, 2, size]`."""
        curve = response = None
        if rng.random() < 0.4:
            curve = equaliser(rng, self.samples)
        if rng.random() < 0.08:
            limit = band_limit(float(rng.uniform(7_000, 16_000)), self.samples)
            curve = limit if curve is None else curve * limit
        if rng.random() < reverb:
            response = room(rng, self.samples)
        parts = shape_spectrum(parts, self.samples, curve, response)
        if rng.random() < pan:
            balance = float(rng.uniform(-4, 4)) / 40
            parts = parts * torch.tensor([10**balance, 10**-balance])[:, None]
        if rng.random() < 0.5:
            parts = parts.flip(1)
        return -parts if rng.random() < 0.5 else parts


def shape_spectrum(audio: Tensor, samples: int, curve: Tensor | None = None, response: Tensor | None = None) -> Tensor:
    """Play `audio [..., 2, size]` in `samples` samples, with gains `curve [bins]` and `response [2, bins]`.

    All in one Fourier transform of the crop. Circular effects at its ends are equal in mix and target and do no harm.
    """
    if curve is None and response is None and audio.shape[-1] == samples:
        return audio
    spectrum = torch.fft.rfft(audio, dim=-1)
    bins = samples // 2 + 1
    spectrum = torch.nn.functional.pad(spectrum, (0, bins - spectrum.shape[-1]))
    if curve is not None:
        spectrum = spectrum * curve
    if response is not None:
        spectrum = spectrum * response
    shaped: Tensor = torch.fft.irfft(spectrum, n=samples, dim=-1) * (samples / audio.shape[-1])
    return shaped


def equaliser(rng: Generator, samples: int) -> Tensor:
    """Smooth random gains within about +-6 dB, `[samples // 2 + 1]`."""
    frequencies = np.linspace(0, SAMPLE_RATE / 2, samples // 2 + 1)
    knots = np.log([60.0, 200.0, 600.0, 1800.0, 5000.0, 14000.0])
    gains = np.clip(rng.normal(0, 3, len(knots)), -7, 7)
    curve = np.interp(np.log(frequencies + 1.0), knots, gains)
    return torch.from_numpy((10 ** (curve / 20)).astype(np.float32))


def band_limit(cutoff: float, samples: int) -> Tensor:
    """Gains of a low-pass with a 10 % wide edge at `cutoff` Hz, `[samples // 2 + 1]`."""
    frequencies = torch.linspace(0, SAMPLE_RATE / 2, samples // 2 + 1)
    return ((1.05 * cutoff - frequencies) / (0.1 * cutoff)).clamp(0.0, 1.0)


def room(rng: Generator, samples: int) -> Tensor:
    """Frequency response `[2, samples // 2 + 1]` of a direct sound plus a decaying stereo noise tail."""
    length = min(samples, int(SAMPLE_RATE * rng.uniform(0.15, 0.9)))
    tail = torch.from_numpy(rng.standard_normal((2, length), dtype=np.float32))
    tail = tail * torch.exp(-6.9 * torch.linspace(0, 1, length))
    tail[:, : int(SAMPLE_RATE * rng.uniform(0.003, 0.03))] = 0.0
    wet = decibels(rng.uniform(-18, -3))
    tail = tail * wet / max(float(tail.norm(dim=1).mean()), 1e-6)
    tail[:, 0] += 1.0
    response: Tensor = torch.fft.rfft(tail, n=samples)
    return response
