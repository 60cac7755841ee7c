"""Tables and heads from the codec's vectors: what they hold, whose they are, and that they survive their file."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.lm.small import CODEC, MIXED, TINY, corpus, songs

from duotok.config import parse
from duotok.errors import ConfigError, TokenFileError
from duotok.lm.corpus import VECTORS, TokenCorpus, write_tokens
from duotok.lm.model import MultiStreamLM
from duotok.lm.stage import LMStage, LMStageConfig
from duotok.lm.start import REST, SHARPNESS, Vectors, principal, start_from_codec
from duotok.lm.unigram import count, count_songs


def vectors(codec=CODEC, width: int = 6) -> Vectors:
    generator = torch.Generator().manual_seed(3)
    return {c.name: principal(torch.randn(c.size, width, generator=generator)) for c in codec.columns}


def stage(path: Path, **settings: object) -> LMStage:
    values = dict(steps=2, batch_size=2, lr=1e-3, seconds=2.0, shortest=0.5, data=path, model=TINY.model_dump())
    return LMStage(parse(LMStageConfig, {**values, **settings}))


def test_principal_components_keep_distances() -> None:
    """Vectors of 3 dimensions in a space of 200, moved and turned: three components, the same distances but for a factor."""
    plane = torch.randn(50, 3, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(200, 200, dtype=torch.float64))[0][:3]
    found = torch.from_numpy(principal(1e-6 * (plane @ turn) + 5).astype(np.float64))
    assert found.shape == (50, 3)
    assert bool((found.var(0)[:-1] >= found.var(0)[1:]).all())
    wanted, got = torch.cdist(plane, plane), torch.cdist(found, found)
    torch.testing.assert_close(got / got.max(), wanted / wanted.max(), atol=2e-3, rtol=0)
    assert principal(torch.randn(500, 100)).shape == (500, 64)
    among = torch.randn(1, 40) * 1e3 + torch.randn(50, 3) @ torch.randn(3, 40)  # as float32 sums leave it
    assert principal(among).shape == (50, 3)
    assert principal(torch.ones(4, 8)).shape == (4, 1) and not principal(torch.ones(4, 8)).any()


def test_codes_that_are_alike_start_alike() -> None:
    torch.manual_seed(0)
    lm = MultiStreamLM(TINY, CODEC)
    before = {name: value.clone() for name, value in lm.state_dict().items()}
    own = vectors()
    seen = {c.name: count(np.arange(7), c.size) for c in CODEC.columns}
    start_from_codec(lm, own, seen)
    for k, column in enumerate(CODEC.columns):
        white = torch.from_numpy(own[column.name].astype(np.float32))
        white = white / white.square().mean(0).sqrt()
        table, head = lm.inputs.tables[k].weight, lm.outputs.heads[k]
        old = before[f"inputs.tables.{k}.weight"]
        torch.testing.assert_close(table[:20, :6], REST * old[:20, :6] + white)
        torch.testing.assert_close(table[:20, 6:], REST * old[:20, 6:])
        assert torch.equal(table[20:], old[20:]), "SOS, EOS and PAD stay"
        torch.testing.assert_close(
            head.weight[:20, :6], before[f"outputs.heads.{k}.weight"][:20, :6] + SHARPNESS * white
        )
        chances = torch.tensor([(1.5 if code < 7 else 0.5) / 17 for code in range(20)])
        torch.testing.assert_close(head.bias[:20], chances.log())
        torch.testing.assert_close(head.bias[20:], torch.full((3,), math.log(0.5 / 17)))
    assert torch.equal(lm.state_dict()["body.layers.0.mlp.up_proj.weight"], before["body.layers.0.mlp.up_proj.weight"])


@pytest.mark.parametrize("embedding", [None, 4])
def test_a_stage_starts_from_the_corpus(tmp_path: Path, embedding: int | None) -> None:
    """Before the first step the model guesses about as the frequencies do, which a random start does not."""
    path, found = tmp_path / "tokens.parquet", songs(MIXED)
    some = [
        replace(s, tokens={n: np.minimum(c, 3) for n, c in s.tokens.items()}) for s in found
    ]  # few codes are in use
    write_tokens(path, MIXED, some, vectors=vectors(MIXED))
    model = {**TINY.model_dump(), "embedding": embedding}
    made, plain = stage(path, tables="codec", model=model), stage(path, model=model)
    seen = count_songs(MIXED, TokenCorpus(path).songs("train"))
    by_frequency = np.mean([
        count_songs(MIXED, made.held_songs)[c.stream][c.codebook].bits_by_frequency(seen[c.stream][c.codebook])
        for c in MIXED.columns
    ])  # fmt: skip
    start, random = (s.held_out()["loss"] / math.log(2) for s in (made, plain))
    assert abs(start - by_frequency) < 0.5 < random - start
    assert made.config.tables == "codec"


def test_corpora_without_vectors_or_of_other_codes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokens.parquet: packed without code vectors; pack again"):
        stage(corpus(tmp_path), tables="codec")
    lm = MultiStreamLM(TINY, CODEC)
    seen = {c.name: count(np.arange(7), c.size) for c in CODEC.columns}
    with pytest.raises(ConfigError, match=r"accompaniment.0: none vectors for 20 codes"):
        start_from_codec(lm, {"vocals.0": vectors()["vocals.0"]}, seen)
    with pytest.raises(ConfigError, match=r"vocals.0: 7 vectors for 20 codes"):
        start_from_codec(lm, {c.name: vectors(MIXED)["vocals.0"] for c in CODEC.columns}, seen)


def test_vectors_survive_their_file(tmp_path: Path) -> None:
    path, own = tmp_path / "tokens.parquet", vectors()
    write_tokens(path, CODEC, songs(), vectors=own)
    found = TokenCorpus(path)
    assert found.vectors is not None and found.vectors.keys() == own.keys()
    assert all(np.array_equal(found.vectors[name], own[name]) for name in own)
    write_tokens(path, CODEC, songs(), vectors={name: np.asfortranarray(table) for name, table in own.items()})
    turned = TokenCorpus(path).vectors
    assert turned is not None and all(np.array_equal(turned[name], own[name]) for name in own)
    assert TokenCorpus(corpus(tmp_path)).vectors is None
    pyarrow = pytest.importorskip("pyarrow.parquet")
    write_tokens(path, CODEC, songs(), vectors=own)
    file = pyarrow.ParquetFile(path)
    metadata = {key: value for key, value in file.metadata.metadata.items() if key.startswith(b"duotok")}
    damaged = {**metadata, VECTORS: metadata[VECTORS][:-40]}
    pyarrow.write_table(file.read().replace_schema_metadata(damaged), path)
    with pytest.raises(TokenFileError, match="its code vectors are damaged"):
        _ = TokenCorpus(path).vectors
