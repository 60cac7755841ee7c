"""Several tokenizers and probes on one tag set: what is to do and what it costs, then doing it, cell by cell.

Units are the embedding of one recording and the training of one probe; the cells are made of what these left in the store.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from duotok.clock import SAMPLE_RATE
from duotok.config import parse
from duotok.data.jobs import Unit
from duotok.errors import ConfigError, DuoTokError, one_line
from duotok.evaluation.intervals import minimum_songs
from duotok.evaluation.probes import PROBES
from duotok.evaluation.results import Cell, Inputs
from duotok.evaluation.store import files_of, read_cell, why_not_done, write_cell
from duotok.evaluation.systems import SystemConfig
from duotok.suite.costs import TRIAL_SECONDS, Todo
from duotok.suite.opened import open_each
from duotok.suite.runner import Found, Gap, Runner, write_gap
from duotok.suite.tagging.embeddings import MEL, EmbeddingCache
from duotok.suite.tagging.experiment import Experiment, TaggingConfig, data_hash
from duotok.suite.tagging.probe_training import step_seconds
from duotok.suite.tagging.table import INSTRUMENT, cell_of, inputs_of, measures
from duotok.suite.tagging.tag_sets import MtatSplit, TagSet, open_tag_set
from duotok.suite.tagging.work import embed_recording, train_probe

WORK = "tagging"
"""Folder in the store for embeddings and scores."""


class TaggingSettings(TaggingConfig):
    """data: KIND=FOLDER (docs/tagging.md); split: of MagnaTagATune; threshold: from which a pseudo-label counts; limit: the first so
    many recordings, 0 for all."""

    data: str = ""
    probes: tuple[str, ...] = Field(default=("conformer",), min_length=1)
    split: MtatSplit = "artist"
    threshold: float = 0.25
    limit: int = Field(default=0, ge=0)
    device: str = "cpu"

    def of(self, probe: str) -> TaggingConfig:
        """What is held constant over tokenizers, with one probe."""
        if probe not in PROBES:
            raise ConfigError(f"probe '{probe}' does not exist; choose {', '.join(PROBES)}")
        values = {key: value for key, value in self.model_dump().items() if key in TaggingConfig.model_fields}
        values["training"]["probe"]["kind"] = probe
        return parse(TaggingConfig, values)


@dataclass(frozen=True)
class Job:
    """One cell: a tokenizer (or mel statistics) under a probe. system: what opens the tokenizer again; None for mel statistics."""

    name: str
    experiment: Experiment
    system: SystemConfig | None

    @property
    def probe(self) -> str:
        return self.experiment.config.training.probe.kind

    @property
    def inputs(self) -> Inputs:
        return inputs_of(self.name, self.experiment)

    def __str__(self) -> str:
        return f"{self.name}, {self.probe}"


@dataclass(frozen=True)
class Plan:
    """All cells of a run, in order. gaps: tokenizers that have none."""

    data: TagSet
    content: str
    jobs: tuple[Job, ...]
    settings: TaggingSettings
    store: Path
    gaps: tuple[Gap, ...] = ()

    # -- units -----------------------------------------------------------------------------------------------------------

    def _place(self, job: Job) -> dict[str, Any]:
        settings = self.settings
        return {
            "data": settings.data, "split": settings.split, "threshold": settings.threshold, "limit": settings.limit,
            "content": self.content, "config": job.experiment.config.model_dump(mode="json"),
            "system": None if job.system is None else job.system.model_dump(mode="json"),
            "folder": str(self.store / WORK), "device": settings.device,
        }  # fmt: skip

    def _embeddings(self, job: Job, again: bool) -> list[Unit]:
        """One for each recording; the name of its file changes with everything that decides it. Files that are not there are told
        by the unit."""
        units = []
        for item in self.data.recordings:
            try:
                kept = job.experiment.cache.path(item).name
            except DuoTokError as error:
                kept = str(error)
            folder = str(job.experiment.cache.folder)
            place = {"experiment": self._place(job), "recording": item.id, "again": again, "folder": folder}
            units.append(Unit(f"{job.name}/{item.id}", {"kept": kept}, place))
        return units

    def _probes(self, job: Job, problems: dict[str, str], again: bool) -> list[Unit]:
        place = {"experiment": self._place(job), "problems": problems, "again": again}
        return [
            Unit(
                f"{job}/{condition}/{seed}", {"kept": job.experiment.scores_path(condition, seed).name, "left": sorted(problems)},
                {**place, "condition": condition, "seed": seed},
            )
            for condition in job.experiment.conditions
            for seed in job.experiment.config.seeds
        ]  # fmt: skip

    # -- what is to do ---------------------------------------------------------------------------------------------------

    def why(self, job: Job, retry: bool = False, force: bool = False) -> str:
        if force:
            return "measured again, as asked for"
        why = why_not_done(self.store, job.inputs)
        if not why and retry and _failed(self._cell(job)):
            return "some of it failed"
        return why

    def _cell(self, job: Job) -> Cell:
        return read_cell(files_of(self.store, job.name, job.inputs.instrument)[1])

    def todo(self, retry: bool = False, force: bool = False) -> list[Todo]:
        """A line for each cell; minutes are estimated from short trials on this machine, training at its longest."""
        result, encoded = list[Todo](), set[str]()
        for job in self.jobs:
            experiment = job.experiment
            why = self.why(job, retry, force)
            if not why:
                result.append(Todo(job.name, job.inputs.instrument, ""))
                continue
            missing, probes = experiment.todo() if not force else (len(self.data.recordings), experiment.probes)
            missing = 0 if job.name in encoded else missing  # another probe of the same tokenizer reads them
            encoded.add(job.name)
            minutes, unknown = self._minutes(experiment, missing, probes)
            work = f"{missing} recordings to encode, {probes} probes to train"
            result.append(Todo(job.name, job.inputs.instrument, why, missing, minutes, unknown, work))
        instruments = [f"{INSTRUMENT}.{probe}" for probe in self.settings.probes]
        return result + [Todo(g.tokenizer, i, "", gap=g.reason) for g in self.gaps for i in instruments]

    def _minutes(self, experiment: Experiment, missing: int, probes: int) -> tuple[float | None, str]:
        try:
            speed, width = _trial(experiment.cache)
        except Exception as error:  # whatever a tokenizer raises; the run itself names it
            return None, f"encoding {TRIAL_SECONDS:g} s of noise failed: {one_line(error)}"
        excerpt, training = experiment.config.excerpt, experiment.config.training
        sound = sum(min(item.seconds or excerpt, excerpt) for item in self.data.recordings[:missing])
        pieces = sum(
            max(1, int(min(item.seconds or excerpt, excerpt) / training.seconds)) for item in self.data.of("train")
        )
        steps = training.epochs * -(-pieces // training.batch_size)
        batch = min(training.batch_size, pieces)
        each = step_seconds(training, width, experiment.cache.frame_rate, len(self.data.tags), batch) if probes else 0.0
        return (speed * sound + probes * steps * each) / 60, ""

    # -- doing it --------------------------------------------------------------------------------------------------------

    def conduct(self, runner: Runner) -> Found:
        """Every cell, measured or read; one that cannot be measured is a gap with its reason and stops no other."""
        found, problems_of = Found(), dict[str, dict[str, str]]()
        for job in self.jobs:
            why = self.why(job, runner.retry, runner.force)
            if not why:
                found.cells.append(self._cell(job))
                runner.say(f"{job}: done before")
                continue
            runner.say(f"{job}: {why}")
            try:
                if job.name not in problems_of:
                    problems_of[job.name] = self._embedded(job, runner)
                cell = self._measured(job, problems_of[job.name], runner)
                write_cell(self.store, cell)
            except DuoTokError as error:
                found.problems.append(f"{job}: {error}")
                runner.say(found.problems[-1])
                cell = write_gap(self.store, job.inputs, self._measures(job), str(error))
            found.cells.append(cell)
        for gap in self.gaps:
            found.problems.append(f"{gap.tokenizer}: {INSTRUMENT}: {gap.reason}")
            found.cells += self._gap(gap)
        return found

    def _gap(self, gap: Gap) -> list[Cell]:
        if not gap.model_hash:
            return []
        cells = []
        for job in self.jobs:
            if job.system is None:  # one for each probe, on the same data, with the same settings
                inputs = Inputs(gap.tokenizer, job.inputs.instrument, gap.model_hash, self.content, job.inputs.config)
                cells.append(write_gap(self.store, inputs, measures(("tokens",), job.probe), gap.reason))
        return cells

    def _measures(self, job: Job) -> Any:
        return measures(job.experiment.conditions, job.probe)

    def _embedded(self, job: Job, runner: Runner) -> dict[str, str]:
        """Recording -> why it has no embeddings."""
        units = self._embeddings(job, runner.force)
        results = runner.run(INSTRUMENT, f"embeddings of {job.name}", embed_recording, units, _embedded)
        told = {unit: result["failed"] for unit, result in results.done.items() if result["failed"]} | results.failed
        return {unit.place["recording"]: told[unit.id] for unit in units if unit.id in told}

    def _measured(self, job: Job, problems: dict[str, str], runner: Runner) -> Cell:
        experiment = job.experiment
        experiment.cache.problems.update(problems)
        usable = experiment.embed()
        runner.say(
            f"{job}: embeddings of {sum(map(len, usable.values()))} recordings, {len(experiment.cache.problems)} left out"
        )
        units = self._probes(job, dict(experiment.cache.problems), runner.force)
        results = runner.run(
            INSTRUMENT, f"probes of {job}", train_probe, units,
            lambda unit, _: (experiment.scores_folder / unit.payload["kept"]).is_file(),
        )  # fmt: skip
        for unit, reason in results.failed.items():
            raise DuoTokError(f"probe {unit.rpartition(job.probe + '/')[2]}: {reason}")
        return cell_of(job.name, experiment, experiment.outcome(usable))


def _embedded(unit: Unit, result: dict[str, Any]) -> bool:
    """Whether its file is there, or the reason why it is not, which only another sound or --retry changes."""
    return bool(result["failed"]) or (Path(unit.place["folder"]) / unit.payload["kept"]).is_file()


def _failed(cell: Cell) -> bool:
    """Whether a recording failed; tags that cannot be measured are none."""
    return any(row.measure == "scored" for row in cell.failures)


def plan(settings: TaggingSettings, systems: Sequence[SystemConfig], store: Path) -> Plan:
    """Open everything and check it. Raises ConfigError for unknown probes or settings and too few test recordings, and as
    `open_tag_set`."""
    configs = {probe: settings.of(probe) for probe in dict.fromkeys(settings.probes)}
    tag_set = open_tag_set(settings.data, settings.split, settings.threshold, settings.limit)
    least, there = minimum_songs(settings.of(settings.probes[0]).resampling.level), len(tag_set.of("test"))
    if there < least:
        raise ConfigError(
            f"{tag_set.name}: {there} recordings in the test split, and an interval needs {least}; give more recordings "
            "(about four times as many in all)"
        )
    named, gaps = open_each(systems, mix=True)
    content = data_hash(tag_set)
    jobs = [
        Job(name, Experiment(tag_set, content, config, codec, store / WORK, settings.device), system)
        for config in configs.values()
        for name, codec, system in [*((one.name, one.codec, one.config) for one in named), (MEL, None, None)]
    ]
    return Plan(tag_set, content, tuple(jobs), settings, store, tuple(gaps))


def _trial(cache: EmbeddingCache) -> tuple[float, int]:
    """(seconds of a core for a second of sound, width of the embeddings)."""
    noise = 0.1 * torch.randn(2, round(TRIAL_SECONDS * SAMPLE_RATE), generator=torch.Generator().manual_seed(0))
    cache.embed(noise[:, :SAMPLE_RATE])  # weights are read now
    start = time.process_time()
    embeddings, _ = cache.embed(noise)
    return (time.process_time() - start) / TRIAL_SECONDS, embeddings.shape[1]
