"""Figures 1, 3, 4 and 6, rebuilt: ours, and beside them the paper's as far as it prints its numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

from duotok.evaluation.intervals import Interval
from duotok.evaluation.summaries import NOT_MEASURED
from duotok.report.content import NONE, PAPER, Panel, Picture, Row, Table, shown
from duotok.report.drawing import Bar, Curve, Dot, bars, curves, exact, plane
from duotok.report.paper import paper
from duotok.report.predictability import AVERAGE, COMPARE, FILL, PARALLEL, runs
from duotok.report.sources import Sources
from duotok.report.studies import Figures, Point
from duotok.report.tables import MIX, RECONSTRUCTION, SONGS, Use, uses
from duotok.tracks import TRACKS

LEAKAGE = "leakage"
LEAK = re.compile(r"(equal|mel)\.leak(-?[0-9.]+)")
AMOUNT = re.compile(r"(shift|mask) ([0-9.]+)( s|%)")


def figures(sources: Sources) -> list[Picture]:
    """The paper's figures, in its order, and one of leakage where it was measured."""
    found = [figure_1(sources), figure_3(sources), figure_4(sources), figure_6(sources)]
    return [*found, leakage(sources)] if sources.of(LEAKAGE) else found


def figure_1(sources: Sources) -> Picture:
    cnbpt = {tokenizer: figures for _, tokenizer, _, figures in reversed(list(runs(sources, PARALLEL)))}
    found, dots = sources.found(RECONSTRUCTION), list[Dot]()
    for name in sources.tokenizers:
        x, y = cnbpt.get(name, {}).get(f"{AVERAGE}.cnbpt"), found.get((name, "mel", MIX))
        if x is not None and y is not None and y.mean is not None:
            dots.append(Dot(name, x, y.interval or exact(y.mean)))
    theirs = [Dot(of["model"], exact(float(of["cnbpt"])), exact(float(of["mel"]))) for of in paper()["table-1"]]
    axes = ("cnBPT (easier to predict: left)", "mel distance (closer: below)")
    panels = [Panel("measured here", plane(dots, *axes), _said(dots))] if dots else []
    panels.append(Panel("the paper's", plane(theirs, *axes), _said(theirs)))
    return Picture(
        "figure1", "Figure 1: predictability against fidelity", tuple(panels),
        ("Best is the lower left corner. The numbers stand in Table 1: cnBPT, and mel distance at 24 kHz; the paper's mel distance is at "
         "each codec's own rate.",),
        COMPARE,
        "" if dots else "No tokenizer was given with both cnBPT and a mel distance of the mix. This fills it: `duotok eval reconstruction` "
        f"and {FILL}, with the same names.",
    )  # fmt: skip


def _said(dots: list[Dot]) -> str:
    return "; ".join(f"{dot.name}: cnBPT {dot.x.value:.3f}, mel {dot.y.value:.3f}" for dot in dots)


def figure_3(sources: Sources) -> Picture:
    panels, rows, columns = list[Panel](), list[Row](), list[str]()
    for study in sources.studies:
        for protocol, costs in study.costs.items():
            where = protocol if len(sources.studies) == 1 else f"{protocol}, {study.name}"
            columns = list(dict.fromkeys([*columns, *(name for of in costs.values() for name in of)]))
            panels += _cost_panels(where, costs)
    for study in sources.studies:
        for protocol, costs in study.costs.items():
            for name, of in costs.items():
                cells = (protocol, *(shown(of.get(column), "+.1f") for column in columns))
                rows.append(Row(name if len(sources.studies) == 1 else f"{name} ({study.name})", cells))
    if "mismatch" not in columns:
        columns.append("mismatch")
        rows = [Row(row.name, (*row.cells, NOT_MEASURED)) for row in rows]
    printed = [(of["model"], of["mismatch"]) for of in paper()["figure3"]]
    theirs = [
        Row(name, ("vocals-to-accompaniment", *(f"+{value}" if c == "mismatch" else NONE for c in columns)), PAPER)
        for name, value in printed
    ]
    panels.append(
        Panel(
            "mismatch, the paper's",
            bars([Bar(name, name, exact(float(value))) for name, value in printed], "cost (%)", "+.1f"),
            "; ".join(f"{name}: {value} percent" for name, value in printed),
        )
    )
    numbers = Table(
        "figure3-numbers", "Figure 3 in numbers: change of the target's cnBPT in percent",
        ("tokenizer", "protocol", *columns), (*rows, *theirs),
    )  # fmt: skip
    return Picture(
        "figure3", "Figure 3: what a corrupted source costs", tuple(panels),
        ("Change of the target track's cnBPT, in percent, when the source track is shifted, when frames of it are replaced, and when it is "
         "another song's (paper, equation 8). A tokenizer whose language model does not listen to the source costs nothing: that says "
         "something about the model first.",),
        f"{COMPARE} The paper prints the cost of the mismatch alone as numbers; its curves are a picture.",
        "" if rows else f"No study with corrupted sources was given. This fills it: `corruption: {{}}` in the comparison of {FILL}.",
        numbers,
    )  # fmt: skip


def _cost_panels(where: str, costs: Mapping[str, Figures]) -> list[Panel]:
    panels = []
    for kind, title, x in (
        ("shift", "time shift", "shift of the source (s)"), ("mask", "masked frames", "masked frames of the source (%)")
    ):  # fmt: skip
        lines = [Curve(name, points) for name, of in costs.items() if (points := _amounts(of, kind))]
        if lines:
            svg = curves(lines, x, "cost (% of cnBPT)", doubling=kind == "shift", zero=True)
            panels.append(Panel(f"{title}, {where}", svg, _ends(lines, "percent")))
    mismatch = {name: of["mismatch"] for name, of in costs.items() if "mismatch" in of}
    if mismatch:
        svg = bars([Bar(name, name, value) for name, value in mismatch.items()], "cost (%)", "+.1f")
        said = "; ".join(f"{name}: {value.value:+.1f} percent" for name, value in mismatch.items())
        panels.append(Panel(f"mismatch, {where}", svg, said))
    return panels


def _amounts(costs: Figures, kind: str) -> list[tuple[float, Interval]]:
    found = [(float(m[2]), value) for name, value in costs.items() if (m := AMOUNT.match(name)) and m[1] == kind]
    return sorted(found, key=lambda point: point[0])


def _ends(lines: list[Curve], unit: str) -> str:
    """Curves in words: where each begins and, of more than one point, ends."""
    told = []
    for line in lines:
        (first, begin), (last, end) = line.points[0], line.points[-1]
        more = f", {end.value:.3g} at {last:g}" if len(line.points) > 1 else ""
        told.append(f"{line.name}: {begin.value:.3g} {unit} at {first:g}{more}")
    return "; ".join(told)


def figure_4(sources: Sources) -> Picture:
    panels, rows = list[Panel](), list[Row]()
    for study in sources.studies:
        for protocol, of in study.contexts.items():
            where = protocol if len(sources.studies) == 1 else f"{protocol}, {study.name}"
            values = _context(of, lambda point: point.cnbpt)
            gains = _context(of, lambda point: point.gain)
            if values:
                panels.append(Panel(f"cnBPT, {where}", curves(values, "context (s)", "cnBPT"), _ends(values, "")))
            if gains:
                svg = curves(gains, "context (s)", "change against the shortest", zero=True)
                panels.append(Panel(f"change, {where}", svg, _ends(gains, "")))
            name_of = {name: name if len(sources.studies) == 1 else f"{name} ({study.name})" for name in of}
            rows += [
                Row(name_of[name], (protocol, f"{p.seconds:g} s", shown(p.cnbpt), shown(p.gain, "+.3f")))
                for name, points in of.items()
                for p in points
            ]
    numbers = Table(
        "figure4-numbers", "Figure 4 in numbers: cnBPT of the same tokens, by context",
        ("tokenizer", "protocol", "context", "cnBPT", "change against the shortest"), tuple(rows),
    )  # fmt: skip
    return Picture(
        "figure4", "Figure 4: predictability against context", tuple(panels),
        ("The same stretches at the end of each window are scored with more and more music before them.",
         "The paper's curves are a picture; its text prints no number of them, so there is nothing to put beside ours."),
        "",
        "" if rows else f"No study over lengths of context was given. This fills it: `context: {{}}` in the comparison of {FILL}.",
        numbers if rows else None,
    )  # fmt: skip


def _context(curves_of: Mapping[str, Sequence[Point]], get: Callable[[Point], Interval | None]) -> list[Curve]:
    lines = [
        Curve(name, [(p.seconds, value) for p in points if (value := get(p)) is not None])
        for name, points in curves_of.items()
    ]
    return [line for line in lines if line.points]


def figure_6(sources: Sources) -> Picture:
    ours = uses(sources)
    theirs = [
        Use(of["model"], of["track"], float(of["utilization"]), math.nan, float(of["normalized_entropy"]), math.nan, math.nan, "")
        for of in paper()["table-11"]
    ]  # fmt: skip
    panels = [*_use_panels(ours, "measured here"), *_use_panels(theirs, "the paper's")]
    return Picture(
        "figure6", "Figure 6: utilization and entropy of the codebooks", tuple(panels),
        ("The upright line at a bar is what ideal, uniform codes would show in as many tokens: a bar that reaches it is full. The numbers "
         "stand in Table 11; of several codebooks of a stream, the mean.",),
        f"{SONGS} How many tokens the paper counted is not said.",
        "" if ours else f"Nothing was given that holds the use of codes. This fills it: `usage` in `duotok eval all`, or {FILL}.",
    )  # fmt: skip


def _use_panels(found: list[Use], whose: str) -> list[Panel]:
    """Bars of each tokenizer and stream, the mean over its codebooks."""
    streams: dict[tuple[str, str, str], list[Use]] = {}
    for use in found:
        streams.setdefault((use.tokenizer, use.stream, use.where), []).append(use)
    if not streams:
        return []
    several = len({use.where for use in found}) > 1
    panels = []
    for title, value, ideal in (
        ("utilization", "utilization", "uniform_utilization"),
        ("normalized entropy", "entropy", "uniform_entropy"),
    ):
        shown_bars = []
        for (name, stream, where), books in streams.items():
            mean, mark = (sum(getattr(b, field) for b in books) / len(books) for field in (value, ideal))
            of = stream + (f" ({where})" if several else "")
            shown_bars.append(Bar(name, name, exact(mean), mark if math.isfinite(mark) else None, of))
        said = "; ".join(f"{bar.whole}: {bar.value.value:.3f}" for bar in shown_bars)
        panels.append(Panel(f"{title}, {whose}", bars(shown_bars, title, ".3f", most=1.0), said))
    return panels


def leakage(sources: Sources) -> Picture:
    """What some of the other track in each stem does to codes and sound. The paper names it as its first limitation and draws nothing."""
    lines: dict[tuple[str, str], dict[str, list[tuple[float, Interval]]]] = {}
    for (tokenizer, measure, track), summary in sources.found(LEAKAGE).items():
        match = LEAK.fullmatch(measure)
        if match and summary.mean is not None and track in TRACKS:
            point = (float(match[2]), summary.interval or exact(summary.mean))
            lines.setdefault((match[1], track), {}).setdefault(tokenizer, []).append(point)
    titles = {"equal": "codes equal to those of true stems", "mel": "mel distance to the true track"}
    panels = []
    for (figure, track), of in sorted(lines.items(), key=lambda item: (item[0][0], TRACKS.index(item[0][1]))):
        drawn = [Curve(name, sorted(points, key=lambda point: point[0])) for name, points in of.items()]
        svg = curves(drawn, "the other track in the stem (dB)", titles[figure])
        panels.append(Panel(f"{titles[figure]}, {track}", svg, _ends(drawn, "")))
    return Picture(
        LEAKAGE, "Leakage: what the other track in a stem does", tuple(panels),
        ("Each true stem with the other track added, so many decibels softer than it is in the song. Stems of separators, and the mix without "
         "any, stand in the table of everything that was measured.",),
    )  # fmt: skip
