"""A small corpus with every kind of recording, made from tones and noise."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from duotok.training.corpus import Corpus, prepare
from duotok.training.features import compute_features

RATE = 48_000
SECONDS = 3.0
# Names chosen so that each kind has recordings on both sides of the split.
FILES = {
    "dual": ["Potassium", "Lithium"],
    "instrumental": ["a", "b", "c", "i1", "i6"],
    "chant": ["v", "w", "c6", "c12"],
    "speech": ["s", "s21"],
}


def _tone(seed: int, voice: bool) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.arange(int(SECONDS * RATE)) / RATE
    f = rng.uniform(120, 500) * (1 + (0.02 * np.sin(2 * np.pi * 5 * t) if voice else 0))
    sound = sum(np.sin(2 * np.pi * k * np.cumsum(f * np.ones_like(t)) / RATE) / k for k in (1, 2, 3))
    envelope = 0.6 + 0.4 * np.sign(np.sin(2 * np.pi * rng.uniform(1, 3) * t))
    return (0.1 * sound * envelope + 0.01 * rng.standard_normal(len(t))).astype(np.float32)


@pytest.fixture(scope="session")
def audio_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audio")
    rows = []
    for kind, names in FILES.items():
        (folder / kind).mkdir()
        for index, name in enumerate(names):
            stems = ("vocals", "accompaniment") if kind == "dual" else ("",)
            for stem in stems:
                path = folder / kind / (f"{name}.{stem}.flac" if stem else f"{name}.flac")
                voice = stem == "vocals" or kind in ("chant", "speech")
                soundfile.write(path, _tone(hash_of(kind, index, stem), voice), RATE)
                rows.append([f"{kind}/{path.name}", "train", kind, "CC0", "tests", "made"])
    with (folder / "INDEX.tsv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["path", "use", "kind", "licence", "attribution", "source"])
        writer.writerows(rows)
    return folder


def hash_of(kind: str, index: int, stem: str) -> int:
    return sum(map(ord, kind + stem)) * 10 + index


@pytest.fixture(scope="session")
def corpus(audio_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    cache = tmp_path_factory.mktemp("cache")
    prepare([audio_folder], cache)
    prepared = Corpus(cache)
    compute_features(prepared)
    return prepared
