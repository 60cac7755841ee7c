"""A test folder that is not as it was built is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from duotok.errors import DuoTokError
from duotok.listening.plan import LEVEL, TEST, ListeningTest, load
from duotok.seals import seal


def change(path: Path, do: Callable[[dict[str, Any]], Any], sealed: bool = True) -> None:
    values = json.loads(path.read_text())
    do(values)
    path.write_text(json.dumps(seal(values) if sealed else values))


def test_what_was_built_loads(tested: ListeningTest) -> None:
    assert len(tested.sounds) == 9 and tested.conditions == ("reference", "ours", "lowpass-3500")
    assert {name.name for name in tested.folder.iterdir()} == {TEST, LEVEL, "sounds"}


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda test: (test.folder / TEST).unlink(), "no listening test"),
        (lambda test: (test.folder / TEST).write_text("{"), "cannot be read"),
        (lambda test: (test.folder / TEST).write_text("[1]"), "no listening test of DuoTok"),
        (lambda test: change(test.folder / TEST, lambda v: v.update(format=2)), "format 2, and this DuoTok reads 1"),
        (lambda test: change(test.folder / TEST, lambda v: v.update(seed=6), sealed=False), "changed since it was built"),
        (lambda test: change(test.folder / TEST, lambda v: v.update(method="abx")), "'method' = 'abx'"),
        (lambda test: test.path(test.plan.sounds[3]).write_bytes(b"x"), "its hash differs"),
        (lambda test: test.path(test.plan.sounds[3]).unlink(), "No such file"),
        (lambda test: test.level.unlink(), "No such file"),
    ],
)  # fmt: skip
def test_damage(tested: ListeningTest, damage: Callable[[ListeningTest], Any], told: str) -> None:
    damage(tested)
    with pytest.raises(DuoTokError) as caught:
        load(tested.folder)
    assert told in str(caught.value) and str(tested.folder) in str(caught.value) and "\n" not in str(caught.value)
