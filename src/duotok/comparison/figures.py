"""Pictures of a comparison: bars of cnBPT, what corruption costs (figure 3), context (figure 4), code use (figure 6).

All return PNG bytes. One tokenizer keeps one colour in all pictures of a comparison: the colour of its place in `names`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from duotok.comparison.context import Point
from duotok.comparison.corruption import CorruptionCost
from duotok.evaluation.intervals import Interval
from duotok.lm.unigram import Unigram
from duotok.training.plot import as_drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#3b8fe8", "#e8743b", "#2fa39a", "#7a6fd0", "#c9a227", "#d05f8d", "#6b8e4e", "#8a6d5a", "#5a7d9a", "#b4b8c0")
INK, GREY = "#3a3f47", "#8a8f98"
MARKERS = "osD^vPXh<>*"
"""One more than there are colours: the eleventh does not look like the first."""


def _style(place: int) -> tuple[str, str]:
    return COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]


def _figure(
    width: float, height: float, columns: int = 1, widths: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    axes = figure.subplots(1, columns, squeeze=False, width_ratios=widths)[0].tolist()
    for axis in axes:
        plain(axis)
    return figure, axes


def plain(axis: Axes) -> None:
    """A light grid below the curves, and no frame but two sides: how all our figures look."""
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(colors=INK, labelsize=9, length=3)
    for side, spine in axis.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GREY)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _curve(axis: Axes, place: int, name: str, x: Sequence[float], intervals: Sequence[Interval]) -> None:
    """A line with its interval as a band and as bars, so that overlapping bands stay readable."""
    colour, marker = _style(place)
    value, low, high = (np.array([getattr(i, end) for i in intervals]) for end in ("value", "low", "high"))
    axis.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
    errors = np.clip([value - low, high - value], 0, None)
    axis.errorbar(
        x,
        value,
        errors,
        color=colour,
        marker=marker,
        markersize=5,
        linewidth=1.6,
        elinewidth=0.9,
        capsize=2.5,
        label=as_drawn(name),
    )


def _legend(figure: Figure, *axes: Axes) -> None:
    """The names of the first axis that has some, below the picture."""
    handles, labels = next((entries for axis in axes if (entries := axis.get_legend_handles_labels())[1]), ([], []))
    if not labels:
        return
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(4, len(labels)),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )


def cnbpt_bars(values: Mapping[str, Mapping[str, Interval]], title: str = "cnBPT") -> bytes:
    """Bars with intervals: tokenizer -> group (stream or protocol) -> value. Lower is better; 1 is a uniform guess."""
    names = list(values)
    groups = list(dict.fromkeys(group for by_group in values.values() for group in by_group))
    figure, (axis,) = _figure(max(4.5, 1.1 + 0.5 * len(names) * len(groups)), 3.6)
    width = 0.8 / len(names)
    highest = max(by_group[group].high for by_group in values.values() for group in by_group)
    for place, name in enumerate(names):
        first = min(map(groups.index, values[name]))
        for at, group in enumerate(groups):
            if group not in values[name]:
                continue
            interval = values[name][group]
            x = at + (place - (len(names) - 1) / 2) * width
            label = as_drawn(name) if at == first else None
            axis.bar(x, interval.value, 0.9 * width, color=_style(place)[0], label=label)
            errors = np.clip([[interval.value - interval.low], [interval.high - interval.value]], 0, None)
            axis.errorbar(x, interval.value, errors, color=INK, elinewidth=1, capsize=2.5)
            axis.text(x, interval.high + 0.015 * highest, f"{interval.value:.3f}", ha="center", fontsize=8, color=INK)
    axis.set_xticks(range(len(groups)), [as_drawn(group) for group in groups])
    axis.set_ylim(0, 1.1 * highest)
    axis.set_ylabel(f"{title} (lower is better)", fontsize=9, color=INK)
    axis.grid(axis="x", visible=False)
    _legend(figure, axis)
    return _png(figure)


PANELS = {
    "shift": ("Time shift", "shift of the source (s)", 1.25),
    "mask": ("Random masking", "masked frames of the source (%)", 1.25),
    "mismatch": ("Mismatch", "source of another song", 0.8),
}
"""Title, label and width of what Figure 3 shows of each kind of corruption."""


def corruption_curves(costs: Mapping[str, Sequence[CorruptionCost]]) -> bytes:
    """Figure 3: relative cost in percent of a shifted, masked and mismatched source; tokenizer -> costs, at least one.

    A kind of corruption that was not measured has no panel.
    """
    measured = {cost.corruption.kind for of_one in costs.values() for cost in of_one}
    kinds = [kind for kind in PANELS if kind in measured]
    widths = [PANELS[kind][2] for kind in kinds]
    figure, axes = _figure(10 * max(0.45, sum(widths) / 3.3), 3.6, len(kinds), widths)
    for kind, axis in zip(kinds, axes, strict=True):
        for place, (name, tokenizer_costs) in enumerate(costs.items()):
            chosen = [cost for cost in tokenizer_costs if cost.corruption.kind == kind]
            if kind == "mismatch":
                for cost in chosen:
                    _mismatch_bar(axis, place, name, cost.percent)
            elif chosen:
                _cost_curve(axis, place, name, chosen)
        title, label, _ = PANELS[kind]
        axis.set_title(title, fontsize=10, color=INK)
        axis.set_xlabel(label, fontsize=9, color=INK)
        axis.axhline(0, color=GREY, linewidth=0.8)
        if kind == "shift":
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
            axis.minorticks_off()
        elif kind == "mismatch":
            axis.set_xticks([])
            axis.grid(axis="x", visible=False)
            axis.margins(x=0.15, y=0.12)
    axes[0].set_ylabel("cost: change of the target's cnBPT (%)", fontsize=9, color=INK)
    _legend(figure, *axes)
    return _png(figure)


def _cost_curve(axis: Axes, place: int, name: str, costs: Sequence[CorruptionCost]) -> None:
    """Costs of shifts over seconds, or of masks over percent, where the curve starts at nothing by definition."""
    masks = costs[0].corruption.kind == "mask"
    points = [(0.0, Interval(0, 0, 0))] if masks else []
    points += sorted((c.corruption.amount * (100.0 if masks else 1.0), c.percent) for c in costs)
    x, y = zip(*points, strict=True)
    _curve(axis, place, name, x, y)


def _mismatch_bar(axis: Axes, place: int, name: str, cost: Interval) -> None:
    errors = np.clip([[cost.value - cost.low], [cost.high - cost.value]], 0, None)
    axis.bar(place, cost.value, 0.72, color=_style(place)[0], label=as_drawn(name))
    axis.errorbar(place, cost.value, errors, color=INK, elinewidth=1, capsize=3)
    axis.annotate(
        f"{cost.value:+.1f} %", (place, max(cost.high, 0)), (0, 3), textcoords="offset points",
        ha="center", fontsize=8, color=INK,
    )  # fmt: skip


def context_curves(curves: Mapping[str, Sequence[Point]]) -> bytes:
    """Figure 4: cnBPT against seconds of context, and its change against the shortest one (paired, hence narrower)."""
    figure, (values, gains) = _figure(8.6, 3.6, 2)
    for place, (name, points) in enumerate(curves.items()):
        x = [point.seconds for point in points]
        _curve(values, place, name, x, [point.cnbpt for point in points])
        _curve(gains, place, name, x, [point.gain for point in points])
    shortest = min(point.seconds for points in curves.values() for point in points)
    values.set_ylabel("cnBPT (lower is better)", fontsize=9, color=INK)
    gains.set_ylabel(f"change of cnBPT against {shortest:g} s", fontsize=9, color=INK)
    gains.axhline(0, color=GREY, linewidth=0.8)
    for axis in (values, gains):
        axis.set_xlabel("context (s)", fontsize=9, color=INK)
    _legend(figure, values)
    return _png(figure)


def codebook_use(books: Mapping[str, Mapping[str, Sequence[Unigram]]]) -> bytes:
    """Figure 6: utilization and normalized entropy; tokenizer -> stream -> counts, mean over codebooks.

    The dash over each bar is what ideal, uniform codes would show in as many tokens: a bar that reaches it is full.
    """
    names = list(books)
    streams = list(dict.fromkeys(stream for by_stream in books.values() for stream in by_stream))
    figure, axes = _figure(max(6.0, 1.4 + 0.84 * len(names) * len(streams)), 3.4, 2)
    width = 0.8 / len(names)
    for column, (axis, title) in enumerate(zip(axes, ("Utilization", "Normalized entropy"), strict=True)):
        for place, name in enumerate(names):
            first = min(map(streams.index, books[name]))
            for at, stream in enumerate(streams):
                if stream not in books[name]:
                    continue
                counted = books[name][stream]
                x = at + (place - (len(names) - 1) / 2) * width
                value = float(np.mean([(u.utilization, u.normalized())[column] for u in counted]))
                ideal = float(np.mean([u.uniform()[column] for u in counted]))
                label = as_drawn(name) if at == first else None
                axis.bar(x, value, 0.9 * width, color=_style(place)[0], label=label)
                axis.plot([x - 0.45 * width, x + 0.45 * width], [ideal, ideal], color=INK, linewidth=1.6)
                axis.text(x, max(value, ideal) + 0.015, f"{value:.2f}", ha="center", fontsize=8, color=INK)
        axis.set_xticks(range(len(streams)), [as_drawn(stream) for stream in streams])
        axis.set_ylim(0, 1.1)
        axis.set_title(title, fontsize=10, color=INK)
        axis.grid(axis="x", visible=False)
    axes[0].bar(0, 0, color=INK, label="dash: uniform codes")
    _legend(figure, axes[0])
    return _png(figure)
