"""The one picture of the leakage experiment: what happens to codes and sound as the stems get worse."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from duotok.comparison.figures import COLOURS, GREY, INK, plain
from duotok.errors import ConfigError
from duotok.evaluation.results import Cell
from duotok.evaluation.summaries import Summary
from duotok.files import write_bytes
from duotok.suite.leakage.stems import CHANCE, DIRECT, TRUE
from duotok.suite.leakage.table import figures_of, title_of
from duotok.tracks import TRACKS
from duotok.training.plot import as_drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ENDINGS = (".png", ".svg")
MARK = "duotok eval leakage"
"""In the metadata of the picture: the command replaces only pictures that it made."""
PANELS = (("equal", "codes equal to true stems'"), ("mel", "mel distance"), ("cost", "cost of a code (bits / log2 V)"))
MARKERS = "sD^vP*X"
COSTS = {"cnbpt": "its language model", "unigram": "frequencies"}
Figures = Mapping[tuple[str, str, str], Summary]


def draw(cells: Sequence[Cell], path: Path) -> None:
    """Write the picture of cells that have figures, PNG or SVG by its ending. Raises ConfigError for another one, or no such cell."""
    if path.suffix.lower() not in ENDINGS:
        raise ConfigError(f"{path}: pictures end with {' or '.join(ENDINGS)}")
    every = [(cell, figures_of(cell)) for cell in cells if not cell.gap]
    if not every:
        raise ConfigError(f"{path}: nothing to draw; no tokenizer could be measured")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6.4), dpi=130, layout="constrained", facecolor="white")
    grid = figure.add_gridspec(2, 4, width_ratios=(1, 1, 1, 0.95))
    for row, track in enumerate(TRACKS):
        for column, (name, title) in enumerate(PANELS):
            axis = figure.add_subplot(grid[row, column])
            plain(axis)
            for place, (cell, found) in enumerate(every):
                _curve(axis, place, cell, found, cost_of(found) if name == "cost" else name, track)
            axis.invert_xaxis()
            axis.set_title(f"{track}: {title}", fontsize=9.5, color=INK)
            axis.ticklabel_format(axis="y", useOffset=False)
            if row:
                axis.set_xlabel("SI-SDR of the stems (dB)", fontsize=8.5, color=INK)
            if name == "equal":
                axis.set_ylim(0, 1.02)
    _bars(figure.add_subplot(grid[:, 3]), every)
    _legend(figure, every)
    buffer = io.BytesIO()
    kind = path.suffix.lower()[1:]
    metadata = {"Software": MARK} if kind == "png" else {"Creator": MARK, "Date": None}
    figure.savefig(buffer, format=kind, metadata=metadata)
    write_bytes(path, buffer.getvalue())


def cost_of(found: Figures) -> str:
    """What the third column shows of a tokenizer: its language model's cnBPT, or the unigram cost where there is no model."""
    return "cnbpt" if any(figure == "cnbpt" for figure, _, _ in found) else "unigram"


def _error(summary: Summary) -> list[list[float]]:
    if summary.interval is None or summary.mean is None:
        return [[0.0], [0.0]]
    low, high = summary.interval.low, summary.interval.high
    return [[max(0.0, summary.mean - low)], [max(0.0, high - summary.mean)]]


class _Point(NamedTuple):
    x: float
    y: float
    error: list[list[float]]
    condition: str


def _points(cell: Cell, found: Figures, name: str, track: str) -> list[_Point]:
    points = []
    for condition in cell.about["conditions"]:
        value, x = found.get((name, condition, track)), found.get(("si_sdr", condition, track))
        if value is not None and x is not None and value.mean is not None and x.mean is not None:
            points.append(_Point(x.mean, value.mean, _error(value), condition))
    return points


def _curve(axis: Axes, place: int, cell: Cell, found: Figures, name: str, track: str) -> None:
    """Leaks as a line, separators as marks, true stems as a dashed line, chance as a dotted one."""
    colour = COLOURS[place % len(COLOURS)]
    points = _points(cell, found, name, track)
    leaks = sorted((p for p in points if p.condition.startswith("leak")), key=lambda point: -point.x)
    axis.plot([p.x for p in leaks], [p.y for p in leaks], color=colour, linewidth=1.5, zorder=2)
    for p in leaks:
        axis.errorbar(p.x, p.y, p.error, color=colour, marker="o", markersize=4, capsize=2, elinewidth=0.8)
        if place == 0:
            label = p.condition.removeprefix("leak")
            axis.annotate(label, (p.x, p.y), (4, 4), textcoords="offset points", fontsize=7, color=GREY)
    for p in points:
        if not p.condition.startswith("leak"):
            axis.errorbar(
                p.x, p.y, p.error, color=colour, marker=_marker(cell, p.condition), markersize=8, capsize=2, elinewidth=0.8,
                markeredgecolor=INK, markeredgewidth=0.7, zorder=3,
            )  # fmt: skip
    for condition, dashes in ((TRUE, (5, 2)), (CHANCE, (1, 2))):
        line = found.get((name, condition, track))
        if line is not None and line.mean is not None:
            axis.axhline(line.mean, color=colour, linewidth=1, dashes=dashes)


def _marker(cell: Cell, condition: str) -> str:
    """Of a separator."""
    return MARKERS[list(cell.about["conditions"]).index(condition) % len(MARKERS)]


def _bars(axis: Axes, every: Sequence[tuple[Cell, Figures]]) -> None:
    """Mel distance of the mix: separate and encode both, against the mix directly."""
    plain(axis)
    names = [c for c in every[0][0].about["conditions"] if not c.startswith("leak")]
    width = 0.8 / len(every)
    for place, (_, found) in enumerate(every):
        for at, condition in enumerate(names):
            value = found.get(("mel", condition, "mix"))
            if value is None or value.mean is None:
                continue
            x = at + (place - (len(every) - 1) / 2) * width
            axis.bar(x, value.mean, 0.9 * width, color=COLOURS[place % len(COLOURS)])
            axis.errorbar(x, value.mean, _error(value), color=INK, elinewidth=0.9, capsize=2.5)
            high = value.mean + _error(value)[1][0]
            axis.text(x, high, f"{value.mean:.2f}", ha="center", va="bottom", fontsize=8, color=INK)
    titles = {TRUE: "true stems", DIRECT: "mix directly"}
    axis.set_xticks(range(len(names)), [titles.get(name, f"cascade:\n{name}") for name in names], fontsize=8.5)
    axis.set_title("mix: mel distance of the decoded sum", fontsize=9.5, color=INK)
    axis.grid(axis="x", visible=False)
    axis.margins(y=0.12)


def _legend(figure: Figure, every: Sequence[tuple[Cell, Figures]]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=COLOURS[place % len(COLOURS)],
            marker="o",
            markersize=4,
            label=as_drawn(f"{cell.inputs.tokenizer} (cost: {COSTS[cost_of(found)]})"),
        )
        for place, (cell, found) in enumerate(every)
    ]
    conditions = list(every[0][0].about["conditions"])
    for condition in conditions:
        if condition in (TRUE, DIRECT) or condition.startswith("leak"):
            continue
        marker = _marker(every[0][0], condition)
        handles.append(
            Line2D(
                [],
                [],
                color=GREY,
                linestyle="",
                marker=marker,
                markersize=8,
                markeredgecolor=INK,
                label=title_of(condition),
            )
        )
    handles.append(Line2D([], [], color=GREY, dashes=(5, 2), label="true stems"))
    handles.append(Line2D([], [], color=GREY, dashes=(1, 2), label="chance: the codes of another moment"))
    handles.append(Line2D([], [], color=GREY, marker="o", markersize=4, label="small numbers: dB of the other track"))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(6, len(handles)),
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
    )


def made_before(path: Path) -> bool:
    """Whether a picture was made by this command."""
    try:
        return MARK.encode() in path.read_bytes()
    except OSError:
        return False
