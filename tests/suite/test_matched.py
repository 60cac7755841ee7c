"""Matched decoders: the rule of rates, that only the condition differs, that controls stand where they must, resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.renderer.published_layouts import small_ear2
from tests.suite.conftest import run_suite, suite_of
from tests.tiny import tiny_bundle
from torch import Tensor
from typer.testing import CliRunner

from duotok.cli.main import app
from duotok.codec.duotok import DuoTok
from duotok.errors import ConfigError
from duotok.evaluation.store import read_cells
from duotok.evaluation.systems import parse_system
from duotok.renderer.dit import DiTConfig
from duotok.suite.matched import conduct
from duotok.suite.matched.experiment import CEILING, IDEAL, loaded
from duotok.suite.matched.material import Material, MaterialCache, conditions_of, embeddings_of, ideal, shuffled
from duotok.suite.matched.rate import at_latent_rate, slots_of
from duotok.suite.matched.stage import MatchedConfig, MatchedStage
from duotok.suite.runner import Runner
from duotok.suite.true_stems import TrueSong
from duotok.training.checkpoint import latest
from duotok.training.engine import only_one, train

DIT = {
    "condition_dim": 16, "condition_width": 8, "condition_kernel": 3, "width": 16, "heads": 2, "blocks": 1, "ffn_ratio": 2.0,
    "conv_kernel": 3, "time_dim": 16, "attention_window": 8, "latent_dim": 4,
}  # fmt: skip


def config(**changes: object) -> MatchedConfig:
    values = {
        "dit": DiTConfig(**DIT),
        "steps": 4,
        "batch_size": 4,
        "crop_frames": 8,
        "warmup": 1,
        "device": "cpu",
        "log_every": 100,
    }
    return MatchedConfig.model_validate({**values, **changes})


def materials(width: int, seed: int, count: int = 3, latents: Tensor | None = None) -> list[Material]:
    draw = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(99)
    every = torch.randn(count, 40, 4, generator=fixed) if latents is None else latents
    return [Material(f"song {n}", every[n], torch.randn(40, width, generator=draw)) for n in range(count)]


# -- the rule of rates -------------------------------------------------------------------------------------------------


def test_tokens_of_25_and_50_hz_are_repeated_and_taken() -> None:
    vectors = torch.randn(4, 3)
    assert torch.allclose(at_latent_rate(vectors, 25.0, 8, 50), vectors.repeat_interleave(2, 0))
    assert torch.allclose(at_latent_rate(vectors, 50.0, 4, 50), vectors)
    assert torch.allclose(at_latent_rate(vectors, 100.0, 2, 50), vectors.reshape(2, 6)), "two slots side by side"


def test_at_25_latents_a_second_tokens_are_taken_and_joined() -> None:
    vectors = torch.randn(4, 3)
    assert torch.allclose(at_latent_rate(vectors, 25.0, 4, 25), vectors)
    assert torch.allclose(at_latent_rate(vectors, 50.0, 2, 25), vectors.reshape(2, 6)), "two slots side by side"
    assert torch.allclose(at_latent_rate(vectors, 12.5, 8, 25), vectors.repeat_interleave(2, 0))


def test_a_decoder_of_25_latents_a_second_reads_one_embedding_a_token() -> None:
    """A crop is as many seconds as before, so half as many latents."""
    songs = [Material(m.song, m.latents, m.condition, 1) for m in materials(6, 1)]
    dit = DiTConfig(**{**DIT, "latents_per_frame": 1, "condition_dim": 15})
    one, two = (
        MatchedStage(config(dit=dit), "vocals", songs, songs),
        MatchedStage(config(), "vocals", materials(6, 1), songs),
    )
    batch, before = one.batch(0, range(4)), two.batch(0, range(4))
    assert 2 * batch["latents"].shape[1] == before["latents"].shape[1] and songs[0].frames == 40
    loss = one.losses({**batch, "seeds": one.seeds(0, range(4))}, 0)["loss"]
    loss.backward()
    grad = one.decoder.adapter.weight.grad
    assert one.decoder.adapter.out_features == 15 and grad is not None and bool(loss.isfinite())


@pytest.mark.parametrize("rate", [12.5, 40.0, 44_100 / 512, 75.0, 150.0])
def test_a_slot_is_the_mean_over_its_time(rate: float) -> None:
    """Against the same on a grid of 10,000 points a second."""
    seconds, frames = 0.4, 20
    vectors = torch.randn(int(rate * seconds) + 2, 2)
    slots = slots_of(rate, 50)
    found = at_latent_rate(vectors, rate, frames, 50).reshape(frames * slots, 2)
    points = (torch.arange(40_000 * slots, dtype=torch.float64) + 0.5) / (100_000 * slots)
    fine = vectors[(points * rate).long().clamp_max(len(vectors) - 1)]
    assert torch.allclose(found, fine.reshape(frames * slots, -1, 2).mean(1), atol=5e-3)


def test_the_end_is_held_and_a_rate_must_be_one() -> None:
    found = at_latent_rate(torch.tensor([[1.0], [3.0]]), 25.0, 7, 50)
    assert found[:, 0].tolist() == [1, 1, 3, 3, 3, 3, 3]
    with pytest.raises(ConfigError):
        slots_of(0.0, 50)


# -- what differs between tokenizers -----------------------------------------------------------------------------------


def test_two_tokenizers_differ_in_their_condition_alone() -> None:
    one, other = (
        MatchedStage(config(), "vocals", materials(width, seed), materials(width, seed, 1))
        for width, seed in ((6, 1), (10, 2))
    )
    for (name, a), (_, b) in zip(
        one.decoder.dit.state_dict().items(), other.decoder.dit.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), f"{name} starts from the same values"
    for step in (0, 3):
        a, b = one.batch(step, range(4)), other.batch(step, range(4))
        assert a["condition"].shape != b["condition"].shape
        for name in ("latents", "times", "lengths"):
            assert torch.equal(a[name], b[name]), f"{name} of step {step}"
        assert a["ids"] == b["ids"] and torch.equal(one.seeds(step, range(4)), other.seeds(step, range(4)))
    assert sum(p.numel() for p in one.decoder.dit.parameters()) == sum(
        p.numel() for p in other.decoder.dit.parameters()
    )


def test_the_scale_of_embeddings_gives_no_tokenizer_an_advantage() -> None:
    loud = [Material(m.song, m.latents, 100 * m.condition + 7) for m in materials(6, 1)]
    one, other = (MatchedStage(config(), "vocals", each, each[:1]) for each in (materials(6, 1), loud))
    read = [
        stage.decoder.adapter((stage.train_set[0].condition - stage.decoder.mean) * stage.decoder.scale)
        for stage in (one, other)
    ]
    assert torch.allclose(*read, atol=1e-4) and float(read[0].std()) > 0.1


def test_an_ideal_condition_is_better_and_a_shuffled_one_worse(tmp_path: Path) -> None:
    """Latents that follow the condition: in order, in a random order, and half of them."""
    source = torch.randn(6, 40, 4)
    condition = {"ideal": source, "half": source[..., :2], "shuffled": source[:, torch.randperm(40)]}
    losses = {}
    for name, values in condition.items():
        songs = [Material(f"song {n}", source[n], values[n]) for n in range(6)]
        stage = MatchedStage(
            config(steps=25, lr=2e-2, held_out_every=1000, save_every=1000, ema=0.9), "vocals", songs[:5], songs[:5]
        )
        losses[name] = train(stage, tmp_path / name)["loss"]
    assert losses["ideal"] < losses["half"] < losses["shuffled"]


def test_a_stopped_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    def stage() -> MatchedStage:
        return MatchedStage(config(), "vocals", materials(6, 1), materials(6, 1, 1))

    whole = train(stage(), tmp_path / "whole")
    train(stage(), tmp_path / "parts", stop_after=2)
    assert train(stage(), tmp_path / "parts") == whole


def test_controls_are_made_of_the_first_tokenizer_and_of_the_true_sound(model: DuoTok) -> None:
    sounds = {track: torch.randn(2, 48_000) * 0.1 for track in ("vocals", "accompaniment")}
    plain, rate = embeddings_of(model)(sounds)
    turned, same_rate = shuffled(embeddings_of(model))(sounds)
    assert rate == same_rate == 25.0 and not torch.equal(plain["vocals"], turned["vocals"])
    assert torch.equal(plain["vocals"].sort(0).values, turned["vocals"].sort(0).values)
    mel, rate = ideal(sounds)
    assert all(torch.equal(v, turned[t]) for t, v in shuffled(embeddings_of(model))(sounds)[0].items())
    assert rate == 100.0 and mel["vocals"].shape == (100, 128)


def test_the_shuffled_control_has_another_order_in_each_song() -> None:
    """With one for all songs of a length, a decoder whose crops are whole songs could learn to undo it."""
    counted = torch.arange(200.0)[:, None]
    orders = []
    for song in range(2):
        vectors = torch.cat([counted, torch.full((200, 1), song)], 1)
        found, _ = shuffled(lambda _, v=vectors: ({"vocals": v, "accompaniment": v}, 25.0))({})  # type: ignore[misc]
        assert torch.equal(found["vocals"], found["accompaniment"])
        orders.append(found["vocals"][:, 0])
    assert not torch.equal(*orders) and all(torch.equal(order.sort().values, counted[:, 0]) for order in orders)


def test_a_condition_of_odd_width_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be even"):
        MatchedStage(config(dit=DiTConfig(**{**DIT, "condition_dim": 15})), "vocals", materials(6, 1), materials(6, 1))


def test_the_command(tmp_path: Path, songs: Path, bundle: Path) -> None:
    shape = {key: value for key, value in DIT.items() if key != "latent_dim"}
    call = [
        "eval", "matched-decoder", f"tiny={bundle}", "--data", f"songs={songs}", "--limit", "6", "--autoencoder",
        str(bundle), "-o", str(tmp_path / "store"), "--set", "seconds=1", "--set", "training.steps=2", "--set",
        "training.batch_size=2", "--set", "training.crop_frames=8", "--set", "training.sample_steps=1", "--set",
        "training.device=cpu", *(part for key, value in shape.items() for part in ("--set", f"training.dit.{key}={value}")),
    ]  # fmt: skip
    plan = CliRunner().invoke(app, [*call, "--dry-run"])
    assert (
        plan.exit_code == 0
        and "matched-decoder of tiny: 4 training steps" in plan.stdout
        and not (tmp_path / "store").exists()
    ), plan.output
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    cells, problems = read_cells(tmp_path / "store")
    names = [cell.inputs.tokenizer for cell in cells]
    assert not problems and names == [CEILING, IDEAL, "shuffled: tiny", "tiny"], (
        "the controls are of the first tokenizer"
    )
    assert all(row.value is not None or row.reason for cell in cells for row in cell.rows)
    mels = {c.inputs.tokenizer: [r.value for r in c.rows if r.measure == "mel" and r.track == "vocals"] for c in cells}
    assert all(len(values) == 1 and all(value is not None for value in values) for values in mels.values()), mels
    again = CliRunner().invoke(app, call)
    assert again.stdout == done.stdout and "not measured" not in again.output, "everything is read"
    assert "|  |" not in done.stdout and "| – |" in done.stdout, "no cell is blank: f0 is of vocals alone"
    suite = suite_of(tmp_path, songs, bundle, limit=6)
    training = {"steps": 2, "batch_size": 2, "crop_frames": 8, "sample_steps": 1, "device": "cpu", "dit": shape}
    suite["instruments"] = {"matched-decoder": {"autoencoder": str(bundle), "seconds": 1, "training": training}}
    found = run_suite(tmp_path, suite)
    assert {c.inputs.tokenizer: c.created for c in found.cells if not c.gap} == {
        c.inputs.tokenizer: c.created for c in cells
    }, "the suite's own songs have true stems, and the command has measured them"
    assert [c.gap for c in found.cells if c.gap] == ["the sound itself has no tokens"]


def test_the_rate_of_the_autoencoder_is_asked_for_and_kept(
    tmp_path: Path, songs: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """On a bundle with the ear-VAE2, 25 latents a second."""
    one: dict[str, Any] = {
        "kind": "stable-audio", "latent_dim": 4, "latents_per_frame": 1, "condition_dim": 4, "width": 64, "heads": 2, "blocks": 1,
    }  # fmt: skip
    ear = {"kind": "ear-vae2", "model": small_ear2()["model"]["gen"]["config"]}
    published = tiny_bundle(tmp_path_factory.mktemp("ear2"), autoencoder=ear, dit={"vocals": one, "accompaniment": one})
    values: dict[str, Any] = {
        "data": f"songs={songs}", "limit": 6, "autoencoder": str(published), "seconds": 1, "controls": False,
        "training": {"steps": 1, "batch_size": 2, "crop_frames": 8, "sample_steps": 1, "device": "cpu", "dit": DIT},
    }  # fmt: skip
    systems = [parse_system(f"tiny={bundle}")]
    with pytest.raises(ConfigError, match=r"training\.dit\.latents_per_frame 2: the autoencoder has 1; set it so"):
        conduct.plan(conduct.MatchedSettings.model_validate(values), systems, tmp_path)
    values["training"]["dit"] = {**DIT, "latents_per_frame": 1}
    found = conduct.plan(conduct.MatchedSettings.model_validate(values), systems, tmp_path)
    experiment, contestant = found.experiment, found.rows[0][0]
    material = experiment.materials(contestant, "train", "vocals")[0]
    assert len(material.latents) == len(material.condition) == material.frames == 25
    assert found.conduct(Runner(tmp_path)).cells[0].gap == ""


@pytest.mark.parametrize("largest", [1.0, 65_504.0, 1e5])
def test_kept_arrays_have_room_for_every_embedding(
    largest: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrueSong, "sound", lambda self, start, seconds: {})
    made = {track: largest * torch.tensor([[1.0, -0.7], [0.25, 0.0]]) for track in ("vocals", "accompaniment")}
    cache, song = MaterialCache(tmp_path, (0.0, 1.0)), TrueSong("song", "test", {})
    first = cache.tracks(song, "content", "tokens hash", lambda _: made)
    again = cache.tracks(song, "content", "tokens hash", lambda _: pytest.fail("made again"))
    for track, array in made.items():
        torch.testing.assert_close(first[track], array, rtol=1e-3, atol=0)
        assert torch.equal(first[track], again[track])


def test_a_trained_decoder_is_read_while_another_worker_has_it(tmp_path: Path) -> None:
    """Workers reconstruct songs side by side behind one decoder; only one of them can hold its run."""

    def stage() -> MatchedStage:
        return MatchedStage(config(), "vocals", materials(6, 1), materials(6, 1, 1))

    assert not loaded(stage(), tmp_path / "run")
    train(stage(), tmp_path / "run", stop_after=2)
    assert not loaded(stage(), tmp_path / "run"), "half trained"
    trained, read = stage(), stage()
    train(trained, tmp_path / "run")
    with only_one(tmp_path / "run"):
        assert loaded(read, tmp_path / "run")
    mine, theirs = read.ema.state_dict(), trained.ema.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
    weights = latest(tmp_path / "run") / "ema.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert not loaded(stage(), tmp_path / "run"), "damaged: training mends it"


def test_embeddings_meet_the_latents_in_time() -> None:
    """Whatever the rate of the latents, a token's vector stands over its own second."""
    vectors = torch.arange(50.0)[:, None]
    sounds = {track: torch.zeros(2, 96_000) for track in ("vocals", "accompaniment")}
    for per_frame in (1, 2):
        found = conditions_of(lambda _: ({track: vectors for track in sounds}, 25.0), sounds, per_frame)["vocals"]
        assert torch.equal(found, vectors.repeat_interleave(per_frame, 0))


def test_a_stopped_experiment_goes_on_at_the_unit(
    tmp_path: Path, songs: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = conduct.MatchedSettings.model_validate({
        "data": f"songs={songs}", "limit": 6, "autoencoder": str(bundle), "seconds": 1, "controls": False,
        "training": {"steps": 2, "batch_size": 2, "crop_frames": 8, "sample_steps": 1, "device": "cpu",
                     "dit": {key: value for key, value in DIT.items() if key != "latent_dim"}},
    })  # fmt: skip
    true, calls = conduct.train_track, list[str]()

    def stopped(payload: dict[str, Any]) -> dict[str, Any]:
        calls.append(payload["track"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return true(payload)

    monkeypatch.setattr(conduct, "train_track", stopped)
    plan = conduct.plan(settings, [parse_system(f"tiny={bundle}")], tmp_path)
    with pytest.raises(KeyboardInterrupt):
        plan.conduct(Runner(tmp_path))
    found = plan.conduct(Runner(tmp_path))
    assert calls == ["vocals", "accompaniment", "accompaniment"], "the first decoder is not trained again"
    assert [c.inputs.tokenizer for c in found.cells] == ["tiny", CEILING] and not found.problems
