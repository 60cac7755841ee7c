from __future__ import annotations

from pathlib import Path

import pytest
from tests.tiny import tiny_bundle

from duotok.codec.duotok import DuoTok


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def model(bundle: Path) -> DuoTok:
    return DuoTok.from_pretrained(bundle)
