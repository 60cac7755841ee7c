"""Each adapter against stand-ins with the calls, argument names and shapes of the public code that it was written from."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.codec.public_codecs import FAKES, moss, moss_model, moss_nano, open_qwen_music, semanticodec, write, yue

from duotok.codec.external.codec import Facts
from duotok.codec.external.registry import EXTERNAL
from duotok.codec.external.runners import codec_runner

FRAMES = 24


class Tools:
    def __init__(self) -> None:
        self.missing: list[str] = []
        self.extra: list[str] = []
        self.filled = 0

    def torch(self) -> Any:
        return torch

    def report(self, model: str, missing: Any, extra: Any = ()) -> None:
        self.filled += 1
        self.missing += missing
        self.extra += extra


def adapter_of(name: str) -> Any:
    spec = importlib.util.spec_from_file_location("adapter", EXTERNAL[name].adapter)
    assert spec is not None and spec.loader is not None
    adapter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(adapter)
    return adapter


def test_every_adapter_is_here() -> None:
    assert {EXTERNAL[name].adapter for name in FAKES} == {known.adapter for known in EXTERNAL.values()}


@pytest.mark.parametrize("name", FAKES)
def test_an_adapter_gives_what_the_contract_wants(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its facts are those published; codes `[codebooks, frames]` for whole blocks, sound as long, a vector a frame."""
    known = EXTERNAL[name]
    monkeypatch.setattr(sys, "path", [*sys.path])
    settings = {"checkout": str(tmp_path), "device": "cpu", "codebooks": None, **FAKES[name](monkeypatch, tmp_path)}
    adapter = adapter_of(name)
    files = adapter.files(settings)
    assert files and all(isinstance(file, str) for file in files)
    model = adapter.load(settings, Tools())
    facts = Facts.model_validate(model.facts)
    assert facts.sample_rate in known.rates and facts.channels == known.entry.channels
    rate = facts.sample_rate * facts.per_block / facts.block
    assert any(abs(rate / wanted - 1) < 1e-9 for wanted in known.frame_rates(facts.sample_rate))
    assert (facts.encodes, facts.decodes) == (known.entry.encodes, known.entry.decodes)
    size = known.entry.codebook_size
    assert tuple(facts.sizes) == (size if isinstance(size, tuple) else (size,) * len(facts.sizes))
    blocks = FRAMES // facts.per_block + 1
    shape = (len(facts.sizes), blocks * facts.per_block)
    codes = np.arange(shape[1], dtype=np.int32)[None].repeat(shape[0], 0) % min(facts.sizes)
    both = {"vocals": codes, "accompaniment": codes}
    if facts.encodes:
        sound = (0.1 * np.random.default_rng(0).standard_normal((facts.channels, blocks * facts.block))).astype(
            np.float32
        )
        found = (
            model.encode({"vocals": sound, "accompaniment": sound}) if facts.joint else {"vocals": model.encode(sound)}
        )
        for own in found.values():
            assert own.shape == shape and own.dtype.kind == "i" and own.min() >= 0
            assert all(row.max() < limit for row, limit in zip(own, facts.sizes, strict=True))
    if facts.decodes:
        once, again = (model.decode(both if facts.joint else codes) for _ in range(2))
        assert once.ndim == 2 and once.shape[1] >= blocks * facts.block
        assert np.array_equal(once, again)  # those that sample have a seed
    vectors = model.vectors("vocals", codes)
    assert vectors.shape[0] == shape[1] and vectors.ndim == 2


def test_the_configuration_of_yue_is_hashed_whether_it_is_named_or_not() -> None:
    settings: dict[str, Any] = {"checkout": "xcodec", "weights": "w.safetensors", "options": {}}
    files = adapter_of("yue-xcodec").files
    assert files(settings) == ["w.safetensors", "xcodec/final_ckpt/config.yaml"]
    assert files({**settings, "options": {"config": "mine.yaml"}}) == ["w.safetensors"], "options are in the hash"


def test_the_configuration_of_heartcodec_is_hashed(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").touch()
    files = adapter_of("heartcodec").files({"weights": str(tmp_path)})
    assert [Path(file).name for file in files] == ["a.safetensors", "config.json"]


def test_wavtokenizer_names_the_option_that_it_needs() -> None:
    with pytest.raises(ValueError, match="options: config is not given; name its YAML"):
        adapter_of("wavtokenizer").files({"weights": "w.ckpt", "options": {}})


@pytest.mark.parametrize("name", EXTERNAL)
def test_the_options_that_a_tokenizer_has_are_those_that_its_adapter_reads(name: str) -> None:
    known = EXTERNAL[name]
    read = re.findall(r'options(?:"\])?(?:\.get\(|\[)"(\w+)"', known.adapter.read_text())
    named = {*read, *(("vae_config", "vae_model") if name == "levo" else ())}  # a loop reads these as well
    assert {*known.option_names} == named


def test_yue_evaluates_nothing_and_opens_no_pickle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = {"checkout": str(tmp_path), "device": "cpu", **yue(monkeypatch, tmp_path)}
    monkeypatch.setattr(sys, "path", [*sys.path])
    adapter = adapter_of("yue-xcodec")
    (tmp_path / "final_ckpt" / "config.yaml").write_text(
        json.dumps({"generator": {"name": "__import__('os').getcwd", "config": {}}})
    )
    with pytest.raises(ValueError, match="not SoundStream"):
        adapter.load(settings, Tools())
    with pytest.raises(ValueError, match=r"no safetensors; convert it: python -m duotok.convert"):
        adapter.load({**settings, "weights": "ckpt_00360000.pth"}, Tools())


@pytest.mark.parametrize(
    ("weights", "files"),
    [
        ("", ["tokenizer/model.safetensors", "tokenizer/config.json"]),
        ("tokenizer", ["tokenizer/model.safetensors", "tokenizer/config.json"]),
        ("tokenizer.pt", ["tokenizer.pt"]),
    ],
)
def test_open_qwen_music_takes_its_release_and_its_export(
    weights: str, files: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Both are filled; weights that do not fit are refused by its own code."""
    settings = {"checkout": str(tmp_path), "device": "cpu", **open_qwen_music(monkeypatch, tmp_path)}
    settings["weights"] = str(tmp_path / weights)
    monkeypatch.setattr(sys, "path", [*sys.path])
    adapter = adapter_of("open-qwen-music")
    assert [Path(file).relative_to(tmp_path).as_posix() for file in adapter.files(settings)] == files
    assert adapter.load(settings, Tools()).model.weight.tolist() == [1.0] * 4
    if len(files) > 1:
        write(tmp_path / "tokenizer" / "config.json", json.dumps({"model": {"dim": 5}}))
        with pytest.raises(RuntimeError, match="size mismatch for weight"):
            adapter.load(settings, Tools())


def test_semanticodec_takes_the_layout_of_the_hub_and_that_of_its_checkpoint_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All files are named, so that a missing one is never fetched, and no GPU is taken unasked."""
    settings = {"device": "cpu", **semanticodec(monkeypatch, tmp_path)}
    adapter = adapter_of("semanticodec")
    hub = Path(settings["weights"])
    assert all(Path(file).is_file() and hub in Path(file).parents for file in adapter.files(settings))
    adapter.load(settings, Tools())
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    monkeypatch.chdir(tmp_path)
    for file in (hub / "semanticodec_tokenrate_100").iterdir():
        file.rename(hub / file.name)
    assert [Path(file).parent for file in adapter.files(settings)][:2] == [hub, hub]
    adapter.load(settings, Tools())


def test_moss_nano_goes_in_pieces_that_remember_and_the_24_khz_code_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Channels are those of the configuration; flash attention and its arithmetic would give other codes."""
    settings = {"device": "cpu", **moss_nano(monkeypatch, tmp_path)}
    nano = adapter_of("moss-nano").load(settings, Tools())
    nano.encode(np.zeros((2, 9 * 3840), dtype=np.float32))
    assert nano.model.asked == {"attention": "sdpa", "dtype": "fp32", "chunk_duration": 4.0}
    nano.model.asked.clear()
    assert nano.decode(np.zeros((8, 9), dtype=np.int32)).shape == (2, 9 * 3840)
    assert nano.model.asked == {"chunk_duration": 4.0} and nano.facts["window"] is None
    large = adapter_of("moss").load({"device": "cpu", **moss(monkeypatch, tmp_path)}, Tools())
    large.encode(np.zeros((1, 9 * 1920), dtype=np.float32))
    assert large.model.asked == {"chunk_duration": None} and large.facts["window"] == 30.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"channels": 1}}, "options: channels: 1, but config.json has 2; leave it out"),
        ({"codebooks": 17}, "codebooks: 17, but config.json has 16; ask for fewer"),
    ],
)
def test_moss_nano_is_not_asked_for_what_it_has_not(
    changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = {"device": "cpu", **moss_nano(monkeypatch, tmp_path), **changes}
    with pytest.raises(ValueError, match=message):
        adapter_of("moss-nano").load(settings, Tools())


def test_a_transformers_that_cannot_read_the_configuration_of_moss_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreadable() -> Any:
        raise TypeError("non-default argument 'sampling_rate' follows default argument")

    settings = {"device": "cpu", **moss(monkeypatch, tmp_path, unreadable)}
    with pytest.raises(
        ValueError, match=r"config.json: transformers 5.0.0 cannot read it .* pip install transformers==5.0.0"
    ):
        adapter_of("moss").load(settings, Tools())


def test_weights_that_moss_has_no_place_for_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """transformers leaves them out with a warning."""
    write(tmp_path / "model.safetensors")
    write(tmp_path / "config.json", "{}")
    settings = {"device": "cpu", **moss(monkeypatch, tmp_path, unexpected=("encoder.1.other", "a.b"))}
    with pytest.raises(
        codec_runner.Refused, match=r"2 weights of the checkpoint have no place in the model \(a.b, encoder.1"
    ):
        codec_runner.loaded(adapter_of("moss"), settings)
    settings = {"device": "cpu", **moss(monkeypatch, tmp_path, lambda: moss_model(24_000, 1920, 32, None))}
    assert codec_runner.loaded(adapter_of("moss"), settings)[0].facts["channels"] == 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("semanticodec", {"token_rate": 75}, "token_rate 75; there are 25, 50, 100"),
        ("semanticodec", {"semantic_vocab_size": 5000}, "semantic_vocab_size 5000; there are 4096, 8192, 16384, 32768"),
        ("levo", {"vae_config": "c.json"}, "vae_model is not given"),
    ],
)
def test_options_that_cannot_be_are_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapter_of(name).files({"weights": "w", "options": options})
