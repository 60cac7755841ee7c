"""The checkpoints of a run: lists them, checks them, finds the best one, and loads weights from them. No pickle.

RUN/checkpoint-00001000/
    MODULE.safetensors        one file for each module of the stage
    optimizer.safetensors     moments by parameter name
    random.0000.safetensors   generators of each process
    state.json                stage, step (also the loader's position), parents, config, processes, scaler, sha256 of all files, seal

`saving.py` writes them and resumes training from them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from duotok.errors import ConfigError, DuoTokError
from duotok.files import sha256
from duotok.seals import is_sealed, read_json, unsealed
from duotok.weights import misfits, read_weights

FORMAT = 3
BEST = "best.json"
LOG, CONFIG, SAMPLES = "log.jsonl", "config.json", "samples"
REMEDY = "delete that checkpoint to go on from the one before"
TO_GO_ON = ("optimizer.", "random.")
"""Beginnings of the files that training alone needs."""
UNSEALED = 2  # the format before seals, which can still be read


class Untrained(ConfigError):
    """A run without a checkpoint, where one is needed."""


class Damaged(DuoTokError):
    """A checkpoint, or a file of it, that was changed since it was written."""


class WeightsOnly(Damaged):
    """A checkpoint without what training needs to go on; later stages can use it."""


def checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first, without those whose `state.json` is damaged."""
    return [path for path in every_checkpoint(run) if not _damaged_state(path)]


def checkpoint_of(run: Path, step: int) -> Path:
    """The folder of the checkpoint of a step."""
    return run / f"checkpoint-{step:08d}"


def every_checkpoint(run: Path) -> list[Path]:
    """Folders of checkpoints, oldest first, complete or not."""
    return sorted(path for path in run.glob("checkpoint-*") if (path / "state.json").is_file())


def _damaged_state(path: Path) -> str:
    try:
        read_state(path)
    except DuoTokError as error:
        return str(error)
    return ""


def check_run(run: Path) -> None:
    """Raises ConfigError for a folder that has files with names that training writes, but no run to resume."""
    if not os.path.lexists(run):
        return
    if not run.is_dir():
        raise ConfigError(f"{run}: is a file, and the run's folder would be there; choose another --runs folder")
    if every_checkpoint(run) or _is_log(run / LOG):
        return
    foreign = [name for name in (LOG, BEST, SAMPLES) if os.path.lexists(run / name)]
    if os.path.lexists(run / CONFIG) and not _is_config(run / CONFIG):
        foreign.insert(0, CONFIG)
    if foreign:
        raise ConfigError(
            f"{run / foreign[0]}: is there, and no run of `duotok train` that could go on; choose another --runs folder"
        )


def _is_log(path: Path) -> bool:
    """Whether a file is the log of a run; one that was stopped in its first line is known by its config, which is written before."""
    try:
        with path.open(encoding="utf-8") as file:
            line = file.readline()
        if not line.endswith("\n"):
            return _is_config(path.with_name(CONFIG))
        first = json.loads(line)
        return isinstance(first, dict) and {"step", "kind"} <= first.keys()
    except (OSError, ValueError):
        return False


def _is_config(path: Path) -> bool:
    """Whether a file is the config of a run, which may have been stopped before its log began."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and {"steps", "batch_size", "lr", "seed"} <= values.keys()


def latest(run: Path) -> Path:
    """The newest complete checkpoint of a run. Raises Untrained when there is none."""
    whole = checkpoints(run)
    if not whole:
        raise Untrained(f"{run}: no checkpoint there; train that stage first")
    return whole[-1]


def best(run: Path) -> Path:
    """The checkpoint that later stages use: that of the best figure, or the newest where there is no best one."""
    record = best_so_far(run)
    return checkpoint_of(run, record["step"]) if record else latest(run)


def best_so_far(run: Path) -> dict[str, Any]:
    """`step`, `figure` and `value` of the best checkpoint; empty when there is none, or it or the file is damaged."""
    try:
        record = _unsealed((run / BEST).read_text(encoding="utf-8"), {"step", "figure", "value"})
    except (OSError, ValueError, TypeError):
        return {}
    known = (
        type(record["step"]) is int and isinstance(record["figure"], str) and isinstance(record["value"], int | float)
    )
    return record if known and checkpoint_of(run, record["step"]) in checkpoints(run) else {}


def _unsealed(text: str, before_seals: set[str]) -> dict[str, Any]:
    """The values of a sealed text, or of one from before seals, which has exactly the keys `before_seals`.

    Raises ValueError for anything else.
    """
    values = read_json(text)
    if not isinstance(values, dict) or not (is_sealed(values) or values.keys() == before_seals):
        raise ValueError("its seal is broken")
    return unsealed(values)


def cut(value: Tensor, like: Tensor | None) -> Tensor:
    """`value` distributed over the processes like `like`, if FSDP has sharded that; otherwise unchanged."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def check_file(path: Path) -> None:
    """Raises Damaged unless a file of a checkpoint has the hash that is recorded in `state.json` beside it."""
    if not (path.parent / "state.json").is_file():
        return
    written = read_state(path.parent).get("sha256", {}).get(path.name)
    if written is not None and path.is_file() and sha256(path) != written:
        raise Damaged(f"{path}: damaged (other bytes than were written); {REMEDY}")


def check(path: Path) -> None:
    """Raises Damaged unless all files of a checkpoint are unchanged; WeightsOnly where optimizer and generators were left out."""
    state = read_state(path)
    to_go_on = [name for name in state.get("sha256", {}) if name.startswith(TO_GO_ON)]
    if to_go_on and not any((path / name).exists() for name in to_go_on):
        raise WeightsOnly(f"{path}: has weights only, without optimizer and generators")
    for name in state.get("sha256", {}):
        if not (path / name).is_file():
            raise Damaged(f"{path / name}: missing; {REMEDY}")
        check_file(path / name)
    for file in sorted(path.glob("*.safetensors")):
        try:
            with safe_open(file, "pt") as opened:
                opened.keys()
        except (SafetensorError, OSError) as error:
            raise Damaged(f"{file}: damaged ({error}); {REMEDY}") from None


def newest_whole(run: Path, report: Callable[[str], None]) -> Path | None:
    """The newest undamaged checkpoint; None where there are no checkpoints. `report` is called for each damaged one.

    Raises Damaged when there are checkpoints and all are damaged, WeightsOnly when all have weights only.
    """
    every = every_checkpoint(run)
    problem, without = "", 0
    for path in reversed(every):
        try:
            check(path)
        except Damaged as error:
            problem = str(error)
            without += isinstance(error, WeightsOnly)
            report(problem)
        else:
            return path
    if every and without == len(every):
        raise WeightsOnly(
            f"{run}: its checkpoints have weights only (collected with --weights-only), so it cannot be trained further: later stages and "
            "`duotok bundle` take them; collect it without --weights-only, or begin again with another --runs"
        )
    if problem:
        raise Damaged(
            f"{run}: none of {len(every)} checkpoints is whole ({problem.split('; ')[0]}); begin again with another --runs"
        )
    return None


def load_module(path: Path, module: nn.Module, only: tuple[str, ...] = (), new: tuple[str, ...] = ()) -> None:
    """Load one module of a checkpoint strictly. Raises ConfigError when it is missing or of another architecture.

    only: children that are loaded from the file; the others keep their weights, and may have other shapes.
    new: parts, by the beginnings of their names, that keep their weights where the file has none of them.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: missing; train the earlier stage first or name its run")
    check_file(path)
    state, present = read_weights(path, Damaged, REMEDY), module.state_dict()
    if only:
        loaded = {key: state[key] for key in present if key.split(".")[0] in only and key in state}
        state = {key: value for key, value in present.items() if key.split(".")[0] not in only} | loaded
    if new and not any(key.startswith(new) for key in state):
        state |= {key: value for key, value in present.items() if key.startswith(new)}
    problems = misfits(state, present, finite=False)  # a diverged run may still be loaded for inspection
    if problems:
        raise ConfigError(
            f"{path}: weights of another architecture ({problems[0].description}); give the sizes of {path.parent.parent / CONFIG} "
            "(--set model.KEY=VALUE), or another --runs folder"
        )
    module.load_state_dict({key: cut(value, present[key]) for key, value in state.items()})


def read_state(path: Path) -> dict[str, Any]:
    """`state.json` of a checkpoint. Raises Damaged when it was changed since it was written, ConfigError when it may not be read."""
    place = path / "state.json"
    try:
        names = {"format", "stage", "step", "processes", "scaler", "config"}
        state = _unsealed(place.read_text(encoding="utf-8"), names)
        if not names <= state.keys() or ("sha256" in state) != (state["format"] != UNSEALED):
            raise ValueError(f"format {state.get('format')}")
    except PermissionError:  # not damaged, so that no run goes on from an older one
        raise ConfigError(f"{place}: cannot be read (Permission denied); check its permissions") from None
    except (OSError, ValueError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise Damaged(f"{place}: damaged ({reason}); {REMEDY}") from None
    if state["format"] not in (UNSEALED, FORMAT):
        raise Damaged(f"{place}: a checkpoint of format {state['format']}, this DuoTok reads {FORMAT}; update DuoTok")
    return state
