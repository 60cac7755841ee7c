"""Figure 3 shows what was measured, and no empty panel beside it."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from duotok.comparison import figures
from duotok.comparison.corruption import Corruption, CorruptionCost
from duotok.evaluation.intervals import Interval
from duotok.lm.unigram import count

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


def test_a_tokenizer_without_the_first_stream_is_in_the_legend(monkeypatch: pytest.MonkeyPatch) -> None:
    """A codec of the mix beside one of both tracks had bars, and no name."""
    drawn: list[Figure] = []
    monkeypatch.setattr(figures, "_png", lambda figure: drawn.append(figure) or b"")
    bar, book = Interval(0.5, 0.4, 0.6), (count(np.arange(4), 8),)
    figures.cnbpt_bars({"dual": {"vocals": bar, "accompaniment": bar}, "dac": {"mix": bar}})
    figures.codebook_use({"dual": {"vocals": book, "accompaniment": book}, "dac": {"mix": book}})
    for figure in drawn:
        assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["dual", "dac"]
