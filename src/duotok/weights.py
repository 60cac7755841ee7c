"""Weights from safetensors into modules, strictly: no pickle, no tensor too few, too many, of another shape or kind, or NaN.

What is wrong is said in the caller's class of errors and with the caller's remedy; file and tensor are named here.
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
"""Kinds of numbers that float32 weights may be stored in, and the other way round."""


class Misfit(NamedTuple):
    """A tensor that is not as its module wants it. told: one clause, e.g. "'norm.weight' is [4], not [8]"."""

    what: Literal["missing", "unexpected", "of another shape", "of another kind", "not finite"]
    name: str
    told: str


def read_weights(path: Path, error: type[DuoTokError], remedy: str) -> dict[str, Tensor]:
    """All tensors of a safetensors file by name; what is stored in eight bits comes out as float32.

    Raises `error` for a file that is missing, cut off or no safetensors, and for rows without their scales.
    """
    try:
        return expand(load_file(path))
    except (OSError, SafetensorError, ValueError) as reason:
        raise error(f"{path}: damaged weights ({one_line(reason)}); {remedy}") from None


def misfits(state: Mapping[str, Tensor], present: Mapping[str, Tensor], finite: bool = True) -> list[Misfit]:
    """What of a state does not fit the present one of a module: by name what is missing, what is too much, then the rest.

    finite: NaN and infinite values do not fit either.
    """
    found = [Misfit("missing", name, f"'{name}' is missing") for name in sorted(present.keys() - state.keys())]
    found += [Misfit("unexpected", name, f"'{name}' is not known") for name in sorted(state.keys() - present.keys())]
    for name in sorted(state.keys() & present.keys()):
        value, own = state[name], present[name]
        if value.shape != own.shape:
            told = f"'{name}' is {list(value.shape)}, not {list(own.shape)}"
            found.append(Misfit("of another shape", name, told))
        elif value.dtype != own.dtype and not (value.dtype in STORED and own.dtype in STORED):
            found.append(Misfit("of another kind", name, f"'{name}' is {value.dtype}, not {own.dtype}"))
        elif finite and value.is_floating_point() and not bool(value.isfinite().all()):
            found.append(Misfit("not finite", name, f"'{name}' holds NaN or infinite values"))
    return found


def load_weights(
    path: Path, module: nn.Module, error: type[DuoTokError], remedy: str, unfit: Callable[[Sequence[Misfit]], str]
) -> None:
    """Load a safetensors file into `module`, strictly; smaller storage is widened.

    unfit: the rest of the line that says what does not fit, after the path. Raises `error` in one line.
    """
    state, present = read_weights(path, error, remedy), module.state_dict()
    found = misfits(state, present)
    if found:
        raise error(f"{path}: {unfit(found)}")
    module.load_state_dict({name: value.to(present[name].dtype) for name, value in state.items()})
