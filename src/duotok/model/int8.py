"""Linear layers in 8-bit integers for encoding on a CPU: weights once, inputs at run time (dynamic quantization).

Each output channel of the weights and each row of the input has its own scale. So a frame is rounded by itself: its code
depends on no other item of the batch. The input has two digits of 8 bits: with one, rounding it would change more codes than
rounding the weights does. The kernels are those of oneDNN, which is part of torch (`benchmarks/int8.py` compares). They are fast for
unsigned inputs, which is what the instructions of VNNI multiply: a digit is shifted by ZERO, and the kernel takes that off again.
"""

# mypy: disallow-untyped-calls=False
# torch's split and backends have no annotations

from __future__ import annotations

import copy
import functools
import logging
import platform
from typing import Any

import torch
from torch import Tensor, nn

from duotok.errors import ConfigError
from duotok.model.tokenizer import Tokenizer

LEVELS = 127
ZERO = 128  # what stands for 0 in an unsigned byte
ROWS = 256  # at a time, so that the output of one operation is still in the cache for the next
LEAST = 1e-12  # scale of a row of zeros
ALIGNED = 64  # inputs that the kernels take at once
EXACT = 2**24  # whole numbers up to here are float32 numbers
X86 = ("x86_64", "amd64")

log = logging.getLogger(__name__)


def byte_product(digits: Tensor, packed: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """Sums of whole products, times the scale of each output channel: int8 `[rows, in]`, which is overwritten, to float32 `[rows, out]`."""
    shifted = digits.view(torch.uint8).bitwise_xor_(ZERO)  # digit + ZERO: the sign is the highest bit
    product: Tensor = torch.ops.onednn.qlinear_pointwise(
        shifted, 1.0, ZERO, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return product


class Int8Linear(nn.Module):
    """Replacement of a linear layer: `[..., in_features]` to `[..., out_features]`, float32 outside."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.scales = (weight.abs().amax(1) / LEVELS).clamp_min(LEAST)
        rounded = (weight / self.scales[:, None]).round().to(torch.int8)
        self.zeros = torch.zeros(self.out_features, dtype=torch.int64)
        self.width = width_of_exact_sums(rounded)
        self.packed = [
            torch.ops.onednn.qlinear_prepack(part.contiguous(), None) for part in rounded.split(self.width, dim=1)
        ]
        self.bias = None if linear.bias is None else linear.bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features).float()
        output = rows.new_empty(len(rows), self.out_features)
        digits = torch.empty(2 * ROWS, self.in_features, dtype=torch.int8)
        for part, out in zip(rows.split(ROWS), output.split(ROWS), strict=True):
            n = len(part)
            largest = torch.maximum(part.amax(1, keepdim=True), -part.amin(1, keepdim=True)).clamp_min(LEAST)
            scaled = part * (LEVELS / largest)
            digits[:n] = scaled  # rounds towards zero
            digits[n : 2 * n] = scaled.frac_().mul_(LEVELS)
            both = self.product(digits[: 2 * n])
            product = both[:n].add_(both[n:], alpha=1 / LEVELS)
            if self.bias is None:
                torch.mul(product, largest / LEVELS, out=out)
            else:
                torch.addcmul(self.bias, product, largest / LEVELS, out=out)
        return output.view(*x.shape[:-1], self.out_features)

    def product(self, digits: Tensor) -> Tensor:
        """Digits times weights: int8 `[rows, in]`, which is overwritten, to float32 `[rows, out]`."""
        if len(self.packed) == 1:
            return byte_product(digits, self.packed[0], self.scales, self.zeros)
        ones = torch.ones_like(self.scales)
        pieces = zip(digits.split(self.width, dim=1), self.packed, strict=True)
        sums = [byte_product(inputs.contiguous(), packed, ones, self.zeros) for inputs, packed in pieces]
        return torch.stack(sums).sum(0).mul_(self.scales)


def width_of_exact_sums(rounded: Tensor) -> int:
    """Of how many inputs weights int8 `[out, in]` give, with any digits, sums that a float32 holds exactly; mostly of all.

    Kernels for AMX make a float32 of a sum before they take ZERO off.
    """
    width = rounded.shape[1]
    while width > ALIGNED and max(_largest_sum(part) for part in rounded.split(width, dim=1)) > EXACT:
        width = (width - 1) // ALIGNED * ALIGNED
    return width


def _largest_sum(rounded: Tensor) -> int:
    weights = rounded.long()
    return int((LEVELS * weights.abs().sum(1) + ZERO * weights.sum(1).abs()).amax())


@functools.cache
def sums_are_exact() -> bool:
    """Whether the largest bytes are multiplied right here. CPUs without VNNI add two products in 16 bits, which overflow."""
    size = 64
    digits = torch.full((2, size), LEVELS, dtype=torch.int8)
    digits[1] = -LEVELS
    packed = torch.ops.onednn.qlinear_prepack(torch.full((size, size), LEVELS, dtype=torch.int8), None)
    found = byte_product(digits, packed, torch.ones(size), torch.zeros(size, dtype=torch.int64))
    sums = torch.tensor([[1.0], [-1.0]]) * size * LEVELS**2
    return bool(torch.equal(found, sums.expand(2, size)))


def check_int8(device: torch.device) -> None:
    """Raises ConfigError where linear layers cannot run in 8 bits."""
    if device.type != "cpu":
        raise ConfigError(f"precision 'int8' runs on a CPU, not on {device}; use bf16 there")
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not available or not hasattr(torch.ops.onednn, "qlinear_pointwise"):
        raise ConfigError("precision 'int8': this build of torch has no 8-bit kernels (oneDNN); use fp32")
    if not sums_are_exact():
        raise ConfigError(
            "precision 'int8': sums of byte products overflow on this CPU (it has no VNNI), so tokens would be wrong; use fp32"
        )
    if platform.machine().lower() not in X86:
        log.warning(
            "precision 'int8' is fast on x86 with VNNI and was not tried on %s: compare it with fp32",
            platform.machine(),
        )


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
