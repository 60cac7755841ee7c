"""Pictures of reports with many tokenizers, and with names that somebody chose: each is in the legend, whole, and unlike the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch

from duotok.evaluation.intervals import Interval
from duotok.report import drawing, players
from duotok.report.drawing import Bar, Curve, Dot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VALUE = Interval(0.5, 0.4, 0.6)
LONG = "averylongnamewithoutanyblanksatallthatsomebodygavetohistokenizerat44100hz"
NAMES = ("ours", "_hidden", "costs $5, or $\\frac{", LONG, f"a {LONG}", *(f"tokenizer {i}" for i in range(7)))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """Figures instead of their bytes."""
    found = list["Figure"]()
    svg = drawing._svg
    monkeypatch.setattr(drawing, "_svg", lambda figure: (found.append(figure), svg(figure))[1])
    yield found


def inside(figure: Figure, texts: list[str]) -> None:
    """All are drawn, and none over the edge."""
    figure.draw_without_rendering()
    shown = [*(t for legend in figure.legends for t in legend.get_texts()), *figure.axes[0].get_yticklabels()]
    assert [t.get_text() for t in shown][: len(texts)] == texts
    for text in shown:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0, text.get_text()


def shorts(most: int) -> list[str]:
    return [drawing.short(name, most) for name in NAMES]


@pytest.mark.filterwarnings("error")
def test_legends_name_everyone_once(drawn: list[Figure]) -> None:
    drawing.plane([Dot(name, VALUE, VALUE) for name in NAMES], "x", "y")
    drawing.curves([Curve(name, [(1.0, VALUE), (2.0, VALUE)]) for name in NAMES], "x", "y")
    for figure in drawn:
        inside(figure, shorts(drawing.ROW))
        looks = {
            (line.get_color(), line.get_marker(), str(line.get_linestyle()))
            for line in figure.axes[0].get_lines()
            if line.get_marker() not in ("|", "_", "None")
        }
        assert len(looks) == len(NAMES), "no two look alike"


@pytest.mark.filterwarnings("error")
def test_bars_have_their_names_beside_them(drawn: list[Figure]) -> None:
    drawing.bars([Bar(name, name, VALUE, of=of) for name in NAMES for of in ("vocals", "accompaniment (usage)")], "x")
    (figure,) = drawn
    inside(figure, [])
    labels = [label.get_text().replace("\n", " ") for label in figure.axes[0].get_yticklabels()]
    assert labels[:2] == ["ours, vocals", "ours, accompaniment (usage)"]
    assert all("accompaniment (usage)" in label for label in labels[1::2])
    drawing.bars([Bar(name, name, VALUE) for name in NAMES], "x")
    inside(drawn[1], [])


def test_short_names_keep_both_ends() -> None:
    assert drawing.short("duotok-mini", 22) == "duotok-mini"
    assert drawing.short(LONG, 22) == "averylongna…rat44100hz"
    assert drawing.short("$x$", 9) == "\\$x\\$"


def test_letters_of_spectrograms_are_as_large_as_small_print(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page shows them about 340 px wide."""
    drawn = list["Figure"]()
    draw = players.draw_mel
    monkeypatch.setattr(players, "draw_mel", lambda axis, *rest: (drawn.append(axis.figure), draw(axis, *rest)))
    players.spectrogram(torch.zeros(1, 48_000))
    (figure,) = drawn
    least = min(text.get_fontsize() for text in figure.axes[0].texts) * figure.dpi / 72
    assert least * 340 / figure.bbox.width >= 9
    assert tuple(figure.bbox.size) == (640, 240)
