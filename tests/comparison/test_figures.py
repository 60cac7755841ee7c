"""Figure 3 shows what was measured, and no empty panel beside it."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from duotok.comparison import figures
from duotok.comparison.context import Point
from duotok.comparison.corruption import Corruption, CorruptionCost
from duotok.evaluation.intervals import Interval
from duotok.lm.unigram import Unigram

SHIFT, MASK, MISMATCH = Corruption("shift", 1.0), Corruption("mask", 0.5), Corruption("mismatch")


@pytest.mark.parametrize(
    ("measured", "titles"),
    [
        ((SHIFT, MASK, MISMATCH), ["Time shift", "Random masking", "Mismatch"]),
        ((SHIFT, MISMATCH), ["Time shift", "Mismatch"]),
        ((MASK,), ["Random masking"]),
        ((MISMATCH,), ["Mismatch"]),
    ],
)
def test_each_kind_that_was_measured_has_a_panel(
    measured: tuple[Corruption, ...], titles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    png = figures._png

    def keep(figure: Figure) -> bytes:
        drawn.append(figure)
        return png(figure)

    monkeypatch.setattr(figures, "_png", keep)
    costs = {name: [CorruptionCost(kind, Interval(2.0, 1.0, 3.0)) for kind in measured] for name in ("a", "b")}
    assert figures.corruption_curves(costs).startswith(b"\x89PNG")
    (figure,) = drawn
    assert [axis.get_title() for axis in figure.axes] == titles
    assert all(axis.has_data() for axis in figure.axes)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_every_tokenizer_is_in_the_legend_whatever_its_name_and_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    png = figures._png
    monkeypatch.setattr(figures, "_png", lambda figure: drawn.append(figure) or png(figure))
    value, books = Interval(0.5, 0.4, 0.6), (Unigram(np.ones(8, np.int64)),)
    streams = {"_first": ("vocals", "accompaniment"), r"$\of mixes$": ("mix",)}
    figures.cnbpt_bars({name: dict.fromkeys(of, value) for name, of in streams.items()})
    figures.codebook_use({name: dict.fromkeys(of, books) for name, of in streams.items()})
    figures.context_curves({name: [Point(5.0, value, value)] for name in streams})
    for figure in drawn:
        names = [text.get_text() for text in figure.legends[0].get_texts()]
        assert names[:2] == [" _first", r"\$\of mixes\$"], names
