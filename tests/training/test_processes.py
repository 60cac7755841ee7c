"""Several processes: the same losses and weights as one, killed and resumed as well; sharded as well as copied."""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.training.launch import finish, start
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from duotok.distributed import mean_divisor, rank
from duotok.random import ItemRandom
from duotok.training.checkpoint import best_so_far, latest
from duotok.training.engine import train
from duotok.training.processes import leave
from duotok.training.stage import Batch, Stage, StageConfig

HERE = Path(__file__)


class Unequal(Stage):
    """Items of unequal length, noise in the loss: a mean of the processes' means would differ."""

    name = "unequal"

    def __init__(
        self, config: StageConfig, killed_at: int | None = None, number: signal.Signals = signal.SIGKILL
    ) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.net = nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Linear(16, 1))
        self.modules = {"net": self.net}
        self.blocks = (nn.Linear,)
        self.killed_at, self.number = killed_at, number

    def batch(self, step: int, items: Sequence[int]) -> Batch:
        random = ItemRandom(self.seeds(step, items))
        lengths = 1 + random.integers(torch.full((len(items),), 9))
        x = random.normal(10, 4, lengths=lengths)
        return {"x": x, "y": x.sum(-1, keepdim=True), "lengths": lengths, "ids": [str(i) for i in items]}

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        if step == self.killed_at:
            os.kill(os.getpid(), self.number)
        noise = self.draws(batch).normal(10, 4, lengths=batch["lengths"])
        error = (self.net(batch["x"] + 0.1 * noise) - batch["y"]).square()[..., 0]
        valid = torch.arange(10, device=error.device) < batch["lengths"][:, None]
        return {"loss": (error * valid).sum() / mean_divisor(valid.sum())}

    def after_step(self, step: int) -> None:
        assert all(isinstance(p, DTensor) == (self.config.sharding == "fsdp") for p in self.net.parameters())

    def held_out(self) -> dict[str, float]:
        return {
            "loss": float(self.losses({**self.batch(999, range(8)), "seeds": self.seeds(999, range(8))}, 0)["loss"])
        }


def config(**changes: object) -> StageConfig:
    return StageConfig.model_validate(
        {
            "steps": 30, "batch_size": 8, "lr": 0.02, "warmup": 3, "save_every": 5, "log_every": 1,
            "held_out_every": 10, "sample_every": 1000, "device": "cpu", **changes,
        }
    )  # fmt: skip


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    found = {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}
    return [found[step] for step in sorted(found)]


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(latest(run) / "net.safetensors")


def close(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.allclose(a[k], b[k], atol=1e-5) for k in a)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("single")
    train(Unequal(config()), run)
    return run


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two processes."""
    run = tmp_path_factory.mktemp("double")
    finish(start(HERE, str(run), "none"))
    return run


def test_two_processes_learn_what_one_learns(single: Path, double: Path):
    assert losses(double) == pytest.approx(losses(single), rel=1e-4)
    assert close(weights(double), weights(single))


def test_two_processes_learn_what_one_learns_sharded_too(single: Path, tmp_path: Path):
    finish(start(HERE, str(tmp_path), "fsdp"))
    assert losses(tmp_path) == pytest.approx(losses(single), rel=1e-4)
    assert close(weights(tmp_path), weights(single))


def test_two_killed_processes_resume_to_the_bit(double: Path, tmp_path: Path):
    for process in start(HERE, str(tmp_path), "none", "12"):
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert latest(tmp_path).name == "checkpoint-00000010"
    finish(start(HERE, str(tmp_path), "none"))
    a, b = weights(double), weights(tmp_path)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert losses(double) == losses(tmp_path)


def test_ctrl_c_in_one_process_ends_both_with_one_checkpoint(double: Path, tmp_path: Path):
    for process in start(HERE, str(tmp_path), "interrupted"):
        said, _ = process.communicate()
        assert process.returncode == 130, said
    assert latest(tmp_path).name == "checkpoint-00000013"
    finish(start(HERE, str(tmp_path), "none"))
    assert losses(double) == losses(tmp_path)


def test_one_process_goes_on_from_the_checkpoint_of_two(single: Path, double: Path, tmp_path: Path):
    run = Path(shutil.copytree(double, tmp_path / "run"))
    for path in run.glob("checkpoint-*"):
        if path.name > "checkpoint-00000015":
            shutil.rmtree(path)
    train(Unequal(config()), run)
    assert close(weights(run), weights(single))


class Equal(Unequal):
    def batch(self, step: int, items: Sequence[int]) -> Batch:
        return {**super().batch(step, items), "lengths": torch.full((len(items),), 10)}


def test_accumulated_parts_with_equal_lengths_equal_the_whole_batch(tmp_path: Path):
    train(Equal(config()), tmp_path / "whole")
    train(Equal(config(accumulate=4)), tmp_path / "parts")
    assert close(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_batches_made_by_workers_are_the_same(single: Path, tmp_path: Path):
    train(Unequal(config(loader_workers=2)), tmp_path)
    assert losses(tmp_path) == losses(single)


class Apart(Unequal):
    """The first process draws pictures, as it alone does, so its looks take longer than the other's; and held-out figures differ."""

    held_out_figures = 0

    def held_out(self) -> dict[str, float]:
        self.held_out_figures += 1
        return {"loss": float(abs(2 - self.held_out_figures) if rank() == 0 else self.held_out_figures)}

    def sample(self, folder: Path) -> None:
        time.sleep(0.3)


def test_two_processes_end_together_by_the_clock(tmp_path: Path):
    """The end comes before the last look by what a look has taken, and each had its own idea of that: they waited for each other for ever."""
    finish(start(HERE, str(tmp_path), "minutes"), seconds=90)
    assert latest(tmp_path).name > "checkpoint-00000001"


def test_the_first_process_says_which_checkpoint_is_the_best(tmp_path: Path):
    finish(start(HERE, str(tmp_path), "best"), seconds=90)
    assert best_so_far(tmp_path)["step"] == 8 and latest(tmp_path).name == "checkpoint-00000009"


def test_a_group_that_a_launcher_made_is_left_to_it(tmp_path: Path):
    finish(start(HERE, str(tmp_path), "launched"), seconds=90)
    assert latest(tmp_path).name == "checkpoint-00000002"


APART = {
    "minutes": {"minutes": 0.05, "checks": 4, "sample_every": 1},
    "best": {"steps": 9, "held_out_every": 4, "save_every": 1000},
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, sharding, *rest = sys.argv[1:]
    if sharding in APART:
        train(Apart(config(**APART[sharding])), Path(folder))
        assert torch.distributed.is_initialized()
        leave()
        assert not torch.distributed.is_initialized()
        sys.exit()
    if sharding == "interrupted":
        signal.signal(signal.SIGINT, signal.default_int_handler)
        mine = 12 if os.environ["RANK"] == "1" else None
        try:
            train(Unequal(config(), mine, signal.SIGINT), Path(folder))
        except KeyboardInterrupt:
            sys.exit(130)
    if sharding == "launched":
        torch.distributed.init_process_group("gloo")
        train(Unequal(config(steps=2)), Path(folder))
        leave()
        assert torch.distributed.is_initialized(), "it is the launcher's"
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        sys.exit()
    train(Unequal(config(sharding=sharding), int(rest[0]) if rest else None), Path(folder))
    leave()
