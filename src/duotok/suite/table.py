"""The results of a store as Markdown for people and as JSON for programs: means, intervals, how many, what is missing and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from duotok.evaluation.results import ALL, Cell
from duotok.evaluation.summaries import Summary, reason_of, summarise, told
from duotok.suite.leakage import experiment as leakage
from duotok.suite.leakage.table import as_markdown as leakage_markdown
from duotok.suite.matched import conduct as matched
from duotok.suite.tagging import table as tagging

OWN: dict[str, Callable[[Sequence[Cell]], str]] = {
    tagging.INSTRUMENT: tagging.as_markdown, matched.INSTRUMENT: matched.as_markdown, leakage.INSTRUMENT: leakage_markdown,
}  # fmt: skip
"""Instruments with a table of their own: that of their command."""
SHARES = 4
"""Reasons that are listed for one measure."""


def as_markdown(cells: Sequence[Cell], problems: Iterable[str] = (), books: bool = False) -> str:
    """A table for each instrument and track; below it what is missing, and what the measures mean. books: also of single codebooks."""
    lines = list[str]()
    for instrument in dict.fromkeys(cell.inputs.instrument for cell in cells):
        of_it = [cell for cell in cells if cell.inputs.instrument == instrument]
        if own := OWN.get(instrument.partition(".")[0]):
            lines += [f"# {instrument.capitalize()}", "", own(of_it).rstrip(), ""]
            continue
        summaries = summarise(of_it)
        whole = {(s.tokenizer, s.track) for s in summaries}
        # a codebook stands for itself where its stream has no figure of its own (`usage`)
        summaries = [
            s
            for s in summaries
            if books or "." not in s.track or (s.tokenizer, s.track.rpartition(".")[0]) not in whole
        ]
        tracks = dict.fromkeys(s.track for s in summaries)
        lines += [f"# {instrument.capitalize()}", "", _data(of_it[0]), ""]
        for track in tracks:
            lines += [f"## {track.capitalize()}", "", *_track(of_it, [s for s in summaries if s.track == track]), ""]
        gaps = _gaps(summaries, of_it)
        if gaps:
            lines += ["Missing:", "", *gaps, ""]
        lines += ["What is measured:", "", *_definitions(of_it[0]), ""]
    told = [f"- {problem}" for problem in problems]
    if told:
        lines += ["Not measured:", "", *told, ""]
    return "\n".join(lines).rstrip() + "\n"


def _data(cell: Cell) -> str:
    data = cell.about.get("data", {})
    if not data:
        return f"Data {cell.inputs.data_hash[:8]}."
    text = f"{data['songs']} songs of {data['folder']}, {data['stretches']} stretches of {data['stretch']:g} s (data {cell.inputs.data_hash[:8]})."
    if data.get("separated"):
        text += f" The stems of {data['separated']} were separated by {data['separator']}; they are what went in and what is compared with."
    if data.get("short"):
        text += f" Shorter: {', '.join(data['short'])}."
    if {row.item == ALL for row in cell.rows if row.value is not None} == {True}:
        return text + " All songs together, so there is no interval."
    return text + " Mean over songs, 95 % bootstrap interval over songs from six songs on."


def _track(cells: Sequence[Cell], summaries: Sequence[Summary]) -> list[str]:
    names = list(dict.fromkeys(s.measure.name for s in summaries))
    found = {(s.tokenizer, s.measure.name): s for s in summaries}
    rows = []
    for cell in cells:
        name = cell.inputs.tokenizer
        if any((name, measure) in found for measure in names):
            kbps = cell.about.get("kbps")
            rows.append([name, "-" if kbps is None else f"{kbps:.2f}", *(told(found.get((name, m))) for m in names)])
    arrows = {"higher": " ↑", "lower": " ↓", "": ""}
    better = {
        s.measure.name: arrows[s.measure.better] + (f", {s.measure.unit}" if s.measure.unit else "") for s in summaries
    }
    return table(["tokenizer", "kbit/s", *(name + better[name] for name in names)], rows)


def left_out(cells: Sequence[Cell], summaries: Sequence[Summary]) -> tuple[dict[str, list[str]], list[Summary]]:
    """Reason -> the songs that were left out for it before any tokenizer heard them; and the summaries without these reasons, so that
    they are told once and not for every tokenizer, track and measure."""
    facts = {c.inputs.tokenizer: c.about.get("data") for c in cells}  # of experiments the name of a corpus
    songs = {name: data.get("left_out", {}) for name, data in facts.items() if isinstance(data, dict)}
    by_reason: dict[str, list[str]] = {}
    for name, reason in {name: reason for found in songs.values() for name, reason in found.items()}.items():
        by_reason.setdefault(reason, []).append(name)
    others = []
    for s in summaries:
        kept = {
            reason: tuple(item for item in items if songs.get(s.tokenizer, {}).get(item) != reason)
            for reason, items in s.reasons.items()
        }
        others.append(dataclasses.replace(s, reasons={reason: items for reason, items in kept.items() if items}))
    return by_reason, others


def _gaps(summaries: Sequence[Summary], cells: Sequence[Cell]) -> list[str]:
    """Reasons, joined where several measures lack a value for the same one."""
    songs, summaries = left_out(cells, summaries)
    by_reason: dict[tuple[str, str, str], list[str]] = {}
    for s in summaries:
        listed = list(s.reasons.items())
        # a last one is as short as to say that there is one
        shown = SHARES if len(listed) > SHARES + 1 else len(listed)
        found = [reason_of(*one) for one in listed[:shown]]
        if listed[shown:]:
            others = dict.fromkeys(item for _, items in listed[shown:] for item in items)
            found.append(reason_of(f"{len(listed) - shown} other reasons", list(others)))
        for reason in found:
            by_reason.setdefault((s.tokenizer, s.track, reason), []).append(s.measure.name)
    every = {
        (s.tokenizer, s.track): sum(x.tokenizer == s.tokenizer and x.track == s.track for x in summaries)
        for s in summaries
    }
    return [f"- all tokenizers: {reason_of(reason, names)}" for reason, names in songs.items()] + [
        f"- {tokenizer}, {track}, {'all' if len(names) == every[tokenizer, track] > 1 else ', '.join(names)}: {reason}"
        for (tokenizer, track, reason), names in by_reason.items()
    ]


def _definitions(cell: Cell) -> list[str]:
    return [
        f"- {m.name}: {m.definition}{f' ({m.source})' if m.source else ''}{f'; {m.better} is better' if m.better else ''}"
        for m in cell.measures
    ]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    return [line(header), "|" + "---|" * len(header), *map(line, rows)]


def as_json(cells: Sequence[Cell], problems: Iterable[str] = ()) -> dict[str, Any]:
    """Every summary with its interval; null where there is none, with the reasons."""
    return {
        "cells": [
            {
                "tokenizer": cell.inputs.tokenizer, "instrument": cell.inputs.instrument, "model_hash": cell.inputs.model_hash,
                "data_hash": cell.inputs.data_hash, "config": dict(cell.inputs.config), "seed": cell.seed,
                "versions": dict(cell.versions), "about": dict(cell.about), "created": cell.created,
            }
            for cell in cells
        ],
        "summaries": [
            {
                "tokenizer": s.tokenizer, "instrument": s.instrument, "measure": s.measure.name, "track": s.track, "n": s.n,
                "failures": s.failures, "mean": s.mean, "interval": None if s.interval is None else [s.interval.low, s.interval.high],
                "reasons": {reason: list(items) for reason, items in s.reasons.items()},
                "definition": s.measure.definition, "better": s.measure.better, "unit": s.measure.unit,
            }
            for s in summarise(cells)
        ],
        "problems": list(problems),
    }  # fmt: skip
