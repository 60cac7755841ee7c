"""The engine: killed and resumed equals uninterrupted, to the bit; broken checkpoints and losses are told."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from duotok.errors import ConfigError, DuoTokError
from duotok.training.engine import Stage, StageConfig, checkpoints, latest, learning_rate, load_module, only_one, train

HERE = Path(__file__)


class Toy(Stage):
    """A regression with dropout and torch noise: any state that resume forgot would show."""

    name = "toy"

    def __init__(self, config: StageConfig, pause: float = 0.0) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.net = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.3), nn.GELU(), nn.Linear(16, 1))
        self.modules = {"net": self.net}
        self.pause = pause

    def batch(self, step: int) -> dict[str, Tensor]:
        x = torch.randn(16, 8, generator=torch.Generator().manual_seed(step))
        return {"x": x, "y": x[:, :1] * 2 - x[:, 1:2]}

    def losses(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        time.sleep(self.pause)
        noisy = batch["x"] + 0.01 * torch.randn_like(batch["x"])
        return {"loss": (self.net(noisy) - batch["y"]).square().mean()}

    def held_out(self) -> dict[str, float]:
        batch = self.batch(10_000)
        return {"mse": float((self.net(batch["x"]) - batch["y"]).square().mean())}


def config(**changes: object) -> StageConfig:
    return StageConfig.model_validate(
        {"steps": 60, "batch_size": 16, "lr": 0.02, "warmup": 5, "save_every": 10, **changes}
    )


def weights(run: Path) -> dict[str, Tensor]:
    stage = Toy(config())
    load_module(latest(run) / "net.safetensors", stage.net)
    return stage.net.state_dict()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


def test_training_lowers_the_held_out_loss(tmp_path: Path):
    before = Toy(config()).held_out()["mse"]
    assert train(Toy(config()), tmp_path)["mse"] < 0.3 * before


def test_stopped_and_resumed_equals_uninterrupted(tmp_path: Path):
    train(Toy(config()), tmp_path / "whole")
    train(Toy(config()), tmp_path / "parts", stop_after=23)
    train(Toy(config()), tmp_path / "parts")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path):
    train(Toy(config()), tmp_path / "whole")
    child = subprocess.Popen(
        [sys.executable, str(HERE), str(tmp_path / "killed")], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 300
    while len(checkpoints(tmp_path / "killed")) < 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert 0 < int(latest(tmp_path / "killed").name.split("-")[1]) < 60
    train(Toy(config()), tmp_path / "killed")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


def test_a_half_written_checkpoint_is_not_used(tmp_path: Path):
    train(Toy(config()), tmp_path, stop_after=20)
    (tmp_path / "checkpoint-00000030").mkdir()
    assert latest(tmp_path).name == "checkpoint-00000020"


def test_a_checkpoint_of_another_stage_is_refused(tmp_path: Path):
    train(Toy(config()), tmp_path, stop_after=10)
    state = latest(tmp_path) / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "stage": "other"}))
    with pytest.raises(ConfigError, match="of other, not of toy"):
        train(Toy(config()), tmp_path)


def test_weights_of_another_architecture_are_refused(tmp_path: Path):
    train(Toy(config()), tmp_path, stop_after=10)
    with pytest.raises(ConfigError, match="another architecture"):
        load_module(latest(tmp_path) / "net.safetensors", nn.Linear(3, 3))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path: Path):
    class Exploding(Toy):
        def losses(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
            result = super().losses(batch, step)
            return {"loss": result["loss"] * (float("nan") if step == 15 else 1.0)}

    with pytest.raises(DuoTokError, match="step 15"):
        train(Exploding(config()), tmp_path)
    assert latest(tmp_path).name == "checkpoint-00000010"


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path):
    with only_one(tmp_path), pytest.raises(DuoTokError, match="another process"):
        train(Toy(config()), tmp_path)
    assert train(Toy(config()), tmp_path, stop_after=10)


def test_learning_rate_warms_up_and_falls_to_the_floor():
    c = config(steps=100, warmup=10, lr=1.0, floor=0.1)
    assert learning_rate(c, 0) == pytest.approx(0.1)
    assert learning_rate(c, 10) == pytest.approx(1.0)
    assert learning_rate(c, 100) == pytest.approx(0.1)
    assert all(learning_rate(c, s) >= learning_rate(c, s + 1) for s in range(10, 99))


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Toy(config(), pause=0.05), Path(sys.argv[1]))
