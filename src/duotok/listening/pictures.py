"""The figures of a listening test: mean and interval of every condition, one for each track."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING

from duotok.listening.analysis import Analysis
from duotok.listening.plan import REFERENCE
from duotok.listening.scale import RANGES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GREY = "#2a2e35", "#8a8f98"
NAME = 24
"""Characters of a condition's name on a line; there is room for two lines."""
SYSTEM, GIVEN = "#1d5fa8", "#8a6d1f"


def means_picture(analysis: Analysis, track: str) -> bytes:
    """PNG of one track (or all of them). Systems are filled circles, reference and anchors open squares: shape tells them apart, not
    colour alone."""
    buffer = io.BytesIO()
    figure_of(analysis, track).savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def figure_of(analysis: Analysis, track: str) -> Figure:
    """The picture before it is bytes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    height = 0.7 + 0.36 * len(analysis.test.conditions)
    figure = Figure(figsize=(5.4, height), dpi=150, layout="constrained", facecolor="white")
    _panel(figure.subplots(), analysis, track)
    return figure


def _panel(axis: Axes, analysis: Analysis, track: str) -> None:
    names = analysis.test.conditions
    least, most = RANGES[analysis.test.plan.method]
    for place, name in enumerate(names):
        found = analysis.screened.means[track].get(name)
        if found is None:
            continue
        ours = name in analysis.test.plan.systems
        colour = SYSTEM if ours else GIVEN
        if found.low is not None and found.high is not None:
            axis.plot([found.low, found.high], [place, place], color=colour, linewidth=2.2, solid_capstyle="butt")
        face = colour if ours else "white"
        axis.plot(
            found.value, place, "o" if ours else "s", color=colour, markerfacecolor=face, markersize=7, clip_on=False
        )
        axis.annotate(f"{found.value:.2f}" if most == 5 else f"{found.value:.0f}", (found.value, place), (0, 7),
                      textcoords="offset points", ha="center", fontsize=8, color=INK)  # fmt: skip
    shown = ["hidden reference" if name == REFERENCE else name for name in names]
    axis.set_yticks(
        range(len(names)), ["\n".join(textwrap.wrap(name, NAME, max_lines=2, placeholder="…")) for name in shown]
    )
    axis.set_ylim(len(names) - 0.5, -0.7)
    pad = 0.03 * (most - least)
    axis.set_xlim(least - pad, most + pad)
    axis.set_xticks(range(1, 6) if most == 5 else range(0, 101, 20))
    axis.grid(axis="x", alpha=0.3, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(colors=INK, labelsize=9, length=3)
    for side, spine in axis.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GREY)
