"""Each loss, weight, freeze, schedule, mixture, track and start of every stage reaches the step it is for.

Shown by what it does to gradients, weights, codes or outputs; `python -m benchmarks.faults` breaks them one by one.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.training.small import AUTOENCODER, SEPARATOR, TOKENIZER, make, stage2_config, stage3_config
from tests.training.stages.test_stage4 import fill
from tests.training.stages.test_stage4 import make as make_stage4
from torch import Tensor, nn

from duotok.errors import ConfigError
from duotok.model.losses import Stage2Weights, Stage3Weights
from duotok.model.simvq import SimVQ
from duotok.model.tokenizer import Tokenizer
from duotok.shards.index import Segments
from duotok.shards.mixture import Component
from duotok.shards.store import ShardStore
from duotok.training.budget import learning_rate
from duotok.training.checkpoint import best, checkpoints, latest, load_module
from duotok.training.cost.estimate import Trial
from duotok.training.engine import train
from duotok.training.processes import join
from duotok.training.stage import START_FROM, Batch, Stage, means_over
from duotok.training.stages.autoencoder import AutoencoderStage
from duotok.training.stages.crop_stage import ADAPTED, MASK_HEAD
from duotok.training.stages.separator import SeparatorStage
from duotok.training.stages.stage2 import Stage2
from duotok.training.stages.stage3 import Stage3


@pytest.fixture(scope="module")
def runs(store: ShardStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stages 1 and 2 trained for some steps; the best checkpoint of stage 1 is not its newest."""
    folder = tmp_path_factory.mktemp("runs")
    train(make("stage1", store, folder, steps=8, save_every=4, held_out_every=4), folder / "stage1")
    newest = checkpoints(folder / "stage1")[-1]
    first = checkpoints(folder / "stage1")[0]
    assert first != newest
    from duotok.seals import seal

    named = seal({"step": int(first.name[-8:]), "figure": "loss", "value": 0.0})
    (folder / "stage1" / "best.json").write_text(json.dumps(named))
    train(make("stage2", store, folder, steps=3), folder / "stage2")
    return folder


def batch_of(stage: Stage, step: int = 0) -> dict[str, Any]:
    items = range(stage.config.batch_size)
    return {**stage.batch(step, items), "seeds": stage.seeds(step, items)}


def with_masks(batch: dict[str, Any]) -> dict[str, Any]:
    items, rows = batch["mel"].shape[:2]
    masks = torch.rand(items, rows, 4, 128, generator=torch.Generator().manual_seed(0))
    return {**batch, "masks": masks, "masks_items": torch.ones(items, dtype=torch.bool)}


def with_words(batch: dict[str, Any]) -> dict[str, Any]:
    items = len(batch["mel"])
    return {**batch, "text": torch.randint(0, 20, (items, 3)), "text_lengths": torch.full((items,), 3)}


def moved(module: nn.Module, before: dict[str, Tensor]) -> dict[str, float]:
    """Largest change of each parameter."""
    return {name: float((p.detach() - before[name]).abs().max()) for name, p in module.named_parameters()}


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


HEADS = ("mel", "chroma", "masks", "text")


@pytest.mark.parametrize("name", HEADS)
def test_each_weight_of_stage_2_decides_about_its_loss(name: str, store: ShardStore, runs: Path) -> None:
    weights = Stage2Weights(**{head: 2.5 if head == name else 0.0 for head in HEADS})
    stage = make("stage2", store, runs, weights=weights)
    losses = stage.losses(with_words(with_masks(batch_of(stage))), 0)
    assert set(HEADS) <= losses.keys()
    torch.testing.assert_close(losses["loss"], 2.5 * losses[name])
    losses["loss"].backward()
    heads = stage.tokenizer.output  # type: ignore[attr-defined]
    told = {n.split(".")[0] for n, p in heads.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(name.rstrip("s") in head for head in told), told
    assert not any(other.rstrip("s") in head for head in told for other in HEADS if other != name), told
    below = stage.tokenizer.projection_in.linear.weight.grad  # type: ignore[attr-defined]
    assert below is not None and below.any()


@pytest.mark.parametrize("name", ["vq", "mel", "chroma", "text"])
def test_each_weight_of_stage_3_decides_about_its_loss(name: str, store: ShardStore, runs: Path) -> None:
    none = {head: 0.0 for head in ("vq", "mel", "chroma", "text")}
    stage = make("stage3", store, runs, weights=Stage3Weights(**none | {name: 2.5}))
    losses = stage.losses(with_words(batch_of(stage)), 0)
    torch.testing.assert_close(losses["loss"], 2.5 * losses[name])
    assert float(losses[name].detach()) > 0


def test_held_out_figures_are_means_over_their_targets(store: ShardStore, runs: Path) -> None:
    """A batch without words is not one whose words are all told, and one without any masks has no error of masks."""
    stage = make("stage2", store, runs)
    stage.tokenizer.eval()  # type: ignore[attr-defined]

    def draw(index: int, items: Sequence[int]) -> Batch:
        batch = {**stage.batch(index, items), "text_lengths": torch.zeros(4, dtype=torch.long)}
        if index < 2:
            some = torch.tensor([1, 0, 0, 0] if index else [1, 1, 1, 0])
            torch.manual_seed(index)  # of the words
            batch = {**with_words(batch), "text_lengths": 3 * some}
        return batch

    with torch.no_grad():
        means = means_over(stage, draw, 3)
        few = [stage.losses({**draw(index, range(4)), "seeds": torch.arange(4)}, 0) for index in range(3)]
    assert means["text"] == pytest.approx(float(0.75 * few[0]["text"] + 0.25 * few[1]["text"]), rel=1e-3)
    assert means["loss"] == pytest.approx(sum(float(losses["loss"]) for losses in few) / 3, rel=1e-3)
    assert "masks" not in means_over(
        stage, lambda i, items: with_masks(draw(i, items)) | {"masks_items": torch.zeros(4)}, 1
    )


@pytest.mark.parametrize("name", ["stage2", "stage3"])
def test_a_text_head_with_too_few_classes_is_refused(name: str, store: ShardStore, runs: Path) -> None:
    """The words' last class would be the blank, or memory behind the head's."""
    model = TOKENIZER.model_copy(update={"vocabulary": 27})
    config = stage2_config(model=model) if name == "stage2" else stage3_config(model=model)
    with pytest.raises(
        ConfigError, match=r"model.vocabulary 27: crops.vocabulary characters has 28 classes; --set model"
    ):
        Stage2(config, store, None) if name == "stage2" else Stage3(config, store, None)  # type: ignore[arg-type]


def test_whether_there_are_words_is_read_from_the_column(
    store: ShardStore, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million segments without words, one by one, took two minutes of each process before the first step."""
    stage = make("stage2", store, runs)
    config = stage2_config(model=TOKENIZER.model_copy(update={"vocabulary": 27}))
    monkeypatch.setattr(Segments, "__getitem__", lambda *_: pytest.fail("a segment by itself"))
    with pytest.raises(ConfigError, match="has 28 classes"):
        stage.check_words(config)  # type: ignore[attr-defined]
    monkeypatch.setattr(Segments, "filled", lambda self, _: torch.zeros(len(self), dtype=torch.bool))
    stage.check_words(config)  # type: ignore[attr-defined]


def test_words_that_no_crop_can_have_are_told(
    store: ShardStore, runs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Lines with times, as in most LRC files, say nothing of a part of their segment: only a crop of all of it has them."""
    stage = make("stage2", store, runs)
    segments = [stored.segment for stored in store.segments]
    longest = max(segment.frames for segment in segments if segment.text)

    def told(frames: int) -> list[str]:
        caplog.clear()
        stage.check_words(stage2_config(crops={"frames": frames}))  # type: ignore[attr-defined]
        return [record.getMessage() for record in caplog.records]

    assert any(segment.words for segment in segments) and not told(25), "words with times are in crops of any length"
    filled = Segments.filled
    monkeypatch.setattr(Segments, "filled", lambda self, name: filled(self, name) & (name != "words"))
    assert not told(longest), "whole segments"
    (line,) = told(longest - 1)
    assert line.startswith("words of ") and f"crops.frames={longest}" in line
    monkeypatch.setattr(Segments, "filled", lambda self, name: filled(self, name) & False)
    assert not told(25), "no words at all"


@pytest.mark.parametrize(("name", "due"), [("chroma", 12), ("n_mels", 128)])
def test_the_sizes_of_features_are_the_front_end_s(name: str, due: int) -> None:
    with pytest.raises(ValueError, match=f"model.{name} 1 must be {due}, as many as the front end gives"):
        stage2_config(model=TOKENIZER.model_copy(update={name: 1}))


def test_the_latent_norm_of_stage_2_joins_by_its_weight(store: ShardStore, runs: Path) -> None:
    stage = make("stage2", store, runs, weights=Stage2Weights(latent_norm=3.0))
    losses = stage.losses(batch_of(stage), 0)
    rest = losses["mel"] + losses["chroma"] + losses["text"]
    torch.testing.assert_close(losses["loss"], rest + 3.0 * losses["latent_norm"])


def test_stage_2_trains_through_the_noise(store: ShardStore, runs: Path) -> None:
    """All frames replaced by fixed noise: the mel head is told nothing of the sound, so its output is the same for any."""
    model = TOKENIZER.model_copy(update={"noise_probability": 1.0, "noise_sigma": 1.0})
    stage = make("stage2", store, runs, model=model)
    found = []
    stage.tokenizer.train()  # type: ignore[attr-defined]
    stage.tokenizer.output.register_forward_hook(lambda _, __, made: found.append(made["mel"].detach()))  # type: ignore[attr-defined]
    batch = batch_of(stage)
    stage.losses(batch, 0)
    stage.losses({**batch, "mel": torch.randn_like(batch["mel"])}, 0)
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize(
    ("name", "before", "kept", "new"),
    [
        ("stage2", "stage1", ("downsampling", "lower_blocks", "upper_blocks", "upper_norm"), ("projection_in", "output")),
        (
            "stage3", "stage2",
            ("downsampling", "lower_blocks", "upper_blocks", "upper_norm", "projection_in", "projection_out", "output"),
            (),
        ),
    ],
)  # fmt: skip
def test_a_stage_starts_from_the_best_of_the_one_before(
    name: str, before: str, kept: tuple[str, ...], new: tuple[str, ...], store: ShardStore, runs: Path
) -> None:
    stage = make(name, store, runs)
    own = stage.tokenizer  # type: ignore[attr-defined]
    earlier = copy.deepcopy(own)
    load_module(best(runs / before) / "tokenizer.safetensors", earlier)
    if before == "stage1":
        assert best(runs / before) != checkpoints(runs / before)[-1]
    for part in kept:
        mine, theirs = getattr(own, part).state_dict(), getattr(earlier, part).state_dict()
        assert mine and all(torch.equal(mine[key], theirs[key]) for key in mine), part
    for part in new:
        mine, theirs = getattr(own, part).state_dict(), getattr(earlier, part).state_dict()
        assert part in ("projection_in",) or mine.keys() == theirs.keys()
    if name == "stage3":
        for branch in own.branches:
            for part in ("projection_in", "projection_out"):
                mine, theirs = getattr(branch, part).state_dict(), getattr(own, part).state_dict()
                assert all(torch.equal(mine[key], theirs[key]) for key in mine), part


def test_a_stage_2_that_goes_on_from_a_bundle_may_learn_masks(store: ShardStore, runs: Path, tmp_path: Path) -> None:
    """A bundle has no mask head: a new one begins, and all else goes on. One that is there goes on too; half of one is an error."""
    small = TOKENIZER.model_copy(update={"mask_head": False})
    train(make("stage2", store, runs, model=small, steps=1), tmp_path / "bare")
    bare = best(tmp_path / "bare") / "tokenizer.safetensors"
    without = {key: value.clone() for key, value in Tokenizer(small).state_dict().items()}
    earlier = Tokenizer(small)
    load_module(bare, earlier)
    going_on = Stage2(stage2_config(), store, tmp_path / "bare").tokenizer
    mine, theirs = going_on.state_dict(), earlier.state_dict()
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs if key.split(".")[0] in ADAPTED)
    added = [key for key in mine if key not in without]
    assert added and all(key.startswith(MASK_HEAD) for key in added)

    whole = Stage2(stage2_config(), store, runs / "stage2").tokenizer
    earlier = copy.deepcopy(whole)
    load_module(best(runs / "stage2") / "tokenizer.safetensors", earlier)
    assert all(torch.equal(whole.state_dict()[key], earlier.state_dict()[key]) for key in added)

    half = {key: value for key, value in whole.state_dict().items() if not key.startswith(MASK_HEAD[1])}
    save_file(half, tmp_path / "half.safetensors")
    with pytest.raises(ConfigError, match=r"weights of another architecture \('output\.masks"):
        load_module(tmp_path / "half.safetensors", whole, new=MASK_HEAD)


@pytest.mark.parametrize("name", ["stage1", "stage2", "stage3"])
def test_every_type_comes_as_often_as_its_weight(name: str, store: ShardStore, runs: Path) -> None:
    mixture = {
        "a": Component(types=("vocals",), weight=3), "b": Component(types=("accompaniment",), weight=2),
        "c": Component(types=("instrumental",), weight=1),
    }  # fmt: skip
    stage = make(name, store, runs, mixture=mixture, batch_size=6)
    types = Counter(kind for step in range(5) for kind in stage.batch(step, range(6))["types"])
    assert types == {"vocals": 15, "accompaniment": 10, "instrumental": 5}
    batches = [stage.batch(step, range(6)) for step in range(5)]
    for batch in batches:
        for kind, track, words in zip(
            batch["types"], batch["track"].tolist(), batch["text_lengths"].tolist(), strict=True
        ):
            assert track == (0 if kind == "vocals" else 1)
            assert kind == "vocals" or words == 0  # words count on lyric-active vocals only (C.3)
    assert any(batch["text_lengths"].any() for batch in batches)


def one_step(stage: Stage, run: Path, steps: int = 1) -> None:
    train(stage, run, stop_after=steps)


def test_the_rate_of_what_is_not_new_in_stage_3_is_scaled(store: ShardStore, runs: Path, tmp_path: Path) -> None:
    """AdamW's first step moves every weight by its rate, whatever the gradient."""
    for scale in (0.1, 0.5):
        stage = make(
            "stage3", store, runs, fit_batches=0, upper_lr_scale=scale, lr=1e-3, warmup=0, weight_decay=0.0, steps=1000
        )
        before = state(stage.tokenizer)  # type: ignore[attr-defined]
        one_step(stage, tmp_path / str(scale))
        far = moved(stage.tokenizer, before)  # type: ignore[attr-defined]
        assert far["branches.0.quantizer.map.weight"] == pytest.approx(1e-3, rel=0.05)
        for part in ("upper_blocks", "output"):
            assert max(v for n, v in far.items() if n.startswith(part)) == pytest.approx(scale * 1e-3, rel=0.05), part
        assert all(v == 0 for n, v in far.items() if n.startswith(("downsampling", "lower_blocks")))


def test_the_map_is_not_decayed_and_the_rest_is(store: ShardStore, runs: Path, tmp_path: Path) -> None:
    after = {}
    for decay in (0.0, 20.0):
        stage = make("stage3", store, runs, fit_batches=0, lr=1e-3, warmup=0, weight_decay=decay, steps=1000)
        one_step(stage, tmp_path / str(decay))
        after[decay] = state(stage.tokenizer)  # type: ignore[attr-defined]
    for name, value in after[0.0].items():
        if name.startswith("branches."):
            assert torch.equal(value, after[20.0][name]), name
    key = next(
        n for n in after[0.0] if n.startswith("upper_blocks") and n.endswith("weight") and after[0.0][n].ndim > 1
    )
    assert not torch.equal(after[0.0][key], after[20.0][key])


def test_by_minutes_codebooks_are_fitted_anew_once_each_share_is_past() -> None:
    fits: list[int] = []
    stage = SimpleNamespace(config=stage3_config(refit_at=(0.3, 0.6)), refitted=0, fit=fits.append, share=0.0)
    stage._passed = partial(Stage3._passed, stage)
    for step, stage.share in enumerate((0.0, 0.2, 0.4, 0.5, 0.7, 0.9)):
        Stage3.after_step(stage, step)  # type: ignore[arg-type]
    assert fits == [3, 5]
    for share in (0.9, None):  # a run that goes on repeats nothing
        Stage3.go_on(stage, share)  # type: ignore[arg-type]
        Stage3.after_step(stage, 6)  # type: ignore[arg-type]
        assert fits == [3, 5]
    Stage3.go_on(stage, 0.5)  # type: ignore[arg-type]
    Stage3.after_step(stage, 6)  # type: ignore[arg-type]
    assert fits == [3, 5, 7], "stopped just before one was due"


@pytest.mark.parametrize("stop", [4, 6])
def test_a_fit_that_is_due_right_after_a_checkpoint_is_not_lost_and_one_that_was_made_is_not_repeated(
    store: ShardStore, runs: Path, tmp_path: Path, stop: int
) -> None:
    """At share 0.5 of 8 steps, that is after the fifth; a run that was stopped after the fourth had gone on without it."""

    def made() -> Stage3:
        return Stage3(stage3_config(fit_batches=4, refit_at=(0.5,), steps=8), store, runs / "stage2")

    train(made(), tmp_path / "whole")
    train(made(), tmp_path / "stopped", stop_after=stop)
    train(made(), tmp_path / "stopped")
    one, other = (load_file(latest(tmp_path / name) / "tokenizer.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_every_fit_has_the_noise_of_the_config(store: ShardStore, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noises: list[float] = []
    monkeypatch.setattr(SimVQ, "fit_means", lambda self, *given, **named: noises.append(named["noise"]))
    config = stage3_config(fit_batches=6, fit_basis="means", fit_noise=0.4, refit_steps=(1, 3))
    stage = Stage3(config, store, runs / "stage2")
    stage.start()
    for step in range(3):
        stage.after_step(step)
    assert noises == [0.4] * 6  # three fits of each track
    with pytest.raises(ValueError, match="fit_basis is features"):
        stage3_config(fit_basis="features", fit_noise=0.4)


def test_stage_3_goes_on_from_its_own_run_and_leaves_the_other_track_as_it_is(
    store: ShardStore, runs: Path, tmp_path: Path
) -> None:
    train(Stage3(stage3_config(fit_batches=6, steps=3), store, runs / "stage2"), tmp_path / "stage3")
    mixture = {"accompaniment": Component(types=("accompaniment", "instrumental"))}
    changes = {"mixture": mixture, "fit_batches": 6, "fit_basis": "means", "refit_steps": (2,)}
    going_on = Stage3(stage3_config(**changes), store, tmp_path / "stage3")
    before = {name: value.clone() for name, value in going_on.tokenizer.state_dict().items()}
    trained = load_file(best(tmp_path / "stage3") / "tokenizer.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in trained.items())
    going_on.start()
    assert all(torch.equal(value, before[name]) for name, value in going_on.tokenizer.state_dict().items())
    assert going_on.parents[START_FROM].stage == "stage3"
    one_step(going_on, tmp_path / "on", 4)
    same = {name: torch.equal(value, before[name]) for name, value in going_on.tokenizer.state_dict().items()}
    assert all(value for name, value in same.items() if name.startswith(("branches.0", "lower_blocks", "downsampling")))
    for name in (
        "branches.1.projection_in.linear.weight",
        "branches.1.quantizer.basis",
        "branches.1.quantizer.map.weight",
    ):
        assert not same[name], name


def test_codebooks_are_fitted_anew_at_the_steps_that_are_named(
    store: ShardStore, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, refitted = (
        Stage3(stage3_config(refit_steps=steps, fit_batches=4), store, runs / "stage2") for steps in ((), (3,))
    )
    for stage, name in ((plain, "plain"), (refitted, "refitted")):
        one_step(stage, tmp_path / name, 2)
    same = {n: torch.equal(v, refitted.tokenizer.state_dict()[n]) for n, v in plain.tokenizer.state_dict().items()}
    assert all(same.values())
    for stage, name in ((plain, "plain"), (refitted, "refitted")):
        one_step(stage, tmp_path / name, 3)
    for track in ("vocals", "accompaniment"):
        maps = [stage.tokenizer.branch(track).quantizer.map.weight for stage in (plain, refitted)]
        assert not torch.allclose(*maps), track
        features = torch.cat(features_of(refitted, track))
        codes = refitted.tokenizer.branch(track).quantizer.table()
        torch.testing.assert_close(codes.mean(0), features.mean(0), atol=0.3 * float(features.std()), rtol=0)


@torch.no_grad()
def features_of(stage: Stage3, track: str) -> list[Tensor]:
    stage.tokenizer.eval()
    found = []
    for step in range(8):
        batch = stage.batch(step, range(stage.config.batch_size))
        hidden = stage.tokenizer.lower(batch["mel"], batch["lengths"])
        for item, length, number in zip(hidden, batch["lengths"].tolist(), batch["track"].tolist(), strict=True):
            if number == ("vocals", "accompaniment").index(track):
                found.append(stage.tokenizer.branch(track).projection_in(item[:length]))
    return found


def test_each_codebook_starts_from_its_own_track(store: ShardStore, runs: Path) -> None:
    stage = Stage3(stage3_config(fit_batches=6), store, runs / "stage2")
    with torch.no_grad():  # tracks far apart, so that the other's features would be seen
        stage.tokenizer.branch("accompaniment").projection_in.linear.bias.add_(50.0)
    stage.start()
    for track in ("vocals", "accompaniment"):
        features, codes = torch.cat(features_of(stage, track)), stage.tokenizer.branch(track).quantizer.table()
        torch.testing.assert_close(codes.mean(0), features.mean(0), atol=float(features.std()), rtol=0.02)
    mine = torch.cat(features_of(stage, "vocals"))
    one, two = (Stage3(stage3_config(fit_batches=6, fit_scale=scale), store, runs / "stage2") for scale in (0.5, 1.0))
    for other in (one, two):
        other.start()
    spreads = [s.tokenizer.branch("vocals").quantizer.table().std(0).norm() for s in (one, two)]
    assert float(spreads[1] / spreads[0]) == pytest.approx(2.0, rel=1e-3) and len(mine)


def test_codes_start_at_frames_at_means_of_them_or_in_a_cloud(store: ShardStore, runs: Path) -> None:
    """What `fit_basis` says: codes that are features, codes nearest to all features, codes that lie anywhere between them."""
    apart, error = {}, {}
    for basis in ("features", "means", "random"):
        stage = Stage3(stage3_config(fit_batches=6, fit_scale=1.0, fit_basis=basis), store, runs / "stage2")
        stage.start()
        branch = stage.tokenizer.branch("vocals")
        rows = []
        with torch.no_grad():
            for draw in range(6):
                batch = stage.drawn(-1 - draw)
                hidden = stage.tokenizer.lower(batch["mel"], batch["lengths"])
                voices = zip(hidden, batch["lengths"].tolist(), batch["track"].tolist(), strict=True)
                rows += [branch.projection_in(item[:length]) for item, length, track in voices if track == 0]
            features = torch.cat(rows)
            distances = torch.cdist(branch.quantizer.table(), features)
        spread = float((features - features.mean(0)).norm(dim=1).mean())
        apart[basis] = float(distances.amin(1).mean()) / spread
        error[basis] = float(distances.amin(0).square().mean()) / spread**2
    assert apart["features"] < 0.01 < apart["random"]
    assert error["means"] < min(error["features"], error["random"])


@pytest.mark.parametrize(
    "change",
    [
        {}, {"shared_codebook": True}, {"quantizer": "vq"}, {"routing": "soft"}, {"vq_convention": "legacy"},
        {"vq_norm": "l1"},
    ],
)  # fmt: skip
def test_every_form_of_stage_3_learns_in_its_own_way(
    change: dict[str, object], store: ShardStore, runs: Path, tmp_path: Path
) -> None:
    """Held-out mel and quantization error fall, many codes are used, and what is peculiar to the form is what moves."""
    model = TOKENIZER.model_copy(update=change)
    config = stage3_config(
        steps=40, model=model, fit_basis="features", fit_batches=8, upper_lr_scale=1.0, held_out_every=40
    )
    stage = Stage3(config, store, runs / "stage2")
    start = state(stage.tokenizer)
    untrained = stage.held_out()
    losses = train(stage, tmp_path)
    assert losses["mel"] < 0.95 * untrained["mel"]
    assert losses["vq"] < untrained["vq"]
    assert min(losses["distinct_vocals"], losses["distinct_accompaniment"]) > 0.01
    far = moved(stage.tokenizer, start)
    learned = {name.split(".", 2)[2] for name, value in far.items() if name.startswith("branches.") and value > 0}
    assert ("quantizer.codebook" in learned) == (model.quantizer == "vq")
    assert ("quantizer.map.weight" in learned) == (model.quantizer == "simvq")
    assert len(stage.tokenizer.branches) == (1 if model.shared_codebook else 2)
    assert any(name.startswith("router") and value > 0 for name, value in far.items()) == (model.routing == "soft")
    batch = batch_of(stage)
    mine = stage.losses(batch, 0)
    ratio = float(mine["vq"] / (mine["codebook"] + 0.25 * mine["commitment"]))
    other = float(mine["vq"] / (0.25 * mine["codebook"] + mine["commitment"]))
    assert (other if model.vq_convention == "legacy" else ratio) == pytest.approx(1.0, rel=1e-4)


def test_conventions_pull_on_different_sides(store: ShardStore, runs: Path) -> None:
    """beta weighs the pull on the features in the paper's form, on the codes in the legacy one."""
    pulls = {}
    for convention in ("paper", "legacy"):
        model = TOKENIZER.model_copy(update={"vq_convention": convention})
        weights = Stage3Weights(vq=1, mel=0, chroma=0, text=0)
        stage = Stage3(stage3_config(model=model, weights=weights, fit_batches=4), store, runs / "stage2")
        stage.start()
        stage.tokenizer.train()
        stage.losses(batch_of(stage), 0)["loss"].backward()
        branch = stage.tokenizer.branch("vocals")
        pulls[convention] = (
            float(branch.quantizer.map.weight.grad.norm()), float(branch.projection_in.linear.weight.grad.norm())
        )  # fmt: skip
    assert pulls["paper"][0] == pytest.approx(4 * pulls["legacy"][0], rel=1e-3)
    assert pulls["legacy"][1] == pytest.approx(4 * pulls["paper"][1], rel=1e-3)


def test_the_schedule_reaches_the_optimizer(store: ShardStore, runs: Path, tmp_path: Path) -> None:
    stage = make("stage1", store, runs, steps=6, warmup=3, lr=2e-3, floor=0.2, log_every=1)
    moves = []
    before = state(stage.tokenizer)  # type: ignore[attr-defined]
    for step in range(1, 7):
        one_step(stage, tmp_path, step)
        now = state(stage.tokenizer)  # type: ignore[attr-defined]
        moves.append(max(float((now[n] - before[n]).abs().max()) for n in now))
        before = now
    rates = [learning_rate(step, peak=2e-3, warmup=3, steps=6, floor=0.2) for step in range(6)]
    told = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["lr"] for line in told if line["kind"] == "train"] == pytest.approx(rates)
    assert moves[0] == pytest.approx(rates[0], rel=0.1)
    for move, rate in zip(moves, rates, strict=True):  # no weight moves further than about its rate
        assert 0.3 * rate < move < 3 * rate


def test_moments_decay_as_the_config_says(store: ShardStore, runs: Path, tmp_path: Path) -> None:
    after = []
    for betas in ((0.9, 0.98), (0.0, 0.98), (0.9, 0.5)):
        stage = make("stage1", store, runs, steps=8, warmup=0, lr=1e-3, betas=betas)
        one_step(stage, tmp_path / str(betas), 3)
        after.append(stage.tokenizer.upper_norm.weight.detach().clone())  # type: ignore[attr-defined]
    assert not torch.equal(after[0], after[1]) and not torch.equal(after[0], after[2])


@pytest.mark.parametrize("name", ["stage1", "stage2", "stage3"])
def test_what_is_held_out_is_never_trained_on(name: str, store: ShardStore, runs: Path) -> None:
    stage = make(name, store, runs)
    splits = {stored.segment.key: stored.segment.split for stored in store.segments}
    drawn = {key for step in range(10) for key in stage.batch(step, range(4))["ids"]}
    held = {key for step in range(6) for key in stage.held_out_crops.batch(step, range(4))["ids"]}  # type: ignore[attr-defined]
    assert {splits[key] for key in drawn} == {"train"} and {splits[key] for key in held} == {"validation"}


def test_the_parts_of_a_loss_add_up(store: ShardStore) -> None:
    separator = SeparatorStage(SEPARATOR, store)
    told = separator.losses(batch_of(separator), 0)
    torch.testing.assert_close(told["loss"], 2 * told["tracks"] + told["stems"])
    assert float(told["stems"].detach()) > 0
    autoencoder = AutoencoderStage(AUTOENCODER, store)
    for step in range(3):
        told = autoencoder.losses(batch_of(autoencoder), step)
    bound = float((told["loss"] - told["mel"] - 0.5 * told["convergence"]).detach())
    assert -1e-5 <= bound < 0.1 and float(told["convergence"].detach()) > 0
    with torch.no_grad():
        autoencoder.autoencoder.to_latent.bias.add_(1000.0)  # outliers pay
    far = autoencoder.losses(batch_of(autoencoder), 500)
    assert float((far["loss"] - far["mel"] - 0.5 * far["convergence"]).detach()) > 1.0


def test_gradients_are_clipped(store: ShardStore, runs: Path, tmp_path: Path) -> None:
    """Below AdamW's epsilon a gradient moves little: with a tiny norm nothing is learned."""
    far = {}
    for clip in (1.0, 1e-9):
        stage = make("stage1", store, runs, steps=4, warmup=0, lr=1e-3, weight_decay=0.0, clip=clip)
        before = state(stage.tokenizer)  # type: ignore[attr-defined]
        one_step(stage, tmp_path / str(clip))
        far[clip] = max(moved(stage.tokenizer, before).values())  # type: ignore[attr-defined]
    assert far[1e-9] < 0.2 * far[1.0]


def test_stage_1_learns_to_predict_the_codes_of_the_fitted_quantizer(
    store: ShardStore, runs: Path, tmp_path: Path
) -> None:
    stage = make("stage1", store, runs, steps=2)
    stage.start()
    quantizer = stage.bestrq.quantizer  # type: ignore[attr-defined]
    mels = torch.cat(
        [
            m[: 4 * n]
            for s in range(8)
            for b in [stage.batch(s, range(4))]
            for m, n in zip(b["mel"], b["lengths"], strict=True)
        ]
    )
    torch.testing.assert_close(quantizer.mean, mels.mean(0), atol=0.2, rtol=0)
    torch.testing.assert_close(quantizer.std, mels.std(0), atol=0.2, rtol=0.2)
    losses = stage.losses(batch_of(stage), 0)
    losses["loss"].backward()
    used = {n.split(".")[0] for n, p in stage.tokenizer.named_parameters() if p.grad is not None and p.grad.any()}  # type: ignore[attr-defined]
    assert {"downsampling", "lower_blocks", "upper_blocks", "upper_norm"} == used
    assert stage.bestrq.head.weight.grad.any()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("waveform", "spectral"), [(0.0, 0.0), (2.0, 0.0), (0.0, 2.0)])
def test_weights_of_the_separator_count(waveform: float, spectral: float, store: ShardStore) -> None:
    def loss(**weights: float) -> float:
        stage = SeparatorStage(SEPARATOR.model_copy(update=weights), store)
        return float(stage.losses(batch_of(stage), 0)["loss"].detach())

    one = {"waveform_weight": float(waveform > 0), "spectral_weight": float(spectral > 0)}
    assert loss(waveform_weight=waveform, spectral_weight=spectral) == pytest.approx(2 * loss(**one), rel=1e-4)
    assert (loss(**one) > 0) == bool(waveform or spectral)


def test_the_autoencoder_s_latents_have_unit_variance(store: ShardStore) -> None:
    """By running statistics: those of the first batch, then of both, so nothing pulls at the latents themselves."""
    stage = AutoencoderStage(AUTOENCODER, store)
    raw = []
    for step in range(2):
        batch = batch_of(stage, step)
        stage.losses(batch, step)
        raw.append(stage.autoencoder.raw_latents(batch["audio"][:, None]).detach().flatten(0, 1))
        torch.testing.assert_close(
            stage.autoencoder.mean, torch.stack([r.mean(0) for r in raw]).mean(0), atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(
            stage.autoencoder.std, torch.stack([r.std(0) for r in raw]).mean(0), atol=1e-5, rtol=1e-4
        )
    assert not torch.allclose(raw[0].std(0), torch.ones(()), rtol=0.05)  # else the test would see nothing


@pytest.mark.parametrize(("value", "bound"), [(3.0, 0.0), (6.0, 4.0), (-6.0, 4.0), (-3.0, 0.0)])
def test_latents_beyond_four_deviations_are_pulled_back(
    value: float, bound: float, store: ShardStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On both sides; a renderer would have to reproduce outliers, and they bring nothing."""
    stage = AutoencoderStage(AUTOENCODER, store)
    raw = stage.autoencoder.raw_latents
    monkeypatch.setattr(stage, "_follow", lambda *_: None)
    monkeypatch.setattr(stage.autoencoder, "raw_latents", lambda audio: torch.full_like(raw(audio), value))
    losses = stage.losses(batch_of(stage), 0)
    rest = float((losses["loss"] - losses["mel"] - 0.5 * losses["convergence"]).detach())
    assert rest == pytest.approx(bound, abs=1e-4)


def test_the_autoencoder_s_noise_and_scales_count(store: ShardStore) -> None:
    def mel(noise: float, step: int = 0, scales: int = 7) -> float:
        stage = AutoencoderStage(
            AUTOENCODER.model_copy(update={"latent_noise": noise, "scales_per_step": scales}), store
        )
        return float(stage.losses(batch_of(stage), step)["mel"].detach())

    assert mel(0.0) == mel(0.0) != mel(1.0)
    one, two = mel(0.0, 1, 1), mel(0.0, 2, 1)
    assert abs(one / two - 1) > 0.01  # other scales in other steps
    assert mel(0.0, 1, 7) == pytest.approx(mel(0.0, 2, 7), rel=5e-3)


@pytest.mark.parametrize("name", ["stage2", "stage3"])
def test_parts_of_a_batch_weigh_by_what_they_have(store: ShardStore, runs: Path, name: str) -> None:
    """Words or masks in one part of four: their loss had become a quarter, so that a recipe depended on the memory that it ran in."""
    model = TOKENIZER.model_copy(update={"noise": "none"})  # noise has the statistics of its part
    more = {"fit_batches": 0} if name == "stage3" else {"weights": {"latent_norm": 0.5}}
    stage = make(name, store, runs, batch_size=4, model=model, **more)
    random = torch.Generator().manual_seed(3)
    batch = {**stage.batch(0, range(4)), "seeds": stage.seeds(0, range(4))}
    rows = batch["mel"].shape[1]
    batch["lengths"] = torch.tensor([rows // 4, rows // 8, rows // 4, 5])
    batch["text"], batch["text_lengths"] = torch.randint(0, 27, (4, 3), generator=random), torch.tensor([3, 0, 0, 0])
    if name == "stage2":
        batch["masks"] = torch.rand(4, rows, 4, model.mask_bins, generator=random)
        batch["masks_items"] = torch.tensor([False, True, True, False])
    trial = Trial(stage, stage.config, join(stage.config))

    def learned(parts: int) -> tuple[dict[str, float], dict[str, Tensor]]:
        each = 4 // parts
        kept = {key: value for key, value in batch.items() if isinstance(value, Tensor | list)}
        cut = [{key: value[n : n + each] for key, value in kept.items()} for n in range(0, 4, each)]
        losses = {key: float(value) for key, value in trial._backward(cut, 0).items()}
        mine = "output." if name == "stage2" else ("output.", "branches.")
        trained = {
            key: p for key, p in stage.tokenizer.named_parameters() if key.startswith(mine) and p.grad is not None
        }
        return losses, {key: p.grad.clone() for key, p in trained.items()}

    whole, gradients = learned(1)
    checked = whole.keys() & {"mel", "chroma", "masks", "text", "latent_norm", "vq", "codebook", "commitment", "loss"}
    assert len(checked) == (6 if name == "stage2" else 7) and all(whole[key] > 0 for key in checked)
    for parts in (2, 4):
        losses, others = learned(parts)
        assert {key: losses[key] for key in checked} == pytest.approx({key: whole[key] for key in checked}, rel=1e-4)
        assert all(torch.allclose(others[key], gradients[key], rtol=1e-3, atol=1e-5) for key in gradients)


@pytest.mark.parametrize("name", ["stage1", "stage4"])
def test_parts_of_a_batch_weigh_by_their_frames(data: Path, tmp_path: Path, name: str) -> None:
    """Masked frames in stage 1, real ones of latents in stage 4: a part with few weighed as much as one with many."""
    shutil.copytree(data / "derived", tmp_path / "derived")
    store = ShardStore(data / "shards", tmp_path / "derived")
    if name == "stage1":
        stage = make("stage1", store, tmp_path, batch_size=4)
        stage.start()
    else:
        fill(store)
        stage = make_stage4(store, batch_size=4)
    batch = {**stage.batch(0, range(4)), "seeds": stage.seeds(0, range(4))}
    full = int(batch["lengths"].max())
    batch["lengths"] = torch.tensor([full, full // 2, full, 4])
    trial = Trial(stage, stage.config, join(stage.config))
    module = stage.tokenizer if name == "stage1" else stage.dit

    def learned(parts: int) -> tuple[dict[str, float], list[Tensor]]:
        each = 4 // parts
        cut = [{key: value[n : n + each] for key, value in batch.items()} for n in range(0, 4, each)]
        losses = {key: float(value) for key, value in trial._backward(cut, 0).items()}
        losses.pop("target_perplexity", None)  # of a part's own targets
        return losses, [p.grad.clone() for p in module.parameters() if p.grad is not None]

    whole, gradients = learned(1)
    assert whole["loss"] > 0 and gradients
    for parts in (2, 4):
        losses, others = learned(parts)
        assert losses == pytest.approx(whole, rel=1e-4)
        for one, other in zip(gradients, others, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-5)
