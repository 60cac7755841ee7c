"""Real optimizer steps of each stage of recipes/paper: full width and depth, one item, on this machine's CPU in fp32.

    python -m benchmarks.paper_step
    python -m benchmarks.paper_step --stages stage1 stage4.vocals --seconds 30 --checkpoint

Noise in the shapes of the true data, new weights, the engine's own forward, backward, clipping and AdamW, twice on the same
batch with the same dropout and without warm-up; losses before, after one and after two steps. Stages run one after the
other, each in a process of its own. One that does not fit into the free memory is counted without data instead.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import duotok
from benchmarks.calling import mistakes_in_one_line, positive_number
from benchmarks.output import parser, show, table
from duotok.config import load_config
from duotok.training.cost.counting import count
from duotok.training.cost.estimate import Trial, free_memory, memory_of, parameters_by_part
from duotok.training.cost.synthetic import sketch
from duotok.training.engine import seed_step
from duotok.training.processes import join
from duotok.training.stage import Batch, Stage, StageConfig
from duotok.training.stages.registry import config_class

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("stage1", "stage2", "stage3", "stage4.vocals", "stage4.accompaniment")
TELLING = {"stage2": "mix", "stage3": "vocals"}
"""The type of sample that every head of the stage learns from."""
RESERVE = 3e9  # bytes for Python, torch, what the allocator does not give back, and other people
CHECKPOINT = 1.75  # a checkpoint copies weights and moments before it writes them


def paper_config(name: str, seconds: float) -> StageConfig:
    """A stage of the paper for one item of so many seconds, in fp32, at its peak rate from the first step."""
    stage = name.split(".")[0]
    crop = "crop_frames" if stage == "stage4" else "crops.frames"
    changes = ["batch_size=1", "precision=fp32", "device=cpu", "loader_workers=0", "warmup=0", "threads=0"]
    return load_config(config_class(stage), f"paper/{name}", [*changes, f"{crop}={round(25 * seconds)}"])


def telling_batch(stage: Stage) -> Batch:
    """One item that all heads learn from."""
    wanted = TELLING.get(stage.name)
    for step in range(100):
        batch = stage.batch(step, range(1))
        if wanted is None or batch["types"] == [wanted]:
            return {**batch, "seeds": stage.seeds(step, range(1))}
    raise RuntimeError(f"{stage.name}: no {wanted} among 100 items")


def two_steps(name: str, seconds: float, folder: Path | None) -> dict[str, Any]:
    """Loss before, after one and two steps; seconds of each step; peak memory. With `folder` a checkpoint there and back."""
    config = paper_config(name, seconds)
    began = time.perf_counter()
    stage = sketch(name.split(".")[0], config)
    trial = Trial(stage, config, join(config))
    building = time.perf_counter() - began
    batch = telling_batch(stage)

    def loss() -> float:
        seed_step(config.seed, 0)
        with torch.no_grad():
            return float(stage.losses(batch, 0)["loss"])

    for module in stage.modules.values():
        module.train()
    losses, times = [loss()], []
    for _ in range(2):
        times.append(sum(trial.step(batch, 0)))
        losses.append(loss())
    row = {
        "losses": losses, "seconds": times, "building_seconds": building, "peak_bytes": peak(),
        "terms": sorted(stage.losses(batch, 0).keys() - {"loss"}),
    }  # fmt: skip
    return row if folder is None else row | checkpoint(stage, trial, folder)


def checkpoint(stage: Stage, trial: Trial, folder: Path) -> dict[str, Any]:
    """Write a checkpoint and read it back: bytes, seconds, and the memory that it took."""
    from duotok.training.saving import load_checkpoint, save_checkpoint

    began = time.perf_counter()
    written = save_checkpoint(folder, stage, trial.plain, 2)
    saving = time.perf_counter() - began
    step = load_checkpoint(written, stage, trial.plain)["step"]
    size = sum(path.stat().st_size for path in written.iterdir())
    return {
        "checkpoint_bytes": size, "saving_seconds": saving, "loading_seconds": time.perf_counter() - began - saving,
        "checkpoint_step": step, "peak_bytes_with_checkpoint": peak(),
    }  # fmt: skip


def peak() -> int:
    """Most memory that this process has had, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def counted(name: str, seconds: float) -> dict[str, Any]:
    """Parameters, FLOPs and memory of a step, without data."""
    config = paper_config(name, seconds)
    found, outline = count(lambda: sketch(name.split(".")[0], config), 1, on_gpu=False)
    parts = parameters_by_part(outline)
    return {
        "stage": name,
        "trained": sum(trained for trained, _ in parts.values()),
        "frozen": sum(frozen for _, frozen in parts.values()),
        "flops": found.flops,
        "estimated_bytes": sum(memory_of(outline, found).values()),
    }


def in_its_own_process(arguments: list[str]) -> dict[str, Any]:
    """Run this file again for one stage, so that its memory is its own and all of it is given back."""
    command = [sys.executable, "-W", "ignore::UserWarning", "-m", "benchmarks.paper_step", *arguments, "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == -signal.SIGKILL:
        return {"failed": "counted only: killed, for lack of memory as it seems"}
    if done.returncode:
        return {"failed": f"exit code {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(name: str, options: Any) -> dict[str, Any]:
    common = ["--one", name, "--seconds", str(options.seconds), "--threads", str(options.threads)]
    row = in_its_own_process([*common, "--counted"])
    if "failed" in row:
        return {"stage": name, **row}
    need = row["estimated_bytes"] * (CHECKPOINT if options.checkpoint else 1) + RESERVE
    if need > free_memory(torch.device("cpu")):
        return row | {"failed": f"counted only: needs {need / 1e9:.0f} GB of free memory"}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        return row | in_its_own_process([*common, *(["--folder", folder] if options.checkpoint else [])])


def line(row: dict[str, Any]) -> list[Any]:
    """A row of the table."""
    first = [row["stage"], *(f"{row[k] / 1e6:.1f}" if k in row else None for k in ("trained", "frozen"))]
    if "failed" in row:
        return [*first, row["failed"], *[None] * 4]
    losses = " -> ".join(f"{value:.4g}" for value in row["losses"])
    falls = all(map(math.isfinite, row["losses"])) and row["losses"] == sorted(row["losses"], reverse=True)
    rate = row["flops"] / min(row["seconds"]) / 1e9
    return [*first, " + ".join(f"{s:.1f}" for s in row["seconds"]), rate, row["peak_bytes"] / 1e9, losses, falls]


@mistakes_in_one_line
def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument(
        "--stages", nargs="+", choices=STAGES, default=list(STAGES), metavar="STAGE", help=" ".join(STAGES)
    )
    options.add_argument("--seconds", type=positive_number, default=5.0, help="sound of the one item")
    options.add_argument(
        "--checkpoint", action="store_true", help="also write and read one (6 to 7 GB of disk at a time)"
    )
    options.add_argument(
        "--folder", type=Path, help="where checkpoints go for a moment (default: the system's temporary folder)"
    )
    options.add_argument("--one", choices=STAGES, help="only this stage, in this process, as JSON")
    options.add_argument("--counted", action="store_true", help="with --one: count it without data")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.one:
        with contextlib.suppress(OSError):  # should memory run out, this process goes before any other
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
        one = (
            counted(chosen.one, chosen.seconds)
            if chosen.counted
            else two_steps(chosen.one, chosen.seconds, chosen.folder)
        )
        print(json.dumps(one))
        return
    rows = []
    for name in chosen.stages:
        rows.append(measure(name, chosen))
        print(f"{name}: {rows[-1].get('failed', 'done')}", file=sys.stderr)
    result = {
        "rows": rows,
        "conditions": {
            "date": date.today().isoformat(), "duotok": duotok.__version__, "torch": torch.__version__, "item_seconds": chosen.seconds,
            "threads": chosen.threads, "cpus": os.cpu_count(), "load_average": round(os.getloadavg()[0], 2),
        },
    }  # fmt: skip
    head = ["stage", "trained M", "not trained M", "s / step", "GFLOP/s", "peak GB", "loss", "finite, falling"]
    tables = [table(head, [line(row) for row in rows])]
    if written := [row for row in rows if "checkpoint_bytes" in row]:
        more = ["stage", "checkpoint GB", "s to write", "s to read", "peak GB with it"]
        keys = (
            ("checkpoint_bytes", 1e9),
            ("saving_seconds", 1),
            ("loading_seconds", 1),
            ("peak_bytes_with_checkpoint", 1e9),
        )
        tables.append(table(more, [[row["stage"], *(row[key] / unit for key, unit in keys)] for row in written]))
    show(result, tables, chosen.json)
    if any("failed" in row and not row["failed"].startswith("counted") for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
