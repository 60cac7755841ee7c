"""Code with settings of its own computes what it would alone, and leaves what its caller has set as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytest
import torch
from torch import Tensor, nn

from duotok.nn.torch_settings import building_modules, callers_settings, each, own_settings, with_own_settings


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SURROUNDINGS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "nothing": nullcontext,
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "another device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


def settings() -> tuple[object, ...]:
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_autocast_enabled("cpu"),
        torch.tensor(0.5).dtype,
    )


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_tensors_and_products_are_float32_on_the_cpu(name: str) -> None:
    with SURROUNDINGS[name](), own_settings():
        made = [
            torch.zeros(2),
            torch.ones(2),
            torch.full((2,), 0.5),
            torch.tensor([0.5]),
            torch.hann_window(8),
            torch.randn(2),
        ]
        made += [torch.linspace(0, 1, 3), torch.arange(0, 1, 0.5), nn.Linear(2, 2)(torch.ones(1, 2)).detach()]
        assert {(x.dtype, x.device.type) for x in made} == {(torch.float32, "cpu")}
        assert {torch.arange(3).dtype, torch.full((2,), 1).dtype, torch.tensor([1]).dtype} == {torch.int64}
        asked = torch.zeros(1, dtype=torch.float64)
        assert asked.dtype == torch.tensor(asked.numpy()).dtype == torch.float64


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_what_the_caller_set_holds_between_items_and_in_what_is_called_back(name: str) -> None:
    seen: list[tuple[object, ...]] = []

    def blocks() -> Iterator[int]:
        for number in range(2):
            seen.append(settings())
            yield number

    @with_own_settings
    def doubled() -> Iterator[Tensor]:
        for number in each(callers_settings, blocks()):
            yield torch.ones(2) * number

    with SURROUNDINGS[name]():
        before = settings()
        for block in doubled():
            assert block.dtype == torch.float32 and block.device.type == "cpu"
            seen.append(settings())
        seen.append(settings())
    assert seen == [before] * 5


def test_an_error_inside_ends_the_own_settings() -> None:
    with default_dtype(torch.float64):
        before = settings()
        with pytest.raises(KeyboardInterrupt), own_settings():
            raise KeyboardInterrupt
        assert settings() == before


def test_building_modules_draws_no_random_number_of_the_process_and_they_can_be_trained() -> None:
    state = torch.get_rng_state()
    with torch.inference_mode(), building_modules():
        layers = [nn.Linear(3, 3), nn.Conv1d(3, 3, 1), nn.Embedding(3, 3)]
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(p.is_inference() for layer in layers for p in layer.parameters())
    assert all(float(layer.weight.detach().std()) > 0 for layer in layers)
