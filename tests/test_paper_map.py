"""docs/paper.md and docs/parameters.md are true: what they name exists, and nothing of the paper or of its configs is missing."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from duotok.config import RECIPES, Config, layers, load_config
from duotok.lm.config import PRESETS, LMConfig
from duotok.lm.stage import LMStageConfig
from duotok.model.bestrq import BestRQConfig
from duotok.model.config import TokenizerConfig
from duotok.model.losses import Stage2Weights, Stage3Weights
from duotok.renderer.dit import DiTConfig
from duotok.training.stages.registry import config_class

ROOT = Path(__file__).parents[1]
MAP = ROOT / "docs" / "paper.md"
PARAMETERS = ROOT / "docs" / "parameters.md"

SECTIONS = "1 2 3 3.1 3.2 3.3 3.4 4 4.1 4.2 4.3 5 5.1 5.2 5.3 5.4 6 6.1 6.2 6.3 7 8 9"
APPENDICES = (
    "A A.1 A.2 A.3 A.4 B B.1 B.1.1 B.1.2 B.1.3 B.1.4 B.1.5 B.2 B.3 B.3.1 B.4 C C.1 C.2 C.3 C.4 C.5 C.6 D D.1 D.2 E E.1"
)
PLACES = [
    *(f"Section {name}" for name in SECTIONS.split()),
    *(f"Appendix {name}" for name in APPENDICES.split()),
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
    except ImportError as error:
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


# -- docs/parameters.md ----------------------------------------------------------------------------------------------


class Given(NamedTuple):
    """A row of a section: section, what it is about, the value as it is written."""

    section: str
    name: str
    value: str


@cache
def given() -> tuple[Given, ...]:
    """Every row `| `name` | value | source |` of the page."""
    section, found = "", []
    for line in PARAMETERS.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = re.sub(r"^## \d+\. ", "", line).lower()
        if match := re.match(r"\| `([\w.:-]+)` \| (.*?) \| (.*) \|$", line):
            assert match[3], f"{match[1]}: no source"
            found.append(Given(section, match[1], match[2]))
    return tuple(found)


def read_value(text: str) -> Any:
    """24 x 2, 1 x 30 (repetitions), or YAML; numbers in any form."""
    if re.fullmatch(r"\d+ x \d+(, \d+ x \d+)*", text):
        return [int(b) for part in text.split(", ") for a, b in [part.split(" x ")] for _ in range(int(a))]
    try:
        return float(text)
    except ValueError:
        return yaml.safe_load(text)


def plain(value: Any) -> Any:
    """As YAML would have it."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def at(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = config[part] if isinstance(config, dict) else getattr(config, part)
    return config


def keys(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted keys of a config file; a component of a mixture is one."""
    for key, value in values.items():
        name = prefix + key
        if isinstance(value, dict) and not name.startswith("mixture."):
            yield from keys(value, f"{name}.")
        elif name != "extends":
            yield name


def stage(name: str) -> Any:
    return load_config(config_class(name[:6]), f"paper/{name}")


def language_model() -> Any:
    return LMStageConfig(steps=1, data=Path("tokens.parquet"), model=LMConfig.model_validate({"preset": "100m"}))


SECTIONS_OF: dict[str, Callable[[], Any]] = {
    "tokenizer": lambda: stage("stage3"),
    "stage 1": lambda: stage("stage1"),
    "stage 2": lambda: stage("stage2"),
    "stage 3": lambda: stage("stage3"),
    "stage 4": lambda: stage("stage4.vocals"),
    "language model": language_model,
}
FILES = {
    "tokenizer.yaml": "tokenizer", "stage1.yaml": "stage 1", "stage2.yaml": "stage 2", "stage3.yaml": "stage 3",
    "stage4.vocals.yaml": "stage 4", "stage4.accompaniment.yaml": "stage 4",
}  # fmt: skip


@pytest.mark.parametrize("section", [*SECTIONS_OF, "evaluation"])
def test_every_value_is_that_of_the_configs(section: str) -> None:
    config = SECTIONS_OF[section]() if section in SECTIONS_OF else None
    rows_of = [row for row in given() if row.section == section]
    assert len(rows_of) >= 4
    for row in rows_of:
        if ":" in row.name:
            module, _, name = row.name.partition(":")
            value: Any = getattr(importlib.import_module(module), name)
        elif section == "language model" and row.name in PRESETS:
            value = PRESETS[row.name]
        else:
            value = at(config, row.name)
        wanted = read_value(row.value)
        if isinstance(value, Config):
            wanted = type(value).model_validate(wanted)
        assert plain(value) == wanted, f"{section}, {row.name}"


@pytest.mark.parametrize("file", FILES)
def test_every_key_of_the_paper_s_configs_has_a_row(file: str) -> None:
    found = {row.name for row in given() if row.section == FILES[file]}
    assert [key for key in keys(layers(RECIPES / "paper" / file)[0][1]) if key not in found] == []


@pytest.mark.parametrize(
    ("section", "prefix", "config"),
    [
        ("tokenizer", "model.", TokenizerConfig), ("stage 1", "bestrq.", BestRQConfig), ("stage 4", "dit.", DiTConfig),
        ("stage 2", "weights.", Stage2Weights), ("stage 3", "weights.", Stage3Weights),
    ],
)  # fmt: skip
def test_every_field_of_the_networks_has_a_row(section: str, prefix: str, config: type[Config]) -> None:
    found = {row.name for row in given() if row.section == section}
    assert [name for name in config.model_fields if prefix + name not in found] == []


def test_presets_of_the_language_model_have_a_row() -> None:
    assert set(PRESETS) <= {row.name for row in given() if row.section == "language model"}


# -- what points here and elsewhere ----------------------------------------------------------------------------------


def sources() -> list[Path]:
    found = [path for folder in ("src", "docs", "tests", "benchmarks") for path in (ROOT / folder).rglob("*")]
    return [path for path in found if path.suffix in (".py", ".yaml", ".md", ".mk") and path != Path(__file__)]


def test_citations_name_a_section_of_the_parameters() -> None:
    sections = re.findall(r"^## \d+\. (.*)$", PARAMETERS.read_text(encoding="utf-8"), re.MULTILINE)
    named = re.compile(r"docs/parameters\.md, (?!(" + "|".join(map(str.lower, sections)) + r")\b)")
    found = [
        (str(path.relative_to(ROOT)), line.strip())
        for path in sources()
        for line in path.read_text(encoding="utf-8").splitlines()
        if named.search(line)
    ]
    assert found == []


def test_pages_modules_and_files_that_code_and_configs_name_exist() -> None:
    """`docs/NAME.md`, `python -m benchmarks.NAME`; and no notes that are not in the repository."""
    missing = set()
    for path in sources():
        text = path.read_text(encoding="utf-8")
        where = str(path.relative_to(ROOT))
        if path.is_relative_to(ROOT / "src"):
            missing |= {(where, page) for page in re.findall(r"docs/\w+\.md", text) if not (ROOT / page).is_file()}
            missing |= {
                (where, name)
                for name in re.findall(r"python -m (benchmarks\.\w+)", text)
                if not (ROOT / "benchmarks" / f"{name.partition('.')[2]}.py").is_file()
            }
        missing |= {(where, folder) for folder in re.findall(r"\bconfigs/(?:mini|gpu|paper|ablations)\b", text)}
        missing |= {(where, name) for name in re.findall(r"paper[-]parameters|\bpeers\.md|figure-[a-z0-9-]+\b", text)}
    assert sorted(missing) == []
