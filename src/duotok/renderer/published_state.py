"""Checks the tensors of a published checkpoint against the documented names and shapes, folds weight norm, reads the JSON beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Size, Tensor

from duotok.convert import read_pickle, tensors_of
from duotok.errors import ConfigError
from duotok.seals import read_json
from duotok.weights import misfits, read_weights

LONGEST_JSON = 1_000_000
STATISTICS = ("mean", "std")
"""Our own buffers of an autoencoder, which published checkpoints lack."""
NAMED = 3
"""How many keys an error names."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Tensors by name, from safetensors or from a pickle of nothing but tensors. Raises ConfigError for anything else."""
    if path.suffix != ".safetensors":
        return tensors_of(read_pickle(path), path)[0]
    return read_weights(path, ConfigError, "get it again")


def read_published_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ConfigError when it is not one, or is nested too deeply or far too long."""
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


def check_state(state: Mapping[str, Tensor], shapes: Mapping[str, Size], path: Path, remedy: str) -> None:
    """Raises ConfigError unless a checkpoint has exactly these names and shapes, of finite numbers.

    The first few of each kind of fault are named, with both shapes.
    """
    present = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    names_by_fault: dict[str, list[str]] = {}
    for fault in misfits(state, present):
        clear = fault.what in ("missing", "unexpected", "not finite")
        names_by_fault.setdefault(fault.what, []).append(fault.name if clear else fault.description)
    faults = [
        f"{len(names)} {what}: {', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''}"
        for what, names in names_by_fault.items()
    ]
    if faults:
        raise ConfigError(f"{path}: does not fit its configuration ({'; '.join(faults)}); {remedy}")


def length_of(weight: Tensor) -> Tensor:
    """Weight norm's length of each first index: `[n, 1, ...]` of `[n, ...]`."""
    length: Tensor = weight.flatten(1).norm(dim=1)
    return length.view(-1, *[1] * (weight.dim() - 1))


def folded(weights: dict[str, Tensor], name: str, direction: str, length: str, path: Path) -> None:
    """Put `NAME.weight` in the place of the two tensors that weight norm keeps. Raises ConfigError for a row without a direction."""
    weight = torch._weight_norm(weights.pop(f"{name}.{direction}"), weights.pop(f"{name}.{length}"), 0)
    if not bool(weight.isfinite().all()):
        raise ConfigError(
            f"{path}: {name}.{direction} has a row of zeros, which has no direction; get the checkpoint again"
        )
    weights[f"{name}.weight"] = weight
