"""Means over a batch that may be spread over processes: the same numbers in one process and in many.

DDP averages the gradients of the processes. A loss that each process divides by its own count would then weigh short
batches too much; divided by `mean_divisor(count)` the average over processes is the mean over the whole batch, exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

_alone = False


@contextmanager
def alone() -> Iterator[None]:
    """For what one process does without the others (pictures, sound): sums inside are over this process only."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def world() -> int:
    """How many processes train together; 1 outside of distributed training and inside `alone`."""
    if _alone:
        return 1
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def group_device(device: torch.device) -> torch.device:
    """Where a tensor of `device` must lie to be summed over processes: NCCL, for one, knows no tensors of the CPU."""
    kinds = [part.split(":")[0] for part in dist.get_backend_config().split(",")]
    return device if device.type in kinds else torch.device(kinds[0])


@torch.no_grad()
def total(values: Tensor) -> Tensor:
    """The sum over processes, detached: every process must call it, with one shape."""
    if world() == 1:
        return values.detach()
    summed = values.detach().clone().to(group_device(values.device))
    dist.all_reduce(summed)
    return summed.to(values.device)


def of_first(value: float) -> float:
    """The first process's number; every process must call it."""
    return value if world() == 1 else float(total(torch.tensor(value if rank() == 0 else 0.0, dtype=torch.float64)))


def mean_divisor(count: Tensor) -> Tensor:
    """What to divide this process's sum by: the count of all processes / their number, at least 1 / their number."""
    return total(count).clamp_min(1) / world()


def barrier() -> None:
    """Wait for all processes."""
    if world() > 1:
        dist.barrier()
