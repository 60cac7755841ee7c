"""Adversarial fine-tuning: each side learns from its own terms alone, the encoder stays, and it resumes to the bit."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tests.training.launch import finish, start
from tests.training.small import AUTOENCODER

from duotok.distributed import total, world
from duotok.errors import ConfigError
from duotok.random import ItemRandom
from duotok.shards.store import ShardStore
from duotok.training.checkpoint import latest, load_module
from duotok.training.engine import train
from duotok.training.stages.adapt import AdaptConfig
from duotok.training.stages.adversary import AdversaryConfig, Discriminators, judge
from duotok.training.stages.autoencoder import AutoencoderStage, AutoencoderStageConfig, octave_weights

SMALL = AdversaryConfig(windows=(512, 256), channels=4, warmup=1)


def sounds() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4800, generator=generator) * 0.1, torch.randn(2, 4800, generator=generator) * 0.1


def test_each_side_learns_from_its_own_terms() -> None:
    torch.manual_seed(0)
    discriminators = Discriminators(SMALL)
    estimate, target = sounds()
    estimate.requires_grad_(True)
    found = judge(discriminators, estimate, target)
    (found["adversarial"] + found["matching"]).backward(retain_graph=True)
    assert estimate.grad is not None and bool(estimate.grad.any())
    assert all(p.grad is None for p in discriminators.parameters())
    estimate.grad = None
    found["discrimination"].backward()
    assert estimate.grad is None
    assert all(p.grad is not None for p in discriminators.parameters())


def test_discriminators_learn_to_tell_and_the_matching_falls_for_the_truth() -> None:
    torch.manual_seed(0)
    discriminators = Discriminators(SMALL)
    estimate, target = sounds()
    smooth = torch.nn.functional.avg_pool1d(estimate[:, None], 9, 1, 4)[:, 0]
    optimizer = torch.optim.Adam(discriminators.parameters(), 2e-3)
    first = float(judge(discriminators, smooth, target)["discrimination"])
    for _ in range(30):
        optimizer.zero_grad()
        judge(discriminators, smooth, target)["discrimination"].backward()
        optimizer.step()
    told = judge(discriminators, smooth, target)
    assert float(told["discrimination"]) < 0.7 * first
    assert float(judge(discriminators, target, target)["matching"]) == 0.0 < float(told["matching"])


def judged(first: int, last: int) -> dict[str, list[float]]:
    """Losses of these items of a batch that grows louder, and the discriminators' gradients, averaged over processes."""
    torch.manual_seed(0)
    discriminators = Discriminators(SMALL)
    generator = torch.Generator().manual_seed(1)
    loudness = torch.tensor([0.001, 0.01, 0.1, 1.0])[:, None]
    estimate, target = (loudness * torch.randn(4, 4800, generator=generator) for _ in range(2))
    losses = judge(discriminators, estimate[first:last], target[first:last])
    losses["discrimination"].backward()
    found = {name: value.detach() for name, value in losses.items()}
    found |= {name: p.grad for name, p in discriminators.named_parameters() if p.grad is not None}
    return {name: (total(value) / world()).flatten().tolist() for name, value in found.items()}


def test_two_processes_judge_as_one_does(tmp_path: Path) -> None:
    """One has the quiet sounds, the other the loud ones: each divided the matching by the size of its own maps."""
    finish(start(Path(__file__), str(tmp_path / "told.json")))
    together, one = json.loads((tmp_path / "told.json").read_text()), judged(0, 4)
    assert together.keys() == one.keys() and len(one) > 10
    for name, values in one.items():
        assert together[name] == pytest.approx(values, rel=1e-4, abs=1e-6), name


def stage(store: ShardStore, start: Path, name: str = "adversarial", **changes: object) -> AutoencoderStage:
    config = AUTOENCODER.model_copy(update={"adversary": SMALL, "start_from": start, "steps": 4, **changes})
    return AutoencoderStage(config, store, name, start)


@pytest.fixture(scope="module")
def trained(store: ShardStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "autoencoder"
    train(AutoencoderStage(AUTOENCODER.model_copy(update={"steps": 3}), store), run)
    return run


def test_the_encoder_stays_and_the_decoder_moves(store: ShardStore, trained: Path, tmp_path: Path) -> None:
    made = stage(store, trained)
    train(made, tmp_path)
    before = AutoencoderStage(AUTOENCODER, store).autoencoder
    load_module(latest(trained) / "autoencoder.safetensors", before)
    old, new = before.state_dict(), made.autoencoder.state_dict()
    decoder = ("from_latent", "decode_", "unpool", "to_spectrum")
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert moved and all(name.startswith(decoder) for name in moved), sorted(moved)[:5]


def test_the_decoder_hears_the_discriminators_by_their_weights_and_after_the_warmup(
    store: ShardStore, trained: Path
) -> None:
    weights = {"weight": 0.2, "feature_weight": 0.7}
    made = stage(store, trained, adversary=SMALL.model_copy(update=weights))
    audio = torch.rand(2, 4800, generator=torch.Generator().manual_seed(1)) - 0.5
    estimate = 0.5 * audio
    for step, ready in ((0, 0.0), (1, 1.0), (5, 1.0)):
        told = made.reconstruction(estimate, audio, step)
        own = 0.2 * told["adversarial"] + 0.7 * told["matching"]
        assert float(told["adversarial"]) > 0 < float(told["matching"])
        wanted = told["mel"] + 0.5 * told["convergence"] + ready * own + told["discrimination"]
        torch.testing.assert_close(told["loss"], wanted)


def test_discriminators_have_an_optimizer_of_their_own(store: ShardStore, trained: Path) -> None:
    own = SMALL.model_copy(update={"lr_scale": 3.0, "betas": (0.1, 0.2), "clip": 7.0})
    made = stage(store, trained, adversary=own)
    decoder, discriminators = made.parameter_groups()
    assert {id(p) for p in discriminators.pop("params")} == {id(p) for p in made.discriminators.parameters()}
    assert discriminators == {"scale": 3.0, "betas": (0.1, 0.2), "clip": 7.0}
    assert decoder.keys() == {"params"} and all(p.requires_grad for p in decoder["params"])


def test_stopped_and_resumed_equals_uninterrupted(store: ShardStore, trained: Path, tmp_path: Path) -> None:
    train(stage(store, trained), tmp_path / "whole")
    train(stage(store, trained), tmp_path / "parts", stop_after=2)
    train(stage(store, trained), tmp_path / "parts")
    from safetensors.torch import load_file

    for name in ("autoencoder", "discriminators", "optimizer"):
        a, b = (load_file(latest(tmp_path / run) / f"{name}.safetensors") for run in ("whole", "parts"))
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a), name


def test_a_decoder_learns_phases_that_are_fitted_whatever_its_weights_were_trained_with(
    store: ShardStore, trained: Path, tmp_path: Path
) -> None:
    """`griffin_lim` needs no weights: it may be turned on where the decoder is trained on, and its checkpoint says so."""
    shape = AUTOENCODER.model.model_copy(update={"griffin_lim": 2})
    made = stage(store, trained, model=shape, fit_iterations=2, latent_noise=0.0)
    made.start()
    batch = {**made.batch(0, [0, 1]), "seeds": made.seeds(0, [0, 1])}
    told = made.losses(batch, 0)
    other = made.losses({**batch, "seeds": made.seeds(1, [0, 1])}, 0)
    assert told["mel"] != other["mel"], "phases are drawn anew at each step"
    torch.testing.assert_close(told["magnitude"], other["magnitude"])  # and magnitudes do not hear of them
    heavier = stage(store, trained, model=shape, fit_iterations=2, magnitude_weight=3.0, latent_noise=0.0)
    heavier.start()
    again = heavier.losses(batch, 0)
    torch.testing.assert_close(again["loss"] - told["loss"], 2.0 * told["magnitude"], rtol=1e-3, atol=1e-4)


def test_the_encoder_learns_on_in_the_stage_autoencoder(store: ShardStore, trained: Path, tmp_path: Path) -> None:
    made = stage(store, trained, "autoencoder", adversary=None)
    train(made, tmp_path)
    old, new = AutoencoderStage(AUTOENCODER, store).autoencoder, made.autoencoder
    load_module(latest(trained) / "autoencoder.safetensors", old)
    moved = {
        name for name, value in old.named_parameters() if not torch.equal(value, dict(new.named_parameters())[name])
    }
    assert any(name.startswith("enter") for name in moved) and any(name.startswith("to_spectrum") for name in moved)
    # The scale of the latents follows from where it stood: not from nothing, as in a first training.
    assert not torch.equal(new.mean, old.mean)
    torch.testing.assert_close(new.mean, old.mean, atol=0.3, rtol=0.3)


def test_every_octave_of_the_magnitudes_counts_alike_above_50_hz() -> None:
    weights = octave_weights(1921)
    torch.testing.assert_close(weights.mean(), torch.tensor(1.0))
    octaves = [float(weights[low : 2 * low].sum()) for low in (32, 64, 128, 256, 512)]  # from 400 Hz
    assert max(octaves) < 1.12 * min(octaves)
    assert float(weights[:24].sum()) > 0.3 * float(weights.sum()), "300 Hz and below are a third"


def test_a_wrong_bass_is_an_error_of_the_magnitudes(store: ShardStore, trained: Path) -> None:
    """A bin too high at 100 Hz costs more than one at 10 kHz: with equal weights basses played wrong notes."""
    shape = AUTOENCODER.model.model_copy(update={"griffin_lim": 2})
    made = stage(store, trained, model=shape, fit_iterations=1)
    audio = torch.randn(1, 9_600, generator=torch.Generator().manual_seed(0)) * 0.1
    true = made.autoencoder.analyse(audio)
    costs = []
    for hertz in (100.0, 10_000.0):
        wrong = true.clone()
        wrong[..., round(hertz / 48_000 * made.autoencoder.config.n_fft)] *= 10.0
        made.autoencoder.spectrum = lambda latents, wrong=wrong: wrong
        costs.append(float(made.decoded(torch.zeros(1, 10, 64), audio, 0, ItemRandom([0]))["magnitude"]))
    assert costs[0] > 10 * costs[1] > 0


def test_latents_are_kept_near_those_of_the_run_that_was_named_or_the_run_stops(
    store: ShardStore, trained: Path, tmp_path: Path
) -> None:
    """It needs that run's weights at every start: others would be another training, without a word."""
    start = Path(shutil.copytree(trained, tmp_path / "start"))

    def made(weight: float = 1.0) -> AutoencoderStage:
        return stage(store, start, "autoencoder", adversary=None, latents_kept=weight)

    train(made(), tmp_path / "kept", stop_after=2)
    train(made(0.0), tmp_path / "free", stop_after=2)
    train(AutoencoderStage(AUTOENCODER.model_copy(update={"steps": 4, "best": None}), store), start)
    with pytest.raises(
        ConfigError, match=r"trained with start_from = autoencoder at step 3 .* now at autoencoder at step 4"
    ):
        train(made(), tmp_path / "kept")
    train(made(0.0), tmp_path / "free")
    assert latest(tmp_path / "free").name == "checkpoint-00000004"


def test_latents_that_move_away_cost_by_their_weight(store: ShardStore, trained: Path) -> None:
    def made(weight: float) -> AutoencoderStage:
        found = stage(store, trained, "autoencoder", adversary=None, latent_noise=0.0, latents_kept=weight)
        found.start()
        return found

    batch = {**made(0.0).batch(0, [0, 1]), "seeds": made(0.0).seeds(0, [0, 1])}
    free, kept = made(0.0), made(2.0)
    assert free.before is None
    both = []
    for found in (free, kept):
        with torch.no_grad():
            found.autoencoder.to_latent.bias[0] += found.autoencoder.std[0]  # one latent by its deviation
        found._follow = lambda raw, step: None
        both.append(found.losses(batch, 0)["loss"])
    torch.testing.assert_close(
        both[1] - both[0], torch.tensor(2.0 / AUTOENCODER.model.latent_dim), rtol=1e-3, atol=1e-5
    )
    assert all(not p.requires_grad for p in kept.before.parameters())
    assert stage(store, trained, adversary=None).before is None, "a frozen encoder keeps its latents anyway"


def test_magnitudes_alone_learn_without_fitting(store: ShardStore, trained: Path) -> None:
    shape = AUTOENCODER.model.model_copy(update={"griffin_lim": 2})
    made = stage(store, trained, model=shape, fit_iterations=0, adversary=None, magnitude_weight=3.0)
    made.start()
    batch = {**made.batch(0, [0, 1]), "seeds": made.seeds(0, [0, 1])}
    made.autoencoder.sound = None  # would fail if it were called
    told = made.losses(batch, 0)
    assert told.keys() == {"loss", "magnitude"}
    assert float(told["loss"]) >= 3.0 * float(told["magnitude"]) > 0
    told["loss"].backward()
    assert bool(made.autoencoder.to_spectrum.weight.grad.any())


def basses(store: ShardStore, start: Path, **changes: object) -> AutoencoderStage:
    """A stage that adds latents for basses to the run `start`, and learns these alone."""
    before = AUTOENCODER.model
    shape = {"latent_dim": before.latent_dim + 4, "bass_latents": 4, "bass_bins": 8, "griffin_lim": 1}
    model = before.model_copy(update=shape)
    return stage(store, start, "autoencoder", model=model, adversary=None, only_basses=True, **changes)


def test_basses_are_added_to_a_trained_autoencoder_and_nothing_else_moves(
    store: ShardStore, trained: Path, tmp_path: Path
) -> None:
    made = basses(store, trained, steps=3)
    train(made, tmp_path)
    old, new = AutoencoderStage(AUTOENCODER, store).autoencoder, made.autoencoder
    load_module(latest(trained) / "autoencoder.safetensors", old)
    before, after = old.state_dict(), new.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    fresh = basses(store, trained).autoencoder.state_dict()
    added = [name for name in after if name not in before]
    assert added and all(not torch.equal(after[n], fresh[n]) for n in added if not n.endswith("norm.bias"))
    sound = 0.1 * torch.randn(1, 1, 9600, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(new.encode(sound)[..., : before["mean"].numel()], old.encode(sound))
    again = stage(store, tmp_path, "autoencoder", model=made.config.model, adversary=None)
    again.start()  # and its checkpoint is one as any
    assert all(torch.equal(again.autoencoder.state_dict()[name], value) for name, value in after.items())


def test_latents_for_basses_stay_where_the_decoder_alone_learns(
    store: ShardStore, trained: Path, tmp_path: Path
) -> None:
    first = basses(store, trained, steps=2)
    train(first, tmp_path / "basses")
    made = stage(store, tmp_path / "basses", model=first.config.model, adversary=None, fit_iterations=1)
    assert not any(p.requires_grad for p in made.autoencoder.bass_encoder.parameters()), (
        "DDP waits for what asks for gradients"
    )
    train(made, tmp_path / "decoder")
    before = first.autoencoder.state_dict()
    moved = {name for name, value in made.autoencoder.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("bass_decoder") for name in moved)
    assert not any(name.startswith(("bass_encoder", "to_latent", "mean", "std")) for name in moved)


def test_statistics_of_latents_for_basses_begin_anew_once(store: ShardStore, trained: Path, tmp_path: Path) -> None:
    """As they are new they are far from anything; where a run goes on with them they stay near what they were."""
    train(basses(store, trained, steps=2), tmp_path)
    raw = torch.full((1, 4, AUTOENCODER.model.latent_dim + 4), 50.0)
    moved = {}
    for run in (trained, tmp_path):
        made = basses(store, run)
        made.start()
        before = made.autoencoder.bass_encoder.mean.clone()
        made._follow(raw, 0)
        moved[run] = float((made.autoencoder.bass_encoder.mean - before).abs().max())
    assert moved[trained] > 40 and moved[tmp_path] < 1


def test_a_decoder_may_leave_out_the_phases_that_it_predicted(store: ShardStore, tmp_path: Path) -> None:
    shape = AUTOENCODER.model.model_copy(update={"output": "vector", "griffin_lim": 1})
    first = AutoencoderStage(AUTOENCODER.model_copy(update={"model": shape, "steps": 2}), store)
    train(first, tmp_path / "first")
    silent = shape.model_copy(update={"output": "magnitude"})
    made = stage(store, tmp_path / "first", model=silent, adversary=None, fit_iterations=1)
    made.start()
    latents = torch.randn(1, 10, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, before = (one.autoencoder.spectrum(latents).abs() for one in (made, first))
    assert float(((found - before).abs() < 0.01 * found).float().mean()) > 0.99
    train(made, tmp_path / "second")
    again = stage(store, tmp_path / "second", model=silent, adversary=None)  # and goes on from there
    again.start()
    assert torch.equal(again.autoencoder.to_spectrum.weight, made.autoencoder.to_spectrum.weight)


def test_basses_are_added_by_the_stage_that_makes_latents(store: ShardStore, trained: Path) -> None:
    with pytest.raises(ConfigError, match="adversarial: only_basses is for the stage autoencoder"):
        stage(store, trained, only_basses=True)


def test_basses_learn_from_their_own_bins(store: ShardStore, trained: Path) -> None:
    made = basses(store, trained, fit_iterations=2)
    made.start()
    batch = {**made.batch(0, [0, 1]), "seeds": made.seeds(0, [0, 1])}
    made.autoencoder.sound = None  # would fail if it were called: magnitudes are enough
    told = made.losses(batch, 0)
    assert told.keys() == {"loss", "basses"}
    torch.testing.assert_close(told["loss"], told["basses"], atol=1e-2, rtol=0)  # and the bound of the latents
    told["loss"].backward()
    for name, parameter in made.autoencoder.named_parameters():
        assert name.startswith("bass_") == (parameter.grad is not None), name
    true = made.autoencoder.analyse(batch["audio"])
    for first, wrong in ((0, True), (8, False)):
        louder = true.clone()
        louder[..., first : first + 8] *= 3.0
        assert bool(made.bass_error(louder, batch["audio"]) > 0) == wrong


@pytest.mark.parametrize("iterations", [0, 1])
def test_basses_are_learned_with_all_the_rest_too(store: ShardStore, trained: Path, iterations: int) -> None:
    """From nothing, or by a decoder that learns on: their error counts beside the others, which hardly hear them."""
    shape = {
        "latent_dim": AUTOENCODER.model.latent_dim + 4,
        "bass_latents": 4,
        "bass_bins": 8,
        "griffin_lim": iterations,
    }
    model = AUTOENCODER.model.model_copy(update=shape)

    def told(weight: float) -> dict[str, torch.Tensor]:
        changes = {
            "model": model,
            "fit_iterations": 1,
            "magnitude_weight": weight,
            "latent_noise": 0.0,
            "start_from": None,
        }
        made = AutoencoderStage(AUTOENCODER.model_copy(update=changes), store)
        return made.losses({**made.batch(0, [0, 1]), "seeds": made.seeds(0, [0, 1])}, 0)

    one, three = told(1.0), told(3.0)
    added = one["basses"] + (one["magnitude"] if iterations else 0)
    torch.testing.assert_close(three["loss"] - one["loss"], 2 * added, rtol=1e-3, atol=1e-4)
    assert float(one["basses"]) > 0


def test_a_wrong_note_is_worse_than_wrong_noise_between_notes(store: ShardStore, trained: Path) -> None:
    made = basses(store, trained)
    width = 48_000 / made.autoencoder.config.n_fft  # Hz of a bin
    tone = 0.1 * torch.sin(2 * torch.pi * 5 * width * torch.arange(9_600) / 48_000)[None]
    sound = tone + 1e-3 * torch.randn(1, 9_600, generator=torch.Generator().manual_seed(0))
    true, costs = made.autoencoder.analyse(sound), {}
    for place in (2, 5):
        wrong = true.clone()
        wrong[..., place] *= 3.0
        costs[place] = float(made.bass_error(wrong, sound))
    assert costs[5] > 2 * costs[2] > 0, "but what is between them counts too"


@pytest.mark.parametrize(("fits", "counts"), [(0, "magnitude"), (1, "mel")])
def test_what_is_held_out_is_what_is_learned(store: ShardStore, trained: Path, fits: int, counts: str) -> None:
    shape = AUTOENCODER.model.model_copy(update={"griffin_lim": 1})
    made = stage(store, trained, model=shape, fit_iterations=fits, adversary=None)
    with torch.no_grad():
        found = made.held_out()
        alone = basses(store, trained, fit_iterations=fits).held_out()
    assert alone["loss"] == pytest.approx((alone["basses_vocals"] + alone["basses_accompaniment"]) / 2)
    tracks = ("vocals", "accompaniment")
    assert found.keys() == {f"{figure}_{t}" for figure in ("mel", "chroma", "magnitude") for t in tracks} | {"loss"}
    assert found["loss"] == pytest.approx(sum(found[f"{counts}_{t}"] for t in tracks) / 2)
    assert all(-1 <= found[f"chroma_{t}"] <= 1 for t in tracks)


def test_crops_longer_than_some_sounds_are_cut_from_the_others(store: ShardStore, trained: Path) -> None:
    """Sounds of 70 to 90 frames; crops of 80."""
    made = stage(store, trained, crop_seconds=3.2, adversary=None)
    assert made.batch(0, range(40))["audio"].shape == (40, 80 * 1920)


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    half = 2 * dist.get_rank()
    told = judged(half, half + 2)
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(told))
    dist.destroy_process_group()


def test_phases_to_begin_with_are_those_of_the_item(store: ShardStore, trained: Path) -> None:
    """They were drawn for a batch as it was cut: other processes or `accumulate`, other phases."""
    shape = AUTOENCODER.model.model_copy(update={"griffin_lim": 1})
    made = stage(store, trained, model=shape, fit_iterations=1, adversary=None)

    def mel(items: list[int]) -> float:
        return float(made.losses({**made.batch(0, items), "seeds": made.seeds(0, items)}, 0)["mel"].detach())

    assert mel([0, 1]) == pytest.approx((mel([0]) + mel([1])) / 2, rel=1e-5)


def test_what_an_edge_leaves_out_is_no_error_of_the_magnitudes(store: ShardStore, trained: Path) -> None:
    shape = AUTOENCODER.model.model_copy(update={"griffin_lim": 1})
    made = stage(store, trained, model=shape, fit_iterations=0)
    audio = torch.randn(1, 19_200, generator=torch.Generator().manual_seed(0)) * 0.1
    wrong = made.autoencoder.analyse(audio)
    wrong[:, :10] *= 10.0  # 100 ms, and the same at the end
    wrong[:, -10:] *= 10.0
    made.autoencoder.spectrum = lambda latents: wrong
    errors = [
        float(made.decoded(torch.zeros(1, 20, 64), audio, 0, ItemRandom([0]), edge=e)["magnitude"]) for e in (0, 4800)
    ]
    assert errors[0] > 1 and errors[1] == pytest.approx(0, abs=1e-5)


def test_crops_that_are_too_short_for_the_windows_are_one_line() -> None:
    """Those of 40 ms ended in a traceback at the first step that drew the longest window."""
    given = AUTOENCODER.model_dump(mode="json")
    for kind, least in ((AutoencoderStageConfig, 0.06), (AdaptConfig, 0.26)):
        kind.model_validate({**given, "crop_seconds": least})
        with pytest.raises(ValueError, match="crop_seconds"):
            kind.model_validate({**given, "crop_seconds": least - 0.01})


def test_the_shortest_crops_go_through_every_window(store: ShardStore, trained: Path) -> None:
    made = stage(store, trained, crop_seconds=0.06, scales_per_step=7, adversary=None)
    losses = made.losses({**made.batch(0, [0]), "seeds": made.seeds(0, [0])}, 0)
    assert bool(losses["loss"].isfinite())


def test_betas_that_adam_does_not_take_are_refused() -> None:
    with pytest.raises(ValueError, match="less than 1"):
        AdversaryConfig.model_validate({"windows": (512, 256), "betas": (0.8, 1.0)})


@pytest.mark.parametrize(
    "wrong",
    [
        {"windows": ()}, {"windows": (512, 3)}, {"bands": ()}, {"bands": (0.5,)}, {"bands": (0.0, 0.5, 2.0)},
        {"bands": (0.5, 0.1, 1.0)}, {"bands": (0.0, 0.001, 1.0)}, {"bands": (-0.1, 1.0)},
    ],
)  # fmt: skip
def test_discriminators_of_nothing_are_one_line(wrong: dict[str, tuple[float, ...]]) -> None:
    """They ended in a traceback at the first step; edges above 1 were taken for 1."""
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} .* must"):
        AdversaryConfig.model_validate({"windows": (512, 256), **wrong})
