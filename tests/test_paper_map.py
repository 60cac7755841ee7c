"""docs/paper.md and docs/parameters.md are true: what they name exists, and nothing of the paper or of its configs is missing."""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from duotok.config import read_yaml

ROOT = Path(__file__).parents[1]
MAP = ROOT / "docs" / "paper.md"
PARAMETERS = ROOT / "docs" / "parameters.md"

SECTIONS = (
    "1 2 3 3.1 3.2 3.3 3.4 4 4.1 4.2 4.3 5 5.1 5.2 5.3 5.4 6 6.1 6.2 6.3 7 8 9 "
    "A A.1 A.2 A.3 A.4 B B.1 B.1.1 B.1.2 B.1.3 B.1.4 B.1.5 B.2 B.3 B.3.1 B.4 C C.1 C.2 C.3 C.4 C.5 C.6 D D.1 D.2 E E.1"
).split()
PLACES = [
    *(f"Section {name}" if name[0].isdigit() else f"Appendix {name}" for name in SECTIONS),
    *(f"Equation {number}" for number in range(1, 25)),
    *(f"Table {number}" for number in range(1, 12)),
    *(f"Figure {number}" for number in range(1, 7)),
]
"""Everything of the paper that has a number, in the order of the page."""

SYMBOL = re.compile(r"duotok(?:\.\w+)*:\w+(?:\.\w+)*")
TEST = re.compile(r"tests/[\w/]+\.py::\w+")


class Row(NamedTuple):
    place: str
    says: str
    code: tuple[str, ...]
    tests: tuple[str, ...]
    otherwise: str


def spans(cell: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`([^`]+)`", cell))


def rows(text: str) -> list[Row]:
    """The rows of all tables of five columns, without their heads."""
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]
        if line.startswith("|") and len(cells) == 5 and cells[0] != "place" and not cells[0].startswith("---"):
            found.append(Row(cells[0], cells[1], spans(cells[2]), spans(cells[3]), cells[4]))
    return found


def missing_symbol(name: str) -> str | None:
    """What is wrong with `package.module:Name.method`. A field of a class counts as there."""
    if not SYMBOL.fullmatch(name):
        return f"`{name}` is no package.module:Name.method"
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        return f"`{name}`: {error}"
    for part in path.split("."):
        if not hasattr(found, part) and part not in getattr(found, "model_fields", {}):
            return f"`{name}`: no {part}"
        found = getattr(found, part, None)
    return None


@cache
def functions_of(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def missing_test(name: str) -> str | None:
    """What is wrong with `tests/path.py::name`."""
    if not TEST.fullmatch(name):
        return f"`{name}` is no tests/path.py::name"
    path, _, function = name.partition("::")
    if not (ROOT / path).is_file():
        return f"`{name}`: no such file"
    return None if function.startswith("test_") and function in functions_of(path) else f"`{name}`: no such test"


def wrong(text: str) -> list[str]:
    """Everything that is not true of a page like docs/paper.md."""
    found = rows(text)
    problems = [
        problem
        for row in found
        for problem in (*map(missing_symbol, row.code), *map(missing_test, row.tests))
        if problem is not None
    ]
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    problems += [problem for name in SYMBOL.findall(prose) if (problem := missing_symbol(name)) is not None]
    for row in found:
        if not row.says:
            problems.append(f"{row.place}: nothing said")
        if bool(row.code) != bool(row.tests):
            problems.append(f"{row.place}: code without a test, or a test without code")
        if not row.code and not re.search(r"Not done|Nothing to build", row.otherwise):
            problems.append(f"{row.place}: without code and not said to be undone")
    return problems


# -- docs/paper.md ---------------------------------------------------------------------------------------------------


def test_every_object_and_every_test_exists() -> None:
    assert wrong(MAP.read_text(encoding="utf-8")) == []


def test_everything_that_has_a_number_has_a_row() -> None:
    assert [row.place for row in rows(MAP.read_text(encoding="utf-8"))] == PLACES


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("| Table 1 | a | `duotok.tokens:Dual` | `tests/test_paper_map.py::test_the_check_sees` | |", "no Dual"),
        ("| Table 1 | a | `duotok.toke:Dual` | `tests/test_paper_map.py::test_the_check_sees` | |", "No module named"),
        ("| Table 1 | a | `duotok.tokens:DualTokens.nope` | `tests/test_paper_map.py::test_x` | |", "no nope"),
        ("| Table 1 | a | `duotok.tokens:TRACKS` | `tests/test_paper_map.py::test_nothing` | |", "no such test"),
        ("| Table 1 | a | `duotok.tokens:TRACKS` | `tests/test_nowhere.py::test_nothing` | |", "no such file"),
        ("| Table 1 | a | `duotok.tokens:TRACKS` | `tests/test_paper_map.py::rows` | |", "no such test"),
        ("| Table 1 | a | `duotok.tokens:TRACKS` | | |", "code without a test"),
        ("| Table 1 | a | | | |", "without code and not said to be undone"),
        ("Also `duotok.tokens:Nothing`.", "no Nothing"),
        ("| Table 1 | a | `duotok.tokens:TRACKS` | `tests/test_paper_map.py::test_the_check_sees` | |", None),
        ("| Table 1 | a | | | Not done. |", None),
    ],
)
def test_the_check_sees(row: str, problem: str | None) -> None:
    found = wrong(row)
    assert not found if problem is None else any(problem in line for line in found), found
