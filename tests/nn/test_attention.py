"""Attention against the formula written out, one head and one query at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from duotok.nn.attention import LARGE, attend, gated_attention, joined_heads, rotated_heads, softmax_attention
from duotok.nn.rope import half_tables, neighbour_turns, speeds, turn_halves, turn_neighbours

CPU = torch.device("cpu")
HEADS, LENGTH, HEAD_DIM = 3, 7, 4


def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k / sqrt(d)) v of one head, all `[length, head_dim]`."""
    return torch.softmax(q @ k.T / HEAD_DIM**0.5, dim=-1) @ v


def projected() -> tuple[Tensor, list[list[Tensor]]]:
    """`[batch, length, 3 inner]`, and the same as [q, k, v][head] of the second item."""
    torch.manual_seed(0)
    qkv = torch.randn(2, LENGTH, 3 * HEADS * HEAD_DIM)
    return qkv, [list(part.split(HEAD_DIM, dim=-1)) for part in qkv[1].chunk(3, dim=-1)]


def test_heads_are_taken_apart_turned_and_joined() -> None:
    qkv, (q, k, v) = projected()
    tables = half_tables(LENGTH, HEAD_DIM, CPU, torch.float32)
    parts = rotated_heads(qkv, HEADS, tables)
    for head in range(HEADS):
        for part, turned, own in zip(parts, (True, True, False), (q, k, v), strict=True):
            x = own[head]
            assert torch.allclose(
                part[1, head], turn_halves(x[None, :, None], tables)[0, :, 0] if turned else x, atol=1e-6
            )
    assert torch.equal(joined_heads(parts[2]), qkv[..., 2 * HEADS * HEAD_DIM :])


def test_gated_attention() -> None:
    qkv, (q, k, v) = projected()
    gates, turns = torch.randn(2, LENGTH, HEADS), neighbour_turns(LENGTH, speeds(HEAD_DIM))
    heads = [
        formula(turn_neighbours(q[n], turns), turn_neighbours(k[n], turns), v[n]) * gates[1, :, n, None].sigmoid()
        for n in range(HEADS)
    ]
    assert torch.allclose(gated_attention(qkv, gates, turns)[1], torch.cat(heads, dim=-1), atol=1e-6)


class Kernels(TorchDispatchMode):
    """Notes what type each attention kernel is given."""

    def __init__(self) -> None:
        super().__init__()
        self.types: dict[str, torch.dtype] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if "attention" in str(func):
            self.types["backward" if "backward" in str(func) else "forward"] = args[0].dtype
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("learns", "frames"), [(True, LENGTH), (False, LENGTH), (True, LARGE // 128)])
def test_under_autocast_a_cpu_attends_in_float32_where_a_small_head_learns(learns: bool, frames: int) -> None:
    torch.manual_seed(0)
    dim = HEAD_DIM if frames == LENGTH else 128
    q, k, v = (torch.randn(1, 1, frames, dim, requires_grad=learns) for _ in range(3))
    mask = torch.ones(1, 1, frames, frames, dtype=torch.bool).tril()
    exact = attend(q, k, v, mask, None)
    with Kernels() as kernels:
        with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(learns):
            y = attend(q, k, v, mask, None)
        if learns:
            y.float().square().sum().backward()
    assert y.dtype is torch.bfloat16  # what follows goes on in half precision
    assert torch.allclose(y.float(), exact, atol=2e-2)
    expected = torch.float32 if learns and frames == LENGTH else torch.bfloat16
    assert kernels.types == dict.fromkeys(("forward", "backward") if learns else ("forward",), expected)


def test_dropout_is_that_of_attention() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, HEADS, LENGTH, HEAD_DIM, requires_grad=True) for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        assert softmax_attention(q, k, v, dropout=1.0).abs().max() == 0
        assert softmax_attention(q, k, v).abs().max() > 0
