"""Tiny tokenizers and batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from duotok.model import Tokenizer, TokenizerConfig


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def build() -> Callable[..., Tokenizer]:
    def make(**overrides: Any) -> Tokenizer:
        torch.manual_seed(1)
        return Tokenizer(TokenizerConfig.preset("tiny", **overrides))

    return make


@pytest.fixture
def targets() -> Callable[[int, int], dict[str, Tensor]]:
    def make(batch: int, frames: int) -> dict[str, Tensor]:
        g = torch.Generator().manual_seed(5)
        # Smooth along time, so that something can be learnt of it.
        coarse = torch.randn(batch, frames, 16, generator=g).repeat_interleave(4, 1)
        return {
            "mel": coarse,
            "chroma": torch.rand(batch, frames, 12, generator=g).repeat_interleave(4, 1),
            "masks": torch.rand(batch, frames, 4, 16, generator=g).repeat_interleave(4, 1),
            "text": torch.randint(0, 8, (batch, 3), generator=g),
            "text_lengths": torch.full((batch,), 3),
        }

    return make
