"""Rotary positions: values worked out by hand, and that only distances count."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from duotok.nn.rope import Rotary, half_tables, neighbour_turns, speeds, turn_halves, turn_neighbours

CPU = torch.device("cpu")


def halves(x: Tensor) -> Tensor:
    """`[frames, head_dim]`"""
    return turn_halves(x[None, :, None], half_tables(len(x), x.shape[-1], CPU, x.dtype))[0, :, 0]


def neighbours(x: Tensor) -> Tensor:
    """`[frames, head_dim]`"""
    return turn_neighbours(x, neighbour_turns(len(x), speeds(x.shape[-1])))


def test_speeds() -> None:
    assert speeds(4).tolist() == pytest.approx([1.0, 0.01])
    assert speeds(6, base=1000.0).tolist() == pytest.approx([1.0, 0.1, 0.01])


def test_which_channels_are_a_pair() -> None:
    """At position 2 with head_dim 4 the first pair has turned by 2 radians, the second by 0.02."""
    x = torch.tensor([[1.0, 0.0, 0.0, 0.0]] * 3 + [[0.0, 1.0, 0.0, 0.0]] * 3).view(2, 3, 4)
    c, s, c2, s2 = math.cos(2), math.sin(2), math.cos(0.02), math.sin(0.02)
    assert halves(x[0])[2].tolist() == pytest.approx([c, 0, s, 0], abs=1e-6)
    assert halves(x[1])[2].tolist() == pytest.approx([0, c2, 0, s2], abs=1e-6)
    assert neighbours(x[0])[2].tolist() == pytest.approx([c, s, 0, 0], abs=1e-6)
    assert neighbours(x[1])[2].tolist() == pytest.approx([-s, c, 0, 0], abs=1e-6)


@pytest.mark.parametrize("turn", [halves, neighbours])
def test_only_distances_count(turn: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 16)
    queries, keys = turn(q.expand(40, 16)), turn(k.expand(40, 16))
    products = queries @ keys.T
    for distance in (0, 3, -7):
        assert torch.allclose(products.diagonal(distance), products.diagonal(distance)[0], atol=1e-5)
    assert not torch.allclose(products[0, 0], products[0, 3], atol=1e-2)
    assert torch.allclose(queries.norm(dim=1), q.norm(), atol=1e-5), "turning changes no length"


def test_the_two_forms_differ_in_the_order_of_channels_only() -> None:
    torch.manual_seed(0)
    x = torch.randn(30, 8)
    order = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])  # halves side by side
    assert torch.allclose(halves(x)[:, order], neighbours(x[:, order]), atol=1e-6)


def test_kept_tables_are_those_made_anew() -> None:
    rotary = Rotary(8, base=500.0)
    for frames, dtype in ((10, torch.float32), (700, torch.float32), (20, torch.bfloat16), (300, torch.bfloat16)):
        for kept, anew in zip(
            rotary.tables(frames, CPU, dtype), half_tables(frames, 8, CPU, dtype, 500.0), strict=True
        ):
            assert kept.shape == (frames, 1, 4) and kept.dtype == dtype and torch.equal(kept, anew)
    assert not rotary.state_dict(), "tables are no weights"


def test_a_module_that_was_used_for_inference_can_still_be_trained() -> None:
    rotary = Rotary(8)
    with torch.inference_mode():
        rotary.tables(10, CPU, torch.float32)
    x = torch.randn(1, 10, 2, 8, requires_grad=True)
    turn_halves(x, rotary.tables(10, CPU, torch.float32)).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("turn", [halves, neighbours])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_turns_as_single_does(turn: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    """torch has no complex numbers of bfloat16: a separator could not train in it on an H100."""
    torch.manual_seed(0)
    x = torch.randn(30, 16).to(dtype).requires_grad_()
    turned = turn(x)
    assert turned.dtype == dtype
    assert torch.allclose(turned.float(), turn(x.detach().float()), atol=0.05)
    turned.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()
