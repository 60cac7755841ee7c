"""The page of a data set: one HTML file that needs nothing but itself. What stands in it: `templates/corpus.html.j2`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duotok
from duotok.data.corpus_figures import PLURALS, CorpusReport
from duotok.data.corpus_pictures import amount
from duotok.pages import rendering

TEMPLATE = Path(__file__).parent / "templates" / "corpus.html.j2"


def facts(report: CorpusReport) -> dict[str, Any]:
    """The figures as JSON-able values."""
    return {"duotok": duotok.__version__, **dataclasses.asdict(report)}


def _facts(report: CorpusReport) -> list[tuple[str, str]]:
    """The numbers on top, each with what it is."""
    hours, segments = report.hours["all"]["all"], report.segments["all"]["all"]
    worded = report.hours["activity"].get("lyrics", 0.0)
    found = [
        (amount(hours), "in segments"),
        (f"{segments:,}", "segments"),
        (f"{report.used:,} of {report.recordings:,}", "recordings used"),
        (f"{hours * 3600 / segments:.1f} s", "mean length"),
        (f"{worded / hours:.0%}", "of the time with words"),
    ]
    if report.shards:
        found.append((f"{report.shards['bytes'] / 1e9:,.2f} GB", f"in {report.shards['files']:,} shards"))
    return found


def _splits(report: CorpusReport) -> list[list[str]]:
    hours, segments = report.hours["split"], report.segments["split"]
    return [
        [split, amount(hours.get(split, 0.0)), f"{segments.get(split, 0):,}", f"{identities:,}"]
        for split, identities in report.identities.items()
    ]


def _said(report: CorpusReport) -> dict[str, str]:
    """What the bars show, for those who do not see them."""

    def of(column: str) -> str:
        hours, segments = report.hours[column], report.segments[column]
        names = sorted(hours, key=lambda name: (-hours[name], name))
        return "; ".join(
            f"{name} {amount(hours[name])}, {segments[name]:,} segment{'' if segments[name] == 1 else 's'}"
            for name in names
        )

    return {plural: of(column) for column, plural in PLURALS.items()}


def render(report: CorpusReport, drawn: Mapping[str, bytes]) -> str:
    """The page; drawn: PNG bytes by file name."""
    return rendering.render(
        TEMPLATE,
        report=report,
        corpora=list(report.hours["corpus"]),
        facts=_facts(report),
        splits=_splits(report),
        said=_said(report),
        drawn={name.removesuffix(".png"): rendering.png_uri(data) for name, data in drawn.items()},
        version=duotok.__version__,
    )
