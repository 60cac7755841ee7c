"""Several tokenizers and probes on one tag set: what is to do and what it costs, then doing it, cell by cell."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from duotok.clock import SAMPLE_RATE
from duotok.codec.contract import Codec
from duotok.config import override, parse
from duotok.errors import ConfigError, MetricError
from duotok.evaluation.probes import PROBES
from duotok.evaluation.results import Cell, files_of, read_cell, why_not_done, write_cell
from duotok.suite.opened import open_all
from duotok.suite.tagging.embeddings import MEL, EmbeddingCache
from duotok.suite.tagging.experiment import Experiment, Report, TaggingConfig, data_hash
from duotok.suite.tagging.table import cell_of, inputs_of
from duotok.suite.tagging.tag_sets import TagSet, open_tag_set

WORK = "tagging"
"""Folder in the store for embeddings and scores."""
TRIAL_SECONDS = 5.0
"""Sound that a dry run encodes to tell what all of it will take."""
Bar = Callable[[str], AbstractContextManager[Callable[[float], None]]]


@dataclass(frozen=True)
class Job:
    """One cell: a tokenizer (or mel statistics) under a probe."""

    name: str
    experiment: Experiment

    @property
    def probe(self) -> str:
        return self.experiment.config.training.probe.kind

    def __str__(self) -> str:
        return f"{self.name}, {self.probe}"


@dataclass(frozen=True)
class Plan:
    """All cells of a run, in order."""

    data: TagSet
    jobs: tuple[Job, ...]
    output: Path

    def costs(self) -> list[dict[str, Any]]:
        """For each cell what is left to do; `seconds` of encoding are estimated from a short trial on this machine."""
        speeds: dict[str, tuple[float, float]] = {}
        result = []
        for job in self.jobs:
            missing, probes = job.experiment.todo()
            missing = 0 if job.name in speeds else missing  # another probe of the same tokenizer reads them
            if missing:
                speeds[job.name] = _trial(job.experiment.cache)
            speed, bytes_a_second = speeds.get(job.name, (0.0, 0.0))
            sound = sum(
                min(item.seconds or job.experiment.config.excerpt, job.experiment.config.excerpt)
                for item in self.data.recordings[:missing]
            )
            done = not why_not_done(self.output, inputs_of(job.name, job.experiment))
            result.append(
                {
                    "tokenizer": job.name, "probe": job.probe, "done": done, "recordings": missing, "probes": probes,
                    "seconds": round(speed * sound, 1), "gigabytes": round(bytes_a_second * sound / 1e9, 3),
                }
            )  # fmt: skip
        return result

    def lines(self) -> list[str]:
        """The costs for people."""
        splits = {split: len(self.data.of(split)) for split in ("train", "validation", "test")}  # type: ignore[arg-type]
        truth = "true labels" if self.data.truth else "PSEUDO-LABELS"
        lines = [f"{self.data.name}: {truth}, {len(self.data.tags)} tags, recordings {splits}"]
        for cost in self.costs():
            rest = f"{cost['recordings']} recordings to encode (about {cost['seconds']:.0f} s, {cost['gigabytes']} GB)"
            rest += f", {cost['probes']} probes to train"
            lines.append(f"{cost['tokenizer']}, {cost['probe']}: {'done' if cost['done'] else rest}")
        return lines


def plan(
    data: str, models: Sequence[str], output: Path, probes: Sequence[str], overrides: Sequence[str], split: str,
    threshold: float, device: str,
) -> Plan:  # fmt: skip
    """Open everything and check it. Raises ConfigError for unknown probes, splits or settings, and as `open_codec`."""
    unknown = [probe for probe in probes if probe not in PROBES]
    if unknown:
        raise ConfigError(f"probe '{unknown[0]}' does not exist; choose {', '.join(PROBES)}")
    if split not in ("artist", "marble"):
        raise ConfigError(f"split '{split}' does not exist; choose artist or marble")
    values = override({}, list(overrides))
    configs = {}
    for probe in dict.fromkeys(probes):
        training = {**values.get("training", {})}
        training["probe"] = {**training.get("probe", {}), "kind": probe}
        configs[probe] = parse(TaggingConfig, {**values, "training": training}, "--set")
    tag_set = open_tag_set(data, split, threshold)  # type: ignore[arg-type]
    codecs: dict[str, Codec | None] = {**open_all(models, device, mix=True), MEL: None}
    content = data_hash(tag_set)
    jobs = [
        Job(name, Experiment(tag_set, content, configs[probe], codec, output / WORK, device))
        for probe in configs
        for name, codec in codecs.items()
    ]
    return Plan(tag_set, tuple(jobs), output)


def conduct(found: Plan, output: Path, say: Report, bar: Bar) -> list[Cell]:
    """Every cell of the plan, measured or read; one that cannot be measured is told and does not stop the others.

    Raises MetricError when not one can be.
    """
    cells, problems = list[Cell](), list[str]()
    for job in found.jobs:
        inputs = inputs_of(job.name, job.experiment)
        with bar(str(job)) as advance:
            why = why_not_done(output, inputs)
            if not why:
                cells.append(read_cell(files_of(output, inputs.tokenizer, inputs.instrument)[1]))
                say(f"{job}: done before")
                continue
            say(f"{job}: {why}")
            try:
                outcome = job.experiment.run(lambda text, job=job: say(f"{job}: {text}"), advance)  # type: ignore[misc]
            except (ConfigError, MetricError) as error:
                problems.append(f"{job}: {error}")
                say(problems[-1])
                continue
            cell = cell_of(job.name, job.experiment, outcome)
            write_cell(output, cell)
            cells.append(cell)
    if not cells:
        raise MetricError(problems[0])
    return cells


def _trial(cache: EmbeddingCache) -> tuple[float, float]:
    """(seconds of work, bytes of embeddings) for a second of sound."""
    noise = 0.1 * torch.randn(2, round(TRIAL_SECONDS * SAMPLE_RATE), generator=torch.Generator().manual_seed(0))
    cache.embed(noise[:, :SAMPLE_RATE])  # weights are read now
    start = time.perf_counter()
    embeddings, _ = cache.embed(noise)
    return (time.perf_counter() - start) / TRIAL_SECONDS, 2 * embeddings.numel() / TRIAL_SECONDS
