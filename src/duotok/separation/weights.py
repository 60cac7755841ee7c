"""Loading the weights of separators; a pickle is refused, with the command that converts it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from duotok.errors import ConfigError
from duotok.weights import PICKLES, Misfit, load_weights

REMEDY = "get them again"


def check_weights_file(path: Path) -> None:
    """Raises ConfigError with the remedy for a file that is missing, or that is a pickle."""
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
    load_weights(path, module, ConfigError, REMEDY, _misfit_summary)


def _misfit_summary(problems: Sequence[Misfit]) -> str:
    """The number of tensors of each kind of misfit, and the first three by name: another model's config may misfit hundreds."""
    names: dict[str, list[str]] = {}
    for misfit in problems:
        names.setdefault(misfit.what, []).append(misfit.name)
    parts = [f"{len(n)} {what}: {', '.join(n[:3])}{', ...' if len(n) > 3 else ''}" for what, n in names.items()]
    return f"does not fit its configuration; {'; '.join(parts)}"
