"""What a run costs: counting without data equals counting with them; a trial writes nothing."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.training.small import AUTOENCODER, DIT, SEPARATOR, stage1_config, stage2_config, stage3_config
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from duotok.errors import ConfigError
from duotok.model.config import TokenizerConfig
from duotok.shards.mixture import Component
from duotok.training.cost import estimate as module
from duotok.training.cost.counting import Counted, count
from duotok.training.cost.estimate import Trial, estimate, frames_of, memory_of, parameters_by_part
from duotok.training.cost.synthetic import SKETCHES, SyntheticStore, sketch
from duotok.training.processes import join
from duotok.training.stage import Stage, StageConfig
from duotok.training.stages.adversary import AdversaryConfig
from duotok.training.stages.stage1 import Stage1Config
from duotok.training.stages.stage4 import Stage4Config

CONFIGS: dict[str, Callable[[], StageConfig]] = {
    "stage1": stage1_config,
    "stage2": lambda: stage2_config(batch_size=7),
    "stage3": stage3_config,
    "stage4": lambda: Stage4Config(steps=10, batch_size=4, lr=1e-3, crop_frames=32, dit=DIT, device="cpu"),
    "separator": lambda: SEPARATOR,
    "autoencoder": lambda: AUTOENCODER,
    "adversarial": lambda: AUTOENCODER.model_copy(update={"adversary": AdversaryConfig(windows=(512,), channels=2)}),
}


def test_every_stage_of_the_list_is_tried() -> None:
    assert CONFIGS.keys() == SKETCHES.keys()


@pytest.mark.parametrize("name", SKETCHES)
def test_counting_without_data_equals_counting_with_them(name: str) -> None:
    config = CONFIGS[name]()

    def counted(large: int) -> Counted:
        return count(lambda: sketch(name, config), config.batch_size, large=large)[0]

    true = counted(1 << 60)  # nothing is that large: all data are real
    assert true.forward > 0 and true.backward > 0 and true.activations > 0
    assert counted(4096) == true


def test_operations_and_memory_of_a_linear_layer() -> None:
    class Linear(Stage):
        name = "linear"
        config = StageConfig(steps=1, batch_size=6, lr=1.0)

        def __init__(self) -> None:
            self.layer = nn.Linear(32, 64, bias=False)
            self.modules = {"layer": self.layer}

        def batch(self, step, items):  # type: ignore[no-untyped-def]
            return {"x": torch.ones(len(items), 32)}

        def losses(self, batch, step):  # type: ignore[no-untyped-def]
            return {"loss": self.layer(batch["x"]).sum()}

        def held_out(self) -> dict[str, float]:
            return {}

    counted, stage = count(Linear, 6)
    assert (counted.forward, counted.backward) == (2 * 6 * 32 * 64, 2 * 6 * 32 * 64)  # x wants no gradient
    assert counted.activations >= 4 * 6 * 64  # the output; the gradient of the weight is not among them
    assert counted.activations < 4 * 6 * 64 + 4 * 32 * 64
    assert memory_of(stage, counted)["gradients"] == 4 * 32 * 64


def test_the_mode_agrees_with_torch_on_a_real_step() -> None:
    config = stage3_config()
    stage = sketch("stage3", config)
    items = range(config.batch_size)
    batch = {**stage.batch(0, items), "seeds": stage.seeds(0, items)}
    with FlopCounterMode(display=False) as flops:  # without attention on a CPU
        stage.losses(batch, 0)["loss"].backward()
    counted, _ = count(lambda: sketch("stage3", config), config.batch_size)
    assert 0.9 * counted.flops < flops.get_total_flops() <= counted.flops


def test_the_paper_size_is_counted_without_its_memory() -> None:
    model = TokenizerConfig.preset("paper")
    config = Stage1Config.model_validate(
        {"steps": 10, "batch_size": 4, "lr": 1e-4, "model": model, "crops": {"frames": 100}}
    )
    counted, stage = count(lambda: sketch("stage1", config), 4, "bf16")
    trained = sum(t for t, _ in parameters_by_part(stage).values())
    assert 300e6 < trained < 400e6
    blocks = sum(t for part, (t, _) in parameters_by_part(stage).items() if "blocks" in part)
    assert counted.forward > 2 * blocks * 4 * 100  # two operations for each weight and frame at least
    assert counted.backward == pytest.approx(2 * counted.forward, rel=0.05)
    assert counted.activations > 50e9 * (4 * 100) / (64 * 750)


def test_halving_a_batch_halves_what_it_takes() -> None:
    config = stage1_config(batch_size=16)
    whole, half = (count(lambda: sketch("stage1", config), n)[0] for n in (16, 8))
    assert half.activations < 0.6 * whole.activations


def test_the_adversarial_run_has_a_frozen_encoder_and_discriminators() -> None:
    parts = parameters_by_part(sketch("adversarial", CONFIGS["adversarial"]()))
    assert parts["autoencoder.to_latent"][0] == 0 < parts["autoencoder.to_latent"][1]
    assert parts["autoencoder.to_spectrum"][0] > 0 and parts["discriminators.each"][0] > 0


def test_parameters_by_part() -> None:
    stage = sketch("stage3", stage3_config())
    parts = parameters_by_part(stage)
    assert parts["tokenizer.lower_blocks"][0] == 0 < parts["tokenizer.lower_blocks"][1]
    assert parts["tokenizer.upper_blocks"][1] == 0 < parts["tokenizer.upper_blocks"][0]
    assert sum(map(sum, parts.values())) == sum(p.numel() for m in stage.modules.values() for p in m.parameters())


def test_frames_are_those_of_the_sound() -> None:
    config = stage1_config()
    assert frames_of(sketch("stage1", config).batch(0, range(4))) == 4 * 40
    stage4 = CONFIGS["stage4"]()
    assert frames_of(sketch("stage4", stage4).batch(0, range(3))) == 3 * 32
    one = stage4.model_copy(update={"dit": DIT.model_copy(update={"latents_per_frame": 1})})
    assert frames_of(sketch("stage4", one).batch(0, range(3))) == 3 * 32
    assert frames_of(sketch("autoencoder", AUTOENCODER).batch(0, range(2))) == 2 * 10


def test_one_latent_a_token_frame_costs_less_than_two() -> None:
    def operations(per_frame: int) -> float:
        dit = DIT.model_copy(update={"latents_per_frame": per_frame})
        config = CONFIGS["stage4"]().model_copy(update={"dit": dit})
        return count(lambda: sketch("stage4", config), config.batch_size)[0].forward

    assert 0.4 * operations(2) < operations(1) < 0.7 * operations(2)


@pytest.mark.parametrize("name", SKETCHES)
def test_a_sketch_takes_the_engine_s_steps(name: str) -> None:
    config = CONFIGS[name]()
    stage = sketch(name, config)
    trial = Trial(stage, config, join(config))
    before = [p.detach().clone() for p in trial.parameters]
    items = range(config.batch_size)
    for step in range(2):
        trial.step({**stage.batch(step, items), "seeds": stage.seeds(step, items)}, step)
    assert any(not torch.equal(a, b) for a, b in zip(before, trial.parameters, strict=True))


def test_an_estimate_says_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cost = estimate("stage2", stage2_config(accumulate=2), seconds=0.1)
    assert cost.speed.items == cost.speed.of == 2
    assert cost.days == pytest.approx(12 * cost.speed.seconds / 86_400)
    assert cost.items == 4 and cost.frames == 160
    told = json.loads(json.dumps(cost.as_json()))
    assert told["memory_in_all"] == sum(cost.memory.values())
    assert told["trained"] == sum(p["trained"] for p in told["parameters"].values())
    assert not list(tmp_path.iterdir())


def test_steps_of_a_run_by_the_clock_are_as_many_as_its_minutes_have_room_for() -> None:
    """They were those of the config, which such a run does not look at."""
    cost = estimate("stage1", stage1_config(steps=1_000_000, minutes=0.5), seconds=0.1)
    assert cost.steps == pytest.approx(30 / cost.speed.seconds, abs=1) and cost.days == pytest.approx(
        30 / 86_400, rel=0.1
    )
    assert any("0.5 minutes" in note for note in cost.notes)
    assert not any("minutes" in note for note in estimate("stage1", stage1_config(), seconds=0.1).notes)


@pytest.mark.parametrize("fast", [True, False])
def test_half_precision_is_timed_where_it_would_train(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was timed in fp32 on every CPU, also on one that trains in bf16."""
    monkeypatch.setattr("duotok.training.processes.fast_half", lambda: fast)
    monkeypatch.setattr("duotok.training.cost.estimate.fast_half", lambda: fast)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cost = estimate("stage1", stage1_config(precision="bf16", device="auto"), seconds=0.1)
    assert cost.speed.precision == ("bf16" if fast else "fp32")
    assert any("those of fp32 on this CPU" in note for note in cost.notes) is not fast
    wanted = estimate("stage1", stage1_config(precision="bf16", device="cuda"), seconds=0.1)
    assert wanted.speed.precision == "fp32", "a config for a GPU"


def test_what_does_not_fit_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duotok.training.cost.estimate.free_memory", lambda device: 1000)
    cost = estimate("stage1", stage1_config())
    assert cost.speed.items is None
    assert any("does not fit" in note for note in cost.notes)


def test_a_smaller_batch_is_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    counted, stage = count(lambda: sketch("stage1", stage1_config()), 4)
    memory = memory_of(stage, counted)
    room = sum(memory.values()) - memory["activations"] + counted.activations // 2
    monkeypatch.setattr("duotok.training.cost.estimate.free_memory", lambda device: int(room / 0.8) + 1)
    cost = estimate("stage1", stage1_config(), seconds=0.1)
    assert cost.speed.items == 2
    assert "measured with 2 of 4 items and scaled" in cost.notes


def test_a_batch_that_cannot_be_shared_is_told() -> None:
    with pytest.raises(ConfigError, match="multiple of 3"):
        estimate("stage1", stage1_config(accumulate=3))


def test_processes_share_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = estimate("stage1", stage1_config(), seconds=0.1)
    shared = estimate("stage1", stage1_config(), seconds=0.1, processes=4)
    assert shared.speed.of == 1
    assert shared.memory["activations"] < 0.5 * alone.memory["activations"]
    assert shared.flops == pytest.approx(alone.flops, rel=0.1)  # the mask is drawn: not the same number of frames
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="--processes"):
        estimate("stage1", stage1_config())


def test_every_component_of_a_mixture_has_segments() -> None:
    components = {
        "a": Component(types=("instrumental",), corpora=("fma",)),
        "b": Component(kinds=("voice",), needs=("vocals",), lyrics=True),
        "c": Component(types=("mix",), needs=("mix",)),
    }
    store = SyntheticStore(30, list(components.values()), {})
    for split in ("train", "validation"):
        for name, component in components.items():
            assert len(component.find(store, split, name))
    assert store.audio(0, store.tracks(0)[0], 3, 5).shape == (2, 5 * 1920)


def test_a_stage_that_needs_trained_ones_is_told() -> None:
    with pytest.raises(ConfigError, match="earlier runs"):
        sketch("adapt", AUTOENCODER)


def test_the_rate_is_measured_once_for_each_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def rate(device: torch.device, dtype: torch.dtype) -> float:
        asked.append(torch.get_num_threads())
        return 1e9

    monkeypatch.setattr(module, "matmul_rate", rate)
    module._rate_here.cache_clear()
    try:
        for threads in (1, 2, 2):
            monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
            estimate("stage1", stage1_config(), seconds=0.1)
    finally:
        module._rate_here.cache_clear()
    assert asked == [1, 2]
