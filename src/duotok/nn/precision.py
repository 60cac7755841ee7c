"""Full precision where a rounding error would change a code, whatever precision the caller works in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """True float32 inside: no autocast, and neither TF32 nor (CPUs with AMX) bfloat16 in products even where the process allows them."""
    with torch.autocast(device.type, enabled=False):
        allowed = torch.get_float32_matmul_precision()
        if allowed == "highest":
            yield
            return
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(allowed)


def stream_dtype(x: Tensor) -> tuple[torch.dtype, torch.dtype]:
    """What the sum over residual blocks is kept in, and what products inside a block come out in.

    In mixed precision the sum stays in float32: in bfloat16 each block's share of it would lose all but some bits. It
    costs no memory there, because a norm keeps its input in float32 for the way back anyhow.
    """
    if torch.is_autocast_enabled(x.device.type):
        return torch.float32, torch.get_autocast_dtype(x.device.type)
    return x.dtype, x.dtype
