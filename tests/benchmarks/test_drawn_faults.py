"""Faults drawn at random: each changes the module and leaves it a module; messages and annotations stay."""

from __future__ import annotations

import ast

from benchmarks.drawn_faults import candidates, changed, difference

SOURCE = """
def f(x: int = 3, name: str = "a") -> int:
    if x < 2:
        raise ValueError(f"{x + 1} is too small")
    g(x, 2.5)
    return x * 4 if flag else x.abs() - 1
"""


def test_every_change_is_one_and_leaves_messages_alone() -> None:
    before = ast.unparse(ast.parse(SOURCE))
    found = [changed(SOURCE, number) for number in candidates(SOURCE)]
    assert len(found) == len(set(found)) and before not in found
    assert all("f'{x + 1} is too small'" in text and "x: int=" in text for text in found)
    lines = {difference(SOURCE, text)[1] for text in found}
    assert {
        "if x <= 2:", "if not x < 2:", "pass", "g(2.5, x)", "return x / 4 if flag else x.abs() - 1",
        "return x * 4 if flag else x - 1", "return x * 4 if flag else x.abs() + 1", "return x * 4 if not flag else x.abs() - 1",
    } <= lines  # fmt: skip
