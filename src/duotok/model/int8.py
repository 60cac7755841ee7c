"""Linear layers in 8-bit integers for encoding on a CPU: weights once, inputs as they come (dynamic quantization).

Each output channel of the weights and each row of the input has its own scale. So a frame is rounded by itself: its code
depends on no other item of the batch. The kernels are oneDNN's, which torch brings along (`benchmarks/int8.py` compares).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from duotok.errors import ConfigError
from duotok.model.tokenizer import Tokenizer

LEVELS = 127
LEAST = 1e-12  # scale of a row of zeros


class Int8Linear(nn.Module):
    """What stands in for a linear layer: `[..., in_features]` to `[..., out_features]`, float32 outside."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.scales = (weight.abs().amax(1) / LEVELS).clamp_min(LEAST)
        rounded = (weight / self.scales[:, None]).round().to(torch.int8)
        self.zeros = torch.zeros(self.out_features, dtype=torch.int64)
        self.packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.bias = None if linear.bias is None else linear.bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features).float()
        scales = torch.maximum(rows.amax(1, keepdim=True), -rows.amin(1, keepdim=True)).clamp_min(LEAST) / LEVELS
        rounded = (rows / scales).round_().to(torch.int8)
        made: Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, 0, self.packed, self.scales, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        made = made.mul_(scales) if self.bias is None else torch.addcmul(self.bias, made, scales, out=made)
        return made.view(*x.shape[:-1], self.out_features)


def check_int8(device: torch.device) -> None:
    """Raises ConfigError where linear layers cannot run in 8 bits."""
    if device.type != "cpu":
        raise ConfigError(f"precision 'int8' runs on a CPU, not on {device}; use bf16 there")
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.onednn, "qlinear_pointwise"):
        raise ConfigError("precision 'int8': this build of torch has no 8-bit kernels (oneDNN); use fp32")


def int8_encoder(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer that encodes with the lower blocks' linear layers in 8 bits; everything else is shared, not copied.

    The front end, proj in and the search for the nearest code stay float32. It cannot be trained or saved.
    """
    quick = copy.copy(tokenizer)
    quick._modules = dict(tokenizer._modules)
    linear: dict[int, Any] = {
        id(m): Int8Linear(m) for m in tokenizer.lower_blocks.modules() if isinstance(m, nn.Linear)
    }
    quick.lower_blocks = copy.deepcopy(tokenizer.lower_blocks, linear)
    return quick
