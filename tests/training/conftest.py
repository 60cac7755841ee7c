"""Shards with every kind of segment, made from tones by the real writer, with samples and features derived."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.shards.shard_maker import make_shards, segment
from tests.training.small import make, stage4_values, write

from duotok.records import Segment
from duotok.shards.features import derive_features, derive_samples
from duotok.shards.store import ShardStore
from duotok.training.engine import train
from duotok.training.stages.registry import Needs, build_stage

WORDS = (("la", 0.2, 0.5), ("lo", 0.6, 0.9), ("love", 1.0, 1.6), ("me", 1.7, 2.0), ("do", 2.2, 2.6))


def segments() -> list[Segment]:
    """Songs with true stems and words, generated ones, voices, bands, speech, sounds; some of each for validation."""
    found = []

    def add(name: str, kind: str, frames: int, split: str = "train", **values: object) -> None:
        found.append(segment(name, frames=frames, kind=kind, split=split, gain_db=-3.0, **values))

    sung = {"types": ("mix", "vocals", "accompaniment"), "words": WORDS}
    band = {"types": ("instrumental",), "stems": ("accompaniment",), "activity": "instrumental"}
    voice = {"types": ("vocals",), "stems": ("vocals",)}
    other = {"types": ("other",), "activity": "unknown"}
    add("index/Lithium", "song", 90, stems=("accompaniment", "bass", "drums", "vocals"), **sung)
    add("index/Sodium", "song", 80, stems=("accompaniment", "drums", "vocals"), **sung)
    add("index/Rubidium", "song", 75, stems=("accompaniment", "vocals"), **sung)
    add("songs/song-1", "song", 85, stems=("bass", "drums", "other", "vocals"), attribution="duotok songs", **sung)
    add("index/Potassium", "song", 100, "validation", stems=("accompaniment", "vocals"), **sung)
    for index in range(4):
        add(f"index/band{index}", "instrumental", 75 + 5 * index, "validation" if index == 3 else "train", **band)
        add(f"index/voice{index}", "voice", 70 + 5 * index, "validation" if index == 3 else "train", **voice)
    add("index/speech", "speech", 75, stems=("vocals",), **other)
    add("index/noise", "sound", 60, stems=("mix",), **other)
    return found


@pytest.fixture(scope="session")
def bare_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """WORK with shards, nothing derived."""
    work = tmp_path_factory.mktemp("bare")
    make_shards(work / "shards", segments(), per_shard=6)
    return work


@pytest.fixture(scope="session")
def data(bare_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """WORK with shards and derived samples and features."""
    work = tmp_path_factory.mktemp("data")
    shutil.copytree(bare_shards / "shards", work / "shards")
    store = ShardStore(work / "shards", work / "derived")
    derive_samples(store)
    derive_features(store)
    return work


@pytest.fixture(scope="session")
def store(data: Path) -> ShardStore:
    return ShardStore(data / "shards", data / "derived")


@pytest.fixture(scope="session")
def needs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Needs:
    """Runs of separator, autoencoder, stages 1 to 3, two steps each, and a store of their own. Nobody trains them further."""
    root = tmp_path_factory.mktemp("recipe")
    shutil.copytree(data / "derived", root / "derived")
    store = ShardStore(data / "shards", root / "derived")
    for name in ("separator", "autoencoder", "stage1", "stage2", "stage3"):
        train(make(name, store, root, steps=2), root / name)
    return Needs(root, store)


@pytest.fixture(scope="session")
def renderers(needs: Needs, tmp_path_factory: pytest.TempPathFactory) -> Needs:
    """The same with both runs of stage 4."""
    config = write(tmp_path_factory.mktemp("config"), "stage4", stage4_values())
    for track in ("accompaniment", "vocals"):
        stage = build_stage("stage4", config, [f"track={track}"], needs)
        train(stage, needs.runs / stage.name)
    return needs
