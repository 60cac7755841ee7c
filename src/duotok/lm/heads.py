"""Cross-entropy and scores of a head with many thousand classes, without holding all logits at once.

The gradient of a sum of cross-entropies is known as soon as the logits are, so the forward pass computes it and the
backward pass only scales it: three matrix products a chunk, no logits kept, none computed twice.

torch has had the same since 2.13: `F.linear_cross_entropy` with options. We keep ours: it runs on older torch, returns each
row's loss without a fourth product, and in `python -m benchmarks.head_loss` (one thread of a busy CPU, torch 2.13, fp32)
torch's was 5 to 8 times as slow, with one and a half to two times the memory. On a GPU it was not measured.
"""

# mypy: disallow-untyped-calls=False

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

CHUNK = {"cpu": 1 << 24, "cuda": 1 << 27}
"""Logits in memory at a time."""


class Losses(NamedTuple):
    """Losses of one codebook. nats: the sum over all targets, with gradient; code_nats, codes: the sum over targets that are
    codes (not EOS), and their number."""

    nats: Tensor
    code_nats: Tensor
    codes: Tensor


class Scores(NamedTuple):
    """Scores of one codebook, a row for each target: bits float32 (-log2 of its probability among the codes), ranks int64
    (0: the model's first guess; equal logits in the order of their codes)."""

    bits: Tensor
    ranks: Tensor


def head_loss(hidden: Tensor, head: nn.Linear, targets: Tensor, size: int) -> Losses:
    """Cross-entropy over all `size + 3` classes: hidden `[n, width]`, targets `[n]`."""
    with_gradient = torch.is_grad_enabled()
    total, rows = _HeadLoss.apply(hidden, head.weight, head.bias, targets, with_gradient)
    codes = targets < size
    return Losses(total, (rows * codes).sum(), codes.sum())


@torch.no_grad()
def head_scores(hidden: Tensor, head: nn.Linear, targets: Tensor, size: int) -> Scores:
    """Bits and ranks among the `size` codes: hidden `[n, width]`, targets `[n]`, each below `size`."""
    if len(targets) and int(targets.max()) >= size:
        raise ValueError(f"target {int(targets.max())} is no code; the codebook ends at {size - 1}")
    bits, ranks = [hidden.new_zeros(0, dtype=torch.float32)], [targets.new_zeros(0)]
    order = torch.arange(size, device=targets.device)
    scratch: Tensor | None = None
    for rows, logits, _, _ in _chunks(hidden, head.weight[:size], head.bias[:size]):
        columns = targets[rows, None]
        at = logits.gather(1, columns)
        scratch = logits.new_empty(logits.shape) if scratch is None else scratch[: len(logits)]
        ahead = torch.gt(logits, at, out=scratch).sum(1).long()  # truth values as floats: six times as fast to add up
        equal = torch.eq(logits, at, out=scratch).sum(1) > 1
        if bool(equal.any()):  # rank ties by code: the uniform predictor's accuracy must be 1 / V, not 1
            ahead[equal] += ((logits[equal] == at[equal]) & (order < columns[equal])).sum(1)
        top = logits.amax(1, keepdim=True)
        spread = logits.sub_(top).exp_().sum(1)
        bits.append((top - at)[:, 0] / math.log(2) + spread.log2())
        ranks.append(ahead)
    return Scores(torch.cat(bits), torch.cat(ranks))


def _chunks(hidden: Tensor, weight: Tensor, bias: Tensor) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """(rows, logits float32 in a reused buffer that may be overwritten, hidden and weight in the dtype of the product)."""
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    hidden, weight, bias = hidden.to(dtype), weight.to(dtype), bias.to(dtype)
    most = max(64, CHUNK.get(device, CHUNK["cuda"]) // len(weight))
    step = max(1, math.ceil(len(hidden) / max(1, math.ceil(len(hidden) / most))))  # chunks of one size
    buffer = hidden.new_empty(min(step, len(hidden)), len(weight))
    for start in range(0, len(hidden), step):
        part = hidden[start : start + step]
        logits = torch.addmm(bias, part, weight.t(), out=buffer[: len(part)])
        yield slice(start, start + len(part)), logits.float(), part, weight


class _HeadLoss(torch.autograd.Function):
    """Sum over rows of the cross-entropy of `hidden @ weight.T + bias`, and that of each row (without gradient)."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, with_gradient: bool
    ) -> tuple[Tensor, Tensor]:
        nats = hidden.new_empty(len(hidden), dtype=torch.float32)
        d_hidden = torch.empty_like(hidden) if with_gradient else None
        d_weight = torch.zeros_like(weight) if with_gradient else None
        d_bias = torch.zeros_like(bias) if with_gradient else None
        for rows, logits, part, used in _chunks(hidden, weight, bias):
            columns = targets[rows, None]
            at = logits.gather(1, columns)
            top = logits.amax(1, keepdim=True)
            spread = logits.sub_(top).exp_().sum(1, keepdim=True)
            nats[rows] = (spread.log() + top - at)[:, 0]
            if d_hidden is None or d_weight is None or d_bias is None:
                continue
            slope = logits.div_(spread).scatter_add_(1, columns, torch.full_like(at, -1.0)).to(part.dtype)
            d_hidden[rows] = slope @ used
            d_bias += slope.sum(0)
            if d_weight.dtype == slope.dtype:
                d_weight.addmm_(slope.t(), part)
            else:
                d_weight += slope.t() @ part
        ctx.gradients = (d_hidden, d_weight, d_bias)
        ctx.mark_non_differentiable(nats)
        return nats.sum(), nats

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients are scaled in place and released, so a forward pass allows one backward pass."""
        if ctx.gradients is None:
            raise RuntimeError("a second backward pass through a head's loss; compute the loss again")
        gradients, ctx.gradients = cast(tuple[Tensor, ...], ctx.gradients), None
        return *(value.mul_(above[0].to(value.dtype)) for value in gradients), None, None
