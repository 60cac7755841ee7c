"""The YAML recipes of the package: lists them, and copies them for changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from duotok.config import RECIPES, YAML, config_file, layers, recipe_name, recipe_names
from duotok.errors import ConfigError, DuoTokError
from duotok.files import write_bytes


@dataclass(frozen=True)
class Recipe:
    """about: the first comment of the file; extends: the recipes below it, the nearest first."""

    name: str
    about: str
    extends: tuple[str, ...]


def recipes(prefix: str = "") -> list[Recipe]:
    """All recipes, or those whose name begins with the folders `prefix`. Raises ConfigError when there is none."""
    return [_recipe(name) for name in matching(prefix)]


def matching(prefix: str) -> list[str]:
    """The recipe of this name, or all below it: `mini/stage1`, `ablations`, `` for all. Raises ConfigError when there is none."""
    prefix = prefix.strip("/")
    names = recipe_names()
    chosen = [name for name in names if not prefix or name == prefix or name.startswith(f"{prefix}/")]
    if not chosen:
        sets = ", ".join(sorted({name.partition("/")[0] for name in names}))
        raise ConfigError(f"{prefix}: no recipe of that name; there are {sets}, and `duotok recipes list` names all")
    return chosen


def text_of(name: str) -> str:
    """The text of a recipe. Raises ConfigError for an unknown name."""
    return config_file(name).read_text(encoding="utf-8")


def copy(names: Sequence[str], folder: Path, force: bool = False) -> list[Path]:
    """Copy recipes, or whole sets, with all that they extend to FOLDER/mini/stage1.yaml and so on; returns the files.

    Lists beside the recipes of a set (mini/held_out.txt, a README) come along with the set. Raises ConfigError for an unknown name,
    DuoTokError for a file of that name with other contents, unless `force`; then nothing was written.
    """
    chosen: dict[Path, None] = {}
    for name in names or ("",):
        for one in matching(name):
            chosen |= dict.fromkeys(file for file, _ in layers(RECIPES / f"{one}{YAML}"))
        place = RECIPES / name.strip("/")
        beside = place.rglob("*") if place.is_dir() else ()
        chosen |= dict.fromkeys(path for path in beside if path.suffix in (".txt", ".md"))
    files = {path: folder / path.relative_to(RECIPES) for path in sorted(chosen)}
    for source, target in files.items():
        if target.exists() and not force and target.read_bytes() != source.read_bytes():
            raise DuoTokError(f"{target}: is there and differs; name another folder, or replace it with --force")
    for source, target in files.items():
        write_bytes(target, source.read_bytes())
    return list(files.values())


def _recipe(name: str) -> Recipe:
    first = text_of(name).partition("\n")[0]
    below = layers(RECIPES / f"{name}{YAML}")[1:]
    return Recipe(name, first.removeprefix("# "), tuple(recipe_name(file) for file, _ in below))
