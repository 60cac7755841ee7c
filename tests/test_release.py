"""What surrounds the code is true to it: pinned versions, hooks, container, sdist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def project() -> dict[str, Any]:
    return tomllib.loads(text("pyproject.toml"))["project"]


def pins() -> dict[str, str]:
    """Library -> version, of constraints.txt."""
    lines = [
        Requirement(line) for line in text("constraints.txt").splitlines() if line and not line.lstrip().startswith("#")
    ]
    assert all(len(one.specifier) == 1 and str(one.specifier).startswith("==") for one in lines)
    return {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in lines}


def test_every_library_is_pinned_to_a_version_that_will_do() -> None:
    pinned = pins()
    extras = project()["optional-dependencies"].values()
    named = [Requirement(line) for line in (*project()["dependencies"], *(line for extra in extras for line in extra))]
    for one in named:
        if one.name != "duotok":
            version = pinned.get(canonicalize_name(one.name))
            assert version is not None, f"{one.name}: not in constraints.txt; run `make constraints`"
            assert version in one.specifier, f"{one}: constraints.txt has {version}; run `make constraints`"
    assert len(pinned) > len(named), "what those need is pinned as well"


def test_the_pins_keep_what_must_stay_and_name_their_command() -> None:
    kept = [
        Requirement(line.partition("#")[0]) for line in text("constraints.in").splitlines() if not line.startswith("#")
    ]
    assert "torch" in {one.name for one in kept}
    assert all(pins()[canonicalize_name(one.name)] in one.specifier for one in kept)
    assert "make constraints" in text("constraints.txt").partition("==")[0]
    assert re.search(r"^constraints:", text("Makefile"), re.M) and "make constraints" in text("CONTRIBUTING.md")


def test_hooks_run_what_make_checks() -> None:
    hooks = [hook for repo in yaml.safe_load(text(".pre-commit-config.yaml"))["repos"] for hook in repo["hooks"]]
    assert all(hook["language"] == "system" and hook["entry"].startswith(".venv/bin/") for hook in hooks)
    run = {re.sub(r" --force-exclude", "", hook["entry"].removeprefix(".venv/bin/")) for hook in hooks}
    assert run == {"ruff check", "ruff format", "mypy", "lint-imports"}
    checked = set(re.findall(r"\$\(BIN\)/((?:ruff|mypy)(?: check| format)?)", text("Makefile")))
    assert checked <= run


def test_the_container_copies_what_is_there_and_what_is_let_through() -> None:
    copied = [name for line in re.findall(r"^COPY (.*) \S+$", text("Dockerfile"), re.M) for name in line.split()]
    assert "src" in copied and all((ROOT / name).exists() for name in copied)
    assert {line[1:] for line in text(".dockerignore").splitlines() if line.startswith("!")} == set(copied)
    assert re.search(r"^ARG BASE=", text("Dockerfile"), re.M) and re.search(
        r"^FROM \$\{BASE\}$", text("Dockerfile"), re.M
    )
    names = set(re.findall(r"--build-arg (\w+)=", text("Dockerfile")))
    assert names <= set(re.findall(r"^ARG (\w+)=", text("Dockerfile"), re.M))


def test_the_sdist_is_told_only_what_is_there() -> None:
    for line in text("MANIFEST.in").splitlines():
        word, _, rest = line.partition(" ")
        if word in ("graft", "include"):
            assert all(list(ROOT.glob(name)) for name in rest.split()), line
