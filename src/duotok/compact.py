"""Weights in eight bits: each row of a matrix as int8 with one scale. What a bundle of bounded size stores; loaded weights are float32.

The rounding error of a row is at most half a step, 1/253 of its largest weight: about 40 dB below the weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

SCALE = "::scale"
LEAST_INPUTS = 32
"""Shorter rows stay as they are: their scales would take what is saved."""


SMALLEST, LARGEST = 1e-4, 6e4
"""Between these float16 has all its bits."""


def compact(state: Mapping[str, Tensor], learned: Collection[str], least: int = LEAST_INPUTS) -> dict[str, Tensor]:
    """The state with the learned matrices as `NAME` (int8) and `NAME::scale` `[rows]`; all else is unchanged.

    least: shorter rows stay as they are. Scales are float16 where its range holds them, else float32.

    Raises ValueError for a name that ends like a scale, and for weights that are not finite.
    """
    result: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.endswith(SCALE):
            raise ValueError(f"'{name}' ends like a scale")
        rows = value.detach().flatten(1) if value.ndim > 1 else value
        if name not in learned or value.dtype != torch.float32 or value.ndim < 2 or rows.shape[1] < least:
            result[name] = value.detach()
            continue
        if not bool(rows.isfinite().all()):
            raise ValueError(f"'{name}' holds NaN or infinite values")
        scale = rows.abs().amax(1).clamp_min(1e-12) / 127
        if float(scale.min()) > SMALLEST and float(scale.max()) < LARGEST:
            # The largest weight is then 127.06 steps at most, and weights that were read from eight bits give the same again.
            scale = scale.half()
        result[name] = (rows / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8).view(value.shape)
        result[name + SCALE] = scale
    return result


def expand(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `compact`, up to its rounding. Raises ValueError for an int8 matrix without a scale, or a scale without one."""
    result: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.endswith(SCALE):
            if name.removesuffix(SCALE) not in state:
                raise ValueError(f"'{name}' belongs to no weights")
            continue
        scale = state.get(name + SCALE)
        if scale is None:
            result[name] = value
            continue
        if (
            value.dtype != torch.int8
            or scale.dtype not in (torch.float16, torch.float32)
            or scale.shape != value.shape[:1]
        ):
            raise ValueError(
                f"'{name}' and its scale do not fit: {value.dtype} {list(value.shape)}, {list(scale.shape)}"
            )
        result[name] = value.float() * scale.float().view(-1, *(1 for _ in value.shape[1:]))
    return result
