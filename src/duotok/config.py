"""Typed configurations: YAML in, validated model out; an unknown key is an error that names the nearest known one."""

from __future__ import annotations

import contextlib
import difflib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from duotok.errors import ConfigError

C = TypeVar("C", bound="Config")


class Config(BaseModel):
    """Base of every configuration: frozen, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _known_keys(model: type[BaseModel]) -> set[str]:
    keys: set[str] = set()
    for name, field in model.model_fields.items():
        keys.add(name)
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            keys |= _known_keys(annotation)
    return keys


def parse(model: type[C], values: dict[str, Any], source: str = "config") -> C:
    """Validate `values` as `model`. Raises ConfigError naming `source`, the key and what would be right."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(problem["loc"][-1]), _known_keys(model), n=1, cutoff=0.0)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ConfigError(f"{source}: unknown key '{key}'{hint}") from None
        raise ConfigError(f"{source}: '{key}' = {problem.get('input')!r}: {problem['msg']}") from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping. Raises ConfigError when the file is missing or is no mapping."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML ({str(error).splitlines()[0]})") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must be a mapping of keys to values")
    return values


def override(values: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Apply dotted overrides, e.g. `["optimizer.lr=1e-4"]`, to a copy of `values`."""
    result: dict[str, Any] = yaml.safe_load(yaml.safe_dump(values))
    for assignment in assignments:
        key, sep, text = assignment.partition("=")
        if not sep or not key:
            raise ConfigError(f"override '{assignment}': write it as key=value, e.g. steps=1000")
        node = result
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"override '{assignment}': '{parent}' is a value, not a group")
        value = yaml.safe_load(text)
        if isinstance(value, str):  # YAML 1.1 reads 1e-4 as text
            with contextlib.suppress(ValueError):
                value = float(value)
        node[last] = value
    return result


def load_config(model: type[C], path: str | Path, assignments: list[str] | None = None) -> C:
    """Read `path`, apply dotted overrides, validate as `model`."""
    return parse(model, override(read_yaml(path), assignments or []), str(path))
