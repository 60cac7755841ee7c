"""A report as Markdown: the tables of the page; pictures in words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Protocol

from duotok.report.content import Picture, Table

SPECIAL = re.compile(r"([\\|<>*_\[\]#])")


class Content(Protocol):
    """As `page.Report`."""

    @property
    def parts(self) -> Sequence[Table | Picture]: ...
    @property
    def instruments(self) -> Sequence[Table]: ...
    @property
    def provenance(self) -> Sequence[Table]: ...
    @property
    def problems(self) -> Sequence[str]: ...
    @property
    def missing(self) -> Sequence[tuple[str, str]]: ...
    @property
    def command(self) -> str: ...
    @property
    def version(self) -> str: ...


def as_markdown(report: Content, mark: str) -> str:
    """The report without pictures and sounds, which the page has. mark: put in as a comment."""
    lines = ["# Tokenizers, measured beside the paper", ""]
    lines += ["Rows of “paper” are the paper's own figures, not measured here.", ""]
    lines += _list("Missing", [f"{title}: {text}" for title, text in report.missing])
    lines += _list("Left out, or not fitting together", report.problems)
    for part in report.parts:
        lines += [f"## {plain(part.title)}", ""]
        lines += _picture(part) if isinstance(part, Picture) else _table(part)
    if report.instruments:
        lines += ["## Everything that was measured", ""]
        for table in report.instruments:
            lines += [f"### {plain(table.title)}", "", *_table(table)]
    lines += ["## Where it comes from", ""]
    for table in report.provenance:
        lines += [f"### {plain(table.title)}", "", *_table(table)]
    lines += [f"Made by `{report.command}`, DuoTok {report.version}.", "", f"<!-- {mark} -->"]
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line; what stands in backticks stays."""
    parts = " ".join(text.split()).split("`")
    if len(parts) % 2 == 0:  # a lone backtick
        return SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("`", "\\`")
    return "`".join(
        part.replace("|", "\\|") if place % 2 else SPECIAL.sub(r"\\\1", part) for place, part in enumerate(parts)
    )


def _list(title: str, items: Iterable[str]) -> list[str]:
    found = [f"- {plain(item)}" for item in items]
    return [f"{title}:", "", *found, ""] if found else []


def _table(table: Table) -> list[str]:
    lines = []
    if table.missing:
        lines += [plain(table.missing), ""]
    if table.rows:
        lines += _grid(table)
    if table.papers and table.compare:
        lines += [plain(table.compare), ""]
    for text in table.about:
        lines += [plain(text), ""]
    lines += _list("Measures", [f"{name}: {text}" for name, text in table.definitions.items()])
    return [*lines, *_list("Values that are missing", table.gaps)]


def _grid(table: Table) -> list[str]:
    """The rows; where some are the paper's, a column says whose."""
    mixed = bool(table.papers)
    head = [table.head[0], *(["whose"] if mixed else []), *table.head[1:]]
    rows = [[row.name, *([row.whose] if mixed else []), *row.cells] for row in table.rows]
    return [_line(head), "|" + "---|" * len(head), *map(_line, rows), ""]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(plain, cells)) + " |"


def _picture(picture: Picture) -> list[str]:
    lines = []
    if picture.missing:
        lines += [plain(picture.missing), ""]
    lines += _list("Shown in the page", [f"{panel.title}: {panel.alt}" for panel in picture.panels])
    if picture.numbers is not None:
        lines += _grid(picture.numbers)
    for text in (picture.compare, *picture.about):
        lines += [plain(text), ""] if text else []
    return lines
