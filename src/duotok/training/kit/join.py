"""Join collected results into a folder RUNS, after every piece and every file was compared with its hash."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from duotok.errors import ConfigError, DuoTokError
from duotok.files import put
from duotok.training.kit.collect import ALONGSIDE, FORMAT, LOG, TABLE, checkpoints, step_of
from duotok.training.kit.start import damage, digest, is_table, read, unpack


def join_results(folder: Path, runs: Path, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Join the runs of collected results (all of them, unless `names` says which) from `folder` into RUNS.

    Returns run, step and folder of each. Raises DuoTokError, before RUNS is touched, when a piece is missing or damaged, or
    RUNS has other or newer checkpoints of such a run.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; name the one that `run.py --collect` wrote")
    facts = _read_table(folder)
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
        try:
            unpack([folder / piece["name"] for piece in facts["pieces"]], partial)
        except tarfile.TarError as error:
            raise DuoTokError(f"{folder}: its pieces are no archive ({error}); collect them again") from None
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


def _read_table(folder: Path) -> dict[str, Any]:
    """results.json. Raises ConfigError when it cannot be read, is of another format or lacks something."""
    facts, path = read(folder / TABLE), folder / TABLE
    if not facts:
        raise ConfigError(f"{folder}: no readable {TABLE} there; name the folder that `run.py --collect` wrote")
    if "format" in facts and facts["format"] != FORMAT:
        raise ConfigError(f"{path}: results of format {facts['format']!r}, this DuoTok reads {FORMAT}; update DuoTok")
    steps = facts.get("steps")
    good = {
        "format": "format" in facts, "resumable": isinstance(facts.get("resumable"), bool), "pieces": is_table(facts.get("pieces")),
        "files": is_table(facts.get("files")),
        "steps": isinstance(steps, dict) and len(steps) > 0 and all(type(step) is int and step >= 0 for step in steps.values()),
    }  # fmt: skip
    wrong = next((key for key, right in good.items() if not right), None)
    if wrong is not None:
        raise ConfigError(f"{path}: its '{wrong}' is missing or damaged; bring it again, or collect again")
    names = {entry["name"] for entry in facts["files"]}
    for run, step in facts["steps"].items():
        if run in (".", "..") or Path(run).name != run:
            raise ConfigError(f"{path}: '{run}' is no name of a run; collect again")
        if f"{run}/checkpoint-{step:08d}/state.json" not in names:
            raise ConfigError(f"{path}: has no checkpoint of '{run}' at step {step:,}; collect again")
    return facts


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
