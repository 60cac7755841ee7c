"""Weights in eight bits: the error is bounded, what is no learned matrix stays, and what does not fit is refused."""

import pytest
import torch

from duotok.compact import LEAST_INPUTS, SCALE, compact, expand


def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(6, 64, generator=generator) * torch.logspace(-6, 3, 6)[:, None]
    wide[2] = 0
    return {
        "wide": wide,
        "filters": torch.randn(5, 16, 7, generator=generator),
        "narrow": torch.randn(8, LEAST_INPUTS - 1, generator=generator),
        "bias": torch.randn(64, generator=generator),
        "basis": torch.randn(9, 64, generator=generator),
        "count": torch.arange(4),
    }


def test_what_comes_back_is_within_half_a_step_of_each_row() -> None:
    given = state()
    small = compact(given, {"wide", "filters", "narrow", "bias"})
    assert small["wide"].dtype == small["filters"].dtype == torch.int8
    back = expand(small)
    assert back.keys() == given.keys()
    for name in ("wide", "filters"):
        rows, true = back[name].flatten(1), given[name].flatten(1)
        assert bool(((rows - true).abs() <= true.abs().amax(1, keepdim=True) / 253 * 1.001).all()), name
    for name in ("narrow", "bias", "basis", "count"):
        assert torch.equal(back[name], given[name]), name


def test_a_second_time_costs_no_more_than_the_first() -> None:
    first = expand(compact(state(), {"wide", "filters"}))
    second = expand(compact(first, {"wide", "filters"}))
    for name in ("wide", "filters"):
        once, twice = first[name].flatten(1), second[name].flatten(1)
        assert bool(((once - twice).abs() <= once.abs().amax(1, keepdim=True) / 253 * 1.001).all()), name


@pytest.mark.parametrize("damage", ["no scale", "lone scale", "short scale", "type"])
def test_what_does_not_fit_is_refused(damage: str) -> None:
    small = compact(state(), {"wide"})
    if damage == "no scale":
        small["other" + SCALE] = small.pop("wide" + SCALE)
    elif damage == "lone scale":
        del small["wide"]
    elif damage == "short scale":
        small["wide" + SCALE] = small["wide" + SCALE][:3]
    else:
        small["wide"] = small["wide"].float()
    with pytest.raises(ValueError, match=r"wide|other"):
        expand(small)


def test_weights_that_are_not_finite_are_not_stored() -> None:
    broken = state()
    broken["wide"][0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        compact(broken, {"wide"})
