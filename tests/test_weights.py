"""Weights go into a module only where every tensor is as it should be; what is wrong is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from duotok.compact import SCALE, compact
from duotok.errors import AudioError, BundleError
from duotok.weights import Misfit, load_weights, misfits, read_weights

REMEDY = "get the toy again"
State = dict[str, Tensor]


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wide, self.norm = nn.Linear(64, 4), nn.LayerNorm(4)
        self.register_buffer("count", torch.tensor([3]))


def put(state: State, tmp_path: Path) -> Path:
    save_file(state, tmp_path / "toy.safetensors")
    return tmp_path / "toy.safetensors"


def describe(problems: Sequence[Misfit]) -> str:
    return f"does not fit: {'; '.join(misfit.description for misfit in problems)}"


def load(path: Path, module: nn.Module) -> None:
    load_weights(path, module, BundleError, REMEDY, describe)


def empty() -> Toy:
    toy = Toy()
    for value in toy.state_dict().values():
        value.zero_()
    return toy


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_come_back_in_the_modules_own_kind_of_numbers(stored: torch.dtype, tmp_path: Path) -> None:
    state = {k: v.to(stored) if v.is_floating_point() else v for k, v in Toy().state_dict().items()}
    toy = empty()
    load(put(state, tmp_path), toy)
    for name, value in toy.state_dict().items():
        assert value.dtype == Toy().state_dict()[name].dtype and torch.equal(value, state[name].to(value.dtype)), name


def test_eight_bits_are_expanded(tmp_path: Path) -> None:
    state = compact(Toy().state_dict(), {"wide.weight"})
    assert state["wide.weight"].dtype == torch.int8
    toy = empty()
    load(put(state, tmp_path), toy)
    assert torch.allclose(toy.wide.weight, Toy().wide.weight, atol=1e-3)
    del state["wide.weight" + SCALE]
    with pytest.raises(BundleError, match=r"'wide.weight' is torch.int8, not torch.float32"):
        load(put(state, tmp_path), Toy())
    state = compact(Toy().state_dict(), {"wide.weight"})
    del state["wide.weight"]
    with pytest.raises(
        BundleError, match=r"toy.safetensors: damaged weights \(.*belongs to no weights.*\); get the toy"
    ):
        load(put(state, tmp_path), Toy())


CHANGES: dict[str, tuple[Callable[[State], object], str]] = {
    "missing": (lambda s: s.pop("norm.bias"), "'norm.bias' is missing"),
    "unexpected": (lambda s: s.update(more=torch.zeros(1)), "'more' is not known"),
    "of another shape": (lambda s: s.update({"norm.bias": torch.zeros(5)}), "'norm.bias' is [5], not [4]"),
    "of another kind": (
        lambda s: s.update(count=torch.tensor([3.0])),
        "'count' is torch.float32, not torch.int64",
    ),
    "not finite": (lambda s: s["norm.bias"].fill_(torch.inf), "'norm.bias' holds NaN or infinite values"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(what: str, tmp_path: Path) -> None:
    change, clause = CHANGES[what]
    state = Toy().state_dict()
    change(state)
    toy = empty()
    problems = misfits(state, toy.state_dict())
    assert [(misfit.what, misfit.description) for misfit in problems] == [(what, clause)]
    with pytest.raises(BundleError) as caught:
        load(put(state, tmp_path), toy)
    assert str(caught.value) == f"{tmp_path / 'toy.safetensors'}: does not fit: {clause}"
    assert not any(value.any() for value in toy.state_dict().values())


def test_a_caller_may_let_pass_what_is_not_finite() -> None:
    state = {**Toy().state_dict(), "norm.bias": torch.full((4,), torch.nan)}
    assert misfits(state, Toy().state_dict(), finite=False) == []


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", None])
def test_a_file_that_is_none_is_the_callers_error(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "toy.safetensors"
    if content is not None:
        path.write_bytes(content)
    for error in (BundleError, AudioError):
        with pytest.raises(error, match=r"toy\.safetensors: damaged weights \(.+\); get the toy again") as caught:
            read_weights(path, error, REMEDY)
        assert "\n" not in str(caught.value)
