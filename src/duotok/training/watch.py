"""Why a run stops by itself: it has diverged, with what is needed to find the cause, or the memory is too small."""

from __future__ import annotations

import json
import math
from collections import deque
from pathlib import Path
from statistics import median
from typing import Any

from duotok.distributed import rank
from duotok.errors import DuoTokError
from duotok.files import write_bytes
from duotok.training.checkpoint import every_checkpoint
from duotok.training.stage import Batch, StageConfig

SEEN = 50
PATIENCE = 5


class Watch:
    """Looks at the loss each `check_every` steps. factor: the largest allowed multiple of the median of the last 100 that were seen; 0: no limit."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.past: deque[float] = deque(maxlen=100)
        self.above = 0

    def problem(self, loss: float, norm: float) -> str:
        """The problem of this step, empty if there is none. The same on all processes, given the same numbers."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm):
            return f"the gradient norm is {norm}"
        usual = median(self.past) if len(self.past) >= SEEN else math.inf
        if self.factor and usual > 0 and loss > self.factor * usual:
            self.above += 1
            if self.above >= PATIENCE:
                return f"the loss is {loss:.4g}, usually {usual:.4g}, in {PATIENCE} looks in a row"
        else:
            self.above = 0
            self.past.append(loss)
        return ""


def stop(
    run: Path, step: int, problem: str, lr: float, losses: dict[str, float], norms: dict[str, float], parts: list[Batch]
) -> DuoTokError:
    """Save the circumstances as `RUN/stopped-STEP.json` (one for each process). Returns the error to raise."""
    worst = max(norms, key=lambda name: norms[name] if math.isfinite(norms[name]) else math.inf, default="")
    if any("nan" in str(value) for value in losses.values()) and all(math.isfinite(v) for v in norms.values()):
        hint = "a NaN in the losses before any in the gradients: look at the batch (ids below) for damaged features"
    else:
        hint = f"lower lr (now {lr:.1e}) or clip, lengthen warmup, or use precision fp32; largest gradient: {worst}"
    path = run / f"stopped-{step:08d}{f'.{rank()}' if rank() else ''}.json"
    facts: dict[str, Any] = {
        "step": step,
        "problem": problem,
        "hint": hint,
        "lr": lr,
        "losses": {name: _number(value) for name, value in losses.items()},
        "gradient_norms": {name: _number(value) for name, value in norms.items()},
        "ids": [part.get("ids", []) for part in parts],
    }
    told = f"ids of the batch in {path.name}"
    try:
        write_bytes(path, json.dumps(facts, indent=1).encode())
    except OSError as error:  # as on a full disk; what stopped the run matters more
        told = f"{path.name} with the ids of the batch not written ({error.strerror or error})"
    return DuoTokError(f"{run}: stopped at step {step}: {problem}; {hint}; {told}, the last checkpoint is kept")


def out_of_memory(run: Path, config: StageConfig, step: int | None) -> DuoTokError:
    """Wherever it happened: forward and backward, AdamW's moments in the first step, held-out figures, weights on their way."""
    values = config.model_dump()
    crops = {key: value for key, value in values.items() if key.startswith("crop_") or key == "seconds"}
    crops |= {"crops.frames": values["crops"]["frames"]} if "crops" in values else {}
    shorter = " or shorten " + ", ".join(f"{key} ({value})" for key, value in crops.items()) if crops else ""
    at = "" if step is None else f" at step {step}"
    saved = every_checkpoint(run)
    remains = f"{saved[-1].name} is kept" if saved else "there is no checkpoint yet"
    return DuoTokError(
        f"{run}: the GPU is out of memory{at}; raise accumulate ({config.accumulate}), lower batch_size "
        f"({config.batch_size}){shorter}, or --set device=cpu; {remains}"
    )


def _number(value: float) -> float | str:
    """A number for JSON, which has no NaN."""
    return value if math.isfinite(value) else str(value)
