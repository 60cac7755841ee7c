"""The derived arrays that follow from the sound alone: samples, log-mel, chroma, levels.

Mel and chroma are those of the mono sum at the recording's gain to -18 LUFS, behind the high-pass of the front end, on the
token frames. Beyond the ends of a segment lies silence, as at the ends of a file: neighbouring segments are not read.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from duotok.audio.features import HIGHPASS_HZ, MEL_MEAN, MEL_STD, POWER_FLOOR, Chroma, LogMel
from duotok.audio.highpass import highpass
from duotok.audio.io import resample
from duotok.clock import ANALYSIS_RATE, FRAME_SAMPLES, SAMPLE_RATE
from duotok.records import STORED
from duotok.shards.deriving import derive, derive_many
from duotok.shards.store import ShardStore

TRACKS = ("vocals", "accompaniment", "mix")
NAMES = ("mel", "chroma", "levels")
LOW_SAMPLES = FRAME_SAMPLES * ANALYSIS_RATE // SAMPLE_RATE
# In frames. The chroma window reaches 2.01 frames beyond a frame, the resampler's filter a few milliseconds more, and the
# high-pass needs some 0.3 s to forget the step at the start of an excerpt.
CONTEXT = 12
BLOCK = 250
"""Frames at a time: 10 s of spectra are 32 MB."""


def made_by(highpass_hz: float = HIGHPASS_HZ) -> str:
    """The `made_by` of the arrays that are derived behind a high-pass at `highpass_hz`."""
    cut = f", high-pass {highpass_hz:g}" if highpass_hz else ""
    return f"duotok features 1, mel {MEL_MEAN} {MEL_STD} {POWER_FLOOR}{cut}"


class Features:
    """Computes mel, chroma, levels of any part of a segment's track: what `store.rows` would give if it were stored.

    highpass_hz: of the front end, 0 for none. The last few stems are kept at 24 kHz, so that the mix costs no second
    decoding. Torch inference only.
    """

    def __init__(self, store: ShardStore, highpass_hz: float = HIGHPASS_HZ) -> None:
        self.store, self.highpass_hz = store, highpass_hz
        self.modules: dict[str, LogMel | Chroma] = {"mel": LogMel(), "chroma": Chroma()}
        self._low = functools.lru_cache(maxsize=8)(self._resampled)

    def __reduce__(self) -> tuple[type[Features], tuple[ShardStore, float]]:
        return (Features, (self.store, self.highpass_hz))

    def _resampled(self, index: int, stem: str, start: int, frames: int) -> Tensor:
        """Mono `[frames x 960]` of a stored stem at 24 kHz, behind the high-pass."""
        sound = highpass(self.store.audio(index, stem, start, frames, channels=1), self.highpass_hz, SAMPLE_RATE)
        return resample(sound, SAMPLE_RATE, ANALYSIS_RATE)[0]

    @torch.inference_mode()
    def rows(
        self, index: int, track: str, names: Sequence[str] = NAMES, start: int = 0, frames: int | None = None
    ) -> dict[str, np.ndarray]:
        """float16 rows of token frames `start` to `start + frames` (None: to the end) for each of the names."""
        segment = self.store.segments[index].segment
        frames = segment.frames - start if frames is None else frames
        first, last = max(0, start - CONTEXT), min(segment.frames, start + frames + CONTEXT)
        parts = self.store.segments[index].parts[track]
        low = torch.stack([self._low(index, stem, first, last - first) for stem in parts]).sum(0)
        low *= 10 ** (segment.gain_db / 20)
        features = {}
        for name in names:
            inside = low[(start - first) * LOW_SAMPLES :][: frames * LOW_SAMPLES]
            features[name] = (
                frame_levels(inside) if name == "levels" else self._spectral(name, low, start - first, frames)
            )
        return {name: rows.half().numpy() for name, rows in features.items()}

    def _spectral(self, name: str, low: Tensor, start: int, frames: int) -> Tensor:
        """Mel or chroma of the token frames from `start` of `low [samples]`, block by block."""
        module = self.modules[name]
        padded = torch.nn.functional.pad(low, (module.margin, module.margin))
        blocks = []
        for at in range(start, start + frames, BLOCK):
            stop = min(at + BLOCK, start + frames)
            piece = padded[at * LOW_SAMPLES : stop * LOW_SAMPLES + 2 * module.margin]
            blocks.append(module(piece, margins=True))
        return torch.cat(blocks)

    def __call__(self, index: int, track: str) -> dict[str, np.ndarray]:
        return self.rows(index, track)


def frame_levels(low: Tensor) -> Tensor:
    """RMS of each token frame in dB of full scale, at least -120: `[frames x 960]` at 24 kHz to `[frames]`.

    What lies above 12 kHz does not count.
    """
    return 10 * low.reshape(-1, LOW_SAMPLES).square().mean(1).clamp_min(1e-12).log10()


def samples(store: ShardStore, index: int, stem: str) -> np.ndarray:
    """A stored stem's samples, int16 `[frames x 1920, 2]`: exactly those of its file, mono repeated."""
    sound = store.audio(index, stem, channels=2)
    return (sound.T * 32768).round().to(torch.int16).numpy()


def derive_features(
    store: ShardStore,
    tracks: Sequence[str] = TRACKS,
    select: Sequence[int] | None = None,
    workers: int = 1,
    highpass_hz: float = HIGHPASS_HZ,
) -> None:
    """Fill mel, chroma and levels of the tracks behind a high-pass at `highpass_hz`; rows made so before stay."""
    features = Features(store, highpass_hz)
    derive_many(store, NAMES, features, tracks=tracks, made_by=made_by(highpass_hz), select=select, workers=workers)


def derive_samples(
    store: ShardStore, stems: Sequence[str] = STORED, select: Sequence[int] | None = None, workers: int = 1
) -> None:
    """Fill pcm of the stored stems (0.7 GB an hour and stem), from which `store.audio` then reads instead of the stored files."""
    chosen = range(len(store)) if select is None else select
    for stem in stems:
        available = [index for index in chosen if stem in store.segments[index].offsets]
        function = functools.partial(samples, store)
        derive(store, "pcm", function, tracks=(stem,), made_by="duotok pcm 1", select=available, workers=workers)
