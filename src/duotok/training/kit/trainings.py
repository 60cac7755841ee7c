"""The trainings of a kit: names resolved to stages, configs and overrides, checked before anything is packed."""

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
from duotok.training.kit.contents import KitItem
from duotok.training.kit.plan import PLACES, Training, assignments_for, budget, first_unmatched
from duotok.training.stage import StageConfig

RUNS = Path("/runs")
"""What `{runs}` stands for while an override is checked here."""


def parse_stages(stages: Sequence[str], stage_names: Sequence[str]) -> list[tuple[str, str, tuple[str, ...]]]:
    """Run, stage and first overrides of each name; `stage4` stands for both tracks. Raises ConfigError."""
    chosen: list[tuple[str, str, tuple[str, ...]]] = []
    for name in stages:
        stage, _, track = name.partition(".")
        if stage not in stage_names or (track and (stage != "stage4" or track not in TRACKS)):
            names = [*stage_names, *(f"stage4.{track}" for track in TRACKS)]
            near = difflib.get_close_matches(name, names, 1)
            raise ConfigError(
                f"--stages {name}: there are {', '.join(names)}" + (f"; did you mean {near[0]}?" if near else "")
            )
        if stage == "stage4":
            chosen += [
                (f"stage4.{name_of_track}", stage, (f"track={name_of_track}",))
                for name_of_track in ([track] if track else TRACKS)
            ]
        else:
            chosen.append((name, stage, ()))
    runs = [run for run, _, _ in chosen]
    repeated = next((run for run in runs if runs.count(run) > 1), None)
    if repeated is not None:
        raise ConfigError(f"--stages: {repeated} is there twice; name it once")
    return chosen


def plan_trainings(
    stages: Sequence[str], configs: Path, minutes: Sequence[str], overrides: Sequence[str],
    class_of: Callable[[str], type[Config]], stage_names: Sequence[str], included_runs: Sequence[str],
) -> tuple[list[Training], list[KitItem], dict[str, Config]]:  # fmt: skip
    """The trainings in order, their configs as files of the kit (without `extends`), and the parsed configs.

    configs: a folder, or the name of a set of packaged recipes; minutes: `[RUN=]M`; overrides: `[RUN.]KEY=VALUE`; included_runs:
    runs whose checkpoints are in the kit. Raises ConfigError for an unknown stage, a missing or wrong config, and a config
    that names an earlier run that is neither trained before nor included.
    """
    folder = config_folder(configs)
    requested = [
        Training(run, stage, f"configs/{run}.yaml", first) for run, stage, first in parse_stages(stages, stage_names)
    ]
    if unmatched := first_unmatched(minutes, requested):
        raise ConfigError(
            f"--minutes {unmatched}: no such training; there are {', '.join(t.run for t in requested) or 'none'}"
        )
    trainings, items, parsed = [], [], {}
    available = set(included_runs)
    for training in requested:
        try:
            span = budget(minutes, training)
        except ValueError:
            raise ConfigError(f"--minutes {' '.join(minutes)}: write minutes above 0, or RUN=MINUTES") from None
        chosen = [*training.overrides, *assignments_for(overrides, training, requested)]
        of_run, source = (folder / f"{name}.yaml" for name in (training.run, training.stage))
        source = of_run if of_run.is_file() else source  # stage4.vocals.yaml before stage4.yaml
        if not source.is_file():
            raise ConfigError(
                f"{source}: no such file; --configs names a folder or a set of recipes, one YAML for each stage"
            )
        values: dict[str, Any] = read_yaml(source)
        config = parse(
            class_of(training.stage), override(values, [_as_path(text) for text in chosen]), recipe_name(source)
        )
        needs = _needs(training.run, config, available)
        available.add(training.run)
        parsed[training.run] = config
        items.append(KitItem(training.config, yaml.safe_dump(values, sort_keys=False)))
        trainings.append(Training(training.run, training.stage, training.config, tuple(chosen), span, needs))
    return trainings, items, parsed


def _needs(run: str, config: Config, available: Collection[str]) -> tuple[str, ...]:
    """The runs in RUNS that a config names. Raises ConfigError for a required one that is not `available`."""
    needs = []
    for earlier in config.earlier_runs() if isinstance(config, StageConfig) else ():
        path = Path(os.path.normpath(earlier.name))
        if path.is_relative_to(RUNS):
            path = path.relative_to(RUNS)
        elif path.is_absolute():
            continue  # a folder of that machine, which can be checked only there
        if str(path) not in available and not earlier.optional:
            raise ConfigError(
                f"{run} needs {path}: name it before in --stages, bring its checkpoint by --runs RUNS, or name another run: "
                f"--train-set {run}.{earlier.key}=RUN"
            )
        needs.append(str(path))
    return tuple(needs)


def _as_path(text: str) -> str:
    """An override whose placeholders such as `{runs}` are replaced by paths that can be parsed here."""
    for place in PLACES:
        text = text.replace(f"{{{place}}}", f"/{place}")
    return text
