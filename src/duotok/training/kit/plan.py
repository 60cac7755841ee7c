"""The plan of a kit: `kit.json`, written where it is made, read where it runs. Python's standard library only."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "kit.json"
FORMAT = 1
PLACES = ("kit", "out", "work", "runs")
"""Names in braces that the kit's arguments may contain: its own folder, OUT, OUT/work and OUT/runs."""


class KitError(Exception):
    """An error of a running kit, in one line; `DuoTokError` elsewhere."""


@dataclass(frozen=True)
class Training:
    """One run of `duotok train`. run: its folder in RUNS; stage: the command's argument; config: file in the kit;
    minutes: its time budget, None where the config's steps decide; needs: the runs in RUNS that its config names.
    """

    run: str
    stage: str
    config: str
    overrides: tuple[str, ...] = ()
    minutes: float | None = None
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class KitPlan:
    """python: "3.12", system and machine as `platform` names them, empty for any; requires: distributions
    that must be installed before anything begins; wheels: files of the kit to install; shards: the kit's folder of shards,
    empty where data are prepared; prepare: arguments of `duotok data prepare` without WORK and workers; songs: how many to
    generate.
    """

    trainings: tuple[Training, ...] = ()
    python: str = ""
    system: str = ""
    machine: str = ""
    requires: tuple[str, ...] = ()
    wheels: tuple[str, ...] = ()
    shards: str = ""
    prepare: tuple[str, ...] = ()
    songs: int = 0

    def text(self) -> str:
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1) + "\n"


def read_plan(kit: Path) -> KitPlan:
    """The plan of a kit; its file was checked before."""
    values: dict[str, Any] = json.loads((kit / FILE).read_text(encoding="utf-8"))
    values.pop("format")
    values["trainings"] = tuple(_training(row) for row in values["trainings"])
    for name in ("requires", "wheels", "prepare"):
        values[name] = tuple(values[name])
    return KitPlan(**values)


def _training(row: dict[str, Any]) -> Training:
    return Training(**{**row, **{name: tuple(row[name]) for name in ("overrides", "needs")}})


def fingerprint(*values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def train_words(plan: KitPlan, training: Training) -> list[str]:
    """`duotok train` for a training, with places in braces."""
    shards = training.stage != "lm"  # which learns from the tokens that its config names
    words = ["train", training.stage, "-c", f"{{kit}}/{training.config}"]
    words += [*(["--data", "{work}"] if shards else []), "--runs", "{runs}"]
    if plan.shards and shards:
        words += ["--shards", f"{{kit}}/{plan.shards}"]
    if training.minutes is not None:
        words += ["--minutes", f"{training.minutes:g}"]
    for override in training.overrides:
        words += ["--set", override]
    return words


def songs_words(plan: KitPlan) -> list[str]:
    """`duotok songs` for the songs of the kit, with places in braces."""
    return ["songs", "-n", str(plan.songs), "-o", "{out}/songs", "--format", "opus"]


def step_hashes(plan: KitPlan, hashes: Mapping[str, str]) -> dict[str, str]:
    """What `state.json` has of the steps before the trainings that this kit has and that are done; hashes: those of its files."""

    def of(folder: str) -> list[tuple[str, str]]:
        return [(name, value) for name, value in hashes.items() if name.startswith(f"{folder}/")]

    return {
        **({"packages": fingerprint(of("wheels"), plan.python)} if plan.wheels else {}),
        **({"songs": fingerprint(songs_words(plan))} if plan.songs else {}),
        **({"data": fingerprint(plan.prepare, of("audio"), plan.songs)} if plan.prepare else {}),
    }


def training_hash(plan: KitPlan, training: Training, hashes: Mapping[str, str]) -> str:
    """What `state.json` has of a training that is done; hashes: those of the kit's files, by name."""
    return fingerprint(train_words(plan, training), hashes.get(training.config))


def assignments_for(assignments: Sequence[str], training: Training, trainings: Sequence[Training]) -> list[str]:
    """The `[RUN.]KEY=VALUE` that apply to a training, as KEY=VALUE. RUN: a run or a stage; `all` or nothing: every training."""
    names = (training.run, training.stage, "all")  # the longer name first
    others = {name for other in trainings for name in (other.run, other.stage)} - {*names}
    matching = []
    for assignment in assignments:
        if any(assignment.startswith(f"{name}.") for name in others):
            continue
        name = next((name for name in names if assignment.startswith(f"{name}.")), None)
        matching.append(assignment if name is None else assignment.removeprefix(f"{name}."))
    return matching


def budget(minutes: Sequence[str], training: Training) -> float | None:
    """The minutes of a training: the last matching `[RUN=]M`. Raises ValueError for anything but a number above 0."""
    chosen = training.minutes
    for text in minutes:
        name, equals, value = text.rpartition("=")
        number = float(value)
        if not 0 < number < float("inf"):
            raise ValueError(text)
        if not equals or name in (training.run, training.stage):
            chosen = number
    return chosen


def first_unmatched(minutes: Sequence[str], trainings: Sequence[Training]) -> str:
    """The first of `[RUN=]M` that names no training; empty if there is none."""
    known = {name for training in trainings for name in (training.run, training.stage)}
    return next((text for text in minutes if "=" in text and text.rpartition("=")[0] not in known), "")
