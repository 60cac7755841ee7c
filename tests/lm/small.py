"""The smallest codecs, songs and language models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from duotok.codec.contract import Stream
from duotok.lm.config import LMConfig
from duotok.lm.corpus import write_tokens
from duotok.lm.model import MultiStreamLM
from duotok.lm.song import TokenizedSong
from duotok.lm.streams import CodecIdentity
from duotok.records import Split

TINY = LMConfig(hidden=16, layers=1, heads=2, kv_heads=1, ffn=32)
CODEC = CodecIdentity("tiny", "ab" * 32, 25.0, 48_000, (Stream("vocals", (20,)), Stream("accompaniment", (20,))))
MIXED = CodecIdentity("mixed", "cd" * 32, 10.0, 24_000, (Stream("vocals", (7, 9)), Stream("accompaniment", (30,))))


def song(
    name: str, frames: int, codec: CodecIdentity = CODEC, split: Split = "train", seed: int = 0, **known: object
) -> TokenizedSong:
    """Codes that climb, each stream from a start of its own: easy to learn."""
    rng = np.random.default_rng([seed, *name.encode()])
    tokens = {
        stream.name: np.stack(
            [(rng.integers(size) + np.arange(frames)) % size for size in stream.codebook_sizes]
        ).astype(np.int32)
        for stream in codec.streams
    }
    return TokenizedSong(name, split, tokens, identity=name, **known)  # type: ignore[arg-type]


def songs(codec: CodecIdentity = CODEC, count: int = 6, frames: int = 60) -> list[TokenizedSong]:
    """Of several lengths, two thirds for training, one third for validation."""
    return [
        song(f"{split}{i}", frames + 7 * i, codec, split)  # type: ignore[arg-type]
        for split, n in (("train", count - count // 3), ("validation", count // 3))
        for i in range(n)
    ]


def corpus(folder: Path, codec: CodecIdentity = CODEC, found: Sequence[TokenizedSong] | None = None) -> Path:
    path = folder / "tokens.parquet"
    write_tokens(path, codec, songs(codec) if found is None else found)
    return path


def model(codec: CodecIdentity = CODEC, seed: int = 0) -> MultiStreamLM:
    torch.manual_seed(seed)
    return MultiStreamLM(TINY, codec).eval()
