"""Full precision where a rounding error would change a code, whatever precision the caller works in."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_lock = threading.Lock()
_inside: list[str] = []
"""What the process allows, once for each thread that is inside: the setting is the process's."""


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """True float32 inside: no autocast, and neither TF32 nor (CPUs with AMX) bfloat16 in products even where the process allows them."""
    with torch.autocast(device.type, enabled=False):
        with _lock:
            allowed = _inside[0] if _inside else torch.get_float32_matmul_precision()
            if allowed != "highest":
                _inside.append(allowed)
                torch.set_float32_matmul_precision("highest")
        if allowed == "highest":
            yield
            return
        try:
            yield
        finally:
            with _lock:
                if _inside:  # empty in a child that was forked inside
                    _inside.pop()
                if not _inside:  # the last thread to leave
                    torch.set_float32_matmul_precision(allowed)


def _only_here() -> None:
    """In the child of a fork: other threads, and what they were inside of, stayed behind."""
    if _inside:
        torch.set_float32_matmul_precision(_inside[0])
        _inside.clear()
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_only_here)


def stream_dtype(x: Tensor) -> tuple[torch.dtype, torch.dtype]:
    """What the sum over residual blocks is kept in, and what products inside a block come out in.

    In mixed precision the sum stays in float32: in bfloat16 each block's share of it would lose all but some bits. It
    costs no memory there, because a norm keeps its input in float32 for the way back anyhow.
    """
    if torch.is_autocast_enabled(x.device.type):
        return torch.float32, torch.get_autocast_dtype(x.device.type)
    return x.dtype, x.dtype
