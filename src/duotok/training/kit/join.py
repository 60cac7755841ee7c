"""Collected results back into a folder RUNS: every piece and every file is compared with its hash first."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from duotok.durable import put
from duotok.errors import ConfigError, DuoTokError
from duotok.training.kit.collect import ALONGSIDE, checkpoints, step_of
from duotok.training.kit.start import damage, digest, read, unpack


def join_results(folder: Path, runs: Path, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Join the pieces of runs (all that are there, unless `names` says which) from `folder` into RUNS.

    Returns run, step and folder of each. Raises DuoTokError, before RUNS is touched, when a piece is missing or damaged, or
    RUNS has other or newer checkpoints of such a run.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; name the one that `run.py --collect` wrote")
    found = {str(facts["run"]): facts for facts in map(read, sorted(folder.glob("*.json"))) if "pieces" in facts}
    for name in names:
        if name not in found:
            raise ConfigError(f"{folder}: no {name}.json; it has {', '.join(found) or 'no results'}")
    chosen = [found[name] for name in names or found]
    if not chosen:
        raise ConfigError(f"{folder}: no results there; name the folder that `run.py --collect` wrote")
    for facts in chosen:
        problem = damage(folder, facts["pieces"])
        if problem:
            raise DuoTokError(f"{problem}; bring them again")
        _check_clash(facts, runs)
    return [_join(facts, folder, runs) for facts in chosen]


def _check_clash(facts: dict[str, Any], runs: Path) -> None:
    run = runs / str(facts["run"])
    kept = checkpoints(run)
    if kept and step_of(kept[-1]) > facts["step"]:
        raise DuoTokError(
            f"{run}: is at step {step_of(kept[-1]):,} already, the results at {facts['step']:,}; join into another --runs folder"
        )
    for entry in facts["files"]:
        path = run / entry["name"]
        if "/" in entry["name"] and path.is_file() and digest(path) != entry["sha256"]:
            raise DuoTokError(f"{path}: is there with another content; join into another --runs folder")


def _join(facts: dict[str, Any], folder: Path, runs: Path) -> dict[str, Any]:
    run, partial = runs / str(facts["run"]), runs / f".{facts['run']}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        unpack([folder / piece["name"] for piece in facts["pieces"]], partial)
        problem = damage(partial, facts["files"])
        if problem:
            raise DuoTokError(f"{problem}; collect and bring that run again")
        run.mkdir(parents=True, exist_ok=True)
        for checkpoint in checkpoints(partial):
            if not (run / checkpoint.name).exists():
                put(checkpoint, run / checkpoint.name)
        for name in ALONGSIDE:
            if (partial / name).is_file():
                put(partial / name, run / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {"run": str(facts["run"]), "step": facts["step"], "folder": str(run), "resumable": facts["resumable"]}
