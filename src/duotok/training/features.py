"""What does not change is computed once: mel and chroma of every track as float16, memory-mapped; batches of crops from them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track as progress
from torch import Tensor

from duotok.audio.features import ANALYSIS_RATE, MEL_HOP, MEL_MEAN, MEL_STD, POWER_FLOOR, Chroma, LogMel
from duotok.audio.io import resample
from duotok.training.corpus import RATE, Corpus, Recording

MEL_PER_FRAME = 4
FRAME_SAMPLES = 1920


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an `.npy` atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    os.replace(partial, path)


def load_array(path: Path) -> np.ndarray:
    """Memory-map an `.npy`."""
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def feature_path(cache: Path, recording: Recording, track: str, name: str) -> Path:
    return cache / "features" / recording.id / f"{track}.{name}.npy"


def tracks_of(recording: Recording) -> list[str]:
    """The tracks that the tokenizer is trained on; a song with both tracks also has its mix."""
    tracks: list[str] = [t for t in ("vocals", "accompaniment", "mix") if t in recording.tracks]
    if "vocals" in tracks and "accompaniment" in tracks and "mix" not in tracks:
        tracks.append("mix")
    return tracks


def load_mono(recording: Recording, track: str, start: int = 0, stop: int | None = None) -> Tensor:
    """Mono float32 at 48 kHz with the recording's gain to -18 LUFS; `mix` is the sum of both tracks where it is not stored."""
    names = [track] if track in recording.tracks else ["vocals", "accompaniment"]
    stop = recording.samples if stop is None else stop
    total = sum(recording.audio(name)[start:stop].astype(np.float32).mean(1) for name in names)
    return torch.from_numpy(np.asarray(total) * np.float32(10 ** (recording.gain_db / 20) / 32768))


def compute_features(corpus: Corpus) -> None:
    """Mel `[frames, 128]` and chroma `[frames, 12]` (100 Hz, whole token frames) of every track; done ones are kept."""
    mel, chroma = LogMel(), Chroma()
    jobs = [
        (recording, name)
        for recording in corpus.all
        for name in tracks_of(recording)
        if not feature_path(corpus.cache, recording, name, "chroma").is_file()
    ]
    for recording, name in progress(jobs, description="mel and chroma"):
        audio = load_mono(recording, name)
        audio = torch.nn.functional.pad(audio, (0, -len(audio) % FRAME_SAMPLES))
        low = resample(audio[None], RATE, ANALYSIS_RATE)[0]
        for key, module in (("mel", mel), ("chroma", chroma)):
            # Minutes of sound at once would need gigabytes: blocks of 60 s with their true margins.
            block, margin = 60 * ANALYSIS_RATE, module.margin
            padded = torch.nn.functional.pad(low, (margin, margin))
            parts = [
                module(padded[s : min(s + block, len(low)) + 2 * margin], margins=True).half()
                for s in range(0, len(low), block)
            ]
            save_array(feature_path(corpus.cache, recording, name, key), torch.cat(parts).numpy())


@dataclass(frozen=True)
class Source:
    """One track of one recording with its features on disk."""

    recording: Recording
    track: str
    cache: Path

    def array(self, name: str) -> np.ndarray:
        return load_array(feature_path(self.cache, self.recording, self.track, name))

    @property
    def frames(self) -> int:
        return -(-self.recording.samples // FRAME_SAMPLES)


def find_sources(corpus: Corpus, split: str, kinds: Iterable[str], tracks: Sequence[str]) -> list[Source]:
    """Sources of the kinds and tracks whose features exist."""
    return [
        Source(recording, track, corpus.cache)
        for recording in corpus.recordings(split, *kinds)
        for track in tracks_of(recording)
        if track in tracks and feature_path(corpus.cache, recording, track, "chroma").is_file()
    ]


class Crops:
    """Random crops of weighted pools of sources; within a pool a source is drawn by its length."""

    def __init__(self, pools: list[tuple[float, list[Source]]], frames: int) -> None:
        self.frames = frames
        self.pools = [(w, [s for s in pool if s.frames >= 25]) for w, pool in pools]
        self.pools = [(w, pool) for w, pool in self.pools if w > 0 and pool]
        weights = np.array([w for w, _ in self.pools], dtype=np.float64)
        self.weights = weights / weights.sum()
        self.lengths = [np.array([min(s.frames, 3000) for s in pool], dtype=np.float64) for _, pool in self.pools]

    def draw(self, rng: np.random.Generator) -> tuple[Source, int, int]:
        """A source, the first frame and the number of frames (fewer than asked when the source is short)."""
        index = int(rng.choice(len(self.pools), p=self.weights))
        pool, lengths = self.pools[index][1], self.lengths[index]
        source = pool[int(rng.choice(len(pool), p=lengths / lengths.sum()))]
        count = min(self.frames, source.frames)
        return source, int(rng.integers(0, source.frames - count + 1)), count


def read_features(source: Source, name: str, start: int, count: int) -> Tensor:
    """Features of token frames `start .. start + count` as float32 `[4 * count, bins]`."""
    rows = source.array(name)[MEL_PER_FRAME * start : MEL_PER_FRAME * (start + count)]
    return torch.from_numpy(rows.astype(np.float32))


def gain_mel(mel: Tensor, gain_db: float) -> Tensor:
    """Normalised log-mel as if the sound were `gain_db` louder; what is at the floor stays there when turned down."""
    floor = (np.log(POWER_FLOOR) - MEL_MEAN) / MEL_STD
    louder: Tensor = mel + gain_db * np.log(10) / 10 / MEL_STD
    return louder.clamp_min(float(floor))


def pad_stack(items: list[Tensor], rows: int) -> Tensor:
    """Stack `[rows_i, bins]` with zeros behind to `[batch, rows, bins]`."""
    return torch.stack([torch.nn.functional.pad(item, (0, 0, 0, rows - len(item))) for item in items])


assert FRAME_SAMPLES * ANALYSIS_RATE == MEL_PER_FRAME * MEL_HOP * RATE
