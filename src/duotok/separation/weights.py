"""Weights of separators; pickles are named, and how to convert them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from duotok.errors import ConfigError
from duotok.weights import PICKLES, Misfit, load_weights

REMEDY = "get them again"


def check_weights_file(path: Path) -> None:
    """Raises ConfigError for a file that is not there, or that is a pickle, and says how to repair that."""
    if path.suffix.lower() in PICKLES:
        raise ConfigError(
            f"{path}: is a pickle, which can hold more than weights; convert it once: "
            f"python -m duotok.convert {path.name} {path.stem}.safetensors"
        )
    if not path.is_file():
        raise ConfigError(f"{path}: no such weights; check the path")


def load_strict(path: str | Path, module: nn.Module) -> None:
    """Load a .safetensors file into `module`, smaller storage widened.

    Raises ConfigError in one line that names what is missing, unexpected, of another shape or kind, or not finite.
    """
    path = Path(path)
    check_weights_file(path)
    load_weights(path, module, ConfigError, REMEDY, _unfit)


def _unfit(found: Sequence[Misfit]) -> str:
    """How many tensors of each fault, and the first three by name: a config of another model misses hundreds."""
    names: dict[str, list[str]] = {}
    for misfit in found:
        names.setdefault(misfit.what, []).append(misfit.name)
    parts = [f"{len(n)} {what}: {', '.join(n[:3])}{', ...' if len(n) > 3 else ''}" for what, n in names.items()]
    return f"does not fit its configuration; {'; '.join(parts)}"
