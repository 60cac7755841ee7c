"""Writes everything that a run needs to resume as a checkpoint, and restores it (files: see `checkpoint.py`)."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from duotok.config import parse
from duotok.distributed import barrier, rank, total, world
from duotok.errors import ConfigError, DuoTokError
from duotok.files import put, remove, write_bytes
from duotok.lineage import Origin
from duotok.seals import hashes, seal
from duotok.training.checkpoint import (
    BEST,
    FORMAT,
    best,
    check_file,
    checkpoint_of,
    checkpoints,
    cut,
    load_module,
    read_state,
)
from duotok.training.stage import START_FROM, Stage

log = logging.getLogger(__name__)

_UNFINISHED = ".partial-"
"""What the name of a checkpoint begins with while it is written."""


def whole(value: Tensor) -> Tensor:
    """A tensor on the CPU, gathered where FSDP has sharded it. Every process must call this."""
    full = value.full_tensor() if hasattr(value, "full_tensor") else value
    return full.detach().cpu().contiguous()


def _moments(optimizer: torch.optim.Optimizer, names: dict[int, str]) -> dict[str, Tensor]:
    return {
        f"{names[id(parameter)]}/{key}": whole(torch.as_tensor(value))
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
    }


def save_checkpoint(
    run: Path,
    stage: Stage,
    optimizer: torch.optim.Optimizer,
    step: int,
    scaler: dict[str, Any] | None = None,
    progress: Mapping[str, float] | None = None,
    best_now: Mapping[str, Any] | None = None,
) -> Path:
    """Write the checkpoint of a step; every process calls this. A kill or a full disk leaves the previous checkpoint intact.

    progress: what a run goes on from besides the step (`Run._progress`); best_now: what `best.json` is to say, if this checkpoint is the
    best so far.
    """
    target, partial = checkpoint_of(run, step), run / f"{_UNFINISHED}{step:08d}"
    problem = _write_problem(lambda: _empty(partial)) if rank() == 0 else ""
    barrier()
    tensors, texts = generator_state()
    problem = problem or _write_problem(lambda: save_file(tensors, partial / f"random.{rank():04d}.safetensors", texts))
    # One file at a time, so that memory holds a copy of one module only. Every process takes part in gathering FSDP shards.
    for name, module in stage.modules.items():
        values = {key: whole(value) for key, value in module.state_dict().items()}
        if rank() == 0:
            problem = problem or _write_problem(lambda: save_file(values, partial / f"{name}.safetensors"))  # noqa: B023
    values = _moments(optimizer, parameter_names(stage))
    if rank() == 0:
        problem = problem or _write_problem(lambda: save_file(values, partial / "optimizer.safetensors"))
    problem = _problem_anywhere(problem)  # after this, all processes have written their files
    if rank() == 0 and not problem:
        state = {
            "format": FORMAT, "stage": stage.name, "step": step, "processes": world(), "scaler": scaler or {},
            **(progress or {}), "config": stage.config.model_dump(mode="json"),
        }  # fmt: skip
        if stage.songs_hashes:
            state["songs"] = dict(stage.songs_hashes)
        if stage.parents is not None:
            state["parents"] = {key: origin.model_dump(mode="json") for key, origin in stage.parents.items()}
        problem = _write_problem(lambda: _finish(partial, target, state))
    problem = _problem_anywhere(problem)
    if problem:
        if rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
        raise DuoTokError(f"{target}: checkpoint not written ({problem}); the last good one is kept")
    if rank() == 0:
        if best_now is not None:  # not before its checkpoint is there, and before old ones go: the best one stays
            write_bytes(run / BEST, json.dumps(seal(dict(best_now))).encode())
        forget_old(run, stage.config.keep)
    barrier()
    return target


def remove_unfinished(run: Path) -> None:
    """Remove what a process that was killed left of a checkpoint. Only the process that holds the run may call this."""
    for partial in run.glob(f"{_UNFINISHED}*"):
        remove(partial)


def _finish(partial: Path, target: Path, state: dict[str, Any]) -> None:
    files = hashes(partial, [path.name for path in partial.glob("*.safetensors")])
    text = json.dumps(seal({**state, "sha256": files}), indent=1)
    (partial / "state.json").write_text(text, encoding="utf-8")
    put(partial, target)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _write_problem(write: Callable[[], Any]) -> str:
    """Call `write`. Returns the reason if it fails, and "" otherwise."""
    try:
        write()
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)
    except SafetensorError as error:
        return os.strerror(errno.ENOSPC) if "os error 28" in str(error) else str(error)
    return ""


def _problem_anywhere(problem: str) -> str:
    """The problem of this or any other process, so that all stop together; "" if there is none."""
    others = int(total(torch.tensor(float(bool(problem))))) - bool(problem)
    return problem or ("another process could not write" if others else "")


def forget_old(run: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints and the best one."""
    spared = best(run) if checkpoints(run) else None
    for old in checkpoints(run)[:-keep]:
        if old != spared:
            shutil.rmtree(old, ignore_errors=True)


def parameter_names(stage: Stage) -> dict[int, str]:
    """id of each parameter -> MODULE.KEY."""
    return {id(p): f"{name}.{key}" for name, module in stage.modules.items() for key, p in module.named_parameters()}


def changes(before: Mapping[str, Any], now: Mapping[str, Any], place: str = "") -> list[str]:
    """`key: old -> new` for every changed setting of a config."""
    changed = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            changed += changes(old, new, f"{place}{key}.")
        elif old != new:
            changed.append(f"{place}{key}: {json.dumps(old)} -> {json.dumps(new)}")
    return changed


def _complete(config: dict[str, Any], stage: Stage) -> dict[str, Any]:
    """A saved config, completed with defaults for keys that were added to DuoTok since."""
    try:
        return type(stage.config).model_validate(config).model_dump(mode="json")
    except ValueError:  # written by a DuoTok with other keys
        return config


def load_checkpoint(path: Path, stage: Stage, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Restore modules, optimizer and generators. Raises ConfigError for another stage's checkpoint.

    Returns `state.json` with `other_parents`: the config keys of earlier runs whose weights are not those of before, and
    `other_songs`: the splits whose songs are others.
    """
    state = read_state(path)
    if state["stage"] != stage.name:
        raise ConfigError(
            f"{path}: a checkpoint of {state['stage']}, not of {stage.name}; choose another --runs folder"
        )
    changed = changes(_complete(state["config"], stage), stage.config.model_dump(mode="json"))
    if changed and rank() == 0:
        log.warning("%s: goes on with other settings: %s", path, ", ".join(changed))
    state["other_parents"] = _keep_parents(path, state.get("parents"), stage)
    before = state.get("songs", {})
    learned = {split: value for split, value in stage.songs_hashes.items() if split != "test"}
    state["other_songs"] = [split for split, value in learned.items() if before.get(split, value) != value]
    if state["other_songs"] and rank() == 0:
        log.warning("%s: goes on with other songs than before: %s", path, ", ".join(state["other_songs"]))
    for name, module in stage.modules.items():
        load_module(path / f"{name}.safetensors", module)
    names = parameter_names(stage)
    check_file(path / "optimizer.safetensors")
    moments = load_file(path / "optimizer.safetensors")
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            prefix = f"{names[id(parameter)]}/"
            values = {key.removeprefix(prefix): value for key, value in moments.items() if key.startswith(prefix)}
            if values:
                fused = bool(group.get("fused"))
                optimizer.state[parameter] = {
                    key: _place_moment(key, value, parameter, fused) for key, value in values.items()
                }
    generators = path / f"random.{rank():04d}.safetensors"
    if generators.is_file():  # missing for the additional processes of a run that resumes with more of them
        restore_generators(generators)
    return state


def _keep_parents(path: Path, recorded: dict[str, Any] | None, stage: Stage) -> list[str]:
    """Set the parents of a resumed run: `start_from` as recorded, all others as they are now. Returns the keys of those that changed."""
    if recorded is None:
        stage.parents = None
        return []
    before = {key: parse(Origin, values, f"{path}: {key}") for key, values in recorded.items()}
    changed = [
        key for key, origin in (stage.parents or {}).items() if key in before and not origin.same_weights(before[key])
    ]
    if START_FROM in changed and stage.needs_start:
        raise ConfigError(
            f"{path}: was trained with {START_FROM} = {before[START_FROM]}, which it still needs, and that run is now at "
            f"{(stage.parents or {})[START_FROM]}; bring that checkpoint back, or begin anew in another --runs"
        )
    changed = [key for key in changed if key != START_FROM]
    for key in changed:
        if rank() == 0:
            log.warning(
                "%s: was trained with %s = %s, and goes on with %s", path, key, before[key], (stage.parents or {})[key]
            )
    stage.parents = {**(stage.parents or {}), **({START_FROM: before[START_FROM]} if START_FROM in before else {})}
    return changed


def _place_moment(key: str, value: Tensor, parameter: Tensor, fused: bool) -> Tensor:
    """A moment on the device of its parameter; the step counter stays on the CPU, unless AdamW is fused."""
    if key == "step":
        return value.to(parameter.device) if fused else value
    return cut(value.to(parameter.device), parameter)


def generator_state() -> tuple[dict[str, Tensor], dict[str, str]]:
    """State of torch's, numpy's and Python's generators of this process: as tensors, and as text where it is no tensor."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - libraries still draw from it
    tensors = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(numbers, dtype=torch.int64),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
    }
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    texts = {
        "python": json.dumps([version, gauss]),
        "numpy": json.dumps([name, int(position), int(has_gauss), float(cached)]),
    }
    return tensors, texts


def restore_generators(path: Path) -> None:
    """Restore the state that `generator_state` returned."""
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        texts = {key: json.loads(value) for key, value in file.metadata().items()}
    torch.set_rng_state(tensors["torch"])
    version, gauss = texts["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), gauss))
    name, position, has_gauss, cached = texts["numpy"]
    np.random.set_state((name, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
