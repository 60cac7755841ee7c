"""Weights from safetensors into modules, strictly: no pickle, no tensor too few, too many, of another shape or kind, or NaN.

Errors are of the caller's class and end with the caller's remedy; this module names the file and the tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from duotok.compact import expand
from duotok.errors import DuoTokError, one_line

PICKLES = (".ckpt", ".pth", ".pt", ".th", ".bin")
"""Endings of files that can hold code beside weights."""
STORED = (torch.float16, torch.bfloat16, torch.float32)
"""Number formats that are converted into each other on loading."""


class Misfit(NamedTuple):
    """A tensor that does not fit its module. description: one clause, e.g. "'norm.weight' is [4], not [8]"."""

    what: Literal["missing", "unexpected", "of another shape", "of another kind", "not finite"]
    name: str
    description: str


def read_weights(path: Path, error: type[DuoTokError], remedy: str) -> dict[str, Tensor]:
    """All tensors of a safetensors file by name; what is stored in eight bits comes out as float32.

    Raises `error` for a file that is missing, cut off or no safetensors, and for rows without their scales.
    """
    try:
        return expand(load_file(path))
    except (OSError, SafetensorError, ValueError) as reason:
        raise error(f"{path}: damaged weights ({one_line(reason)}); {remedy}") from None


def misfits(state: Mapping[str, Tensor], present: Mapping[str, Tensor], finite: bool = True) -> list[Misfit]:
    """How a state differs from the present one of a module: tensors that are missing, unexpected ones, then all others.

    finite: NaN and infinite values do not fit either.
    """
    problems = [Misfit("missing", name, f"'{name}' is missing") for name in sorted(present.keys() - state.keys())]
    problems += [Misfit("unexpected", name, f"'{name}' is not known") for name in sorted(state.keys() - present.keys())]
    for name in sorted(state.keys() & present.keys()):
        value, expected = state[name], present[name]
        if value.shape != expected.shape:
            description = f"'{name}' is {list(value.shape)}, not {list(expected.shape)}"
            problems.append(Misfit("of another shape", name, description))
        elif value.dtype != expected.dtype and not (value.dtype in STORED and expected.dtype in STORED):
            problems.append(Misfit("of another kind", name, f"'{name}' is {value.dtype}, not {expected.dtype}"))
        elif finite and value.is_floating_point() and not bool(value.isfinite().all()):
            problems.append(Misfit("not finite", name, f"'{name}' holds NaN or infinite values"))
    return problems


def load_weights(
    path: Path, module: nn.Module, error: type[DuoTokError], remedy: str, unfit: Callable[[Sequence[Misfit]], str]
) -> None:
    """Load a safetensors file into `module`, strictly; smaller storage is widened.

    unfit: the rest of the line that says what does not fit, after the path. Raises `error` in one line.
    """
    state, present = read_weights(path, error, remedy), module.state_dict()
    problems = misfits(state, present)
    if problems:
        raise error(f"{path}: {unfit(problems)}")
    module.load_state_dict({name: value.to(present[name].dtype) for name, value in state.items()})
