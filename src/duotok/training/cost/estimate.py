"""What a run costs before it is started: parameters, memory, arithmetic, and the time that it takes on this machine."""

from __future__ import annotations

import functools
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from duotok.clock import FRAME_SAMPLES, MEL_PER_FRAME
from duotok.devices import gpu_or_cpu
from duotok.errors import ConfigError
from duotok.training.cost.counting import Counted, count
from duotok.training.cost.synthetic import sketch
from duotok.training.engine import Run, seed_step
from duotok.training.parts import Batches
from duotok.training.processes import fast_half, join
from duotok.training.stage import Batch, Stage, StageConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

Clock = Callable[[], float]
PATIENCE = 60.0  # seconds that one measured step may be expected to take
SHARE_OF_MEMORY = 0.8
EXPECTED = 0.5  # share of the matmul rate that a step reaches at least, by the benchmarks of paper width
DAY = 86_400.0


@dataclass(frozen=True)
class Speed:
    """seconds: one optimizer step of one process, from `items` measured of `of` (None: none was, but by the matmul rate)."""

    seconds: float
    items: int | None
    of: int
    device: str
    precision: str
    preparing: float
    """Seconds in which one process makes one item of a batch; 0 where that was not measured."""


@dataclass(frozen=True)
class Cost:
    """Of a whole run. Memory is that of one process; frames and FLOPs are of one step of all processes."""

    stage: str
    steps: int
    processes: int
    parameters: dict[str, tuple[int, int]]
    """Part -> trained, frozen."""
    memory: dict[str, int]
    """Bytes by what they are for."""
    items: int
    frames: float
    padding: float
    """Share of a batch's frames that hold no sound: items are shorter than a crop."""
    forward: int
    backward: int
    speed: Speed
    notes: list[str] = field(default_factory=list)

    @property
    def flops(self) -> int:
        return self.forward + self.backward

    @property
    def days(self) -> float:
        return self.steps * self.speed.seconds / DAY

    def as_json(self) -> dict[str, Any]:
        """Everything, with the sums; memory in bytes."""
        values = asdict(self)
        values["parameters"] = {name: {"trained": t, "frozen": f} for name, (t, f) in self.parameters.items()}
        trained, frozen = (sum(column) for column in zip(*self.parameters.values(), strict=True))
        sums = {"trained": trained, "frozen": frozen, "memory_in_all": sum(self.memory.values()), "flops": self.flops}
        return values | sums | {"steps_per_second": 1 / self.speed.seconds, "days": self.days}


def parameters_by_part(stage: Stage) -> dict[str, tuple[int, int]]:
    """Trained and frozen parameters of the children of each module."""
    counts: dict[str, tuple[int, int]] = {}
    for module_name, module in stage.modules.items():
        for key, parameter in module.named_parameters():
            part = f"{module_name}.{key.split('.')[0]}"
            trained, frozen = counts.get(part, (0, 0))
            n = parameter.numel()
            counts[part] = (trained + n, frozen) if parameter.requires_grad else (trained, frozen + n)
    return counts


def memory_of(stage: Stage, counted: Counted) -> dict[str, int]:
    """Bytes of one process without FSDP, by what they are for; not all of them are in use at the same moment."""
    size = {True: 0, False: 0}
    averages = 0
    for name, module in stage.modules.items():
        for parameter in module.parameters():
            if name == "ema":
                averages += parameter.nbytes
            else:
                size[parameter.requires_grad] += parameter.nbytes
    return {
        "weights": size[True] + size[False],
        "gradients": size[True],
        "AdamW moments": 2 * size[True],
        "averaged weights": averages,
        "activations": counted.activations,
    }


def padding_of(stage: Stage, batch: Batch) -> float:
    """Share of padding: of all that a stage may draw where it knows (stage 4), of this batch otherwise."""
    if stage.padding is not None:
        return stage.padding
    if "lengths" not in batch:
        return 0.0
    items, rows = batch["mel"].shape[:2]
    return 1.0 - frames_of(batch) * MEL_PER_FRAME / float(items * rows)


def frames_of(batch: Batch) -> float:
    """Token frames (40 ms) of sound in a batch, without padding."""
    if "codes" in batch:
        frames: float = float(batch["lengths"].sum()) * batch["codes"].shape[1] / batch["latents"].shape[1]
        return frames
    if "lengths" in batch:
        return float(batch["lengths"].sum())
    sound: Tensor = batch["audio"] if "audio" in batch else batch["mix"]
    return len(sound) * sound.shape[-1] / FRAME_SAMPLES


class Trial(Run):
    """The engine's own steps on one batch, without a folder: nothing is written. clock: tells seconds."""

    def __init__(
        self, stage: Stage, config: StageConfig, accelerator: Accelerator, clock: Clock = time.perf_counter
    ) -> None:
        self.stage, self.accelerator, self.config, self.clock = stage, accelerator, config, clock
        self.device = stage.device = accelerator.device
        self._prepare()

    def step(self, batch: Batch, step: int) -> tuple[float, float]:
        """Seconds of forward and backward, and of the update."""
        seed_step(self.config.seed, step)
        began = self._now()
        self._set_rate(step)
        self._backward([batch], step)
        middle = self._now()
        self._clip()
        self.optimizer.step()
        self.stage.after_step(step)
        return middle - began, self._now() - middle

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.clock()


def matmul_rate(
    device: torch.device, dtype: torch.dtype, seconds: float = 0.5, clock: Clock = time.perf_counter
) -> float:
    """Floating-point operations a second of a large matrix product: the median of some, after one that does not count."""
    n = 8192 if device.type == "cuda" else 1536
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    rates: list[float] = []
    began = clock()
    while len(rates) < 4 or clock() - began < seconds:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = clock()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        rates.append(2.0 * n**3 / (clock() - start))
    return statistics.median(rates[1:])


@functools.cache
def _rate_here(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """`matmul_rate` with that many threads, measured once in a process: an estimate needs no better."""
    return matmul_rate(device, dtype)


def free_memory(device: torch.device) -> int:
    """Bytes that can be had."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            kilobytes = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
        return 1024 * kilobytes
    except (OSError, StopIteration):  # not Linux: half of all there is
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def here(config: StageConfig) -> tuple[StageConfig, list[str]]:
    """The config as this machine can run it, and what was changed."""
    if gpu_or_cpu(config.device).type == "cuda":
        return config, []
    notes = []
    half = config.precision == "bf16" and config.device != "cuda" and fast_half()  # then it trains so here, too
    precision = "bf16" if half else "fp32"
    if config.device == "cuda" or config.precision != precision or config.compile:
        changed = f"device {config.device}, precision {config.precision}" + (", compiled" if config.compile else "")
        notes.append(f"the config wants {changed}: speed and days are those of {precision} on this CPU")
    return config.model_copy(
        update={"device": "cpu", "precision": precision, "compile": False, "sharding": "none"}
    ), notes


def measure(stage: Stage, config: StageConfig, items: int, of: int, seconds: float = 10.0) -> Speed:
    """Time steps on one batch of `items` items of the `of` that a process takes at a time; medians of three or more."""
    trial = Trial(stage, config, join(config))
    chosen = range(items)
    began = time.perf_counter()
    batch = {**stage.batch(0, chosen), "seeds": stage.seeds(0, chosen)}
    preparing = (time.perf_counter() - began) / items
    trial.step(batch, 0)
    times: list[tuple[float, float]] = []
    began = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < seconds:
        times.append(trial.step(batch, 1 + len(times)))
    work, update = (statistics.median(column) for column in zip(*times, strict=True))
    name = torch.cuda.get_device_name() if trial.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return Speed(work * of / items * config.accumulate + update, items, of, name, config.precision, preparing)


def estimate(
    name: str,
    config: StageConfig,
    real: Stage | None = None,
    seconds: float = 10.0,
    processes: int = 1,
    build: Callable[[], Stage] | None = None,
) -> Cost:
    """What a stage costs: counted without data at the true batch, measured for some `seconds` if memory and patience allow.

    real: the stage with its data, to be measured; without it the measurement is on noise as well; processes: how many
    will share a batch (one is measured, without their talk); build: makes the stage that is counted, by default one of those
    in `synthetic`. Writes nothing. Raises ConfigError for a batch that they cannot share.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("a dry run is one process: start it plainly, and say --processes for how many it should plan")
    on_gpu = config.precision != "fp32" or config.device == "cuda" or torch.cuda.is_available()
    parts = processes * config.accumulate
    each = max(1, config.batch_size // parts)
    counted, outline = count(build or (lambda: sketch(name, config)), each, config.precision, on_gpu)
    Batches(outline, processes, 0)  # whether the processes can share a batch
    memory = memory_of(outline, counted)
    few = range(min(config.batch_size, 8))
    measured = real or outline
    drawn = measured.batch(0, few)
    lengths = measured.lengths_of(drawn) or (frames_of(drawn), padding_of(measured, drawn))
    frames = lengths[0] * config.batch_size / len(few)
    notes = [] if real is not None else ["batches are noise of full length; true ones can be shorter"]
    if processes > 1:
        notes.append(f"the time is that of one of {processes} processes, without what they send each other")
    speed, more = _speed(name, config, real, counted, memory, each, seconds)
    steps = config.steps
    if config.minutes is not None:
        steps = max(1, round(60 * config.minutes / speed.seconds))
        notes.append(
            f"{config.minutes:g} minutes have room for so many steps, without held-out figures and checkpoints"
        )
    return Cost(
        outline.name, steps, processes, parameters_by_part(outline), memory, config.batch_size, frames,
        lengths[1], counted.forward * parts, counted.backward * parts, speed, [*notes, *more],
    )  # fmt: skip


def _speed(
    name: str,
    config: StageConfig,
    real: Stage | None,
    counted: Counted,
    memory: dict[str, int],
    each: int,
    seconds: float,
) -> tuple[Speed, list[str]]:
    """Measured with as many items as memory and patience allow, expected from the rate of matrix products otherwise."""
    local, notes = here(config)
    device = gpu_or_cpu(local.device)
    if local.threads:
        torch.set_num_threads(local.threads)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(local.precision, torch.float32)
    rate = EXPECTED * _rate_here(device, dtype, torch.get_num_threads())
    fixed = sum(memory.values()) - memory["activations"]
    item = counted.activations / each * (1 if local.precision == config.precision else 2)
    items = min(each, int((SHARE_OF_MEMORY * free_memory(device) - fixed) / max(1.0, item)))
    reason = ""
    if items < 1:
        reason = f"one item does not fit here ({(fixed + item) / 1e9:.0f} GB)"
    elif counted.flops / each / rate > PATIENCE:
        reason = "one item takes minutes here"
    if reason:
        notes.append(f"{reason}: not measured, but expected at {EXPECTED:.0%} of the rate of matrix products")
        return Speed(counted.flops * config.accumulate / rate, None, each, str(device), local.precision, 0.0), notes
    items = max(1, min(items, int(PATIENCE * rate * each / counted.flops)))
    if items < each:
        notes.append(f"measured with {items} of {each} items and scaled")
    if real is not None:
        return measure(real, local, items, each, seconds), notes
    return replace(measure(sketch(name, config), local, items, each, seconds), preparing=0.0), notes
