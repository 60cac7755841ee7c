"""The progress of a kit, read from the files in OUT. Python's standard library only."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from duotok.files import hold
from duotok.training.kit import collect
from duotok.training.kit.plan import KitError, KitPlan, Training, step_hashes, training_hash
from duotok.training.kit.start import MANIFEST, read

STEPS = ("packages", "songs", "data")
"""What a kit does before its trainings."""


def say(text: str, file: Any = None) -> None:
    print(text, file=file or sys.stdout, flush=True)


@contextlib.contextmanager
def only_one(out: Path) -> Iterator[None]:
    """Lock OUT; the system unlocks it when this process ends in any way."""
    with (out / ".lock").open("w") as file:
        if not hold(file):
            raise KitError(f"{out}: another run.py is at work there; wait for it, or name another --out")
        yield


def busy(out: Path) -> bool:
    """Whether some run.py is at work in OUT."""
    if not (out / ".lock").is_file():
        return False
    try:
        with only_one(out):
            return False
    except KitError:
        return True


def status(kit: Path, out: Path, plan: KitPlan, chosen: Sequence[Training], as_json: bool) -> None:
    """Print the finished steps and the progress of each training, which is done where the same command would not train it again."""
    state = read(out / "state.json")
    hashes = {entry["name"]: entry["sha256"] for entry in read(kit / MANIFEST).get("files", ())}
    running = busy(out)
    now = state.get("now", {}) if running else {}
    steps = step_hashes(plan, hashes)
    done = [step for step in steps if state.get(step, {}).get("asked") == steps[step]]
    otherwise = [step for step in steps if step in state and step not in (*done, *now)]
    rows: dict[str, dict[str, Any]] = {}
    for training in chosen:
        folder = out / "runs" / training.run
        checkpoints = collect.checkpoints(folder)
        asked = state.get(training.run, {}).get("asked")
        wanted = training_hash(plan, training, hashes)
        line = _last_log(folder / "log.jsonl")
        rows[training.run] = {
            "done": bool(checkpoints) and asked == wanted,
            "done_otherwise": bool(checkpoints) and asked not in (None, wanted) and training.run not in now,
            "checkpoint": collect.step_of(checkpoints[-1]) if checkpoints else None,
            "step": line.get("step"),
            "steps": read(folder / "config.json").get("steps"),
            "minutes": training.minutes,
            **{key: line[key] for key in ("loss", "rate") if key in line},
        }
    facts = {
        "out": str(out),
        "running": running,
        "now": sorted(now),
        **{step: state[step]["seconds"] if step in done else None for step in STEPS},
        "done_otherwise": otherwise,
        "trainings": rows,
    }
    if as_json:
        say(json.dumps(facts, indent=1))
        return
    work = [f"{step} for {(time.time() - since) / 60:.1f} minutes" for step, since in now.items()]
    say(f"{out}: " + (f"at work, {', '.join(work) or 'packages'}" if running else "not running"))
    for step in STEPS:
        if step in done:
            say(f"{step:<24}done in {state[step]['seconds'] / 60:.1f} minutes")
        elif step in otherwise:
            say(f"{step:<24}done for a kit with others; the next run does it again")
    for name, row in rows.items():
        say(f"{name:<24}{_progress(row)}")


def _progress(row: dict[str, Any]) -> str:
    if row["checkpoint"] is None and row["step"] is None:
        return "not begun"
    text = f"step {row['step'] or 0:,}" + (f" of {row['steps']:,}" if row["steps"] and row["minutes"] is None else "")
    text += f" in {row['minutes']:g} minutes" if row["minutes"] is not None else ""
    text += "" if row["checkpoint"] is None else f", checkpoint {row['checkpoint']:,}"
    text += "".join(f", {key} {row[key]:.4g}" for key in ("loss", "rate") if key in row)
    stage = (
        "done"
        if row["done"]
        else "done with another config, overrides or minutes"
        if row["done_otherwise"]
        else "under way"
    )
    return f"{stage}: {text}"


def _last_log(path: Path) -> dict[str, Any]:
    """The last line that a training logged about a step."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 65_536))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and row.get("kind") == "train":
                return row
    return {}
