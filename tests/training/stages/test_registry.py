"""Stages 1 to 3 and the autoencoder: they learn, resume exactly, leave alone what is frozen, and say what is missing."""

import hashlib
from pathlib import Path

import pytest
import torch
from tests.training.small import TOKENIZER, make, stage2_config, stage3_config

from duotok.errors import ConfigError
from duotok.shards.mixture import Component
from duotok.shards.store import ShardStore
from duotok.training.engine import train
from duotok.training.stages.registry import Needs, build_stage
from duotok.training.stages.stage2 import Stage2
from duotok.training.stages.stage3 import Stage3


def digest(module: torch.nn.Module) -> str:
    h = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        h.update(name.encode() + tensor.numpy().tobytes())
    return h.hexdigest()


@pytest.fixture(scope="module")
def runs(store: ShardStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stages 1 and 2 trained for a few steps."""
    folder = tmp_path_factory.mktemp("runs")
    train(make("stage1", store, folder), folder / "stage1")
    train(make("stage2", store, folder), folder / "stage2")
    return folder


@pytest.mark.parametrize("name", ["stage1", "stage2", "stage3", "autoencoder"])
def test_an_item_is_the_same_in_every_batch(name: str, store: ShardStore, runs: Path):
    one, two = make(name, store, runs), make(name, store, runs)
    size = one.config.batch_size
    two.batch(1, range(size))
    whole, part, other = one.batch(2, range(size)), two.batch(2, [1]), one.batch(3, range(size))
    key = "audio" if name == "autoencoder" else "mel"
    rows = part[key].shape[1]
    assert torch.equal(whole[key][1, :rows], part[key][0])
    assert whole["ids"][1] == part["ids"][0]
    assert not torch.equal(whole[key][:, :rows], other[key][:, :rows])


@pytest.mark.parametrize("name", ["stage1", "stage2", "stage3", "autoencoder"])
def test_a_stage_overfits_one_batch(name: str, store: ShardStore, runs: Path):
    stage = make(name, store, runs)
    items = range(stage.config.batch_size)
    batch = {**stage.batch(0, items), "seeds": stage.seeds(0, items)}
    optimizer = torch.optim.Adam(
        [p for m in stage.modules.values() for p in m.parameters() if p.requires_grad], lr=3e-3
    )
    key = "loss" if name == "stage1" else "mel"
    history = []
    for _step in range(60):
        losses = stage.losses(batch, 0)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        history.append(float(losses[key].detach()))
    assert history[-1] < 0.75 * history[0], history[::10]


@pytest.mark.parametrize("name", ["stage1", "stage2", "stage3", "autoencoder"])
def test_stopped_and_resumed_equals_uninterrupted(name: str, store: ShardStore, runs: Path, tmp_path: Path):
    whole, parts, rest = (make(name, store, runs, steps=5) for _ in range(3))
    train(whole, tmp_path / "whole")
    train(parts, tmp_path / "parts", stop_after=2)
    train(rest, tmp_path / "parts")
    assert [digest(m) for m in rest.modules.values()] == [digest(m) for m in whole.modules.values()]


PREVIEWS = {
    "stage2": {"0.png", "1.png", "2.png"},
    "stage3": {"0.png", "1.png", "2.png", "3.png"},
    "autoencoder": {f"vocals{end}" for end in (".png", ".flac", ".true.flac")},
}


@pytest.mark.parametrize("name", PREVIEWS)
def test_previews_show_the_truth_beside_what_was_made(name: str, store: ShardStore, runs: Path, tmp_path: Path):
    from matplotlib.image import imread

    stage = make(name, store, runs)
    if name == "stage3":
        stage.start()
    with torch.no_grad():
        stage.sample(tmp_path)
    assert PREVIEWS[name] <= {path.name for path in tmp_path.iterdir()}
    for path in tmp_path.glob("*.png"):
        picture = imread(path)
        upper, lower = picture[: len(picture) // 2], picture[len(picture) // 2 :]
        assert upper[..., 1].std() > 0.05 < lower[..., 1].std(), f"{path.name}: a half of it is empty"


def test_stage3_leaves_the_encoder_and_the_basis_alone(store: ShardStore, runs: Path, tmp_path: Path):
    stage = Stage3(stage3_config(), store, runs / "stage2")
    tokenizer = stage.tokenizer
    lower = (digest(tokenizer.downsampling), digest(tokenizer.lower_blocks))
    basis = {t: tokenizer.branch(t).quantizer.basis.clone() for t in ("vocals", "accompaniment")}
    upper = digest(tokenizer.upper_blocks)
    updated = {id(p) for group in stage.parameter_groups() for p in group["params"]}
    frozen = [*tokenizer.downsampling.parameters(), *tokenizer.lower_blocks.parameters()]
    assert updated and not updated & {id(p) for p in frozen}, "no optimizer state for what is frozen, no decay of it"
    tokenizer.train()
    assert not tokenizer.lower_blocks.training and tokenizer.upper_blocks.training
    train(stage, tmp_path)
    assert (digest(tokenizer.downsampling), digest(tokenizer.lower_blocks)) == lower
    assert digest(tokenizer.upper_blocks) != upper
    assert all(torch.equal(tokenizer.branch(t).quantizer.basis, b) for t, b in basis.items())


def test_without_freezing_the_encoder_learns_on(store: ShardStore, runs: Path, tmp_path: Path):
    stage = Stage3(stage3_config(freeze=False, steps=3), store, runs / "stage2")
    lower = digest(stage.tokenizer.lower_blocks)
    train(stage, tmp_path)
    assert digest(stage.tokenizer.lower_blocks) != lower


@pytest.mark.parametrize(
    "change",
    [
        {"shared_codebook": True}, {"quantizer": "vq"}, {"routing": "soft"}, {"vq_convention": "legacy"},
    ],
)  # fmt: skip
def test_every_form_of_stage3_trains(change: dict[str, object], store: ShardStore, runs: Path, tmp_path: Path):
    model = TOKENIZER.model_copy(update=change)
    config = stage3_config(steps=2, model=model, fit_basis="features", fit_batches=8)
    losses = train(Stage3(config, store, runs / "stage2"), tmp_path)
    assert losses["loss"] > 0 and losses["distinct_vocals"] > 0


def test_a_codebook_that_collapses_is_told_once(store: ShardStore, runs: Path, caplog: pytest.LogCaptureFixture):
    """With the quantizer's loss at weight 1, most of a codebook of 1,024 had gone within 170 steps, and nothing said so."""
    stage = make("stage3", store, runs)
    assert isinstance(stage, Stage3)
    size = stage.config.model.codebook_size

    def used(codes: int, frames: int) -> None:
        for counts in stage.used.values():
            counts.zero_()
            counts[:codes] = frames / codes

    for codes, frames, told in (
        (size, 400, 0),
        (size // 2 + 1, 400, 0),
        (size // 4, 100, 0),
        (size // 4, 400, 2),
        (size // 4, 400, 2),
    ):
        used(codes, frames)
        stage.report()
        assert len(caplog.records) == told, (codes, frames)
    assert "vocals: codes in use fell from 100 % of the codebook to 25 %" in caplog.messages[0]
    assert f"--set weights.vq={stage.config.weights.vq / 10:g}" in caplog.messages[0]
    stage.collapsed.clear()
    used(size // 4, 400)
    stage.uses()  # as held-out batches do, which are another number of frames
    assert len(caplog.records) == 2


def test_code_use_is_reported(store: ShardStore, runs: Path):
    stage = make("stage3", store, runs)
    stage.start()
    items = range(4)
    stage.losses({**stage.batch(0, items), "seeds": stage.seeds(0, items)}, 0)
    figures = stage.report()
    assert 0 < figures["use_vocals"] <= 1 and 0 < figures["distinct_accompaniment"] <= 1
    assert stage.report()["use_vocals"] == 0


def test_stage1_fits_its_quantizer_once(store: ShardStore, runs: Path, tmp_path: Path):
    stage = make("stage1", store, runs)
    assert bool((stage.bestrq.quantizer.std == 1).all())
    train(stage, tmp_path, stop_after=2)
    mean = stage.bestrq.quantizer.mean.clone()
    assert bool((stage.bestrq.quantizer.std != 1).any())
    again = make("stage1", store, runs)
    train(again, tmp_path)
    assert torch.equal(again.bestrq.quantizer.mean, mean)


def test_too_few_frames_for_a_codebook_are_told(store: ShardStore, runs: Path, tmp_path: Path):
    stage = Stage3(stage3_config(fit_basis="features", fit_batches=1), store, runs / "stage2")
    with pytest.raises(ConfigError, match=r"fit_batches 1: \d+ frames of vocals cannot start a codebook of 256"):
        train(stage, tmp_path)


def test_a_missing_previous_stage_is_named(store: ShardStore, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"stage1.*train that stage first"):
        Stage2(stage2_config(), store, tmp_path / "stage1")
    with pytest.raises(ConfigError, match="unknown"):
        build_stage("stage9", tmp_path / "x.yaml", [], Needs(tmp_path, store))


def test_held_out_songs_may_lack_a_component(store: ShardStore, runs: Path):
    """The corpus has speech for training and none for validation: that is no error, and no reason to go without in training."""
    spoken = Component(kinds=("speech",))
    stage = make("stage1", store, runs, mixture={"speech": spoken, "mix": Component(types=("mix",))})
    kinds = {store.segments[i].segment.kind for i in store.where("validation").tolist()}
    assert "speech" not in kinds
    assert "speech" in stage.train_crops.mixture.segments and len(stage.held_out_crops.mixture.segments) == 1
    with pytest.raises(ConfigError, match="speech"):
        make("stage1", store, runs, mixture={"speech": Component(kinds=("speech",), types=("vocals",))})


def test_an_empty_component_is_named_unless_it_is_optional(store: ShardStore, runs: Path):
    nobody = Component(corpora=("nobody",), weight=1)
    mixture = {"vocals": Component(types=("vocals",)), "nobody": nobody}
    with pytest.raises(ConfigError, match="'nobody' is empty"):
        make("stage1", store, runs, mixture=mixture)
    make("stage1", store, runs, mixture={**mixture, "nobody": nobody.model_copy(update={"optional": True})})
