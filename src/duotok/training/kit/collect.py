"""The newest checkpoints of runs as pieces with hashes, for transfer in small files. Standard library only.

A folder gets results.001, results.002 ... (one tar of all runs, cut into pieces) and, when these are complete, results.json. `duotok
kit join` checks and joins them: `join.py`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from duotok.files import put, write_bytes
from duotok.training.kit.pieces import cut, entries
from duotok.training.kit.start import read

FORMAT = 1
NAME, TABLE = "results", "results.json"
STATE = "optimizer.safetensors"
LOG = "log.jsonl"
ALONGSIDE = ("best.json", "config.json", LOG)
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str) -> int:
    """Bytes of `60MiB`, `1.5GB` or `1000`. Raises ValueError that says so."""
    match = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]*)\s*", text)
    unit = UNITS.get((match[2] or "B").upper()) if match else None
    try:
        size = int(float(match[1]) * unit) if match and unit else 0
    except ValueError:
        size = 0
    if size <= 0:
        raise ValueError(f"size '{text}': write it as 60MiB, 1.5GB or a number of bytes")
    return size


def checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    return sorted(path for path in run.glob("checkpoint-*") if (path / "state.json").is_file())


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def chosen(run: Path, weights_only: bool) -> list[str]:
    """Files of a run, relative to it, that its newest and its best checkpoint need.

    weights_only: no optimizer and no generators, and of the two checkpoints the one that later stages start from.
    """
    newest = checkpoints(run)[-1].name
    best = read(run / "best.json").get("step")
    folders = {newest, *([f"checkpoint-{best:08d}"] if best is not None else [])}
    if weights_only and len(folders) > 1 and (run / min(folders) / "state.json").is_file():
        folders.remove(newest)
    files = [
        f"{folder}/{path.name}"
        for folder in sorted(folders)
        for path in sorted((run / folder).iterdir() if (run / folder).is_dir() else ())
        if not (weights_only and (path.name == STATE or path.name.startswith("random.")))
    ]
    return [*files, *(name for name in ALONGSIDE if (run / name).is_file())]


def pack(runs: Path, names: Sequence[str], folder: Path, size: int, weights_only: bool = False) -> dict[str, Any]:
    """Write newest and best checkpoint, config and log of runs into `folder` as pieces of at most `size` bytes.

    weights_only: as in `chosen`. A run may go on training meanwhile. The results of an earlier call
    are replaced. Returns results.json: `steps` of each run, `pieces`, `files`.
    """
    _check_place(folder)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{NAME}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        file_names = [
            f"{name}/{file}"
            for name in names
            for file in _link_files(runs / name, partial / "files" / name, weights_only)
        ]
        (partial / "pieces").mkdir()
        pieces = cut(((name, partial / "files" / name) for name in file_names), partial / "pieces", f"{NAME}.", size)
        facts = {
            "format": FORMAT, "resumable": not weights_only, "pieces": pieces,
            "steps": {name: step_of(checkpoints(partial / "files" / name)[-1]) for name in names},
            "files": entries(partial / "files", file_names),
        }  # fmt: skip
        old = _pieces(folder)
        # Listed before they are written, so that an interrupted collection can be repeated.
        announced = {**facts, "pieces": [*pieces, *({"name": n, "bytes": 0, "sha256": ""} for n in old)]}
        write_bytes(folder / TABLE, (json.dumps(announced, indent=1) + "\n").encode())
        for name in old:
            (folder / name).unlink(missing_ok=True)
        for piece in pieces:
            put(partial / "pieces" / piece["name"], folder / piece["name"])
        write_bytes(folder / TABLE, (json.dumps(facts, indent=1) + "\n").encode())
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return facts


def _pieces(folder: Path) -> list[str]:
    """The pieces that an earlier collection wrote into a folder."""
    facts = read(folder / TABLE)
    pieces = facts.get("pieces") if {"format", "steps", "files"} <= facts.keys() else None
    names = [str(piece.get("name")) for piece in pieces or () if isinstance(piece, dict)]
    return [name for name in dict.fromkeys(names) if re.fullmatch(rf"{NAME}\.[0-9]+", name)]


def _check_place(folder: Path) -> None:
    """Raises ValueError when there are files with names of results that no collection wrote."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file; name a folder")
    own_pieces = _pieces(folder)
    for path in sorted(folder.glob(f"{NAME}.*")):
        if (path.name == TABLE and not own_pieces) or (path.suffix[1:].isdigit() and path.name not in own_pieces):
            raise ValueError(f"{path}: is there, and no result of a kit; name another folder with --collect")


def _link_files(run: Path, place: Path, weights_only: bool) -> list[str]:
    """Link (or copy) the chosen files into `place`, since the trainer may delete its own meanwhile; their names."""
    for attempt in range(5):
        shutil.rmtree(place, ignore_errors=True)
        names = chosen(run, weights_only)
        try:
            for name in names:
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                _link(run / name, place / name)
            return names
        except FileNotFoundError:  # the trainer has written a newer checkpoint
            if attempt == 4:
                raise
    raise AssertionError


def _link(source: Path, target: Path) -> None:
    if source.name in ALONGSIDE:  # these grow
        shutil.copyfile(source, target)
        return
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)
