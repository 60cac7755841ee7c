"""Weights from safetensors into a module, strictly; pickles are named and refused."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from duotok.compact import expand
from duotok.errors import ConfigError

PICKLES = frozenset({".ckpt", ".pth", ".pt", ".th", ".bin"})


def check_weights_file(path: Path) -> None:
    """Raises ConfigError for a file that is not there, or that is a pickle, and says how to mend that."""
    if path.suffix.lower() in PICKLES:
        raise ConfigError(
            f"{path}: is a pickle, which can hold more than weights; convert it once: "
            f"python -m duotok.convert {path.name} {path.stem}.safetensors"
        )
    if not path.is_file():
        raise ConfigError(f"{path}: no such weights; check the path")


def load_strict(path: str | Path, module: nn.Module) -> None:
    """Load a .safetensors file into `module`, smaller storage widened.

    Raises ConfigError in one line that names what is missing, unexpected, of another shape or not finite.
    """
    path = Path(path)
    check_weights_file(path)
    try:
        state = expand(load_file(path))
    except (OSError, SafetensorError, ValueError) as error:
        raise ConfigError(f"{path}: damaged weights ({' '.join(str(error).split())[:120]}); get them again") from None
    wanted = module.state_dict()
    problems = [
        f"{len(names)} {what}: {', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''}"
        for what, names in (
            ("missing", wanted.keys() - state.keys()),
            ("unexpected", state.keys() - wanted.keys()),
            ("of another shape", {k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape}),
            ("not finite", {k for k, v in state.items() if v.is_floating_point() and not bool(v.isfinite().all())}),
        )
        if names
    ]
    if problems:
        raise ConfigError(f"{path}: does not fit its configuration; {'; '.join(problems)}")
    with torch.no_grad():
        module.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in state.items()})
