"""Every stage still trains as it did: its first twenty losses (`golden.py` tells how to make them anew)."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.training.golden import STAGES, STEPS, TOLERANCE, gaps, measure

from duotok.shards.store import ShardStore


def test_the_first_losses_of_every_stage_are_those_of_before(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "derived", tmp_path / "derived")
    found = measure(ShardStore(data / "shards", tmp_path / "derived"), tmp_path / "runs")
    assert all(len(found[name]) == STEPS for name in STAGES)
    differences = gaps(found)
    assert set(differences) == set(STAGES)
    assert max(differences.values()) <= TOLERANCE, differences
