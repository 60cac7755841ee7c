"""Tensors of a published checkpoint against the names and shapes that are documented; JSON that lies beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Size, Tensor

from duotok.convert import read_pickle, tensors_of
from duotok.errors import ConfigError
from duotok.seals import read_json

LONGEST_JSON = 1_000_000
NAMED = 3
"""Keys that an error names."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Tensors by name, from safetensors or from a pickle of nothing but tensors. Raises ConfigError for anything else."""
    if path.suffix != ".safetensors":
        return tensors_of(read_pickle(path), path)[0]
    try:
        state: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be read ({' '.join(str(error).split())[:120]}); get it again") from None
    return state


def read_published_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ConfigError when it is none, is nested without end, or is far too long."""
    try:
        size = path.stat().st_size
        if size > LONGEST_JSON:
            raise ValueError(f"{size:,} bytes, no such file has as many")
        values = read_json(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("no object")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())[:120]
        raise ConfigError(f"{path}: not the published JSON ({reason}); get it again") from None
    return values


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def check_state(state: Mapping[str, Tensor], wanted: Mapping[str, Size], path: Path, remedy: str) -> None:
    """Raises ConfigError unless a checkpoint has exactly these names, shapes, and finite numbers.

    The first few names of each kind of fault are told, with both shapes.
    """
    missing, unknown = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    shapes = [
        f"{name} {list(state[name].shape)} instead of {list(wanted[name])}"
        for name in sorted(wanted.keys() & state.keys())
        if state[name].shape != wanted[name]
    ]
    infinite = sorted(n for n, v in state.items() if v.is_floating_point() and not bool(v.isfinite().all()))
    faults = (("missing", missing), ("unknown", unknown), ("of another shape", shapes), ("not finite", infinite))
    told = [f"{len(names)} {what}: {_named(names)}" for what, names in faults if names]
    if told:
        raise ConfigError(f"{path}: does not fit its configuration ({'; '.join(told)}); {remedy}")
