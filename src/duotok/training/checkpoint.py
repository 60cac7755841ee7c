"""Checkpoints: everything a run needs to go on, in safetensors and JSON, written aside and renamed. No pickle.

RUN/checkpoint-00001000/
    MODULE.safetensors        one file for each module of the stage
    optimizer.safetensors     moments by parameter name
    random.0000.safetensors   generators of each process
    state.json                stage, step (also the loader's position), config, processes, scaler, sha256 of all files, seal
"""

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
from torch import Tensor, nn

from duotok.distributed import rank, total, world
from duotok.errors import ConfigError, DuoTokError
from duotok.files import put, sha256
from duotok.seals import hashes, is_sealed, read_json, seal, unsealed
from duotok.training.stage import Stage
from duotok.weights import misfits, read_weights

log = logging.getLogger(__name__)

FORMAT = 3
BEST = "best.json"
LOG, CONFIG, SAMPLES = "log.jsonl", "config.json", "samples"
MEND = "delete that checkpoint to go on from the one before"
UNSEALED = 2  # the format before seals: read, as far as it can be read


class Untrained(ConfigError):
    """A run without a checkpoint, where one is needed."""


class Damaged(DuoTokError):
    """A checkpoint, or a file of it, that is not as it was written."""


def checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first; those whose `state.json` is damaged are none."""
    return [path for path in every_checkpoint(run) if not _damaged_state(path)]


def every_checkpoint(run: Path) -> list[Path]:
    """Folders of checkpoints, oldest first, whatever is in them."""
    return sorted(p for p in run.glob("checkpoint-*") if (p / "state.json").is_file())


def _damaged_state(path: Path) -> str:
    try:
        read_state(path)
    except DuoTokError as error:
        return str(error)
    return ""


def check_run(run: Path) -> None:
    """Raises ConfigError for a folder with files of the names that training writes, and no run to go on with."""
    if not os.path.lexists(run):
        return
    if not run.is_dir():
        raise ConfigError(f"{run}: is a file, and the run's folder would be there; choose another --runs folder")
    if every_checkpoint(run) or _begins_a_log(run / LOG):
        return
    foreign = [name for name in (LOG, BEST, SAMPLES) if os.path.lexists(run / name)]
    if os.path.lexists(run / CONFIG) and not _is_config(run / CONFIG):
        foreign.insert(0, CONFIG)
    if foreign:
        raise ConfigError(
            f"{run / foreign[0]}: is there, and no run of `duotok train` that could go on; choose another --runs folder"
        )


def _begins_a_log(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            first = json.loads(file.readline())
        return isinstance(first, dict) and {"step", "kind"} <= first.keys()
    except (OSError, ValueError):
        return False


def _is_config(path: Path) -> bool:
    """Of a run that was stopped before its log began."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and {"steps", "batch_size", "lr", "seed"} <= values.keys()


def latest(run: Path) -> Path:
    """The newest complete checkpoint of a run. Raises Untrained when there is none."""
    found = checkpoints(run)
    if not found:
        raise Untrained(f"{run}: no checkpoint there; train that stage first")
    return found[-1]


def best(run: Path) -> Path:
    """The checkpoint that what comes afterwards uses: that of the best figure, the newest where `best` names none."""
    found = best_so_far(run)
    return run / f"checkpoint-{found['step']:08d}" if found else latest(run)


def best_so_far(run: Path) -> dict[str, Any]:
    """`step`, `figure` and `value` of the best checkpoint; empty when there is none: it, or the file, is not whole."""
    try:
        found = _as_written((run / BEST).read_text(encoding="utf-8"), {"step", "figure", "value"})
    except (OSError, ValueError, TypeError):
        return {}
    known = type(found["step"]) is int and isinstance(found["figure"], str) and isinstance(found["value"], int | float)
    return found if known and run / f"checkpoint-{found['step']:08d}" in checkpoints(run) else {}


def _as_written(text: str, before_seals: set[str]) -> dict[str, Any]:
    """What was sealed; or, as it was before seals, exactly these names without one. Raises ValueError for anything else."""
    values = read_json(text)
    if not isinstance(values, dict) or not (is_sealed(values) or values.keys() == before_seals):
        raise ValueError("its seal is broken")
    return unsealed(values)


def whole(value: Tensor) -> Tensor:
    """A tensor on the CPU, gathered where FSDP has cut it; every process must ask for it."""
    full = value.full_tensor() if hasattr(value, "full_tensor") else value
    return full.detach().cpu().contiguous()


def cut(value: Tensor, like: Tensor | None) -> Tensor:
    """`value` over the processes as FSDP has cut `like`; unchanged where it has not."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


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
    seconds: float = 0.0,
) -> Path:
    """Write step `step` of a run; every process calls it. A kill or a full disk at any moment leaves the last good one.

    seconds: how long the run has trained in all, what a run by time goes on from.
    """
    target, partial = run / f"checkpoint-{step:08d}", run / f".partial-{step:08d}"
    problem = _try(lambda: _empty(partial)) if rank() == 0 else ""
    barrier()
    tensors, texts = generator_state()
    problem = problem or _try(lambda: save_file(tensors, partial / f"random.{rank():04d}.safetensors", texts))
    # One file at a time, so that a copy of one module is all the memory it takes; every process gathers what FSDP has cut.
    for name, module in stage.modules.items():
        values = {key: whole(value) for key, value in module.state_dict().items()}
        if rank() == 0:
            problem = problem or _try(lambda: save_file(values, partial / f"{name}.safetensors"))  # noqa: B023
    values = _moments(optimizer, parameter_names(stage))
    if rank() == 0:
        problem = problem or _try(lambda: save_file(values, partial / "optimizer.safetensors"))
    problem = _anyone(problem)  # from here on all files are there
    if rank() == 0 and not problem:
        state = {
            "format": FORMAT, "stage": stage.name, "step": step, "processes": world(), "scaler": scaler or {},
            "seconds": round(seconds, 3), "config": stage.config.model_dump(mode="json"),
        }  # fmt: skip
        problem = _try(lambda: _finish(partial, target, state))
    problem = _anyone(problem)
    if problem:
        if rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
        raise DuoTokError(f"{target}: checkpoint not written ({problem}); the last good one is kept")
    if rank() == 0:
        forget_old(run, stage.config.keep)
    barrier()
    return target


def _finish(partial: Path, target: Path, state: dict[str, Any]) -> None:
    files = hashes(partial, [path.name for path in partial.glob("*.safetensors")])
    text = json.dumps(seal({**state, "sha256": files}), indent=1)
    (partial / "state.json").write_text(text, encoding="utf-8")
    put(partial, target)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _try(write: Callable[[], Any]) -> str:
    """Write something; why it could not be, or nothing."""
    try:
        write()
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)
    except SafetensorError as error:
        return os.strerror(errno.ENOSPC) if "os error 28" in str(error) else str(error)
    return ""


def _anyone(problem: str) -> str:
    """A problem of this or any other process, so that all stop together."""
    others = int(total(torch.tensor(float(bool(problem))))) - bool(problem)
    return problem or ("another process could not write" if others else "")


def barrier() -> None:
    """Wait for all processes."""
    if world() > 1:
        import torch.distributed as dist

        dist.barrier()


def forget_old(run: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints and the best one."""
    spared = best(run) if checkpoints(run) else None
    for old in checkpoints(run)[:-keep]:
        if old != spared:
            shutil.rmtree(old, ignore_errors=True)


def parameter_names(stage: Stage) -> dict[int, str]:
    """id of each parameter -> MODULE.KEY."""
    return {id(p): f"{name}.{key}" for name, module in stage.modules.items() for key, p in module.named_parameters()}


def check_file(path: Path) -> None:
    """Raises Damaged unless a file of a checkpoint has the hash that `state.json` beside it says."""
    if not (path.parent / "state.json").is_file():
        return
    wanted = read_state(path.parent).get("sha256", {}).get(path.name)
    if wanted is not None and path.is_file() and sha256(path) != wanted:
        raise Damaged(f"{path}: damaged (other bytes than were written); {MEND}")


def check(path: Path) -> None:
    """Raises Damaged unless all of a checkpoint is as it was written."""
    state = read_state(path)
    for name in state.get("sha256", {}):
        if not (path / name).is_file():
            raise Damaged(f"{path / name}: missing; {MEND}")
        check_file(path / name)
    for file in sorted(path.glob("*.safetensors")):
        try:
            with safe_open(file, "pt") as opened:
                opened.keys()
        except (SafetensorError, OSError) as error:
            raise Damaged(f"{file}: damaged ({error}); {MEND}") from None


def newest_whole(run: Path, tell: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is as it was written; None where there are none. `tell` hears of damaged ones.

    Raises Damaged when there are some, and none is whole.
    """
    found = every_checkpoint(run)
    problem = ""
    for path in reversed(found):
        try:
            check(path)
        except Damaged as error:
            problem = str(error)
            tell(problem)
        else:
            return path
    if problem:
        raise Damaged(
            f"{run}: none of {len(found)} checkpoints is whole ({problem.split('; ')[0]}); begin again with another --runs"
        )
    return None


def load_module(path: Path, module: nn.Module, only: tuple[str, ...] = ()) -> None:
    """Load one module of a checkpoint strictly. Raises ConfigError when it is missing or of another architecture.

    only: children that come from the file; the others keep what they have, so that they may be of another form.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: missing; train the earlier stage first or name its run")
    check_file(path)
    state, own = read_weights(path, Damaged, MEND), module.state_dict()
    if only:
        taken = {key: state[key] for key in own if key.split(".")[0] in only and key in state}
        state = {key: value for key, value in own.items() if key.split(".")[0] not in only} | taken
    found = misfits(state, own, finite=False)  # a run that broke down may be looked at
    if found:
        raise ConfigError(
            f"{path}: weights of another architecture ({found[0].told}); give the sizes of {path.parent.parent / CONFIG} "
            "(--set model.KEY=VALUE), or another --runs folder"
        )
    module.load_state_dict({key: cut(value, own[key]) for key, value in state.items()})


def read_state(path: Path) -> dict[str, Any]:
    """`state.json` of a checkpoint. Raises Damaged when it is not as it was written."""
    place = path / "state.json"
    try:
        names = {"format", "stage", "step", "processes", "scaler", "config"}
        state = _as_written(place.read_text(encoding="utf-8"), names)
        if not names <= state.keys() or ("sha256" in state) != (state["format"] != UNSEALED):
            raise ValueError(f"format {state.get('format')}")
    except (OSError, ValueError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Damaged(f"{place}: damaged ({reason}); {MEND}") from None
    if state["format"] not in (UNSEALED, FORMAT):
        raise Damaged(f"{place}: a checkpoint of format {state['format']}, this DuoTok reads {FORMAT}; update DuoTok")
    return state


def changes(before: Mapping[str, Any], now: Mapping[str, Any], place: str = "") -> list[str]:
    """`key: old -> new` for every setting of a config that is another one now."""
    found = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += changes(old, new, f"{place}{key}.")
        elif old != new:
            found.append(f"{place}{key}: {json.dumps(old)} -> {json.dumps(new)}")
    return found


def load_checkpoint(path: Path, stage: Stage, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Restore modules, optimizer and generators; returns `state.json`. Raises ConfigError for another stage's checkpoint."""
    state = read_state(path)
    if state["stage"] != stage.name:
        raise ConfigError(
            f"{path}: a checkpoint of {state['stage']}, not of {stage.name}; choose another --runs folder"
        )
    changed = changes(state["config"], stage.config.model_dump(mode="json"))
    if changed and rank() == 0:
        log.warning("%s: goes on with other settings: %s", path, ", ".join(changed))
    for name, module in stage.modules.items():
        load_module(path / f"{name}.safetensors", module)
    names = parameter_names(stage)
    check_file(path / "optimizer.safetensors")
    found = load_file(path / "optimizer.safetensors")
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            prefix = f"{names[id(parameter)]}/"
            values = {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}
            if values:
                fused = bool(group.get("fused"))
                optimizer.state[parameter] = {key: _like(key, value, parameter, fused) for key, value in values.items()}
    generators = path / f"random.{rank():04d}.safetensors"
    if generators.is_file():  # a run that goes on with more processes has none for the new ones
        restore_generators(generators)
    return state


def _like(key: str, value: Tensor, parameter: Tensor, fused: bool) -> Tensor:
    """A moment where its parameter is; the step counter stays on the CPU, unless AdamW is fused."""
    if key == "step":
        return value.to(parameter.device) if fused else value
    return cut(value.to(parameter.device), parameter)


def generator_state() -> tuple[dict[str, Tensor], dict[str, str]]:
    """State of torch's, numpy's and Python's generators of this process: tensors, and what is no tensor as text."""
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
    """Undo `generator_state`."""
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
