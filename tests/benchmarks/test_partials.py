"""The ladder of partials: a tone lies in its bin, what tells it is heard, what does not is not."""

from __future__ import annotations

import math

import pytest
import torch
from benchmarks.partials import bins, figures, in_context, magnitudes, teach

from duotok.errors import ConfigError


def test_a_tone_is_loudest_in_its_own_bin() -> None:
    time = torch.arange(48_000) / 48_000
    chosen = bins(25.0, 300.0)
    for hertz in (50.0, 75.0, 200.0):
        found = magnitudes(torch.sin(2 * math.pi * hertz * time), chosen)
        assert found.shape == (25, 23)
        assert set(found[3:-3].argmax(1).tolist()) == {round(hertz / 12.5) - chosen.start}


def test_a_range_without_bins_is_refused() -> None:
    with pytest.raises(ConfigError, match="--low 100 --high 120"):
        bins(100.0, 120.0)


def test_context_is_of_both_sides_and_ends_are_repeated() -> None:
    found = in_context(torch.arange(6.0)[:, None], 2)
    assert found.shape == (6, 5)
    assert found[0].tolist() == [0, 0, 0, 1, 2] and found[3].tolist() == [1, 2, 3, 4, 5]


def test_figures_of_the_truth_and_of_another_note() -> None:
    true = torch.full((10, 8), -3.0)
    true[:, 2] = 2.0
    true[7:] = -9.0  # silence does not count
    corr, *rest = figures(true, true)
    assert corr == pytest.approx(1.0) and rest == [1.0, 0.0, 7]
    corr, loudest, error, heard = figures(true.roll(3, 1), true)
    assert corr < 0 and loudest == 0 and error > 1 and heard == 7


def test_what_tells_the_note_is_learned_and_what_does_not_gives_the_average() -> None:
    generator = torch.Generator().manual_seed(0)
    notes = torch.randint(0, 8, (2000,), generator=generator)
    true = torch.full((2000, 8), -3.0).scatter_(1, notes[:, None], 2.0)
    telling = 5.0 + 3.0 * torch.nn.functional.one_hot(notes, 8).float()
    silent = torch.randn(2000, 8, generator=generator)
    told = {
        name: teach(x[:1500], true[:1500], 300, 0)(x[1500:]).detach()
        for name, x in (("telling", telling), ("silent", silent))
    }
    corr = {name: figures(value, true[1500:])[0] for name, value in told.items()}
    assert corr["telling"] > 0.95 and abs(corr["silent"]) < 0.2
