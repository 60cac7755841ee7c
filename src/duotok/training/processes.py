"""A stage on the processes that a launcher started: one, DDP copies, or FSDP shards.

Started plainly it is one process; under `accelerate launch` or `torchrun` it is DDP (or FSDP with `sharding: fsdp`).
"""

from __future__ import annotations

import warnings
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from duotok.devices import gpu_or_cpu
from duotok.distributed import barrier
from duotok.errors import ConfigError, MissingExtraError
from duotok.training.stage import Batch, Stage, StageConfig

if TYPE_CHECKING:
    from accelerate import Accelerator


_ours = False
"""Whether the group of processes was made here."""


def join(config: StageConfig) -> Accelerator:
    """The processes of this run, as the launcher started them. Call it before preparing data in several processes."""
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
        from accelerate.state import AcceleratorState
    except ImportError:
        raise MissingExtraError("training needs accelerate: pip install 'duotok[train]'") from None
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: cuda, but torch sees no GPU; use device: auto")
    on_cpu = gpu_or_cpu(config.device).type == "cpu"
    if config.precision == "fp16" and on_cpu:
        use = "bf16, or fp32" if fast_half() else "fp32"
        raise ConfigError(f"precision: fp16 needs a GPU, and this run has a CPU; use precision: {use}")
    if config.precision != "fp32" and on_cpu and not fast_half():
        raise ConfigError(
            f"precision: {config.precision} is 100 times slower than fp32 on this CPU; use precision: fp32"
        )
    # One process may train several stages, each with its own precision and device. Processes that a launcher joined stay so.
    joined = torch.distributed.is_initialized()
    AcceleratorState._reset_state(reset_partial_state=not joined)
    # accelerate passes it on by its old name
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision={"fp32": "no"}.get(config.precision, config.precision),
        dynamo_backend="inductor" if config.compile else "no",
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False),
            # the others wait while the first process derives arrays
            InitProcessGroupKwargs(timeout=timedelta(hours=24)),
        ],
    )
    global _ours
    _ours = torch.distributed.is_initialized() if not joined else _ours
    return accelerator


def leave() -> None:
    """End the group of processes, if `join` made it; all call it when they are done. Else gloo's threads may abort a program that has ended well.

    A group of the launcher's own, as of Ray Train, is left to it.
    """
    global _ours
    if _ours and torch.distributed.is_initialized():
        barrier()
        torch.distributed.destroy_process_group()
    _ours = False


def fast_half() -> bool:
    """Whether this CPU multiplies in bfloat16 itself."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Trained(nn.Module):
    """A stage as one module, as DDP and FSDP require."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name.replace(".", "_"): module for name, module in stage.modules.items()})
        self._losses = stage.losses

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        return self._losses(batch, step)


def shard(trained: Trained, blocks: tuple[type[nn.Module], ...], precision: str) -> Trained:
    """Shard a model over the processes, with each of its `blocks` as a unit (FSDP2; accelerate's own method needs a GPU)."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32 if half else None)
    for module in trained.modules():
        if blocks and isinstance(module, blocks):
            fully_shard(module, mp_policy=policy)
    fully_shard(trained, mp_policy=policy)
    return trained
