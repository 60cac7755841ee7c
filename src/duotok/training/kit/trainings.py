"""Which trainings a kit does: names into stages, configs and overrides, checked before anything is packed."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import yaml

from duotok.config import Config, config_folder, override, parse, read_yaml, recipe_name
from duotok.errors import ConfigError
from duotok.tracks import TRACKS
from duotok.training.kit.contents import Item
from duotok.training.kit.plan import PLACES, Training, budget, meant, stray
from duotok.training.stage import StageConfig

RUNS = Path("/runs")
"""What `{runs}` stands for while an override is checked here."""


def named(stages: Sequence[str], known: Sequence[str]) -> list[tuple[str, str, tuple[str, ...]]]:
    """Run, stage and first overrides of each name; `stage4` stands for both tracks. Raises ConfigError."""
    chosen: list[tuple[str, str, tuple[str, ...]]] = []
    for name in stages:
        stage, _, track = name.partition(".")
        if stage not in known or (track and (stage != "stage4" or track not in TRACKS)):
            names = [*known, *(f"stage4.{track}" for track in TRACKS)]
            near = difflib.get_close_matches(name, names, 1)
            raise ConfigError(
                f"--stages {name}: there are {', '.join(names)}" + (f"; did you mean {near[0]}?" if near else "")
            )
        if stage == "stage4":
            chosen += [(f"stage4.{one}", stage, (f"track={one}",)) for one in ([track] if track else TRACKS)]
        else:
            chosen.append((name, stage, ()))
    runs = [run for run, _, _ in chosen]
    twice = next((run for run in runs if runs.count(run) > 1), None)
    if twice is not None:
        raise ConfigError(f"--stages: {twice} is there twice")
    return chosen


def plan_trainings(
    stages: Sequence[str], configs: Path, minutes: Sequence[str], overrides: Sequence[str],
    class_of: Callable[[str], type[Config]], known: Sequence[str], brought: Sequence[str],
) -> tuple[list[Training], list[Item], dict[str, Config]]:  # fmt: skip
    """The trainings in order, their configs as files of the kit (without `extends`), and these configs as they are read.

    configs: a folder, or the name of a set of packaged recipes; minutes: `[RUN=]M`; overrides: `[RUN.]KEY=VALUE`; brought: runs that
    come along. Raises ConfigError for an unknown stage,
    a missing or wrong config, and a config that names an earlier run that is neither trained before nor brought.
    """
    folder = config_folder(configs)
    bare = [Training(run, stage, f"configs/{run}.yaml", first) for run, stage, first in named(stages, known)]
    if wrong := stray(minutes, bare):
        raise ConfigError(f"--minutes {wrong}: no such training; there are {', '.join(t.run for t in bare) or 'none'}")
    trainings, items, parsed = [], [], {}
    there = set(brought)
    for training in bare:
        try:
            span = budget(minutes, training)
        except ValueError:
            raise ConfigError(f"--minutes {' '.join(minutes)}: write minutes above 0, or RUN=MINUTES") from None
        chosen = [*training.overrides, *meant(overrides, training, bare)]
        source = folder / f"{training.stage}.yaml"
        if not source.is_file():
            raise ConfigError(
                f"{source}: no such file; --configs names a folder or a set of recipes, one YAML for each stage"
            )
        values: dict[str, Any] = read_yaml(source)
        config = parse(
            class_of(training.stage), override(values, [_as_path(text) for text in chosen]), recipe_name(source)
        )
        needs = _needs(training.run, config, there)
        there.add(training.run)
        parsed[training.run] = config
        items.append(Item(training.config, yaml.safe_dump(values, sort_keys=False)))
        trainings.append(Training(training.run, training.stage, training.config, tuple(chosen), span, needs))
    return trainings, items, parsed


def _needs(run: str, config: Config, there: Collection[str]) -> tuple[str, ...]:
    """The runs in RUNS that a config names. Raises ConfigError for one that is not `there` and that it cannot do without."""
    needs = []
    for named in config.earlier_runs() if isinstance(config, StageConfig) else ():
        path = Path(os.path.normpath(named.name))
        if path.is_relative_to(RUNS):
            path = path.relative_to(RUNS)
        elif path.is_absolute():
            continue  # a folder of that machine: only there can anybody look
        if str(path) not in there and not named.optional:
            raise ConfigError(
                f"{run} needs {path}: name it before in --stages, bring its checkpoint by --runs RUNS, or name another run: "
                f"--train-set {run}.{named.key}=RUN"
            )
        needs.append(str(path))
    return tuple(needs)


def _as_path(text: str) -> str:
    """An override with `{runs}` and the like, which are known only there, as a path that can be checked here."""
    for place in PLACES:
        text = text.replace(f"{{{place}}}", f"/{place}")
    return text
