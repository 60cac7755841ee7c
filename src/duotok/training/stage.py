"""The interface of a stage of the recipe: modules, batches, losses. The engine (`engine.py`) does everything else."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from duotok.config import Config
from duotok.lineage import Origin
from duotok.random import ItemRandom, item_seed

Batch = dict[str, Any]
"""Tensors `[items, ...]` by name, `ids` (list of str: what the items are, for people) and `seeds` (int64 `[items]`)."""


Beta = Annotated[float, Field(ge=0, lt=1)]
"""A beta of AdamW."""
START_FROM = "start_from"
"""The config key of the run whose weights a stage begins with."""


@dataclass(frozen=True)
class NamedRun:
    """An earlier run that a config names.

    key: the key that names it; name: its folder in RUNS, or an absolute path; stages: those whose runs are accepted, the
    usual one first; optional: the stage can train without it.
    """

    key: str
    name: Path
    stages: tuple[str, ...]
    optional: bool = False

    def folder(self, runs: Path) -> Path:
        """The folder of the run, where RUNS is `runs`."""
        return Path(os.path.normpath(runs / self.name))


class StageConfig(Config):
    """The settings of every stage. Learning rate: linear warm-up, then half a cosine down to `floor` x `lr`."""

    steps: int = Field(gt=0, description="optimizer steps in all")
    minutes: float | None = Field(
        default=None,
        gt=0,
        description="train by time instead: schedules follow the share of these minutes, steps is not looked at",
    )
    checks: int = Field(
        default=4, gt=0, description="with minutes: how often, evenly spaced, to take held-out figures, save and sample"
    )
    batch_size: int = Field(gt=0, description="items of one optimizer step, over all processes")
    accumulate: int = Field(default=1, gt=0, description="parts that a process cuts its share of a batch into")
    lr: float = Field(gt=0)
    warmup: int = Field(default=200, ge=0)
    floor: float = Field(default=0.05, ge=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.98)
    clip: float = Field(default=1.0, gt=0, description="largest norm of all gradients together")
    seed: int = Field(default=0, ge=-(2**63), lt=2**63)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    tf32: bool = Field(default=True, description="on a GPU, matrix products that are left in fp32 may round to TF32")
    compile: bool = Field(default=False, description="torch.compile: slow first step, faster ones after it on a GPU")
    sharding: Literal["none", "fsdp"] = Field(default="none", description="fsdp: for models too large for one device")
    explode: float = Field(
        default=20.0, ge=0, description="stop when the loss stays above so many times its median; 0 = never"
    )
    log_every: int = Field(default=10, gt=0)
    check_every: int = Field(
        default=1, gt=0, description="steps from one look at the loss to the next; each makes a GPU wait"
    )
    save_every: int = Field(default=250, gt=0)
    keep: int = Field(default=2, gt=0, description="newest checkpoints that stay; the best one stays besides")
    best: str | None = Field(
        default="loss",
        description="held-out figure (lower is better) whose best checkpoint later stages and bundles use; null: the newest",
    )
    held_out_every: int = Field(default=500, gt=0)
    sample_every: int = Field(default=1000, ge=0, description="steps between samples; 0 = none, not even at the end")
    without_validation: bool = Field(
        default=False, description="held-out figures on training segments: for a library that has none to spare"
    )
    loader_workers: int = Field(default=0, ge=0, description="processes that prepare batches; 0 = in the trainer")
    threads: int = Field(default=0, ge=0, description="CPU threads; 0 leaves torch's choice")

    def earlier_runs(self) -> tuple[NamedRun, ...]:
        """The earlier runs that the stage builds on."""
        return ()


class Stage(ABC):
    """One stage of the recipe. A subclass reads like the paper's paragraph on it."""

    name: str
    config: StageConfig
    modules: dict[str, nn.Module]
    """Everything that a checkpoint keeps: trained modules, frozen ones that the next stage needs, EMA copies."""
    parents: Mapping[str, Origin] | None = {}
    """The origins of the stage by config key; None for a run that was begun before lineage was recorded."""
    songs_hashes: Mapping[str, str] = {}
    """Split -> a hash of what is learned from and judged by, for checkpoints."""
    device: torch.device = torch.device("cpu")
    """The device of the modules; the engine sets it before the first step."""
    idle_parameters: bool = False
    """Whether a step may leave trained parameters without a gradient (a track that no item of a process belongs to)."""
    needs_start: bool = False
    """Whether the weights of `start_from` are needed after the first step too; a run can then not go on when they have changed."""
    padding: float | None = None
    """Share of padding in a batch, where a stage knows it without drawing one."""
    blocks: tuple[type[nn.Module], ...] = ()
    """Classes whose instances are sharded as units under FSDP."""

    def made_from(self, key: str, origin: Origin) -> None:
        """Record the origin of the weights that the config key `key` names, for checkpoints."""
        self.parents = {**(self.parents or {}), key: origin}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for AdamW.

        Each may carry its own `betas` and `weight_decay`, `scale` (a factor on the learning rate) and `clip` (the largest
        norm of its own gradients; those of groups without one are clipped together). So two groups can be two optimizers.
        """
        return [{"params": [p for module in self.modules.values() for p in module.parameters() if p.requires_grad]}]

    @abstractmethod
    def batch(self, step: int, items: Sequence[int]) -> Batch:
        """Items `items` (positions in the whole batch of all processes) of a step.

        Each item is a pure function of (seed, step, item): resuming, and cutting a batch over processes, follow from it.
        """

    @abstractmethod
    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """`loss` is minimised; the others are reported. Sums are divided by `distributed.mean_divisor(count)`."""

    @abstractmethod
    def held_out(self) -> dict[str, float]:
        """Losses on recordings that are never trained on; the same on every process."""

    def check(self, processes: int) -> None:  # noqa: B027 - optional hook
        """Raises ConfigError where the settings do not suit that many processes: before they have anything to wait for from each other."""

    def start(self) -> None:  # noqa: B027 - optional hook
        """Called before the first step of a run, not when a run goes on; does the same on every process."""

    def go_on(self, share: float | None) -> None:  # noqa: B027 - optional hook
        """Called when a run goes on. share: the share of the run before its last step; None: written by an earlier DuoTok."""

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """How many targets each loss of a batch is a mean over, by the loss's name.

        With `accumulate` above 1 the engine adds `shares` to each part of a batch, what its own mean is to be multiplied by, so that
        parts with few targets weigh little and the mean over parts is that of the whole batch.
        """
        return {}

    def lengths_of(self, batch: Batch) -> tuple[float, float] | None:
        """Token frames (40 ms) in a batch and its share of padding; None where its `lengths` or its sound tell them."""
        return None

    def after_step(self, step: int) -> None:  # noqa: B027 - optional hook
        """Called after each optimizer step (EMA and the like)."""

    share: float = 0.0
    """The share of the run that is done, 0 to 1; the engine sets it before each step. Schedules of a stage follow it."""

    def report(self) -> dict[str, float]:
        """More figures for the log, e.g. how many codes were used since the last call."""
        return {}

    def sample(self, folder: Path) -> None:  # noqa: B027 - optional hook
        """Write sound and pictures of the present state into `folder`."""

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Trained parameters by part, for gradient norms and parameter counts: children of each module."""
        parts: dict[str, list[nn.Parameter]] = {}
        for name, module in self.modules.items():
            for key, parameter in module.named_parameters():
                if parameter.requires_grad:
                    parts.setdefault(f"{name}.{key.split('.')[0]}", []).append(parameter)
        return parts

    def seeds(self, step: int, items: Sequence[int]) -> Tensor:
        """The seeds of items of a step, `[items]`: what `ItemRandom` draws from."""
        return torch.tensor([item_seed(self.config.seed, step, item) for item in items], dtype=torch.int64)

    def draws(self, batch: Batch) -> ItemRandom:
        """The items' own randomness inside `losses`, on the device."""
        return ItemRandom(batch["seeds"], self.device)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Tensors of a batch on `device`; `seeds` stay where they can be read without waiting."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) and name != "seeds" else value
        for name, value in batch.items()
    }


def means_over(stage: Stage, draw: Callable[[int, Sequence[int]], Batch], batches: int) -> dict[str, float]:
    """Means of a stage's losses over whole batches `draw(0 .. batches - 1, items)`, with fixed draws.

    What `counts` knows is a mean over all its targets: a batch without words has no error of words, which is not an error of 0, and
    without any target there is no figure. What it does not know, as a `loss` of several parts, is a mean over batches.
    """
    items = range(stage.config.batch_size)
    sums: dict[str, float] = {}
    weights: dict[str, float] = {}
    for index in range(batches):
        seeds = torch.tensor([item_seed(0, index, item) for item in items], dtype=torch.int64)
        batch = to_device({**draw(index, items), "seeds": seeds}, stage.device)
        counts = stage.counts(batch)
        for name, value in stage.losses(batch, 0).items():
            weight = float(counts.get(name, 1.0))
            sums[name] = sums.get(name, 0.0) + float(value) * weight
            weights[name] = weights.get(name, 0.0) + weight
    return {name: value / weights[name] for name, value in sums.items() if weights[name]}


def evaluate(stage: Stage) -> dict[str, float]:
    """Held-out losses in evaluation mode, rounded for people."""
    for module in stage.modules.values():
        module.eval()
    with torch.no_grad():
        return {name: round(float(value), 5) for name, value in stage.held_out().items()}
