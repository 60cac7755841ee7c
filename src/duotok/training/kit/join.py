"""Join collected results into a folder RUNS, after every piece and every file was compared with its hash."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from duotok.errors import ConfigError, DuoTokError
from duotok.files import put
from duotok.training.kit.collect import ALONGSIDE, LOG, TABLE, checkpoints, step_of
from duotok.training.kit.start import damage, digest, read, unpack


def join_results(folder: Path, runs: Path, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Join the runs of collected results (all of them, unless `names` says which) from `folder` into RUNS.

    Returns run, step and folder of each. Raises DuoTokError, before RUNS is touched, when a piece is missing or damaged, or
    RUNS has other or newer checkpoints of such a run.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; name the one that `run.py --collect` wrote")
    facts = read(folder / TABLE)
    if not facts:
        raise ConfigError(f"{folder}: no readable {TABLE} there; name the folder that `run.py --collect` wrote")
    for name in names:
        if name not in facts["steps"]:
            raise ConfigError(f"{folder}: no run '{name}' in it; it has {', '.join(facts['steps'])}")
    problem = damage(folder, facts["pieces"])
    if problem:
        raise DuoTokError(f"{problem}; bring them again")
    chosen = {name: int(step) for name, step in facts["steps"].items() if not names or name in names}
    from duotok.training.checkpoint import check_run

    for name, step in chosen.items():
        check_run(runs / name)
        _check_clash(runs / name, step, [entry for entry in facts["files"] if entry["name"].startswith(f"{name}/")])
    partial = runs / ".results.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        unpack([folder / piece["name"] for piece in facts["pieces"]], partial)
        problem = damage(partial, facts["files"])
        if problem:
            raise DuoTokError(f"{problem}; collect them again")
        for name in chosen:
            _check_log(partial / name / LOG, runs / name / LOG)
        for name in chosen:
            _place(partial / name, runs / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    row = {"resumable": bool(facts["resumable"])}
    return [{"run": name, "step": step, "folder": str(runs / name), **row} for name, step in chosen.items()]


def _check_clash(run: Path, step: int, files: Sequence[dict[str, Any]]) -> None:
    existing = checkpoints(run)
    if existing and step_of(existing[-1]) > step:
        raise DuoTokError(
            f"{run}: is at step {step_of(existing[-1]):,} already, the results at {step:,}; join into another --runs folder"
        )
    for entry in files:
        path = run.parent / entry["name"]
        if path.name not in ALONGSIDE and path.is_file() and digest(path) != entry["sha256"]:
            raise DuoTokError(f"{path}: is there with another content; join into another --runs folder")


def _check_log(collected: Path, existing: Path) -> None:
    """Raises DuoTokError when the existing log is not the beginning of the collected one, so of another training."""
    if collected.is_file() and existing.is_file() and not collected.read_bytes().startswith(existing.read_bytes()):
        raise DuoTokError(f"{existing}: is the log of another training; join into another --runs folder")


def _place(collected: Path, run: Path) -> None:
    run.mkdir(parents=True, exist_ok=True)
    for checkpoint in checkpoints(collected):
        if not (run / checkpoint.name).exists():
            put(checkpoint, run / checkpoint.name)
    for name in ALONGSIDE:
        if (collected / name).is_file():
            put(collected / name, run / name)
