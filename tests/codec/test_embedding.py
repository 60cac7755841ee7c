"""DuoTok inside other programs: the same tokens and sound whatever they have set, copies, other threads and processes."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.nn.test_torch_settings import SURROUNDINGS, settings
from tests.tiny import song, tiny_bundle

from duotok.codec.duotok import DuoTok
from duotok.tokens import DualTokens


def all_of(model: DuoTok, audio: torch.Tensor) -> tuple[DualTokens, dict[str, torch.Tensor]]:
    """Everything that a caller can ask for."""
    tokens = model.encode(audio)
    stream = model.stream()
    pieces = list(stream.encode([audio], gain_db=tokens.gain_db))
    found = {
        "sound": model.decode(tokens),
        "separated": torch.cat([block["vocals"] for block in model.separate_blocks(audio)], 1),
        "streamed": torch.cat([piece["vocals"] for piece in pieces], 1),
        "streamed sound": torch.cat(list(stream.decode(pieces, gain_db=tokens.gain_db)), 1),
        "embeddings": model.embeddings(tokens)["vocals"],
        "table": model.codebook_vectors()["vocals"][0],
        "silence": model.silence("vocals"),
    }
    return tokens, found


@pytest.mark.parametrize("name", SURROUNDINGS)
@pytest.mark.parametrize("opened", ["before", "inside"])
def test_what_the_caller_set_in_torch_changes_nothing(bundle: Path, name: str, opened: str) -> None:
    audio = song(6.0)
    model = DuoTok.from_pretrained(bundle)
    tokens, found = all_of(model, audio)
    with SURROUNDINGS[name]():
        again, other = all_of(model if opened == "before" else DuoTok.from_pretrained(bundle), audio)
    assert again == tokens
    for what, value in found.items():
        assert other[what].dtype == value.dtype and torch.equal(other[what], value), what


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_what_the_caller_set_holds_in_what_a_stream_takes_from_it(model: DuoTok, name: str) -> None:
    """A language model that makes the pieces runs in its own settings, also while the stream decodes."""
    pieces, stream = list(model.stream().encode([song(1.0)], gain_db=0.0)), model.stream()
    seen = []

    def written() -> Iterator[object]:
        for piece in pieces:
            seen.append(settings())
            yield piece

    def arriving() -> Iterator[torch.Tensor]:
        seen.append(settings())
        yield audio

    audio = song(1.0)
    with SURROUNDINGS[name]():
        before = settings()
        list(stream.decode(written(), gain_db=0.0))
        list(stream.encode(arriving(), gain_db=0.0))
    assert len(seen) > 1 and set(seen) == {before}


def test_no_random_number_of_the_process_is_drawn(bundle: Path) -> None:
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    all_of(DuoTok.from_pretrained(bundle), song(1.0))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]  # noqa: NPY002


@pytest.mark.parametrize("caller", [torch.no_grad, torch.enable_grad])
def test_what_comes_out_can_be_trained_on(model: DuoTok, caller: type) -> None:
    with caller():
        tokens, found = all_of(model, song(1.0))
    table = torch.nn.Embedding(model.codebook_sizes[0], 2)
    table(tokens.vocals).sum().backward()
    table(found["streamed"]).sum().backward()
    torch.nn.Linear(found["embeddings"].shape[1], 1)(found["embeddings"]).sum().backward()
    assert not any(value.is_inference() or value.requires_grad for value in found.values())


def test_a_model_opened_in_inference_mode_can_be_trained_through_later(bundle: Path) -> None:
    with torch.inference_mode():
        model = DuoTok.from_pretrained(bundle)
        all_of(model, song(1.0))
    parts = [model.tokenizer, model.autoencoder, model.dit("vocals")]
    assert not any(value.is_inference() for part in parts for value in (*part.parameters(), *part.buffers()))  # type: ignore[attr-defined]
    assert not any(value.is_inference() for value in model.mel.buffers())


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_give_the_same(bundle: Path, precision: str, used: bool, way: object) -> None:
    audio = song(1.0)
    tokens = DuoTok.from_pretrained(bundle, precision=precision).encode(audio)
    model = DuoTok.from_pretrained(bundle, precision=precision)
    if used:
        model.encode(audio)
    assert way(model).encode(audio) == tokens  # type: ignore[operator]
    assert model.encode(audio) == tokens


def test_a_model_of_modules_can_be_pickled(model: DuoTok) -> None:
    made = DuoTok.from_modules(model.config, {part: model._part(part) for part in model.config.parts})
    assert pickle.loads(pickle.dumps(made)).encode(song(1.0)) == made.encode(song(1.0))


def _encoded(model: DuoTok, audio: np.ndarray) -> list[int]:
    torch.set_num_threads(1)
    return model.encode(audio).vocals.tolist()


def test_another_process_takes_the_model(bundle: Path) -> None:
    audio = song(1.0).numpy()
    model = DuoTok.from_pretrained(bundle)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_encoded, (model, audio)) == _encoded(model, audio)


def test_threads_share_a_model_that_has_read_nothing_yet(bundle: Path) -> None:
    songs = [song(seconds, seed=k) for k, seconds in enumerate((0.5, 1.0, 2.0))]
    expected = [all_of(DuoTok.from_pretrained(bundle), audio) for audio in songs]
    model = DuoTok.from_pretrained(bundle)
    with ThreadPoolExecutor(6) as pool:
        for (tokens, found), (again, other) in zip(
            2 * expected, pool.map(lambda a: all_of(model, a), 2 * songs), strict=True
        ):
            assert again == tokens and all(torch.equal(other[what], found[what]) for what in found)


def test_the_card_of_a_copy_is_that_of_the_bundle(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    again = pickle.loads(pickle.dumps(DuoTok.from_pretrained(bundle)))
    assert (again.save_pretrained(tmp_path / "again") / "README.md").read_text() == (bundle / "README.md").read_text()
