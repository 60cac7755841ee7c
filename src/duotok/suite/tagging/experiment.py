"""The tagging experiment of one tokenizer (paper, 4.2, 5.3 and B.2): embeddings once, then a probe for each condition and seed.

Resumable at every recording and every trained probe; scores of test songs are kept, so that intervals and differences between
conditions are drawn from the same songs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from duotok.codec.contract import Codec
from duotok.config import Config
from duotok.errors import ConfigError
from duotok.evaluation.intervals import Array, Intervals, Resampling
from duotok.evaluation.ranking import MeasuredTags, advantage, each_tag, estimate, macro, measured_tags
from duotok.files import sha256, write_bytes
from duotok.records import SPLITS, Recording, Split
from duotok.suite.tagging.embeddings import Condition, Embedded, EmbeddingCache, reader
from duotok.suite.tagging.probe_training import ProbeTraining, TaggedSongs, fit
from duotok.suite.tagging.tag_sets import TagSet, sources

Report = Callable[[str], None]


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

    def todo(self) -> tuple[int, int]:
        """(recordings without embeddings, probes to train): what is not done yet."""
        missing = self.cache.missing(self.data.recordings)
        probes = [1 for c in self.conditions for seed in self.config.seeds if not self._scores_path(c, seed).is_file()]
        return len(missing), len(probes)

    def embed(self, advance: Callable[[float], None] | None = None) -> dict[Split, list[tuple[Recording, Embedded]]]:
        """Recordings with embeddings that are as long as a piece, by split. Raises ConfigError when a split has none."""
        frames = max(1, round(self.config.training.seconds * self.cache.frame_rate))
        usable: dict[Split, list[tuple[Recording, Embedded]]] = {split: [] for split in SPLITS}
        for number, item in enumerate(self.data.recordings, 1):
            found = self.cache.get(item)
            if found is not None and found.frames < frames:
                self.cache.problems[item.id] = (
                    f"{item.id}: {found.frames} frames, a piece of {self.config.training.seconds:g} s has {frames}"
                )
            elif found is not None:
                usable[item.split].append((item, found))
            if advance is not None:
                advance(number / len(self.data.recordings))
        for split, items in usable.items():
            if not items:
                why = next(iter(self.cache.problems.values()), "no recording")
                raise ConfigError(f"{self.data.name}: nothing usable in the {split} split; the first reason: {why}")
        return usable

    def run(self, say: Report, advance: Callable[[float], None] | None = None) -> Outcome:
        """Embeddings, probes, figures; what is done is read."""
        usable = self.embed(advance)
        say(f"embeddings of {sum(map(len, usable.values()))} recordings, {len(self.cache.problems)} left out")
        truth = self.data.labels([item for item, _ in usable["test"]])
        tags = measured_tags(truth, self.data.tags)
        scored: dict[str, list[NDArray[np.float64]]] = {}
        epochs: dict[str, list[int]] = {}
        for condition in self.conditions:
            for seed in self.config.seeds:
                scores, count = self._scores(condition, seed, usable, say)
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

    def _scores_path(self, condition: str, seed: int) -> Path:
        settings = self.config.training.model_dump(mode="json")
        key = [self.cache.model_hash, self.content, self.config.excerpt, settings, condition, seed]
        return self.scores_folder / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.safetensors"

    def _scores(
        self, condition: Condition, seed: int, usable: dict[Split, list[tuple[Recording, Embedded]]], say: Report
    ) -> tuple[NDArray[np.float64], int]:
        """Scores of the test songs `[songs, tags]` by a probe of that seed, and its epochs."""
        path = self._scores_path(condition, seed)
        expected = (len(usable["test"]), len(self.data.tags))
        try:
            kept = load_file(path)
            if kept["scores"].shape == expected:
                return kept["scores"], int(kept["epochs"][0])
        except (OSError, SafetensorError, KeyError):
            pass  # not there, or damaged: it is trained
        songs = {split: self._songs(items, condition, seed) for split, items in usable.items()}
        fitted = fit(
            self.config.training, songs["train"], songs["validation"], self.cache.frame_rate, seed, self.device
        )
        scores = fitted.scores(songs["test"], self.config.training.batch_size)
        write_bytes(path, save({"scores": scores, "epochs": np.array([len(fitted.losses)])}))
        say(
            f"{condition}, seed {seed}: {len(fitted.losses)} epochs, best {fitted.epoch}, tuning loss {min(fitted.losses):.4f}"
        )
        return scores, len(fitted.losses)

    def _songs(self, items: Sequence[tuple[Recording, Embedded]], condition: Condition, seed: int) -> TaggedSongs:
        embedded = [found for _, found in items]
        return TaggedSongs(
            reader(embedded, condition, seed),
            tuple(found.frames for found in embedded),
            self.data.labels([item for item, _ in items]),
        )


def describe(data: TagSet) -> dict[str, Any]:
    """Facts of a tag set for tables and captions."""
    return {
        "data": data.name, "truth": data.truth, "tags": len(data.tags),
        "recordings": {split: len(data.of(split)) for split in SPLITS},
        "identities": {split: len({item.identity for item in data.of(split)}) for split in SPLITS},
    }  # fmt: skip
