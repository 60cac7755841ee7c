"""Pictures of what a data set holds: bars and histograms as PNG bytes. The palette reads on light and dark pages."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VOICE, BAND, GREY = "#e8743b", "#3b8fe8", "#8a8f98"
COLOURS = {
    "lyrics": VOICE, "voice": "#f0b088", "instrumental": BAND, "unknown": "#b4b8c0",
    "mix": "#7a6fd0", "vocals": VOICE, "accompaniment": "#2fa39a", "other": "#b4b8c0",
    "train": BAND, "validation": "#2fa39a", "test": VOICE,
}  # fmt: skip
WIDTH = 6.4
SHOWN = 12  # bars; the smaller ones become one


def _figure(height: float) -> Figure:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), dpi=120)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", transparent=True, metadata={"Software": None})
    return buffer.getvalue()


def _quiet(axis: Axes, keep: Sequence[str] = ("bottom",)) -> None:
    axis.tick_params(colors=GREY, which="both", labelsize=9, length=3)
    for name, spine in axis.spines.items():
        spine.set_visible(name in keep)
        spine.set_color(GREY)
        spine.set_alpha(0.5)


def amount(hours: float) -> str:
    """`1,234 h`, `5.1 h`, `12 min`, `31 s`."""
    if hours >= 100:
        return f"{hours:,.0f} h"
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.0f} min" if hours >= 1 / 60 else f"{hours * 3600:.0f} s"


def bars(hours: Mapping[str, float], counts: Mapping[str, int], coloured: bool = False) -> bytes:
    """Hours of each value as horizontal bars, longest first, with the number of segments. coloured: by the value."""
    names = sorted(hours, key=lambda name: (-hours[name], name))
    if len(names) > SHOWN:
        rest = f"{len(names) - SHOWN + 1} others"
        small = names[SHOWN - 1 :]
        hours = {**hours, rest: sum(hours[name] for name in small)}
        counts = {**counts, rest: sum(counts[name] for name in small)}
        names = [*names[: SHOWN - 1], rest]
    height = 0.34 * len(names) + 0.25
    figure = _figure(height)
    axis = figure.add_axes((0.3, 0.12 / height, 0.46, 1 - 0.24 / height))
    places = np.arange(len(names))
    axis.barh(
        places,
        [hours[n] for n in names],
        height=0.66,
        color=[COLOURS.get(n, BAND) if coloured else BAND for n in names],
    )
    top = max(hours[n] for n in names)
    for place, name in enumerate(names):
        text = f"{amount(hours[name])} · {counts[name]:,}"
        axis.text(hours[name] + top * 0.02, place, text, color=GREY, fontsize=9, va="center")
    axis.set_yticks(places, [name if len(name) <= 24 else name[:23] + "…" for name in names])
    axis.set_xticks([])
    axis.invert_yaxis()
    axis.set_xlim(0, top)
    _quiet(axis, keep=("left",))
    return _png(figure)


def histogram(
    parts: Mapping[str, NDArray[np.floating]],
    edges: NDArray[np.floating],
    label: str,
    mark: tuple[float, str] | None = None,
    what: str = "segments",
) -> bytes:
    """Histogram with parts stacked in their order; values beyond the edges go to the outermost bars.

    mark: a value to point out, and its label.
    """
    figure = _figure(2.7)
    axis = figure.add_axes((0.1, 0.19, 0.88, 0.7))
    below = np.zeros(len(edges) - 1)
    for name, values in parts.items():
        high = np.histogram(np.clip(values, edges[0], np.nextafter(edges[-1], edges[0])), edges)[0]
        if high.any():
            axis.bar(
                edges[:-1], high, np.diff(edges) * 0.92, below, align="edge", color=COLOURS.get(name, BAND), label=name
            )
        below = below + high
    if mark is not None:
        axis.axvline(mark[0], color=GREY, linewidth=1.2, linestyle="--")
        axis.text(mark[0], 1.02, mark[1], color=GREY, fontsize=9, ha="center", transform=axis.get_xaxis_transform())
    axis.set_xlim(edges[0], edges[-1])
    axis.set_xlabel(label, color=GREY, fontsize=9)
    axis.set_ylabel(what, color=GREY, fontsize=9)
    axis.locator_params(axis="y", nbins=4, integer=True)
    if len(parts) > 1:
        on_the_left = below[: len(below) // 2].sum() < below[len(below) // 2 :].sum()
        axis.legend(frameon=False, labelcolor=GREY, fontsize=9, loc="upper left" if on_the_left else "upper right")
    _quiet(axis)
    return _png(figure)


def availability(rows: Mapping[str, tuple[float | None, float | None, float]]) -> bytes:
    """Share of a mixture's items whose words are known: (as the segments are, with words required, in the paper)."""
    height = 0.95 * len(rows) + 0.6
    figure = _figure(height)
    axis = figure.add_axes((0.3, 0.35 / height, 0.65, 1 - 0.6 / height))
    for place, (plain, required, paper) in enumerate(rows.values()):
        for at, value, text, colour, ink in (
            (place - 0.2, plain, "as it is", "#f0b088", "#5a2c10"),
            (place + 0.2, required, "words required", VOICE, "white"),
        ):
            share = value or 0.0
            axis.barh(at, share, height=0.34, color=colour)
            label = f"{text}: not possible" if value is None else f"{share:.1%} {text}"
            if 0.28 < share < paper + 0.01:  # beside the paper's line, not across it
                axis.text(share - 0.012, at, label, color=ink, fontsize=9, va="center", ha="right")
            else:
                axis.text(share + 0.012, at, label, color=GREY, fontsize=9, va="center")
        axis.plot([paper, paper], [place - 0.42, place + 0.42], color=BAND, linewidth=2)
        axis.text(paper + 0.012, place - 0.44, f"paper {paper:.1%}", color=BAND, fontsize=9, va="top")
    axis.set_yticks(range(len(rows)), list(rows))
    axis.set_xlim(0, 1)
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    axis.invert_yaxis()
    _quiet(axis)
    return _png(figure)
