"""Encoding in another precision than float32: faster, nearly the same tokens, and told when it does not exist."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.tiny import song

from duotok.codec.duotok import DuoTok
from duotok.errors import ConfigError
from duotok.model.int8 import Int8Linear


def test_bf16_runs_the_blocks_in_bf16_and_keeps_most_tokens(bundle: Path, model: DuoTok) -> None:
    half = DuoTok.from_pretrained(bundle, precision="bf16")
    seen: list[torch.dtype] = []
    block = half.tokenizer.lower_blocks.blocks[0]
    block.attention.qkv.register_forward_hook(lambda module, given, made: seen.append(made.dtype))
    audio = song(6.0)
    rounded = half.encode(vocals=audio, accompaniment=audio.flip(0))
    assert set(seen) == {torch.bfloat16}
    tokens = model.encode(vocals=audio, accompaniment=audio.flip(0))
    assert (rounded.vocals == tokens.vocals).float().mean() > 0.8
    assert rounded.model_hash == tokens.model_hash


def test_a_precision_that_does_not_exist(bundle: Path) -> None:
    with pytest.raises(ConfigError, match="precision 'fp8' does not exist; choose fp32, bf16"):
        DuoTok.from_pretrained(bundle, precision="fp8")


def test_int8_keeps_most_tokens_and_the_models_hash(bundle: Path, model: DuoTok) -> None:
    quick = DuoTok.from_pretrained(bundle, precision="int8")
    audio = song(6.0)
    rounded = quick.encode(vocals=audio, accompaniment=audio.flip(0))
    tokens = model.encode(vocals=audio, accompaniment=audio.flip(0))
    assert (rounded.vocals == tokens.vocals).float().mean() > 0.8
    assert rounded.model_hash == tokens.model_hash
    assert any(isinstance(m, Int8Linear) for m in quick.encoder.modules())
    assert not any(isinstance(m, Int8Linear) for m in quick.tokenizer.modules())
    together = quick.encode(vocals=audio, accompaniment=audio.flip(0), batch_size=4)
    assert (together.vocals == rounded.vocals).float().mean() > 0.99


def test_int8_is_refused_on_a_gpu_before_anything_is_read(bundle: Path) -> None:
    with pytest.raises(ConfigError, match="use bf16"):
        DuoTok.from_pretrained(bundle, "cuda", "int8")
