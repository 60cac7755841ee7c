"""Runs by time: schedules follow the clock, looks are evenly spaced, the end comes early enough for the last of them."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from duotok.errors import DuoTokError
from duotok.random import ItemRandom
from duotok.training.budget import Budget, half_cosine, timed_rate
from duotok.training.checkpoint import checkpoints, latest
from duotok.training.engine import Run, train
from duotok.training.stage import Batch, Stage, StageConfig


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_counted_in_steps_the_clock_says_nothing() -> None:
    clock = Clock()
    budget = Budget(10, clock=clock)
    clock.now += 1e6
    budget.tick()
    assert [budget.over(step) for step in (9, 10)] == [False, True]
    assert budget.share(5) == 0.5 and budget.minutes_left() is None
    assert [step for step in range(1, 11) if budget.due(step, 4)] == [4, 8]


def test_counted_in_minutes_the_steps_say_nothing() -> None:
    clock = Clock()
    budget = Budget(1, minutes=2.0, checks=4, clock=clock)
    looks = []
    for second in range(1, 200):
        clock.now += 1
        budget.tick()
        if budget.over(second):
            break
        if budget.due(second, 1):
            looks.append(second)
            budget.checked(0.0)
    assert second == 120 and looks == [30, 60, 90]
    assert budget.share(0) == 1.0


def test_the_end_leaves_time_for_the_last_look() -> None:
    clock = Clock()
    budget = Budget(1, minutes=1.0, checks=2, clock=clock)
    budget.checked(7.0)
    clock.now += 52.9
    budget.tick()
    assert not budget.over(1)
    clock.now += 0.2
    budget.tick()
    assert budget.over(1)


def test_a_run_that_goes_on_has_what_is_left() -> None:
    clock = Clock()
    budget = Budget(1, minutes=1.0, checks=4, clock=clock)
    budget.go_on(40.0)
    budget.tick()
    assert budget.share(0) == pytest.approx(40 / 60) and budget.minutes_left() == pytest.approx(20 / 60)
    assert not budget.due(1, 1), "what was looked at before is not looked at again"


def test_the_rate_follows_the_share() -> None:
    assert timed_rate(9, 0.5, peak=2.0, warmup=10, floor=0.1) == pytest.approx(2.0 * half_cosine(0.5, 0.1))
    assert timed_rate(4, 0.0, peak=2.0, warmup=10, floor=0.1) == pytest.approx(1.0)
    assert timed_rate(100, 1.0, peak=2.0, warmup=10, floor=0.1) == pytest.approx(0.2)


class Line(Stage):
    """A line to fit, whose steps take as long as a clock says."""

    name = "line"

    def __init__(self, clock: Clock | None = None, **config: object) -> None:
        torch.manual_seed(0)
        values = {"steps": 5, "batch_size": 4, "lr": 0.01, "warmup": 0, "log_every": 1, "device": "cpu", **config}
        self.config = StageConfig.model_validate(values)
        self.net = nn.Linear(4, 1)
        self.second = nn.Linear(4, 1)
        self.modules = {"net": self.net, "second": self.second}
        self.clock = clock
        self.shares: list[float] = []

    def parameter_groups(self) -> list[dict[str, object]]:
        return [
            {"params": list(self.net.parameters())},
            {"params": list(self.second.parameters()), "scale": 0.5, "betas": (0.5, 0.6), "clip": 1e-3},
        ]

    def batch(self, step: int, items: Sequence[int]) -> Batch:
        return {"x": ItemRandom(self.seeds(step, items)).normal(4), "ids": []}

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        self.shares.append(self.share)
        if self.clock is not None:
            self.clock.now += 10.0
        x = batch["x"]
        return {"loss": (self.net(x) - 1).square().mean() + 1e4 * (self.second(x) - 1).square().mean()}

    def held_out(self) -> dict[str, float]:
        return {"loss": float(self.net.weight.detach().sum())}


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def timed(stage: Line, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stage.clock is not None
    monkeypatch.setattr(Budget.__init__, "__defaults__", (None, 1, stage.clock))
    train(stage, run)


def test_the_engine_stops_by_the_clock_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Line(Clock(), minutes=1.0, checks=3)
    timed(stage, tmp_path, monkeypatch)
    assert len(stage.shares) == 6, "six steps of ten seconds"
    assert stage.shares == pytest.approx([step / 6 for step in range(6)])
    rates = [row["lr"] for row in rows(tmp_path) if row["kind"] == "train"]
    assert rates == pytest.approx([0.01 * half_cosine(share, stage.config.floor) for share in stage.shares])
    assert json.loads((latest(tmp_path) / "state.json").read_text())["seconds"] == pytest.approx(60)
    again = Line(Clock(), minutes=1.0, checks=3)
    timed(again, tmp_path, monkeypatch)
    assert not again.shares, "its time is over"
    longer = Line(Clock(), minutes=2.0, checks=3)
    timed(longer, tmp_path, monkeypatch)
    assert len(longer.shares) == 6 and longer.shares[0] == pytest.approx(0.5)


def test_looks_take_their_time_from_the_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks of 25 seconds: what they take is known from the first one on, and no later step begins without room for it."""
    clock = Clock()

    class Thorough(Line):
        def held_out(self) -> dict[str, float]:
            clock.now += 25.0
            return super().held_out()

    monkeypatch.setattr("duotok.training.engine.time", SimpleNamespace(monotonic=clock))
    timed(Thorough(clock, minutes=2.0, checks=4), tmp_path, monkeypatch)
    assert clock.now - 100.0 <= 120.0 + 10.0, "a step is not cut short"
    assert [row["step"] for row in rows(tmp_path) if row["kind"] == "held_out"] == [3, 4, 5]
    again = Thorough(clock, minutes=2.0, checks=4)
    timed(again, tmp_path, monkeypatch)
    assert not again.shares, "it ended early for the sake of its last look, and is over"
    longer = Thorough(clock, minutes=3.0, checks=4)
    clock.now = 0.0
    timed(longer, tmp_path, monkeypatch)
    assert longer.shares and clock.now <= 180.0 - 55.0 + 10.0, "it knows from the start what the last look takes"


@pytest.mark.parametrize(
    ("took", "minutes", "checks", "looks", "end"),
    [
        (200.0, 2.0, 4, [3], 230.0),  # the first is longer than all of the time: it is the last one
        (30.0, 2.0, 8, [2, 6], 120.0),  # a second and a third would leave no time to train
        (2.0, 2.0, 4, [3, 6, 9, 12], 128.0),
    ],
)
def test_looks_leave_time_to_train(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    took: float,
    minutes: float,
    checks: int,
    looks: list[int],
    end: float,
) -> None:
    clock = Clock()

    class Slow(Line):
        def held_out(self) -> dict[str, float]:
            clock.now += took
            return super().held_out()

    monkeypatch.setattr("duotok.training.engine.time", SimpleNamespace(monotonic=clock))
    timed(Slow(clock, minutes=minutes, checks=checks, log_every=100), tmp_path, monkeypatch)
    assert [row["step"] for row in rows(tmp_path) if row["kind"] == "held_out"] == looks
    assert [row["step"] for row in rows(tmp_path) if row["kind"] == "train"] == looks[-1:], "the last step is logged"
    assert clock.now - 100.0 == pytest.approx(end)
    assert latest(tmp_path).name == f"checkpoint-{looks[-1]:08d}"
    again = Slow(clock, minutes=minutes, checks=checks)
    timed(again, tmp_path, monkeypatch)
    assert not again.shares, "it is over, for the checkpoint too"


def test_a_long_look_is_kept_though_it_leaves_no_time_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 120 s, 30 are trained and 35 looked at: a run that is killed in the 20 that are left to train goes on from there."""
    clock = Clock()

    class Slow(Line):
        def held_out(self) -> dict[str, float]:
            clock.now += 35.0
            return super().held_out()

        def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
            if step == 4:
                raise RuntimeError("killed")
            return super().losses(batch, step)

    monkeypatch.setattr("duotok.training.engine.time", SimpleNamespace(monotonic=clock))
    with pytest.raises(RuntimeError, match="killed"):
        timed(Slow(clock, minutes=2.0, checks=4, best=None), tmp_path, monkeypatch)
    assert [row["step"] for row in rows(tmp_path) if row["kind"] == "held_out"] == [3]
    assert latest(tmp_path).name == "checkpoint-00000003"


def test_minutes_shorter_than_a_step_take_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stage = Line(Clock(), minutes=0.01)
    timed(stage, tmp_path, monkeypatch)
    assert len(stage.shares) == 1 and checkpoints(tmp_path)
    assert "over after one step" in capfd.readouterr().err


def test_two_groups_are_two_optimizers(tmp_path: Path) -> None:
    """Each with a rate and betas of its own; the enormous gradients of one do not shrink the other's."""
    seen = {}

    class Looked(Line):
        def after_step(self, step: int) -> None:
            norms = {
                name: nn.utils.get_total_norm([p.grad for p in m.parameters()]) for name, m in self.modules.items()
            }
            seen[step] = {name: float(value) for name, value in norms.items()}

    stage = Looked(steps=2, clip=1e9)
    train(stage, tmp_path)
    assert seen[0]["second"] == pytest.approx(1e-3, rel=1e-3) and seen[0]["net"] > 0.1
    from duotok.training.leaving import Leaving
    from duotok.training.processes import join

    groups = Run(Line(steps=2), tmp_path, join(stage.config), None, Leaving()).plain.param_groups
    assert [group["betas"] for group in groups] == [(0.9, 0.98), (0.5, 0.6)]


@pytest.mark.parametrize("place", ["losses", "after_step", "held_out"])
def test_a_full_gpu_is_told_in_one_line(tmp_path: Path, place: str) -> None:
    """Memory may be full in the forward pass, when AdamW makes its moments, or beside held-out excerpts."""
    stage = Line(save_every=2, held_out_every=4)
    real, calls = getattr(stage, place), itertools.count()

    def full(*given: Any) -> Any:
        if place == "held_out" or next(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*given)

    setattr(stage, place, full)
    with pytest.raises(DuoTokError, match=r"out of memory at step 3; raise accumulate .* checkpoint-00000002 is kept"):
        train(stage, tmp_path)
    assert latest(tmp_path).name == "checkpoint-00000002"


def test_a_gpu_that_is_too_small_for_the_model_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Run) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Run, "_prepare", full)
    with pytest.raises(DuoTokError, match=r"out of memory; raise accumulate .* device=cpu; there is no checkpoint yet"):
        train(Line(), tmp_path)
