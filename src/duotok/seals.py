"""Sealed JSON: an entry `seal` holds a hash of all the others, so that any change is noticed."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from duotok.files import sha256


def read_json(text: str | bytes) -> Any:
    """`json.loads` that raises ValueError for every text that is no JSON: too deeply nested, NaN and infinity as well."""
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number")
    return value


def _seal(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def seal(values: dict[str, Any]) -> dict[str, Any]:
    """The same values with a new entry `seal`, last."""
    content = unsealed(values)
    return {**content, "seal": _seal(content)}


def unsealed(values: dict[str, Any]) -> dict[str, Any]:
    """The same without the entry."""
    return {name: value for name, value in values.items() if name != "seal"}


def is_sealed(values: dict[str, Any]) -> bool:
    """Whether there is a seal and it matches the other values."""
    return values.get("seal") == _seal(unsealed(values))


def hashes(folder: Path, names: list[str]) -> dict[str, str]:
    """Name -> sha256 of these files of a folder. Raises OSError."""
    return {name: sha256(folder / name) for name in sorted(names)}
