"""A tokenizer of your own among the others: an adapter, the file that DuoTok asks it through.

    codec: waves                     # own.yaml; a name that no other tokenizer has
    adapter: own_tokenizer.py
    python: ~/envs/waves             # the environment that it runs in
    weights: waves.safetensors

    duotok codecs check external:own.yaml
    duotok eval reconstruction mini external:own.yaml --songs music -o results

This one cuts mono sound at 16 kHz into frames of 20 ms and writes the nearest of a table of frames for each: one codebook. Replace
the class by calls of your model. It runs in its own environment, of which DuoTok needs numpy alone; `tools.torch()` gives torch
and watches that checkpoints fill the models that they are loaded into.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from safetensors.numpy import load_file

RATE, HOP = 16_000, 320


def files(settings: dict[str, Any]) -> list[str]:
    """All files that give codes their meaning. They are hashed before anything is loaded."""
    return [settings["weights"]]


def load(settings: dict[str, Any], tools: Any) -> Any:
    """The tokenizer, filled. settings: weights, options, device, codebooks (how many are asked for, or None), and others."""
    return Waves(settings, tools)


class Waves:
    """`facts` say what it is: `block` samples become `per_block` frames; `sizes` of its codebooks; sound is given in windows of so many
    seconds, with so much context on either side (`window: None`: the whole at once)."""

    def __init__(self, settings: dict[str, Any], tools: Any) -> None:
        self.table = load_file(settings["weights"])["table"]  # [codes, HOP]
        tools.report("table", missing=())  # nothing of it is random; with torch's load_state_dict this goes by itself
        self.facts = {
            "sample_rate": RATE, "channels": 1, "block": HOP, "per_block": 1, "sizes": [len(self.table)],
            "window": 20.0, "context": 0.0,
        }  # fmt: skip

    def encode(self, sound: Any) -> Any:
        """float32 `[channels, samples]`, whole blocks, to integers `[codebooks, frames]`."""
        frames = sound.reshape(-1, HOP)
        distances = (self.table**2).sum(1) - 2 * frames @ self.table.T
        return distances.argmin(1)[None]

    def decode(self, codes: Any) -> Any:
        """Integers `[codebooks, frames]` to float32 `[channels, samples]`."""
        return self.table[codes[0]].reshape(1, -1)

    def vectors(self, stream: str, codes: Any) -> Any:
        """What the decoder gets for codes: float32 `[frames, width]`."""
        return self.table[codes[0]]
