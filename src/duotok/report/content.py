"""What a report consists of, before it is HTML or Markdown: tables and pictures with everything that belongs to them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from duotok.evaluation.intervals import Interval
from duotok.evaluation.results import Cell
from duotok.evaluation.summaries import NOT_MEASURED, Summary, reason_of
from duotok.suite.table import left_out

OURS = "measured"
PAPER = "paper"
NONE = "–"
"""What the paper does not print."""


@dataclass(frozen=True)
class Row:
    """One row: a name, and the text of every other cell, never blank. whose: OURS or PAPER."""

    name: str
    cells: tuple[str, ...]
    whose: str = OURS


@dataclass(frozen=True)
class Table:
    """key: its place in the page, as `table-1`; title: with the paper's number; head: of all columns, the name's first.

    about: sentences on what was measured and how; compare: why the paper's rows cannot be compared with ours, "" without such rows;
    missing: "" or what is not there and the command that fills it; definitions: measure -> what it means; gaps: values that are
    missing, with reasons.
    """

    key: str
    title: str
    head: tuple[str, ...]
    rows: tuple[Row, ...]
    about: tuple[str, ...] = ()
    compare: str = ""
    missing: str = ""
    definitions: Mapping[str, str] = field(default_factory=dict)
    gaps: tuple[str, ...] = ()

    @property
    def ours(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.whose == OURS)

    @property
    def papers(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.whose == PAPER)


@dataclass(frozen=True)
class Panel:
    """One picture as SVG; alt: what it shows, in words."""

    title: str
    svg: bytes
    alt: str


@dataclass(frozen=True)
class Picture:
    """A figure of the paper, rebuilt. numbers: the table that it is drawn from, by key, or a table of its own."""

    key: str
    title: str
    panels: tuple[Panel, ...]
    about: tuple[str, ...] = ()
    compare: str = ""
    missing: str = ""
    numbers: Table | None = None


def shown(interval: Interval | None, spec: str = ".3f") -> str:
    """`0.483 [0.471, 0.495]`, or that it was not measured."""
    if interval is None:
        return NOT_MEASURED
    return f"{interval.value:{spec}} [{interval.low:{spec}}, {interval.high:{spec}}]"


def gaps_of(summaries: Sequence[Summary], cells: Sequence[Cell]) -> tuple[str, ...]:
    """Why values are missing: a line for each tokenizer, track and reason, with the measures that it takes away, and the songs; one
    line for all of `cells` where no tokenizer heard a song."""
    songs, summaries = left_out(cells, summaries)
    found: dict[tuple[str, str, str], list[str]] = {}
    for s in summaries:
        for reason, items in s.reasons.items():
            found.setdefault((s.tokenizer, s.track, reason_of(without_folders(reason), items)), []).append(
                s.measure.name
            )
    return tuple(
        f"all tokenizers: {reason_of(without_folders(reason), names)}" for reason, names in songs.items()
    ) + tuple(
        f"{tokenizer}, {track}, {', '.join(names)}: {reason}" for (tokenizer, track, reason), names in found.items()
    )


def without_folders(text: str) -> str:
    """Of absolute paths only the last part: a page is for others."""
    return re.sub(r"(?<![\w:/.])/(?:[^\s/:'\"]+/)+(?=[^\s/])", "", text)
