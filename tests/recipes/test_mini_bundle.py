"""The recipe: what it starts from must be there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from duotok.audio.io import write
from duotok.errors import DuoTokError
from duotok.recipes.mini_bundle import RECIPE, prepare_data


def test_every_task_comes_after_tasks_that_are_there() -> None:
    for name, task in RECIPE.items():
        assert set(task.after) <= set(RECIPE) - {name}


def test_a_corpus_of_which_nothing_can_be_read_stops_the_recipe(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.mkdir(), bad.mkdir()
    for n in range(2):
        write(good / f"{n}.wav", 0.1 * torch.randn(2, 48_000 * 6), 48_000)
        (bad / f"{n}.wav").write_bytes(b"RIFF no sound at all")
    with pytest.raises(
        DuoTokError, match=r"folder1: none of its 2 recordings can be read \(.+\); mend it or leave it out"
    ):
        prepare_data([good, bad], tmp_path / "work", workers=1)
    (good / "2.wav").write_bytes(b"RIFF no sound at all")  # one of three may fail
    store = prepare_data([good], tmp_path / "other", workers=1)
    assert len(store) > 0
