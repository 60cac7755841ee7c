"""The tagging experiment of one tokenizer (paper, 4.2, 5.3 and B.2): embeddings once, then a probe for each condition and seed.

Resumable at every recording and every trained probe; scores of test songs are kept, so that intervals and differences between
conditions are drawn from the same songs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from duotok.codec.contract import Codec
from duotok.config import Config
from duotok.errors import ConfigError, MetricError
from duotok.evaluation.intervals import Array, Intervals, Resampling
from duotok.evaluation.ranking import MeasuredTags, advantage, each_tag, estimate, macro, measured_tags
from duotok.files import sha256
from duotok.records import SPLITS, Recording, Split
from duotok.sealed_arrays import read_arrays, save_arrays
from duotok.suite.tagging.embeddings import Condition, Embedded, EmbeddingCache, reader
from duotok.suite.tagging.probe_training import ProbeTraining, TaggedSongs, fit
from duotok.suite.tagging.tag_sets import TagSet, sources

Usable = dict[Split, list[tuple[Recording, Embedded]]]
"""Split -> recordings with their embeddings."""


class TaggingConfig(Config):
    """What is held constant over tokenizers."""

    training: ProbeTraining = ProbeTraining()
    seeds: tuple[int, ...] = Field(
        default=(0, 1, 2), min_length=1, description="of the probe; figures are means over them"
    )
    excerpt: float = Field(default=30.0, gt=0, description="seconds of each recording, from its middle")
    replicates: int = Field(default=2000, ge=100, description="of the bootstrap over songs")

    @property
    def resampling(self) -> Resampling:
        return Resampling(self.replicates)


@dataclass(frozen=True)
class Outcome:
    """One tokenizer under one probe: figures by condition, on the same test songs.

    figures: condition -> ap and auc; advantages: control -> what the tokens have over it; tags: which could be measured;
    by_tag: condition -> tag -> (ap, auc), mean over seeds; songs: how many of each split; problems: recording -> why it is
    left out; epochs: condition -> epochs that the probes of each seed were trained for.
    """

    figures: dict[str, Intervals]
    advantages: dict[str, Intervals]
    tags: MeasuredTags
    by_tag: dict[str, dict[str, tuple[float, float]]]
    songs: dict[str, int]
    problems: dict[str, str]
    epochs: dict[str, list[int]] = field(default_factory=dict)


def data_hash(data: TagSet) -> str:
    """Of recordings, their splits, identities, labels, and the bytes of their sound (as far as it is there)."""
    digest = hashlib.sha256(json.dumps([data.name, data.tags]).encode())
    for item, row in zip(data.recordings, data.labels(data.recordings), strict=True):
        files = [sha256(path) if path.is_file() else "" for path in sources(item)]
        digest.update(json.dumps([item.id, item.identity, item.split, row.tolist(), files]).encode())
    return digest.hexdigest()


class Experiment:
    """One tokenizer (`codec`; None: mel statistics) on one tag set. folder: of embeddings and scores."""

    def __init__(
        self, data: TagSet, content: str, config: TaggingConfig, codec: Codec | None, folder: Path, device: str = "cpu"
    ) -> None:
        """content: `data_hash(data)`."""
        self.data, self.content, self.config, self.device = data, content, config, device
        self.cache = EmbeddingCache(folder / "embeddings", codec, config.excerpt)
        self.scores_folder = folder / "scores"
        self.conditions: tuple[Condition, ...] = ("mel",) if codec is None else ("tokens", "untrained", "shuffled")

    @property
    def probes(self) -> int:
        """To train in all."""
        return len(self.conditions) * len(self.config.seeds)

    def todo(self) -> tuple[int, int]:
        """(recordings without embeddings, probes to train): what is not done yet."""
        missing = self.cache.missing(self.data.recordings)
        probes = [1 for c in self.conditions for seed in self.config.seeds if not self.scores_path(c, seed).is_file()]
        return len(missing), len(probes)

    def embed(self) -> Usable:
        """Recordings with embeddings that are as long as a piece, by split. Raises ConfigError when a split has none."""
        frames = max(1, round(self.config.training.seconds * self.cache.frame_rate))
        usable: Usable = {split: [] for split in SPLITS}
        for item in self.data.recordings:
            found = self.cache.get(item)
            if found is not None and found.frames < frames:
                self.cache.problems[item.id] = (
                    f"{item.id}: {found.frames} frames, a piece of {self.config.training.seconds:g} s has {frames}"
                )
            elif found is not None:
                usable[item.split].append((item, found))
        for split, items in usable.items():
            if not items:
                why = next(iter(self.cache.problems.values()), "no recording")
                raise ConfigError(f"{self.data.name}: nothing usable in the {split} split; the first reason: {why}")
        return usable

    def probe(self, condition: Condition, seed: int, again: bool = False) -> int:
        """Train the probe of a condition and a seed, if its scores are not kept; its epochs. again: also then."""
        usable = self.embed()
        path = self.scores_path(condition, seed)
        if again or _kept(path, self._shape(usable), _songs(usable)) is None:
            self._train(condition, seed, usable, path)
        return self._scores(condition, seed, usable)[1]

    def outcome(self, usable: Usable) -> Outcome:
        """Figures of probes that are trained (`probe`). usable: as `embed` gives it. Raises MetricError where one is not."""
        truth = self.data.labels([item for item, _ in usable["test"]])
        tags = measured_tags(truth, self.data.tags)
        scored: dict[str, list[NDArray[np.float64]]] = {}
        epochs: dict[str, list[int]] = {}
        for condition in self.conditions:
            for seed in self.config.seeds:
                scores, count = self._scores(condition, seed, usable)
                scored.setdefault(condition, []).append(scores)
                epochs.setdefault(condition, []).append(count)
        resampling, songs = self.config.resampling, len(truth)
        replicates: dict[str, dict[str, Array]] = {
            condition: macro(seeds, truth, self.data.tags, resampling) for condition, seeds in scored.items()
        }
        return Outcome(
            {condition: estimate(found, songs, resampling) for condition, found in replicates.items()},
            {
                control: advantage(replicates["tokens"], found, songs, resampling)
                for control, found in replicates.items()
                if "tokens" in replicates and control != "tokens"
            },
            tags,
            {condition: self._by_tag(seeds, truth) for condition, seeds in scored.items()},
            {split: len(items) for split, items in usable.items()},
            dict(self.cache.problems),
            epochs,
        )

    def _by_tag(self, seeds: Sequence[NDArray[np.float64]], truth: NDArray[np.bool_]) -> dict[str, tuple[float, float]]:
        each = [each_tag(scores, truth, self.data.tags) for scores in seeds]
        means = {tag: np.mean([found[tag] for found in each], axis=0) for tag in each[0]}
        return {tag: (float(ap), float(auc)) for tag, (ap, auc) in means.items()}

    def scores_path(self, condition: str, seed: int) -> Path:
        settings = self.config.training.model_dump(mode="json")
        made_by = [self.cache.model_hash, *filter(None, [self.cache.separator])]
        key = [*made_by, self.content, self.config.excerpt, settings, condition, seed]
        return self.scores_folder / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.safetensors"

    def _shape(self, usable: Usable) -> tuple[int, int]:
        return len(usable["test"]), len(self.data.tags)

    def _scores(self, condition: Condition, seed: int, usable: Usable) -> tuple[NDArray[np.float64], int]:
        """Scores of the test songs `[songs, tags]` by a probe of that seed, and its epochs."""
        kept = _kept(self.scores_path(condition, seed), self._shape(usable), _songs(usable))
        if kept is None:
            raise MetricError(f"{condition}, seed {seed}: its scores are not there; run the same command again")
        return kept

    def _train(self, condition: Condition, seed: int, usable: Usable, path: Path) -> None:
        songs = {split: self._songs(items, condition, seed) for split, items in usable.items()}
        fitted = fit(
            self.config.training, songs["train"], songs["validation"], self.cache.frame_rate, seed, self.device
        )
        scores = fitted.scores(songs["test"], self.config.training.batch_size)
        save_arrays(path, {"scores": torch.from_numpy(scores)}, {"epochs": len(fitted.losses), "songs": _songs(usable)})

    def _songs(self, items: Sequence[tuple[Recording, Embedded]], condition: Condition, seed: int) -> TaggedSongs:
        embedded = [found for _, found in items]
        return TaggedSongs(
            reader(embedded, condition, seed),
            tuple(found.frames for found in embedded),
            self.data.labels([item for item, _ in items]),
        )


def _songs(usable: Usable) -> str:
    """A hash of the recordings that a probe learned from and scores."""
    names = {split: [item.id for item, _ in items] for split, items in usable.items()}
    return hashlib.sha256(json.dumps(names, sort_keys=True).encode()).hexdigest()


def _kept(path: Path, shape: tuple[int, int], songs: str) -> tuple[NDArray[np.float64], int] | None:
    """Scores and epochs; None where they are not there, damaged, or of other songs."""
    try:
        arrays, facts = read_arrays(path)
        scores = arrays["scores"].numpy()
        return (scores, int(facts["epochs"])) if scores.shape == shape and facts["songs"] == songs else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def describe(data: TagSet) -> dict[str, Any]:
    """Facts of a tag set for tables and captions."""
    return {
        "data": data.name, "truth": data.truth, "tags": len(data.tags),
        "recordings": {split: len(data.of(split)) for split in SPLITS},
        "identities": {split: len({item.identity for item in data.of(split)}) for split in SPLITS},
    }  # fmt: skip
