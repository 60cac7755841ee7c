"""One optimizer step of each stage at the paper's width, against the rate of large matrix products in the same run.

    python -m benchmarks.training                                  CPU, fp32, 2 blocks, 10 s crops; goal 70 %
    python -m benchmarks.training --stages stage2 --profile        with the table of where the time goes
    python -m benchmarks.training --device cuda                    bf16, 24 blocks, 30 s crops, as many items as fit; goal 40 %
    python -m benchmarks.training --device cuda --items 2          what the paper gives each of its 64 GPUs

mfu: operations a second over those that the maker of the GPU states for dense bf16 products (known by its name, or
--peak); share: over those of large products in this run. The products and the steps take turns, and the share is the
median over the turns. On a machine that others use, count the seconds that the process was running instead: --clock cpu
--threads 1. Operations are counted (duotok.training.cost.counting), a multiply-add as two; spectra, norms and the optimizer
count as nothing done, so small batches look worse: update_seconds is the optimizer's part. Batches are noise; reading
data is not part of it (benchmarks.loader). gigabytes: the most that two steps take beside the weights, seen (on Linux)
and counted as `duotok train STAGE --dry-run` counts; memory_ratio: seen over counted, weights included in both. The last
table: a step of the mini configs, and the seconds from starting Python to the end of the first step.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import os
import resource
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.calling import mistakes_in_one_line, positive_int, positive_number, share_of_1
from benchmarks.output import parser, show, table
from duotok.config import config_folder, load_config
from duotok.errors import ConfigError
from duotok.model.config import TokenizerConfig
from duotok.renderer.autoencoder import AutoencoderConfig
from duotok.renderer.dit import PAPER
from duotok.separation.bs_roformer import BSRoFormerConfig
from duotok.training.cost.counting import count
from duotok.training.cost.estimate import SHARE_OF_MEMORY, Trial, free_memory, matmul_rate, memory_of
from duotok.training.cost.synthetic import SKETCHES, sketch
from duotok.training.processes import join
from duotok.training.stage import StageConfig
from duotok.training.stages.registry import config_class

FRAMES_A_SECOND = 25
STAGES = [name for name in SKETCHES if name != "adversarial"]  # the autoencoder once more, with discriminators
MOST_ITEMS = 64
PEAKS = {
    "B200": 2250.0, "H200": 989.4, "H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.4, "H800": 989.4, "A100": 312.0,
    "A800": 312.0, "L40S": 362.0, "L40": 181.0, "L4": 121.0, "A10G": 70.0, "A10": 125.0, "A40": 149.7, "A6000": 154.8,
}  # fmt: skip
"""Dense bf16 products with fp32 sums, 1e12 operations a second, from the makers' data sheets; the first name that fits."""
FIRST_STEP = """
import sys, time
from duotok.config import load_config
from duotok.training.stages.registry import config_class
from duotok.training.processes import join
from duotok.training.cost.estimate import Trial
from duotok.training.cost.synthetic import sketch
name, path = sys.argv[1:]
config = load_config(config_class(name), path).model_copy(update={"device": "cpu"})
stage = sketch(name, config)
trial = Trial(stage, config, join(config))
items = range(config.batch_size)
trial.step({**stage.batch(0, items), "seeds": stage.seeds(0, items)}, 0)
print(time.monotonic())
"""


def paper_config(name: str, items: int, options: Any) -> StageConfig:
    """A stage of the paper's shapes with some of its blocks."""
    gpu = options.device == "cuda"
    common = {
        "steps": 1000, "batch_size": items, "lr": 1e-4, "device": options.device,
        "precision": "bf16" if gpu else "fp32", "compile": options.compile,
    }  # fmt: skip
    half = options.blocks // 2
    seconds = options.frames / FRAMES_A_SECOND
    own: dict[str, Any]
    if name in ("stage1", "stage2", "stage3"):
        model = TokenizerConfig.preset("paper", lower_blocks=options.blocks - half, upper_blocks=half)
        if options.dropout is not None:
            model = model.model_copy(update={"dropout": options.dropout})
        own = {"model": model, "crops": {"frames": options.frames}}
    elif name == "stage4":
        own = {"dit": PAPER.model_copy(update={"blocks": options.blocks}), "crop_frames": options.frames}
    elif name == "separator":
        depth = max(1, options.blocks // 3)
        model = BSRoFormerConfig.published().model_copy(update={"depth": depth})
        own = {
            "model": model,
            "crop_seconds": seconds / 5,
            "held_out_seconds": 1.0,
        }  # each second is 100 frames x 62 bands
    else:
        own = {"model": AutoencoderConfig(encoder_width=1024, decoder_width=1024), "crop_seconds": seconds}
        own["held_out_seconds"] = 1.0
    return config_class(name).model_validate({**common, **own})


def peak_of(device: str, stated: float | None) -> float | None:
    """Operations a second that are stated for a GPU of this name; None where nobody says so."""
    if stated is None:
        stated = next((rate for name, rate in PEAKS.items() if name in device), None)
    return None if stated is None else stated * 1e12


def fitting(name: str, options: Any) -> int:
    """As many items as the dry run's count puts into SHARE_OF_MEMORY of what is free."""

    def need(items: int) -> int:
        config = paper_config(name, items, options)
        counted, outline = count(lambda: sketch(name, config), items, config.precision, options.device == "cuda")
        return sum(memory_of(outline, counted).values())

    one, two = need(1), need(2)
    room = SHARE_OF_MEMORY * free_memory(torch.device(options.device)) - one
    return max(1, min(MOST_ITEMS, 1 + int(room / max(1, two - one))))


def measure(name: str, config: StageConfig, options: Any) -> dict[str, Any]:
    """Seconds, share of the matmul rate and of the stated peak, and memory of one stage's step."""
    on_gpu = options.device == "cuda" or not getattr(getattr(config, "model", None), "dropout", 0.0)
    counted, outline = count(lambda: sketch(name, config), config.batch_size, config.precision, on_gpu)
    cost = memory_of(outline, counted)
    weights = sum(p.nbytes for module in outline.modules.values() for p in module.parameters())
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    trial = Trial(sketch(name, config), config, join(config), clock)
    items = range(config.batch_size)
    batch = {**trial.stage.batch(0, items), "seeds": trial.stage.seeds(0, items)}
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    start = memory(trial.device, "VmRSS")
    trial.step(batch, 0)
    trial.step(batch, 1)
    taken = memory(trial.device, "VmHWM") - start
    rates, turns = [matmul_rate(trial.device, dtype, clock=clock)], []
    for turn in range(options.repeat):
        turns.append(trial.step(batch, 1 + turn))
        rates.append(matmul_rate(trial.device, dtype, clock=clock))
    near = [(a + b) / 2 for a, b in itertools.pairwise(rates)]
    steps = [sum(turn) for turn in turns]
    peak = peak_of(torch.cuda.get_device_name() if options.device == "cuda" else "cpu", options.peak)
    result = {
        "stage": name,
        "items": config.batch_size,
        "parameters": sum(p.numel() for p in trial.parameters if p.requires_grad),
        "tera_flop": counted.flops / 1e12,
        "seconds": statistics.median(steps),
        "update_seconds": statistics.median(update for _, update in turns),
        "tera_flop_a_second": counted.flops / statistics.median(steps) / 1e12,
        "matmul_tera_flop_a_second": statistics.median(near) / 1e12,
        "share": statistics.median(counted.flops / (s * rate) for s, rate in zip(steps, near, strict=True)),
        "share_without_update": statistics.median(
            counted.flops / (work * r) for (work, _), r in zip(turns, near, strict=True)
        ),
        "mfu": None if peak is None else counted.flops / statistics.median(steps) / peak,
        "gigabytes": taken / 1e9,
        "counted_gigabytes": (sum(cost.values()) - weights) / 1e9,
        "memory_ratio": (taken + weights) / sum(cost.values()),
    }
    if options.profile:
        result["profile"] = profile(trial, batch, options)
    return result


def memory(device: torch.device, which: str) -> int:
    """Bytes of this process now (VmRSS), or the most since that was asked for last (VmHWM)."""
    if device.type == "cuda":
        if which == "VmHWM":
            return torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if which == "VmRSS":
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what earlier stages have left
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(which))


def profile(trial: Trial, batch: dict[str, Any], options: Any) -> list[list[Any]]:
    """The operations that take the most time (by the clock on the wall) of some steps: name, calls, share."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as torch_profile

    gpu = options.device == "cuda"
    with torch_profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as seen:
        for step in range(options.repeat):
            trial.step(batch, step)

    def spent(entry: Any) -> float:
        return float(entry.self_device_time_total if gpu else entry.self_cpu_time_total)

    found = sorted(seen.key_averages(), key=spent, reverse=True)
    total = sum(map(spent, found))
    return [[entry.key[:60], entry.count, spent(entry) / total] for entry in found[: options.rows]]


def mini(name: str, folder: Path, options: Any) -> dict[str, Any]:
    """A step of a mini config on one process, and the seconds from nothing to the first one."""
    path = config_folder(folder) / f"{name}.yaml"
    config = load_config(config_class(name), path).model_copy(update={"device": options.device})
    row = measure(name, config, options)
    if options.device == "cpu":
        began, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-c", FIRST_STEP, name, str(path)], capture_output=True, text=True, check=True
        )
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        wall, cpu = float(done.stdout.split()[-1]) - began, now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
        row["startup_seconds"] = cpu if options.clock == "cpu" else wall
    return row


@mistakes_in_one_line
def main() -> None:
    assert __doc__ is not None
    options_of = parser(__doc__)
    options_of.add_argument("--stages", nargs="+", choices=list(SKETCHES), default=STAGES)
    options_of.add_argument(
        "--blocks", type=positive_int, help="Transformer blocks (default: 2, on a GPU the paper's 24)"
    )
    options_of.add_argument(
        "--frames", type=positive_int, help="token frames of a crop (default: 250, on a GPU the paper's 750)"
    )
    options_of.add_argument("--items", type=positive_int, help="items of a batch (default: 1, on a GPU as many as fit)")
    options_of.add_argument(
        "--peak", type=positive_number, help="1e12 operations a second that the device is said to reach"
    )
    options_of.add_argument("--dropout", type=share_of_1, help="other than the paper preset's")
    options_of.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu, with --threads 1: the seconds that the process was running; for a machine that others use",
    )
    options_of.add_argument("--compile", action="store_true", help="torch.compile")
    options_of.add_argument("--repeat", type=positive_int, default=5)
    options_of.add_argument("--profile", action="store_true", help="tables of where the time goes")
    options_of.add_argument("--rows", type=positive_int, default=15, help="of a profile")
    options_of.add_argument("--mini", type=Path, default=Path("mini"), help="the mini's recipes, or a folder like them")
    options_of.add_argument("--only", choices=("paper", "mini"), help="one of the two tables")
    options = options_of.parse_args()
    config_folder(options.mini)
    gpu = options.device == "cuda"
    options.blocks = options.blocks or (24 if gpu else 2)
    options.frames = options.frames or (750 if gpu else 250)
    torch.set_num_threads(options.threads)
    rows, failed = [], []
    for name in () if options.only == "mini" else options.stages:
        items = options.items or (fitting(name, options) if gpu else 1)
        try:
            rows.append(measure(name, paper_config(name, items, options), options))
            print(f"{name}: {rows[-1]['share']:.0%} of the matmul rate", file=sys.stderr)
        except torch.OutOfMemoryError:
            failed.append(f"{name}: {items} items do not fit into the GPU's memory; give fewer --items")
            print(failed[-1], file=sys.stderr)
        if gpu:
            gc.collect()
            torch.cuda.empty_cache()
    small: list[dict[str, Any]] = []
    for name in () if options.only == "paper" else options.stages:
        with contextlib.suppress(ConfigError):
            small.append(mini(name, options.mini, options))
    device = torch.cuda.get_device_name() if gpu else "cpu"
    options.peak = (peak_of(device, options.peak) or 0.0) / 1e12 or None
    conditions = {
        "date": date.today().isoformat(), "torch": torch.__version__, "device": device, "threads": options.threads,
        "cpus": os.cpu_count(), "load_average": round(os.getloadavg()[0], 2), "clock": options.clock, "blocks": options.blocks,
        "frames": options.frames, "repeat": options.repeat, "peak_tera_flop_a_second": options.peak,
    }  # fmt: skip
    columns = ("stage", "items", "parameters", "tera_flop", "seconds", "update_seconds", "tera_flop_a_second",
               "matmul_tera_flop_a_second", "share", "share_without_update", "mfu", "gigabytes", "counted_gigabytes",
               "memory_ratio")  # fmt: skip
    tables = [table(columns, [[row[c] for c in columns] for row in rows])] if rows else []
    if small:
        tables.append(
            "mini configs:\n"
            + table(
                (*columns, "startup_seconds"), [[row.get(c) for c in (*columns, "startup_seconds")] for row in small]
            )
        )
    for row in (*rows, *small):
        if "profile" in row:
            tables.append(f"{row['stage']}:\n" + table(("operation", "calls", "share"), row["profile"]))
    tables += failed
    show({"conditions": conditions, "paper": rows, "mini": small, "failed": failed}, tables, options.json)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
