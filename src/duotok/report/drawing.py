"""Panels as SVG: points, curves and bars that are told apart by markers, line styles and hatches, not by colour alone.

A panel is as wide as a phone, so that its letters stay readable there; pages put several side by side.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from duotok.comparison.figures import COLOURS, GREY, INK, MARKERS, plain
from duotok.evaluation.intervals import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (9, 3)))
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "ooo", "+++", "---")
WIDTH = 4.6
"""Inches of a panel."""
LONG, ROW = 22, 46
"""Characters of a name that fit in half a panel, and in a whole one."""


@dataclass(frozen=True)
class Dot:
    """A named place in a plane."""

    name: str
    x: Interval
    y: Interval


@dataclass(frozen=True)
class Curve:
    """A line: name, and its points (x, value with interval)."""

    name: str
    points: Sequence[tuple[float, Interval]]


@dataclass(frozen=True)
class Bar:
    """name: on the axis; of: what of it, after the name; group: what gives colour and hatch; mark: where ideal codes would be."""

    name: str
    group: str
    value: Interval
    mark: float | None = None
    of: str = ""

    @property
    def whole(self) -> str:
        """The name, and what of it."""
        return f"{self.name}, {self.of}" if self.of else self.name


def exact(value: float) -> Interval:
    """A value without an interval."""
    return Interval(value, value, value)


def _errors(values: Sequence[Interval]) -> list[list[float]]:
    ends = [(max(0.0, v.value - v.low), max(0.0, v.high - v.value)) for v in values]
    return [[low for low, _ in ends], [high for _, high in ends]]


def _panel(height: float) -> tuple[Figure, Axes]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")
    axis = figure.subplots()
    plain(axis)
    return figure, axis


def _svg(figure: Figure) -> bytes:
    import matplotlib

    buffer = io.BytesIO()
    # letters as outlines: a picture in a page cannot count on its fonts; the salt makes the same bytes of the same values
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "duotok"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "duotok report"})
    return buffer.getvalue()


def plane(dots: Sequence[Dot], x: str, y: str) -> bytes:
    """Points with both their intervals, each with its own marker and its name in the legend."""
    figure, axis = _panel(3.6 + _legend_height([dot.name for dot in dots]))
    for place, dot in enumerate(dots):
        axis.errorbar(
            [dot.x.value], [dot.y.value], _errors([dot.y]), _errors([dot.x]), color=COLOURS[place % len(COLOURS)],
            marker=MARKERS[place % len(MARKERS)], markersize=8, markeredgecolor=INK, markeredgewidth=0.6, linestyle="",
            elinewidth=0.9, capsize=2.5,
        )  # fmt: skip
    axis.margins(0.12)
    _labels(axis, x, y)
    _legend(figure, axis, [dot.name for dot in dots])
    return _svg(figure)


def curves(lines: Sequence[Curve], x: str, y: str, doubling: bool = False, zero: bool = False) -> bytes:
    """doubling: x on a scale of powers of two; zero: a line where nothing changes."""
    figure, axis = _panel(3.2 + _legend_height([line.name for line in lines]))
    for place, line in enumerate(lines):
        colour, values = COLOURS[place % len(COLOURS)], [value for _, value in line.points]
        where = [at for at, _ in line.points]
        axis.fill_between(
            where, np.array([v.low for v in values]), np.array([v.high for v in values]), color=colour, alpha=0.12, linewidth=0
        )  # fmt: skip
        axis.errorbar(
            where, [v.value for v in values], _errors(values), color=colour, marker=MARKERS[place % len(MARKERS)], markersize=5.5,
            linestyle=LINES[place % len(LINES)], linewidth=1.6, elinewidth=0.9, capsize=2.5,
        )  # fmt: skip
    if doubling:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.minorticks_off()
    if zero:
        axis.axhline(0, color=GREY, linewidth=0.8)
    _labels(axis, x, y)
    _legend(figure, axis, [line.name for line in lines])
    return _svg(figure)


def bars(values: Sequence[Bar], x: str, spec: str = ".2f", most: float | None = None) -> bytes:
    """Lying bars, each with its number; a short upright line is what ideal codes would show. most: the end of the axis."""
    groups = list(dict.fromkeys(bar.group for bar in values))
    figure, axis = _panel(1.1 + 0.34 * len(values) + 0.2 * (len(groups) + 1) // 2)
    widest = max(0.0, *(max(bar.value.high, bar.mark or 0) for bar in values))
    for row, bar in enumerate(values):
        place = groups.index(bar.group)
        axis.barh(
            row, bar.value.value, 0.74, color=COLOURS[place % len(COLOURS)], hatch=HATCHES[place % len(HATCHES)], edgecolor="white",
            linewidth=0,
        )  # fmt: skip
        if bar.value.low != bar.value.high:
            axis.errorbar(
                [bar.value.value], [row], None, _errors([bar.value]), color=INK, elinewidth=1, capsize=2.5
            )  # fmt: skip
        if bar.mark is not None:
            axis.plot([bar.mark, bar.mark], [row - 0.42, row + 0.42], color=INK, linewidth=1.6)
        end = max(bar.value.high, bar.mark or 0, 0)
        axis.text(
            end + 0.015 * (most or widest), row, f"{bar.value.value:{spec}}", va="center", fontsize=8.5, color=INK
        )
    axis.set_yticks(range(len(values)), [_beside(bar) for bar in values])
    axis.set_ylim(len(values) - 0.4, -0.6)
    axis.set_xlim(min(0.0, *(bar.value.low for bar in values)), 1.16 * (most or widest or 1.0))
    axis.grid(axis="y", visible=False)
    _labels(axis, x, "")
    return _svg(figure)


def short(name: str, most: int) -> str:
    """A name of at most so many characters, without its middle; the tables have the whole one. A dollar is no formula."""
    kept = (most - 1) // 2
    cut = name if len(name) <= most else f"{name[: most - 1 - kept].rstrip()}…{name[-kept:].lstrip()}"
    return cut.replace("$", r"\$")


def _beside(bar: Bar) -> str:
    """What stands beside a bar, on two lines where it is long."""
    name = short(bar.name, LONG + 8)
    whole = f"{name}, {short(bar.of, LONG + 12)}" if bar.of else name
    return (
        whole if len(whole) <= LONG + 12 else "\n".join(textwrap.wrap(whole, LONG + 12, max_lines=2, placeholder="…"))
    )


def _columns(names: Sequence[str]) -> int:
    return 1 if any(len(name) > LONG for name in names) else 2


def _legend_height(names: Sequence[str]) -> float:
    """Inches."""
    return 0.22 * -(-len(names) // _columns(names))


def _legend(figure: Figure, axis: Axes, names: Sequence[str]) -> None:
    """Below the panel. Handed over: matplotlib leaves out a label of a curve that begins with `_`."""
    drawn: list[Any] = list(axis.containers)
    figure.legend(
        drawn, [short(name, ROW) for name in names], loc="outside lower center", ncols=_columns(names), frameon=False,
        fontsize=9, labelcolor=INK,
    )  # fmt: skip


def _labels(axis: Axes, x: str, y: str) -> None:
    axis.set_xlabel(x, fontsize=9, color=INK)
    axis.set_ylabel(y, fontsize=9, color=INK)
