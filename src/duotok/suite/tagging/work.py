"""The units of a tagging experiment: one recording embedded, one probe trained. Plain JSON in and out, so they run in any process."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from duotok.config import parse
from duotok.evaluation.systems import SystemConfig
from duotok.suite.opened import codec_named
from duotok.suite.tagging.experiment import Experiment, TaggingConfig
from duotok.suite.tagging.tag_sets import open_tag_set


def embed_recording(payload: dict[str, Any]) -> dict[str, Any]:
    """failed: why the recording has no embeddings, "" where they lie in the cache now."""
    experiment = _experiment(json.dumps(payload["experiment"], sort_keys=True))
    item = next(item for item in experiment.data.recordings if item.id == payload["recording"])
    experiment.cache.problems.pop(item.id, None)
    experiment.cache.get(item, again=payload["again"])
    return {"failed": experiment.cache.problems.get(item.id, "")}


def train_probe(payload: dict[str, Any]) -> dict[str, Any]:
    """The epochs that a probe was trained for; its scores lie in the folder of scores now. problems: recordings without embeddings."""
    experiment = _experiment(json.dumps(payload["experiment"], sort_keys=True))
    experiment.cache.problems = dict(payload["problems"])
    return {"epochs": experiment.probe(payload["condition"], payload["seed"], payload["again"])}


@lru_cache(maxsize=1)
def _experiment(text: str) -> Experiment:
    """The last one stays open: units of one tokenizer follow each other."""
    place = json.loads(text)
    data = open_tag_set(place["data"], place["split"], place["threshold"], place["limit"])
    codec = None if place["system"] is None else codec_named(SystemConfig(**place["system"]), mix=True)
    config = parse(TaggingConfig, place["config"])
    return Experiment(data, place["content"], config, codec, Path(place["folder"]), place["device"])
