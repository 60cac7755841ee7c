"""A tokenizer that is known by heart, and songs for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from duotok.audio.io import resample, write
from duotok.clock import SAMPLE_RATE
from duotok.codec import Stream, StreamTokens
from duotok.data.jobs import LocalEngine
from duotok.errors import BundleError
from duotok.tracks import TRACKS

RATE, HOP, SIZE = 8000, 80, 256
HERE = LocalEngine(1)
"""Units run in this process: patches count, and nothing has to be started."""


class Steps:
    """Its code is the middle sample of a frame of 10 ms, in 256 steps from -1 to 1; it decodes to steps. Fully known: a shift by
    a frame gives the same codes a frame later, what it decoded it encodes to the same codes, a gain changes nearly all."""

    model_id, sample_rate, frame_rate = "steps", RATE, RATE / HOP

    def __init__(self, fault: str = "", streams: tuple[str, ...] = TRACKS) -> None:
        self.fault, self.model_hash = fault, f"{hash_of(fault)}"
        self.streams = tuple(Stream(stream, (SIZE,)) for stream in streams)
        self.encoded, self.sound_hash = 0, ""

    def n_frames(self, n_samples: int) -> int:
        return -(-n_samples // HOP)

    def encode(
        self, audio: Any = None, rate: int = SAMPLE_RATE, *, vocals: Any = None, accompaniment: Any = None, batch_size: int = 1
    ) -> StreamTokens:  # fmt: skip
        self.encoded += 1
        given = {"vocals": vocals, "accompaniment": accompaniment, "mix": audio}
        if audio is None:
            given["mix"] = vocals + accompaniment
        codes, n = {}, 0
        for stream in self.streams:
            mono = resample(given[stream.name].mean(0), rate, RATE)
            if self.fault == "stops at silence" and float(mono[: len(mono) // 2].abs().max()) == 0:
                raise RuntimeError("cannot divide by zero")
            n = len(mono)
            padded = torch.nn.functional.pad(mono, (0, -n % HOP))
            codes[stream.name] = ((padded[HOP // 2 :: HOP].clamp(-1, 1) + 1) / 2 * (SIZE - 1)).round().long()[None]
            if self.fault == "draws":
                codes[stream.name] = (codes[stream.name] + self.encoded) % SIZE
        return StreamTokens(codes, n)

    def decode(self, tokens: Mapping[str, Tensor], track: str = "mix") -> Tensor:
        if self.fault == "mute":
            raise BundleError("steps: encodes only")
        names = [track] if track in tokens else [*tokens]
        sound = sum(tokens[name][0].float() / (SIZE - 1) * 2 - 1 for name in names)
        assert isinstance(sound, Tensor) and isinstance(tokens, StreamTokens)
        whole = sound.repeat_interleave(HOP)[None, : tokens.n_samples]
        if self.fault == "nan":
            return whole * float("nan")
        return whole[:, : whole.shape[1] // 2] if self.fault == "half" else whole

    def embeddings(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        raise NotImplementedError

    def codebook_vectors(self) -> dict[str, list[Tensor]]:
        raise NotImplementedError


def hash_of(text: str) -> str:
    return (text.encode().hex() + "0" * 64)[:64]


def steps_sound(seconds: float, seed: int = 0) -> Tensor:
    """Stereo steps of 10 ms whose heights are drawn, so that resampling keeps the middle of each: `[2, samples]` at 48 kHz."""
    heights = np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * 100))
    mono = torch.from_numpy(np.repeat(heights, SAMPLE_RATE // 100).astype(np.float32))
    return mono.repeat(2, 1)


def pair(folder: Path, name: str, seconds: float = 1.5, seed: int = 0, silent: bool = False) -> None:
    """`NAME.vocals.wav` and `NAME.accompaniment.wav`."""
    vocals = steps_sound(seconds, seed)
    if silent:
        vocals[:, : vocals.shape[1] * 3 // 4] = 0
    write(folder / f"{name}.vocals.wav", 0.3 * vocals, SAMPLE_RATE)
    write(folder / f"{name}.accompaniment.wav", 0.3 * steps_sound(seconds, seed + 100), SAMPLE_RATE)
