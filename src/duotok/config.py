"""Typed configurations: YAML in, validated model out; an unknown key is an error that names the nearest known one.

Where a command takes a YAML file it also takes the name of a recipe that comes with the package, such as `mini/stage1`.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from duotok.errors import ConfigError
from duotok.files import PACKAGE

C = TypeVar("C", bound="Config")

RECIPES = PACKAGE / "recipes"
"""The YAML files that come with the package; `mini/stage1` names `RECIPES/mini/stage1.yaml`."""
YAML = ".yaml"

log = logging.getLogger(__name__)


class Config(BaseModel):
    """Base of every configuration: frozen, no unknown keys, no number that is infinite or NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _known_keys(model: type[BaseModel], place: str = "", around: tuple[type[BaseModel], ...] = ()) -> dict[str, str]:
    """Every key of a configuration and of those inside it -> where it belongs, e.g. `lr` -> `optimizer.lr`.

    around: the configurations that enclose this one; one that contains its own class is visited once.
    """
    keys = {name: place + name for name in model.model_fields}
    for name, field in model.model_fields.items():
        for inner in _models(field.annotation):
            if inner not in (*around, model):
                keys = _known_keys(inner, f"{place}{name}.", (*around, model)) | keys
    return keys


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The configurations inside an annotation, also those in a dict or beside None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _nearest(word: str, known: dict[str, str]) -> list[str]:
    """The known key with the smallest edit distance (two letters swapped are one edit); of several, the one at the top."""
    return sorted(known, key=lambda key: (edit_distance(word, key), known[key].count(".")))[:1]


def edit_distance(one: str, two: str) -> int:
    """Damerau-Levenshtein distance: letters left out, put in, exchanged, or swapped with their neighbour."""
    rows = [list(range(len(two) + 1))]
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(two, 1):
            row.append(min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (a != b)))
            if i > 1 and j > 1 and a == two[j - 2] and one[i - 2] == b:
                row[-1] = min(row[-1], rows[-2][j - 2] + 1)
        rows.append(row)
    return rows[-1][-1]


def parse(model: type[C], values: dict[str, Any], source: str = "config") -> C:
    """Validate `values` as `model`. Raises ConfigError naming `source`, the key and what would be right."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        # "kind: ..." is what a configuration of several kinds was read as (renderer/kinds.py), and no key
        key = ".".join(str(part) for part in problem["loc"] if not str(part).startswith("kind: "))
        if problem["type"] == "extra_forbidden":
            known = _known_keys(model)
            near = _nearest(str(problem["loc"][-1]), known)
            misspelt = near and (len(problem["loc"]) > 1 or near[0] != key)
            hint = f"; did you mean '{near[0] if misspelt else known[near[0]]}'?" if near else ""
            raise ConfigError(f"{source}: unknown key '{key}'{hint}") from None
        if problem["type"] == "missing":
            raise ConfigError(f"{source}: '{key}' is missing, and has no default") from None
        # Values that do not go together are told of the section that has them, and that is too long to repeat.
        section = isinstance(problem.get("input"), Mapping)
        what = "" if section and not key else f"'{key}': " if section else f"'{key}' = {problem.get('input')!r}: "
        raise ConfigError(f"{source}: {what}{problem['msg'].removeprefix('Value error, ')}") from None


def recipe_names() -> list[str]:
    """The names of all packaged recipes, in order, e.g. `mini/stage1`."""
    return sorted(recipe_name(path) for path in RECIPES.rglob(f"*{YAML}"))


def recipe_name(path: Path) -> str:
    """What a packaged file or folder is called: `mini/stage1`. Any other path as it is."""
    if not path.is_relative_to(RECIPES):
        return str(path)
    return path.relative_to(RECIPES).as_posix().removesuffix(YAML)


def config_file(config: str | Path) -> Path:
    """The file that a path or the name of a packaged recipe means; a file comes first.

    Raises ConfigError when there is neither, with the nearest recipe.
    """
    path = Path(config)
    if path.is_file():
        return path
    name, beside = path.as_posix(), path.parent / (path.name + YAML)
    if name not in recipe_names():
        if beside.is_file():
            raise ConfigError(f"{path}: no such file; name {beside} with its ending")
        raise ConfigError(_missing(path, "file", recipe_names()))
    if beside.is_file():  # perhaps a changed copy, which is easily meant
        log.warning("%s: the packaged recipe is taken, not the file %s; name that with its ending", name, beside)
    return RECIPES / f"{name}{YAML}"


def config_folder(config: str | Path) -> Path:
    """The folder of YAML files that a path or the name of a set of recipes (`mini`, `gpu`) means; a folder comes first.

    A folder without YAML files does not count: `mini` is a likely name for results, too. Raises ConfigError when there is
    neither, with the nearest set.
    """
    path = Path(config)
    if path.is_dir() and next(path.glob(f"*{YAML}"), None) is not None:
        return path
    sets = sorted({name.rpartition("/")[0] for name in recipe_names()})
    if path.as_posix() not in sets:
        raise ConfigError(_missing(path, "folder", sets))
    return RECIPES / path


def base_folder(config: str | Path) -> Path:
    """The folder that relative paths inside a configuration start from: its own; for a packaged recipe, the current one."""
    path = config_file(config)
    return Path() if path.is_relative_to(RECIPES) else path.parent


def _missing(path: Path, kind: str, names: list[str]) -> str:
    """The line for a path that is neither a `kind` nor one of the recipes `names`."""
    parts = path.as_posix().removesuffix(YAML).split("/")
    ends = ["/".join(parts[-n:]) for n in range(1, min(len(parts), 3) + 1)]  # old/mini/stage1.yaml is near mini/stage1
    near = min(names, key=lambda name: min(edit_distance(end, name) for end in ends))
    return f"{path}: no such {kind}, and no recipe of that name; the nearest is {near}, `duotok recipes list` has all"


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping, laid over the one that its key `extends` names, if it has that key.

    path: a file, or the name of a packaged recipe; `extends` likewise, a file relative to the one that names it. Mappings
    are merged key by key, anything else replaces what was there. Raises ConfigError when a file is missing, is no mapping,
    or extends itself.
    """
    return _merge_layers(layers(path))


def layers(path: str | Path) -> list[tuple[Path, dict[str, Any]]]:
    """A YAML file, then those that it extends, each with its own keys. Raises as `read_yaml`."""
    configs: list[tuple[Path, dict[str, Any]]] = []
    following: Path | None = config_file(path)
    while following is not None:
        current, chain = following, [*(file for file, _ in configs), following]
        if any(current.resolve() == file.resolve() for file, _ in configs):
            raise ConfigError(f"{_chain(chain)}: extends itself; take one 'extends' away")
        values = _mapping(current, _chain(chain))
        base = values.pop("extends", "")
        if not isinstance(base, str):
            raise ConfigError(
                f"{current}: 'extends' = {base!r}; name one YAML file, relative to this one, or a packaged recipe"
            )
        configs.append((current, values))
        following = _extended(chain, base) if base else None
    return configs


def _extended(chain: list[Path], base: str) -> Path:
    """The file that the last of a chain extends."""
    file = Path(os.path.normpath(chain[-1].parent / base))
    if file.is_file():
        return file
    if base in recipe_names():
        return RECIPES / f"{base}{YAML}"
    raise ConfigError(f"{_chain(chain)}, which extends {_missing(Path(base), 'file', recipe_names())}")


def _merge_layers(configs: list[tuple[Path, dict[str, Any]]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for _, values in reversed(configs):
        result = merged(result, values)
    return result


def _chain(files: list[Path]) -> str:
    return ", which extends ".join(map(recipe_name, files))


def _mapping(path: Path, source: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read ({error.strerror}); check its name and permissions") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: not valid YAML ({str(error).splitlines()[0]}); correct the file") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: must be a mapping of keys to values; write lines of KEY: VALUE")
    return values


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid over `under`: mappings key by key, anything else as a whole."""
    result = dict(under)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def override(values: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Apply dotted overrides, e.g. `["optimizer.lr=1e-4"]`, to a copy of `values`."""
    result = copy.deepcopy(values)
    for assignment in assignments:
        key, sep, text = assignment.partition("=")
        if not sep or not key:
            raise ConfigError(f"override '{assignment}': write it as key=value, e.g. steps=1000")
        node = result
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"override '{assignment}': '{parent}' is a value, not a group; name an existing key")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"override '{assignment}': '{text}' is no YAML value; quote it") from None
        if isinstance(value, str):  # YAML 1.1 reads 1e-4 as text
            with contextlib.suppress(ValueError):
                value = float(value)
        node[last] = value
    return result


def load_config(model: type[C], path: str | Path, assignments: list[str] | None = None) -> C:
    """Read `path` (a file, or a packaged recipe's name) and what it extends, apply dotted overrides, validate as `model`."""
    configs = layers(path)
    return parse(model, override(_merge_layers(configs), assignments or []), _chain([file for file, _ in configs]))
