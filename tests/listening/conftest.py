"""A listening test of two songs, built once: originals of 1.5 s, one system, clips of half a second."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.tiny import song

from duotok.audio.io import write
from duotok.listening.build import BuildSettings, build
from duotok.listening.plan import ListeningTest, load
from duotok.listening.sources import Folder

RATE = 48_000
SETTINGS = BuildSettings(title="A <test>", seconds=0.5, seed=5, must_hear=0.1)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Originals, and what a system made of them: noise added, softer, in another format."""
    top = tmp_path_factory.mktemp("sounds")
    for place, name in enumerate(("one.vocals", "one.accompaniment", "sub/two")):
        sound = song(1.5, RATE, seed=place)
        write(top / "originals" / f"{name}.flac", sound, RATE)
        noisy = 0.3 * sound.mean(0) + 0.02 * torch.randn(sound.shape[1], generator=torch.Generator().manual_seed(place))
        write(top / "decoded" / f"{name}.wav", noisy, RATE)
    return top / "originals", top / "decoded"


@pytest.fixture(scope="session")
def built(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    originals, decoded = folders
    folder = tmp_path_factory.mktemp("built") / "test"
    build(folder, Folder("reference", originals), [Folder("ours", decoded)], SETTINGS, "0")
    return folder


@pytest.fixture
def tested(built: Path, tmp_path: Path) -> ListeningTest:
    """A copy of the test without ratings."""
    import shutil

    shutil.copytree(built, tmp_path / "test")
    return load(tmp_path / "test")
