"""The training loop: one engine for every stage, resumable to the bit, no pickle.

A stage supplies modules, batches and losses; `batch(step)` is a pure function of (seed, step) and the engine seeds torch
from (seed, step) before each step, so weights, optimizer and step number are the whole state of a run.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from duotok.config import Config
from duotok.errors import ConfigError, DuoTokError

KEEP_CHECKPOINTS = 2


class StageConfig(Config):
    """What every stage can be told. Learning rate: linear warm-up, then half a cosine down to `floor` x `lr`."""

    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    lr: float = Field(gt=0)
    warmup: int = Field(default=200, ge=0)
    floor: float = Field(default=0.05, ge=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = Field(default=1.0, gt=0)
    seed: int = 0
    save_every: int = Field(default=250, gt=0)
    held_out_every: int = Field(default=500, gt=0)
    sample_every: int = Field(default=1000, gt=0)
    threads: int = Field(default=0, ge=0, description="CPU threads; 0 leaves torch's choice")


class Stage(ABC):
    """One stage of the recipe. A subclass reads like the paper's paragraph on it."""

    name: str
    config: StageConfig
    modules: dict[str, nn.Module]
    """Everything that a checkpoint keeps: trained modules, frozen ones that the next stage needs, EMA copies."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for AdamW; each may carry `scale`, a factor on the learning rate."""
        parameters = [p for module in self.modules.values() for p in module.parameters() if p.requires_grad]
        return [{"params": parameters}]

    @abstractmethod
    def batch(self, step: int) -> dict[str, Tensor]:
        """The batch of `step`: a pure function of (seed, step)."""

    @abstractmethod
    def losses(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """`loss` is minimised; the others are reported."""

    @abstractmethod
    def held_out(self) -> dict[str, float]:
        """Losses on recordings that are never trained on."""

    def start(self) -> None:  # noqa: B027 - optional hook
        """Called before the first step of a run, not when a run goes on."""

    def after_step(self, step: int) -> None:  # noqa: B027 - optional hook
        """Called after each optimizer step (EMA and the like)."""

    def sample(self, folder: Path) -> None:  # noqa: B027 - optional hook
        """Write sound and pictures of the present state into `folder`."""


def learning_rate(config: StageConfig, step: int) -> float:
    """Linear warm-up, then half a cosine to `floor` x `lr` at `steps`."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = min(1.0, (step - config.warmup) / max(1, config.steps - config.warmup))
    return config.lr * (config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    return sorted(p for p in run.glob("checkpoint-*") if (p / "state.json").is_file())


def save_checkpoint(run: Path, stage: Stage, optimizer: torch.optim.Optimizer, step: int) -> Path:
    """Write everything into a temporary folder, then rename it: a kill at any moment leaves the last good one."""
    target = run / f"checkpoint-{step:08d}"
    partial = run / f".partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for name, module in stage.modules.items():
            tensors = {k: v.detach().cpu().contiguous().clone() for k, v in module.state_dict().items()}
            save_file(tensors, partial / f"{name}.safetensors")
        moments: dict[str, Tensor] = {}
        for index, values in optimizer.state_dict()["state"].items():
            moments.update({f"{index}.{k}": torch.as_tensor(v).cpu().contiguous() for k, v in values.items()})
        save_file(moments, partial / "optimizer.safetensors")
        state = {"stage": stage.name, "step": step, "config": stage.config.model_dump(mode="json")}
        (partial / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise DuoTokError(f"{target}: checkpoint not written ({error.strerror}); the last good one is kept") from None
    for old in checkpoints(run)[:-KEEP_CHECKPOINTS]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load_module(path: Path, module: nn.Module) -> None:
    """Load one module of a checkpoint strictly. Raises ConfigError when it is of another architecture."""
    try:
        module.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise ConfigError(f"{path}: missing; train the earlier stage first or name its run") from None
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ConfigError(f"{path}: weights of another architecture ({reason})") from None


def latest(run: Path) -> Path:
    """The newest complete checkpoint of a run. Raises ConfigError when there is none."""
    found = checkpoints(run)
    if not found:
        raise ConfigError(f"{run}: no checkpoint there; train that stage first")
    return found[-1]


def load_checkpoint(path: Path, stage: Stage, optimizer: torch.optim.Optimizer) -> int:
    """Restore modules and optimizer; returns the step to go on from."""
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    if state["stage"] != stage.name:
        raise ConfigError(f"{path}: a checkpoint of {state['stage']}, not of {stage.name}; choose another --run folder")
    for name, module in stage.modules.items():
        load_module(path / f"{name}.safetensors", module)
    groups = optimizer.state_dict()["param_groups"]
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(path / "optimizer.safetensors").items():
        index, _, name = key.partition(".")
        moments.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    return int(state["step"])


def seed_step(seed: int, step: int) -> None:
    """Seed torch's global generator from (seed, step): the noise of a step does not depend on the steps before."""
    torch.manual_seed((seed * 1_000_003 + step) % (2**63))


class Log:
    """`log.jsonl` in the run's folder, and one line every few seconds for people."""

    def __init__(self, run: Path, stage: Stage, first: int) -> None:
        self.path, self.stage, self.console = run / "log.jsonl", stage, Console()
        self.first, self.started, self.said = first, time.monotonic(), 0.0
        self.sums: dict[str, float] = {}
        self.count = 0

    def write(self, **values: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def add(self, losses: dict[str, Tensor]) -> None:
        self.count += 1
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)

    def say(self, step: int, lr: float, every: float = 10.0) -> None:
        now = time.monotonic()
        total = self.stage.config.steps
        if now - self.said < every and step + 1 != total:
            return
        means = {name: value / self.count for name, value in self.sums.items()}
        rate = (step + 1 - self.first) / max(1e-9, now - self.started)
        left = (total - step - 1) / rate
        parts = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
        self.console.print(
            f"[bold]{self.stage.name}[/] {step + 1}/{total}  {rate:.2f} steps/s  {left / 60:.1f} min left  lr {lr:.1e}  {parts}",
            highlight=False,
        )
        self.write(step=step + 1, rate=rate, lr=lr, **means)
        self.said, self.sums, self.count = now, {}, 0


def train(stage: Stage, run: Path, stop_after: int | None = None) -> dict[str, float]:
    """Train `stage` in folder `run`, going on from its newest checkpoint. Returns the last held-out losses.

    stop_after: stop (with a checkpoint) once that many steps are done in all.
    """
    config = stage.config
    if config.threads:
        torch.set_num_threads(config.threads)
    run.mkdir(parents=True, exist_ok=True)
    with only_one(run):
        return _train(stage, run, stop_after)


@contextmanager
def only_one(run: Path) -> Iterator[None]:
    """Hold the lock of a run's folder; the system releases it when the process ends, however it ends."""
    with (run / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DuoTokError(f"{run}: another process is training there; wait for it or choose other --runs") from None
        yield


def _train(stage: Stage, run: Path, stop_after: int | None) -> dict[str, float]:
    config = stage.config
    (run / "config.json").write_text(json.dumps(config.model_dump(mode="json"), indent=1), encoding="utf-8")
    groups = stage.parameter_groups()
    scales = [float(group.pop("scale", 1.0)) for group in groups]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)
    found = checkpoints(run)
    if found:
        first = load_checkpoint(found[-1], stage, optimizer)
    else:
        first = 0
        stage.start()
    log = Log(run, stage, first)
    if first:
        log.console.print(f"[bold]{stage.name}[/] goes on from step {first} ({found[-1].name})")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    held_out: dict[str, float] = {}
    last = min(config.steps, stop_after or config.steps)
    for step in range(first, last):
        seed_step(config.seed, step)
        lr = learning_rate(config, step)
        for group, scale in zip(optimizer.param_groups, scales, strict=True):
            group["lr"] = lr * scale
        for module in stage.modules.values():
            module.train()
        losses = stage.losses(stage.batch(step), step)
        loss = losses["loss"]
        if not torch.isfinite(loss):
            raise DuoTokError(f"{run}: the loss of step {step} is {float(loss)}; lower lr (now {lr:.1e}) and resume")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(parameters, config.clip)
        optimizer.step()
        stage.after_step(step)
        log.add({name: value.detach() for name, value in losses.items()} | {"grad": norm.detach()})
        log.say(step, lr)
        done = step + 1
        if done % config.held_out_every == 0 or done == last:
            held_out = evaluate(stage)
            log.console.print(f"  held out  {held_out}", highlight=False)
            log.write(step=done, held_out=held_out)
        if done % config.save_every == 0 or done == last:
            save_checkpoint(run, stage, optimizer, done)
        if done % config.sample_every == 0 or done == last:
            for module in stage.modules.values():
                module.eval()
            folder = run / "samples" / f"{done:08d}"
            folder.mkdir(parents=True, exist_ok=True)
            with torch.no_grad():
                stage.sample(folder)
    return held_out


def evaluate(stage: Stage) -> dict[str, float]:
    """Held-out losses in evaluation mode, rounded for people."""
    for module in stage.modules.values():
        module.eval()
    with torch.no_grad():
        return {name: round(float(value), 5) for name, value in stage.held_out().items()}
