"""A tiny bundle and tiny songs with true stems for the runners over tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tests.suite.fakes import HERE
from tests.tiny import song, tiny_bundle

from duotok.audio.io import write
from duotok.codec.duotok import DuoTok
from duotok.suite.config import load_suite
from duotok.suite.run import Done, conduct


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def model(bundle: Path) -> DuoTok:
    return DuoTok.from_pretrained(bundle)


def make_song(folder: Path, seed: int, seconds: float = 2.0) -> Path:
    """A folder as `duotok songs` writes it: a mode that can be heard in the accompaniment, and a voice."""
    place = folder / f"song-{seed:08d}"
    place.mkdir(parents=True)
    low = seed % 2 == 0
    n = round(seconds * 48_000)
    time = np.arange(n) / 48_000
    band = 0.3 * np.sin(2 * np.pi * (150 if low else 1500) * time)[None].repeat(2, 0)
    write(place / "accompaniment.wav", torch.from_numpy(band.astype(np.float32)), 48_000)
    write(place / "vocals.wav", 0.5 * song(seconds, seed=seed), 48_000)
    tags = ["pop", "slow", "major" if low else "minor", "male vocal", "singing", "en", "piano", "drums"]
    facts = {
        "format": "duotok-song-1", "seed": seed, "rate": 48_000, "samples": n, "seconds": seconds, "tempo": 80.0,
        "key": f"C {'major' if low else 'minor'}", "language": "en", "tags": tags, "files": "wav",
        "words": [{"text": "la", "start": 0.0, "end": 1.0, "syllables": []}],
        "details": {"style": "pop", "meter": 4, "sounds": ["piano"], "kit": "acoustic", "bass": "synth"},
    }  # fmt: skip
    (place / "song.json").write_text(json.dumps(facts), encoding="utf-8")
    return place


@pytest.fixture(scope="session")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 generated-like songs of 2 s."""
    folder = tmp_path_factory.mktemp("songs")
    for seed in range(24):
        make_song(folder, seed)
    return folder


def suite_of(folder: Path, songs: Path, bundle: Path, **of_songs: Any) -> dict[str, Any]:
    """A suite of the tiny tokenizer and an anchor on these songs; its instruments are to be filled in."""
    tokenizers = {"tiny": str(bundle), "the sound itself": "original"}
    return {"songs": {"folder": str(songs), "seconds": 1.0, "separator": "none", **of_songs}, "tokenizers": tokenizers}


def run_suite(folder: Path, suite: dict[str, Any]) -> Done:
    """`duotok eval all` into `folder/store`, in this process."""
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(suite), encoding="utf-8")
    return conduct(load_suite(path, folder / "store")[0], engine=HERE)
