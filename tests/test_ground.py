"""Ground is written once: what several rooms need has one home, and no second copy grows elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

HOMES = [
    ("rotary positions", r"10_?000(\.0)? ?\*\*|base \*\*", {"src/duotok/nn/rope.py"}),
    (
        "masks of padded frames",
        r"< (\w+_)?(lengths|limit|batch\[\"lengths\"\])\[:, None\]",
        # random.py is below tensors of models: its rows are those of any item
        {"src/duotok/nn/masks.py", "src/duotok/random.py"},
    ),
    (
        "probing a device",
        r"zeros\(1, device=|is_available\(\) and .*!= \"cpu\"|\"cpu\" (and|or not) torch\.cuda\.is_available\(\)",
        {"src/duotok/devices.py"},
    ),
    (
        "loading of weights into a module",
        r"expand\(load_file|wanted\.keys\(\) - state|\.isfinite\(\)\.all\(\)\) for k",
        {"src/duotok/weights.py"},
    ),
    ("splitmix64", r"9E3779B9|BF58476D|94D049BB", {"src/duotok/random.py"}),
    ("entropy of codes", r"\((\w+) \* (np\.log2\(\1\)|\1\.log2\(\))\)", {"src/duotok/evaluation/codes.py"}),
]


@pytest.mark.parametrize(("what", "pattern", "homes"), HOMES, ids=[home[0] for home in HOMES])
def test_it_has_one_home(what: str, pattern: str, homes: set[str]) -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in ("src", "benchmarks")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if re.search(pattern, path.read_text(encoding="utf-8"), re.IGNORECASE)
    }
    assert found == homes, f"{what}: {found ^ homes}"
