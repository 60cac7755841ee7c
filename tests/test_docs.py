"""The documentation names only what is there: commands and their options, modules, files, links. Nothing is run."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer.main
from tests.test_layers import LAYERS, SOURCE

from duotok.cli.main import app
from duotok.config import RECIPES, recipe_names

ROOT = SOURCE.parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
EXPERIMENTS = sorted((ROOT / "docs" / "experiments").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS, *EXPERIMENTS, *sorted(RECIPES.rglob("*.md"))]
SETS = sorted({name.partition("/")[0] for name in recipe_names()} - {"lm"})
"""What the names of recipes begin with; `lm/` is a folder of modules, too."""
MODULES = {"duotok": ROOT / "src", "benchmarks": ROOT}


def targets(makefile: Path) -> set[str]:
    return set(re.findall(r"^([a-z]+):", makefile.read_text(encoding="utf-8"), re.MULTILINE))


TARGETS = targets(ROOT / "Makefile")


@dataclass(frozen=True)
class Page:
    """A page as code blocks (continued lines joined), the code inside its text, and the text without code blocks."""

    blocks: tuple[str, ...]
    spans: tuple[str, ...]
    text: str


def read(path: Path) -> Page:
    blocks: list[str] = []
    text: list[str] = []
    fence = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        mark = re.match(r"\s*(```+|~~~+)", line)
        if mark and (not fence or line.strip() == fence):
            fence = "" if fence else mark[1]
        elif fence or re.match(r"( {4}|\t)\S", line):
            blocks.append(line)
        else:
            text.append(line)
    lines = re.sub(r"\\\n\s*", "", "\n".join(blocks)).splitlines()
    found = "\n".join(text)
    spans = [re.sub(r"\s+", " ", span).replace("\\|", "|") for span in re.findall(r"`([^`]+)`", found)]
    return Page(tuple(line.strip().removeprefix("$ ") for line in lines), tuple(spans), found)


def calls(line: str) -> Iterator[list[str]]:
    """The commands of a line of shell, as words; comments and what explains a line after two blanks are left out."""
    line = re.sub(r"<[a-z ]+>", "X", re.split(r"\s#\s|^#|\s{2,}|\s->\s", line)[0])
    for part in re.split(r"&&|;|\||\bdo\b", line):
        try:
            words = shlex.split(part)
        except ValueError:
            continue
        while words and (words[0] in ("time", "then") or re.fullmatch(r"\w+=\S*", words[0])):
            del words[0]
        if words:
            yield words


def module_of(words: list[str]) -> tuple[str, list[str]] | None:
    """`python -m MODULE ...` behind whatever launches it."""
    for place, word in enumerate(words[:-1]):
        if word == "-m" and re.fullmatch(r"(duotok|benchmarks)(\.\w+)*", words[place + 1]):
            return words[place + 1], words[place + 2 :]
    return None


def problems(words: list[str], complete: bool) -> Iterator[str]:
    """What is wrong with one command. `complete`: it is written out, so it must have what the command requires."""
    if words[0] == "make":
        known, rest = TARGETS, words[1:]
        if "-f" in rest[:-1]:
            file = rest.pop(rest.index("-f") + 1)
            if not (ROOT / file).is_file():
                yield f"make -f {file}: no such file"
                return
            known = targets(ROOT / file)
        yield from (
            f"make {word}: no such target"
            for word in rest
            if word[:1].islower() and word not in known and "=" not in word
        )
    if words[0] in ("duotok", ".venv/bin/duotok"):
        yield from of_duotok(words[1:], complete)
    elif (found := module_of(words)) is not None:
        module, rest = found
        if module in ("duotok", "duotok.cli.main"):
            yield from of_duotok(rest, complete)
        else:
            yield from of_module(module, rest)
    files = [w for w in words if re.fullmatch(r"(benchmarks|docs|tests)/[\w./-]+\.(yaml|py|md|txt)", w)]
    if complete:
        yield from (f"{file}: no such file" for file in files if not (ROOT / file).is_file())


@cache
def duotok() -> Any:
    return typer.main.get_command(app)


def of_duotok(words: list[str], complete: bool) -> Iterator[str]:
    command = duotok()
    name = "duotok"
    words = [word.strip("[]") for word in words]
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        word = words.pop(0)
        if word not in command.commands:
            if not (word.isupper() or word in ("...", "|")):  # COMMAND stands for any
                yield f"{name} {word}: no such command"
            return
        command, name = command.commands[word], f"{name} {word}"
    options = {o: p for p in command.params if p.param_type_name == "option" for o in (*p.opts, *p.secondary_opts)}
    given = [word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)]
    for option in given:
        if option not in {*options, "--help", "-h"}:
            yield f"{name} {option}: no such option"
    for flag, value in pairwise(words):
        if (
            flag in ("-c", "--config")
            and re.fullmatch(r"[a-z][\w-]*/[a-z][\w./-]*(?<!\.yaml)", value)
            and value not in recipe_names()
        ):
            yield f"{value}: no such recipe"
    if complete and not hasattr(command, "commands") and not {"--help", "-h"} & {*given}:
        for option in {p.name: p for p in options.values() if p.required}.values():
            if not {*option.opts} & {*given}:
                yield f"{name}: without {option.opts[-1]}, which it requires"


def of_module(module: str, words: list[str]) -> Iterator[str]:
    """Its options are looked for in the source: running it would import torch."""
    base = MODULES[module.partition(".")[0]].joinpath(*module.split("."))
    file = base.with_suffix(".py") if base.with_suffix(".py").is_file() else base / "__main__.py"
    if not file.is_file():
        yield f"python -m {module}: no such module"
        return
    source = file.read_text(encoding="utf-8") + (ROOT / "benchmarks" / "output.py").read_text(encoding="utf-8")
    for word in words:
        option = word.strip("[]").partition("=")[0]
        if re.match(r"--[a-z]", option) and f'"{option}"' not in source:
            yield f"python -m {module} {option}: no such option"


def of_page(path: Path) -> Iterator[str]:
    page = read(path)
    for lines, complete in ((page.blocks, True), (page.spans, False)):
        for line in lines:
            for words in calls(line):
                yield from problems(words, complete)


def headings(path: Path) -> set[str]:
    """The anchors that the headings of a page get on the usual hosts."""
    found = re.findall(r"^#+ (.*)$", read(path).text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in found}


def broken_links(path: Path) -> Iterator[str]:
    for link in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", read(path).text):
        target = "".join(link)
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        aim = path.parent / file if file else path
        if not aim.exists():
            yield f"{target}: no such file"
        elif anchor and anchor not in headings(aim):
            yield f"{target}: no such heading"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_and_options_exist(path: Path) -> None:
    assert list(of_page(path)) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_point_to_files(path: Path) -> None:
    assert list(broken_links(path)) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_named_source_files_exist(path: Path) -> None:
    """`room/file.py` inside a text is a file of the package or of the repository."""
    places = (ROOT, SOURCE, path.parent, RECIPES)
    for span in read(path).spans:
        if re.fullmatch(r"[a-z]\w*(/[\w.-]+)+\.(py|yaml)", span) and not re.search(r"[A-Z]{2}", span):
            assert any((place / span).is_file() for place in places), f"`{span}`: no such file"
        if re.fullmatch(rf"({'|'.join(SETS)})/[\w.-]+(/[\w.-]+)?", span) and "." not in span[-5:]:
            assert span in recipe_names() or (RECIPES / span).is_dir(), f"`{span}`: no such recipe"


def test_pages_that_the_code_names_exist() -> None:
    named = {
        (page, str(file.relative_to(ROOT)))
        for folder in ("src", "benchmarks")
        for file in (ROOT / folder).rglob("*")
        if file.suffix in (".py", ".yaml", ".md")
        for page in re.findall(r"docs/[\w/-]+\.md", file.read_text(encoding="utf-8"))
    }
    assert sorted((page, file) for page, file in named if not (ROOT / page).is_file()) == []


def test_the_windows_that_the_page_of_tokens_tells_are_those_of_the_packaged_bundle() -> None:
    codec = json.loads((SOURCE / "bundles" / "mini" / "config.json").read_text(encoding="utf-8"))["codec"]
    page = " ".join((ROOT / "docs" / "tokens.md").read_text(encoding="utf-8").split())
    window, context = codec["window"], codec["context"]
    assert f"(the packaged one: {window} frames, {window / 25:.2f} s), of which some ({context}) are discarded" in page
    assert f"and {(window - context) / 25:.0f} s of window" in page


def test_the_index_has_every_page() -> None:
    linked = set(re.findall(r"\]\((\w+\.md)\)", (ROOT / "docs" / "index.md").read_text(encoding="utf-8")))
    assert {path.name for path in DOCS} - {"index.md"} == linked


def test_the_table_of_experiments_has_every_page_of_them() -> None:
    linked = re.findall(r"\]\(([\w-]+\.md)\)", (EXPERIMENTS[0].parent / "README.md").read_text(encoding="utf-8"))
    assert sorted(linked) == sorted({path.name for path in EXPERIMENTS} - {"README.md"})


def test_every_command_is_on_the_page_of_commands() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")

    def leaves(command: Any, name: str) -> Iterator[str]:
        if not hasattr(command, "commands"):
            yield name
        for key, inner in getattr(command, "commands", {}).items():
            yield from leaves(inner, f"{name} {key}")

    assert [name for name in leaves(duotok(), "duotok") if name not in page] == []


def test_the_rooms_are_drawn_as_they_are() -> None:
    """docs/architecture.md draws the floors that `lint-imports` checks."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = text.partition("## Who may import whom")[2].split("```")[1]
    floors = [set(re.findall(r"\w+", re.sub(r"\(.*?\)", "", line))) for line in drawn.strip().splitlines()]
    assert [floor for floor in floors if floor] == [
        set(re.findall(r"\w+", line)) for line in LAYERS if line != "__main__"
    ]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("duotok encoed x.mp3", "duotok encoed: no such command"),
        ("duotok data prepair --work w", "duotok data prepair: no such command"),
        ("$ duotok info x --jason   # what", "duotok info --jason: no such option"),
        ("torchrun --nproc-per-node 8 -m duotok train stage1 -c a --fast", "duotok train --fast: no such option"),
        ("duotok plot runs/a", "duotok plot: without --output, which it requires"),
        ("x && python -m benchmarks.nothing", "python -m benchmarks.nothing: no such module"),
        ("python -m benchmarks.fidelity --audio a --loud", "python -m benchmarks.fidelity --loud: no such option"),
        ("make tea", "make tea: no such target"),
        ("make -f benchmarks/tea.mk -j2 OUT=x", "make -f benchmarks/tea.mk: no such file"),
        ("make -f benchmarks/ablations.mk tea", "make tea: no such target"),
        ("duotok train stage1 -c mini/stage9", "mini/stage9: no such recipe"),
        ("duotok decode a -o b --track vocals; duotok data list   -> a table", None),
    ],
)
def test_the_test_sees(line: str, found: str | None, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"Text.\n\n```\n{line}\n```\n")
    assert list(of_page(page)) == ([] if found is None else [found])
