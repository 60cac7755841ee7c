from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
from tests.tiny import song, tiny_bundle

from duotok.bulk.engines import LocalPipeline, Model
from duotok.bulk.settings import Settings, Summary, Watch
from duotok.bulk.tokenizing import tokenize
from duotok.codec.duotok import DuoTok

Run = Callable[..., Summary]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def model(bundle: Path) -> DuoTok:
    return DuoTok.from_pretrained(bundle)


def put(path: Path, seconds: float = 0.6, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, song(seconds, seed=seed).numpy().T, 48_000)
    return path


@pytest.fixture
def music(tmp_path: Path) -> Path:
    """Four songs of two splits: three mixes, one longer than a window, and given stems."""
    folder = tmp_path / "music"
    for number, seconds in enumerate((0.5, 2.0, 0.5)):
        put(folder / ("validation" if number == 2 else "train") / f"s{number}.wav", seconds, seed=number)
    put(folder / "train/p.vocals.wav", 0.7, seed=7)
    put(folder / "train/p.accompaniment.wav", 0.7, seed=8)
    return folder


@pytest.fixture
def run(bundle: Path, model: DuoTok) -> Run:
    """`tokenize` in this process: sources, store, then settings and what a pipeline takes."""

    def tokenized(
        sources: Any,
        store: Path,
        *,
        batch_size: int = 1,
        watch: Watch | None = None,
        pipeline: Any = None,
        **settings: Any,
    ) -> Summary:
        engine = pipeline or (
            lambda scratch: LocalPipeline(Model(str(bundle), model.model_hash, batch_size=batch_size), ["cpu"])
        )
        sources = [str(sources)] if isinstance(sources, str | Path) else [str(source) for source in sources]
        return tokenize(sources, store, model, engine, Settings(**{"shard_songs": 2, **settings}), watch)

    return tokenized


def files(store: Path) -> dict[str, bytes]:
    """All of a store but its lock."""
    return {
        str(p.relative_to(store)): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file() and p.name != "lock"
    }
