"""`duotok recipes`: what there is, and copies that read as the packaged ones do and never replace what was changed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from tests.cli.test_commands import run

from duotok.config import RECIPES, read_yaml, recipe_names


def test_the_list_has_all_with_a_line_each() -> None:
    result = run("recipes", "list")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    assert all(len(line.split()) > 3 for line in lines), "each says what it is"
    rows = [json.loads(line) for line in run("recipes", "list", "gpu", "--json").stdout.splitlines()]
    assert {"gpu/stage1"} < {row["name"] for row in rows} <= {n for n in recipe_names() if n.startswith("gpu/")}
    assert next(row for row in rows if row["name"] == "gpu/adapt")["extends"] == ["mini/adapt", "mini/autoencoder"]


def test_the_help_of_the_list_names_every_set() -> None:
    words = " ".join(run("recipes", "list", "--help").stdout.split()).replace("- ", "-")
    assert {name.partition("/")[0] for name in recipe_names()} <= set(re.findall(r"[\w-]+", words))


def test_show_prints_the_file_or_what_it_comes_to() -> None:
    assert run("recipes", "show", "gpu/stage1").stdout == (RECIPES / "gpu" / "stage1.yaml").read_text()
    assert yaml.safe_load(run("recipes", "show", "gpu/stage1", "--whole").stdout) == read_yaml("gpu/stage1")


def test_copies_read_as_the_originals(tmp_path: Path) -> None:
    result = run("recipes", "copy", "-o", tmp_path / "all")
    assert result.exit_code == 0
    for name in recipe_names():
        assert read_yaml(tmp_path / "all" / f"{name}.yaml") == read_yaml(name)
    assert (tmp_path / "all" / "mini" / "held_out.txt").is_file()
    assert not list((tmp_path / "all").rglob("*.py"))
    result = run("recipes", "copy", "gpu/adapt", "-o", tmp_path / "one")
    assert {Path(line) for line in result.stdout.splitlines()} == {
        tmp_path / "one" / name for name in ("gpu/adapt.yaml", "mini/adapt.yaml", "mini/autoencoder.yaml")
    }
    assert read_yaml(tmp_path / "one" / "gpu" / "adapt.yaml") == read_yaml("gpu/adapt")


def test_a_changed_copy_stays_and_nothing_is_written_beside_it(tmp_path: Path) -> None:
    assert run("recipes", "copy", "mini/adapt", "-o", tmp_path).exit_code == 0
    changed = tmp_path / "mini" / "autoencoder.yaml"
    changed.write_text("steps: 3\n")
    result = run("recipes", "copy", "mini", "-o", tmp_path)
    assert result.exit_code == 1 and f"{changed}: is there and differs" in result.stderr
    assert changed.read_text() == "steps: 3\n" and not (tmp_path / "mini" / "stage1.yaml").exists()
    assert run("recipes", "copy", "mini", "-o", tmp_path, "--force").exit_code == 0
    assert read_yaml(changed) == read_yaml("mini/autoencoder")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("list", "mimi"), "mimi: no recipe of that name; there are ablations,"),
        (("show", "mini/sage1"), "the nearest is mini/stage1"),
        (("copy", "../secrets", "-o", "x"), "../secrets: no recipe of that name"),
    ],
)
def test_unknown_names_are_one_line(words: tuple[str, ...], message: str) -> None:
    result = run("recipes", *words)
    assert result.exit_code == 1 and result.stderr.count("\n") == 1 and message in result.stderr


def test_relative_paths_of_a_packaged_comparison_are_those_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("eval", "lm", "comparisons/conditional", "-o", "out", "--dry-run")
    assert result.exit_code == 1 and result.stderr.startswith(f"error: {Path('tokens') / 'full.parquet'}")


def test_a_kit_takes_a_set_of_recipes_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("kit", "make", "-o", "kit", "--songs", 1, "--no-wheels", "--dry-run", "--stages")
    assert run(*words, "stage1").exit_code == 0
    assert run(*words, "stage1", "--configs", "gpu").exit_code == 0
    result = run(*words, "separator", "--configs", "ablations/plain-vq")
    assert result.exit_code == 1 and "--configs names a folder or a set of recipes" in result.stderr
