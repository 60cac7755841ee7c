"""Random remixing for the separator: stems of different recordings, shaped and mixed anew by a random generator.

Every treatment is linear, so it is applied to a track and to its known stems alike and the sums stay exact. Where a
stem is not known (most accompaniments are one file), its target is zero and its `known` flag is off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from duotok.training.corpus import RATE, Corpus, Recording

STEMS = ("vocals", "drums", "bass", "other")
SPEEDS = (0.84, 0.9, 0.95, 1.05, 1.1, 1.2)
SILENT = 1e-3  # rms (-60 dB) below which a crop counts as silent


@dataclass(frozen=True)
class Mixture:
    """`mix [2, samples]`, `stems [4, 2, samples]` in the order of STEMS, `known [4]`; accompaniment = mix - vocals."""

    mix: Tensor
    stems: Tensor
    known: Tensor


@dataclass
class Track:
    """Part of a mixture: its sound `[2, samples]` and the stems `[4, 2, samples]` in it (those not known are zero)."""

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
    """Draws mixtures from the recordings of one split.

    Kinds: dual and generated songs (both tracks), chant and speech (vocals), instrumental (accompaniment).
    """

    VOCAL_KINDS = (("dual", 0.42), ("chant", 0.28), ("generated", 0.22), ("speech", 0.08))
    ACCOMPANIMENT_KINDS = (("instrumental", 0.5), ("dual", 0.25), ("generated", 0.25))
    COHERENT_KINDS = (("dual", 0.65), ("generated", 0.35))

    def __init__(self, corpus: Corpus, split: str, samples: int) -> None:
        self.samples = samples
        longest = int(samples * max(SPEEDS)) + 2
        kinds = ("dual", "chant", "speech", "instrumental", "generated")
        self.pools = {k: [r for r in corpus.recordings(split, k) if r.samples > longest] for k in kinds}
        self.drum_pool = [r for k in ("dual", "generated") for r in self.pools[k] if "drums" in r.tracks]
        self.full_pool = [r for r in self.drum_pool if "bass" in r.tracks]

    def has(self, table: tuple[tuple[str, float], ...]) -> bool:
        return any(self.pools[kind] for kind, _ in table)

    def draw(self, rng: Generator) -> Mixture:
        """One mixture. Raises ValueError when the corpus has neither vocals nor accompaniment."""
        vocals, accompaniment = self.has(self.VOCAL_KINDS), self.has(self.ACCOMPANIMENT_KINDS)
        if not vocals and not accompaniment:
            raise ValueError("no recordings to mix")
        mode = rng.random()
        tracks: list[Track]
        if self.has(self.COHERENT_KINDS) and mode < 0.4:
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
        return Mixture(mix * factor, stems * factor, known)

    # sources

    def _pick(self, rng: Generator, table: tuple[tuple[str, float], ...]) -> Recording:
        kinds = [kind for kind, _ in table if self.pools[kind]]
        weights = np.array([weight for kind, weight in table if self.pools[kind]])
        pool = self.pools[kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]]
        # a long recording is worth more draws than a short one, but not in proportion
        durations = np.sqrt([r.seconds for r in pool])
        return pool[int(rng.choice(len(pool), p=durations / durations.sum()))]

    def _span(self, rng: Generator, recording: Recording, track: str, size: int) -> int:
        """Start of a crop, preferably one in which `track` sounds."""
        audio = recording.audio(track)
        start = 0
        for _ in range(6):
            start = int(rng.integers(0, recording.samples - size))
            probe = audio[start : start + size : 61].astype(np.float32) / 32768
            if np.sqrt(np.square(probe).mean()) * 10 ** (recording.gain_db / 20) > 0.01:
                break
        return start

    @staticmethod
    def _load(recording: Recording, track: str, start: int, size: int) -> Tensor:
        gain = np.float32(10 ** (recording.gain_db / 20) / 32768)
        crop = recording.audio(track)[start : start + size].astype(np.float32) * gain
        return torch.from_numpy(np.ascontiguousarray(crop.T))

    def _size(self, rng: Generator) -> int:
        """Samples to read: other than `samples` when the crop is to be played faster or slower."""
        return int(self.samples * SPEEDS[int(rng.integers(len(SPEEDS)))]) if rng.random() < 0.5 else self.samples

    def _vocals(self, rng: Generator, recording: Recording | None = None) -> Track:
        recording = recording or self._pick(rng, self.VOCAL_KINDS)
        size = self._size(rng)
        audio = self._load(recording, "vocals", self._span(rng, recording, "vocals", size), size)
        dry = recording.kind in ("chant", "speech")
        audio = self._treat(rng, audio[None], reverb=0.7 if dry else 0.15, pan=0.5 if dry else 0.15)[0]
        stems = torch.zeros(len(STEMS), 2, self.samples)
        stems[0] = audio
        return Track(audio, stems, torch.ones(len(STEMS), dtype=torch.bool))

    def _accompaniment(self, rng: Generator) -> Track:
        if len(self.full_pool) > 1 and rng.random() < 0.15:
            return self._stem_remix(rng)
        recording = self._pick(rng, self.ACCOMPANIMENT_KINDS)
        size = self._size(rng)
        parts, known = self._parts(recording, self._span(rng, recording, "accompaniment", size), size)
        return self._as_track(self._treat(rng, parts, reverb=0.05, pan=0.1), known)

    def _stem_remix(self, rng: Generator) -> Track:
        """Drums, bass and the rest from three recordings that know theirs."""
        audio = torch.zeros(2, self.samples)
        stems = torch.zeros(len(STEMS), 2, self.samples)
        for index, pool in ((1, self.drum_pool), (2, self.full_pool), (3, self.full_pool)):
            recording, size = pool[int(rng.integers(len(pool)))], self._size(rng)
            parts, _ = self._parts(recording, self._span(rng, recording, "accompaniment", size), size)
            sound = self._treat(rng, parts[1 + index][None], reverb=0.05, pan=0.1)[0]
            sound = sound * decibels(rng.normal(0, 3))
            stems[index] = sound
            audio = audio + sound
        return Track(audio, stems, torch.ones(len(STEMS), dtype=torch.bool))

    def _coherent(self, rng: Generator) -> list[Track]:
        """Both tracks of one song from one place; half the time with other levels."""
        recording, size = self._pick(rng, self.COHERENT_KINDS), self._size(rng)
        start = self._span(rng, recording, "vocals" if rng.random() < 0.8 else "accompaniment", size)
        parts, known = self._parts(recording, start, size)
        parts = torch.cat((parts, self._load(recording, "vocals", start, size)[None]))
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
        return [Track(vocals, stems, torch.ones(len(STEMS), dtype=torch.bool)), accompaniment]

    def _parts(self, recording: Recording, start: int, size: int) -> tuple[Tensor, Tensor]:
        """The accompaniment, then its stems (its vocals are known: zero), `[1 + 4, 2, size]`; which stems are known."""
        parts = torch.zeros(1 + len(STEMS), 2, size)
        known = torch.tensor([True, False, False, False])
        parts[0] = self._load(recording, "accompaniment", start, size)
        for index, stem in enumerate(STEMS[1:3], start=1):
            if stem in recording.tracks:
                parts[1 + index] = self._load(recording, stem, start, size)
                known[index] = True
        if bool(known[1:3].all()):
            parts[4] = parts[0] - parts[2] - parts[3]
            known[3] = True
        return parts, known

    @staticmethod
    def _as_track(parts: Tensor, known: Tensor) -> Track:
        return Track(parts[0], parts[1:], known)

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

    All in one Fourier transform of the crop. What wraps around its ends is in mix and target alike and does no harm.
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
    frequencies = np.linspace(0, RATE / 2, samples // 2 + 1)
    knots = np.log([60.0, 200.0, 600.0, 1800.0, 5000.0, 14000.0])
    gains = np.clip(rng.normal(0, 3, len(knots)), -7, 7)
    curve = np.interp(np.log(frequencies + 1.0), knots, gains)
    return torch.from_numpy((10 ** (curve / 20)).astype(np.float32))


def band_limit(cutoff: float, samples: int) -> Tensor:
    """Gains of a low-pass with a 10 % wide edge at `cutoff` Hz, `[samples // 2 + 1]`."""
    frequencies = torch.linspace(0, RATE / 2, samples // 2 + 1)
    return ((1.05 * cutoff - frequencies) / (0.1 * cutoff)).clamp(0.0, 1.0)


def room(rng: Generator, samples: int) -> Tensor:
    """Frequency response `[2, samples // 2 + 1]` of a direct sound plus a decaying stereo noise tail."""
    length = min(samples, int(RATE * rng.uniform(0.15, 0.9)))
    tail = torch.from_numpy(rng.standard_normal((2, length), dtype=np.float32))
    tail = tail * torch.exp(-6.9 * torch.linspace(0, 1, length))
    tail[:, : int(RATE * rng.uniform(0.003, 0.03))] = 0.0
    wet = decibels(rng.uniform(-18, -3))
    tail = tail * wet / max(float(tail.norm(dim=1).mean()), 1e-6)
    tail[:, 0] += 1.0
    response: Tensor = torch.fft.rfft(tail, n=samples)
    return response
