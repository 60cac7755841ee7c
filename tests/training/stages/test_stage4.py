"""Stage 4: items are pure functions of their place, resume is exact, the average follows, held-out numbers hold."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.training.small import DIT, TOKENIZER
from torch import Tensor

from duotok.errors import ConfigError
from duotok.shards.deriving import derive
from duotok.shards.store import ShardStore
from duotok.training.batches.latent_data import condition_vectors, crop, latent_segments
from duotok.training.engine import train
from duotok.training.stages.stage4 import Stage4, Stage4Config

VECTORS = 3 * torch.randn(10, 16, generator=torch.Generator().manual_seed(1)) + 1
WEIGHTS = torch.randn(16, 64, generator=torch.Generator().manual_seed(2)) / 8


def config(**changes: object) -> Stage4Config:
    values: dict[str, object] = dict(
        steps=6, batch_size=3, lr=5e-3, warmup=1, crop_frames=8, silence=0.0, ema=0.9, dit=DIT, device="cpu",
        save_every=3, held_out_every=6, sample_every=0, sample_steps=2, log_every=1,
    )  # fmt: skip
    return Stage4Config.model_validate(values | changes)


def fill(store: ShardStore) -> None:
    """Codes at random, latents that follow from them."""

    def codes(index: int, track: str) -> np.ndarray:
        frames = store.segments[index].segment.frames
        return np.random.default_rng(index).integers(0, 10, (frames, 1)).astype(np.int32)

    def latents(index: int, track: str) -> np.ndarray:
        found = torch.from_numpy(codes(index, track)[:, 0].astype(np.int64))
        return (VECTORS[found] @ WEIGHTS).repeat_interleave(2, dim=0).half().numpy()

    derive(store, "codes", codes, tracks=("vocals",), made_by="test")
    derive(store, "latents", latents, tracks=("vocals",), made_by="test")


@pytest.fixture(scope="module")
def coded(data: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardStore:
    """The small shards with latents and codes of vocals."""
    derived = tmp_path_factory.mktemp("coded") / "derived"
    shutil.copytree(data / "derived", derived)
    store = ShardStore(data / "shards", derived)
    fill(store)
    return store


def make(store: ShardStore, **changes: object) -> Stage4:
    return Stage4(config(**changes), store, VECTORS)


def test_latents_codes_and_levels_belong_together(coded: ShardStore) -> None:
    found = latent_segments(coded, "train", "vocals")
    assert {segment.sound.segment.split for segment in found} == {"train"}
    assert all(segment.sound.has("vocals") for segment in found)
    latents, codes, length = crop(found[0], 5, 8)
    assert latents.shape == (16, 64) and length == 16
    torch.testing.assert_close(latents[::2], VECTORS[codes] @ WEIGHTS, atol=2e-2, rtol=1e-2)
    assert found[0].share_of_sound(0, 8) == 1.0


def test_short_segments_are_padded(coded: ShardStore) -> None:
    segment = latent_segments(coded, "train", "vocals")[0]
    latents, codes, length = crop(segment, segment.frames - 5, 8)
    assert length == 10 and latents.shape == (16, 64) and codes.shape == (8,)
    assert not latents[10:].any() and not codes[5:].any()


def test_an_item_is_a_function_of_its_place(coded: ShardStore) -> None:
    one, two = make(coded), make(coded)
    two.batch(1, range(3))
    whole, part = one.batch(7, range(3)), two.batch(7, [2])
    for name in ("latents", "codes", "times"):
        assert torch.equal(whole[name][2], part[name][0])
    assert not torch.equal(whole["latents"], one.batch(8, range(3))["latents"])
    assert sorted((whole["times"] * 3).long().tolist()) == [0, 1, 2]  # one in each third of (0, 1)


def test_crops_prefer_sound_but_keep_some_silence(coded: ShardStore) -> None:
    def silent(share: float) -> float:
        stage = make(coded, silence=share)
        stretch = stage.train_set[0]
        quiet = np.arange(stretch.frames + 1) * 0
        quiet[-12:] = np.arange(12)  # sound in the last frames only
        half = dataclasses.replace(stretch, counts=quiet)
        stage.train_set, stage.chances = [half], np.ones(1)
        starts = [int(name.split()[-1]) for step in range(40) for name in stage.batch(step, range(3))["ids"]]
        return float(np.mean([half.share_of_sound(start, 8) == 0 for start in starts]))

    assert silent(0.0) < 0.5 < silent(1.0)


def test_resume_is_exact(coded: ShardStore, tmp_path: Path) -> None:
    train(make(coded), tmp_path / "whole")
    train(make(coded), tmp_path / "parts", stop_after=3)
    train(make(coded), tmp_path / "parts")
    for module in ("dit", "ema"):
        whole, parts = (
            load_file(tmp_path / run / "checkpoint-00000006" / f"{module}.safetensors") for run in ("whole", "parts")
        )
        assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_the_average_follows_and_is_not_trained(coded: ShardStore) -> None:
    stage = make(coded)
    assert not any(parameter.requires_grad for parameter in stage.ema.parameters())
    with torch.no_grad():
        stage.dit.leave.bias.fill_(1.0)
    stage.after_step(0)  # decay of the first step: 1 / 10
    torch.testing.assert_close(stage.ema.leave.bias, torch.full((64,), 0.9))
    stage.after_step(10_000)  # and the configured one in the end
    torch.testing.assert_close(stage.ema.leave.bias, torch.full((64,), 0.91))


@pytest.mark.parametrize("objective", ["v", "flow"])
def test_training_learns(objective: str, coded: ShardStore, tmp_path: Path) -> None:
    dit = DIT.model_copy(update={"objective": objective})
    stage = make(coded, steps=150, held_out_every=150, save_every=150, dit=dit)
    before = stage.held_out()
    after = train(stage, tmp_path / "run")
    assert set(after) == {"loss", "loss_raw", "mse_1", "mse_8"}
    assert after["loss"] < 0.85 * before["loss"]
    assert after["mse_1"] < 0.85 * before["mse_1"]


def test_halves_of_a_batch_in_parts_are_those_of_the_batch(coded: ShardStore, tmp_path: Path) -> None:
    """Times are strata: of two parts one has all early ones, and what is no number of the other is no error of 0."""
    halves = {}
    for parts in (1, 4):
        settings = {"batch_size": 4, "accumulate": parts, "steps": 1, "held_out_every": 9, "save_every": 9}
        train(make(coded, **settings), tmp_path / str(parts))
        rows = [json.loads(line) for line in (tmp_path / str(parts) / "log.jsonl").read_text().splitlines()]
        halves[parts] = [row[name] for row in rows if "noisy_half" in row for name in ("noisy_half", "clean_half")]
    assert halves[4] == pytest.approx(halves[1], rel=1e-4) and len(halves[1]) == 2


def test_the_term_of_v1_adds_to_the_loss(coded: ShardStore) -> None:
    plain, both = make(coded), make(coded, si_snr=0.1)
    batch = {**plain.batch(0, range(3)), "seeds": plain.seeds(0, range(3))}
    assert not torch.equal(plain.losses(batch, 0)["loss"], both.losses(batch, 0)["loss"])


def test_the_weighting_of_noise_levels_reaches_the_loss(coded: ShardStore) -> None:
    plain, weighted = make(coded), make(coded, min_snr=1.0)
    batch = {**plain.batch(0, range(3)), "seeds": plain.seeds(0, range(3))}
    one, two = (stage.losses(batch, 0) for stage in (plain, weighted))
    assert float(two["loss"]) < 0.9 * float(one["loss"])  # no weight is over 1
    torch.testing.assert_close(one["noisy_half"], two["noisy_half"])  # reported without the weight


def test_the_renderer_hears_the_codes_and_the_noise_is_the_items_own(coded: ShardStore, tmp_path: Path) -> None:
    stage = make(coded)
    train(stage, tmp_path)
    batch = {**stage.batch(0, range(3)), "seeds": stage.seeds(0, range(3))}
    loss = float(stage.losses(batch, 0)["loss"])
    other = {**batch, "codes": (batch["codes"] + 3) % 10}
    assert float(stage.losses(other, 0)["loss"]) != loss
    assert float(stage.losses({**batch, "seeds": batch["seeds"] + 1}, 0)["loss"]) != loss
    assert float(stage.losses({**batch, "times": batch["times"].flip(0)}, 0)["loss"]) != loss


def test_code_vectors_are_as_uncertain_as_the_config_says(coded: ShardStore) -> None:
    """Noise of a share of the vectors' spread, in training alone, each item its own; everything else as without it."""
    given: dict[float, list[Tensor]] = {}
    for share in (0.0, 0.5):
        stage = make(coded, condition_noise=share)
        stage.dit.register_forward_pre_hook(lambda _, call, share=share: given.setdefault(share, []).append(call[2]))
        batch = stage.batch(0, range(3))
        for first in (0, 0, *range(3, 300, 3)):
            stage.losses({**batch, "seeds": torch.arange(first, first + 3)}, 0)
    torch.testing.assert_close(given[0.0][0], stage.vectors[batch["codes"]])
    noise = torch.stack(given[0.5][:102]) - given[0.0][0]
    assert torch.equal(noise[0], noise[1]) and not torch.equal(noise[1], noise[2])
    spread = VECTORS[stage._codes_in_use()].var(0).mean().sqrt()
    assert float(noise[1:].std() / spread) == pytest.approx(0.5, rel=0.03) and abs(float(noise.mean())) < 0.05


def test_some_items_are_not_told_their_codes(coded: ShardStore) -> None:
    """As large a share as told, each by its own seed; all are told where the renderer does not learn without them."""
    heard: list[Tensor | None] = []
    stage = make(coded, dit=DIT.model_copy(update={"unconditional": True}), condition_dropout=0.25)
    plain = make(coded, condition_dropout=0.25)
    for one in (stage, plain):
        one.dit.register_forward_pre_hook(lambda *given: heard.append(given[2].get("dropped")), with_kwargs=True)
    batch = stage.batch(0, range(3))
    plain.losses({**batch, "seeds": torch.arange(3)}, 0)
    assert heard == [None]
    for first in (0, 0, *range(3, 300, 3)):
        stage.losses({**batch, "seeds": torch.arange(first, first + 3)}, 0)
    found = [dropped for dropped in heard[1:] if dropped is not None]
    assert len(found) == 101 and torch.equal(found[0], found[1])
    assert 0.15 < float(torch.cat(found[1:]).float().mean()) < 0.35


def test_what_renders_is_the_average(coded: ShardStore) -> None:
    """Samples and held-out figures but loss_raw follow the averaged weights, whatever the trained ones are."""
    stage = make(coded)
    before, drawn = stage.held_out(), stage._rendered()
    with torch.no_grad():
        for parameter in stage.dit.parameters():
            parameter.add_(0.5)
    after = stage.held_out()
    assert torch.equal(stage._rendered(), drawn)
    assert {name for name in before if before[name] != after[name]} == {"loss_raw"}
    with torch.no_grad():
        for parameter in stage.ema.parameters():
            parameter.add_(0.5)
    assert not torch.equal(stage._rendered(), drawn)


def test_samples_are_drawn_as_the_config_says(coded: ShardStore) -> None:
    def drawn(**settings: object) -> Tensor:
        stage = make(coded, **settings)
        with torch.no_grad():  # a new DiT returns zero whatever it is asked
            for parameter in stage.ema.parameters():
                parameter.add_(0.05)
        return stage._rendered()

    plain = drawn()
    assert torch.equal(drawn(), plain)
    for settings in ({"sample_steps": 5}, {"sampler": "ddim", "sample_steps": 5}, {"temperature": 0.3}):
        assert not torch.allclose(drawn(**settings), plain)
    assert not torch.allclose(drawn(sample_steps=5), drawn(sample_steps=5, sampler="ddim"))


def test_a_run_may_start_from_the_other_track_s_average(coded: ShardStore, tmp_path: Path) -> None:
    train(make(coded), tmp_path / "first")
    weights = load_file(tmp_path / "first" / "checkpoint-00000006" / "ema.safetensors")
    raw = load_file(tmp_path / "first" / "checkpoint-00000006" / "dit.safetensors")
    assert any(not torch.equal(weights[name], raw[name]) for name in weights)
    second = Stage4(config(seed=5), coded, VECTORS, start=tmp_path / "first")
    second.start()
    for module in (second.dit, second.ema):
        assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())
    assert second.parents["start_from"].stage == "stage4.vocals" and second.parents["start_from"].step == 6
    alone = make(coded, seed=5)
    alone.start()
    assert any(not torch.equal(value, weights[name]) for name, value in alone.dit.state_dict().items())


def test_a_new_renderer_standardises_the_codes_in_use(coded: ShardStore) -> None:
    stage = make(coded)
    used = VECTORS[torch.cat([torch.from_numpy(s.codes()).long() for s in stage.train_set])]
    for condition in (stage.dit.condition, stage.ema.condition):
        white = (used - condition.mean) * condition.scale
        torch.testing.assert_close(white.mean(0), torch.zeros(16), atol=1e-3, rtol=0)
        torch.testing.assert_close(white.std(0), torch.ones(16), atol=1e-3, rtol=0)


def test_held_out_is_repeatable_and_from_validation(coded: ShardStore) -> None:
    stage = make(coded)
    assert len(stage.clips["latents"]) == 8
    assert stage.held_out() == stage.held_out()


def test_either_embedding_of_a_code_conditions_the_renderer(coded: ShardStore, tmp_path: Path) -> None:
    from duotok.model.tokenizer import Tokenizer

    tokenizer = Tokenizer(TOKENIZER)
    codes = torch.arange(256)
    for kind, width in (("code", 16), ("proj_out", 32)):
        vectors = condition_vectors(tokenizer, "vocals", kind)
        assert vectors.shape == (256, width)
        torch.testing.assert_close(vectors, tokenizer.condition(codes[None], "vocals", kind)[0].detach())
        dit = DIT.model_copy(update={"condition": kind, "condition_dim": width})
        train(Stage4(config(steps=2, dit=dit), coded, vectors), tmp_path / kind)


def test_sound_and_pictures(coded: ShardStore, tmp_path: Path) -> None:
    class Decoder:
        receptive_field, hop = 0, 960

        def decode(self, latents: Tensor) -> Tensor:
            return 0.1 * latents.mean(-1).repeat_interleave(960, dim=1)[:, None]

    Stage4(config(), coded, VECTORS, Decoder()).sample(tmp_path)
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert {"0.true.flac", "0.1_step.flac", "0.2_steps.flac", "0.png", "1.png"} <= names


def test_missing_latents_are_named(coded: ShardStore) -> None:
    with pytest.raises(ConfigError, match="no train segment with latents and codes of accompaniment"):
        latent_segments(coded, "train", "accompaniment")
