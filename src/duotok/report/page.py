"""A report as one HTML page that needs nothing but itself, and as Markdown: both of the same tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duotok
from duotok.errors import ConfigError
from duotok.files import text_of, write_bytes
from duotok.pages import rendering
from duotok.pages.rendering import data_uri
from duotok.report import details
from duotok.report.content import Picture, Table
from duotok.report.figures import LEAKAGE, figures
from duotok.report.markdown import as_markdown
from duotok.report.players import Heard, players
from duotok.report.sources import Sources
from duotok.report.tables import tables

TEMPLATE = Path(__file__).parent / "templates" / "report.html.j2"
MARK = "made by duotok report"
"""In every file: the command replaces only files that have it."""
LIMIT = 15_000_000
"""Bytes of a page; sounds that would go over it are left out and named."""
PAGES, TEXTS = (".html", ".htm"), (".md", ".markdown")


@dataclass(frozen=True)
class Report:
    """Everything that stands in it. command: the one that made it."""

    parts: tuple[Table | Picture, ...]
    instruments: tuple[Table, ...]
    provenance: tuple[Table, ...]
    problems: tuple[str, ...]
    tokenizers: tuple[str, ...]
    songs: tuple[str, ...]
    command: str
    version: str = duotok.__version__

    @property
    def missing(self) -> list[tuple[str, str]]:
        """(title, what is missing and the command that fills it)."""
        return [(part.title, part.missing) for part in self.parts if part.missing]


def make(sources: Sources, command: str) -> Report:
    """The paper's tables with its figures beside them, everything else that was measured, and where it comes from."""
    made, drawn = tables(sources), {picture.key: picture for picture in figures(sources)}
    parts = list[Table | Picture]()
    for table in made:
        parts.append(table)
        # Each figure follows the table that its numbers stand in; those without one follow the paper's order.
        if after := {"table-1": "figure1", "table-6": "figure3", "table-11": "figure6"}.get(table.key):
            parts.append(drawn[after])
        if table.key == "table-6":
            parts.append(drawn["figure4"])
    if LEAKAGE in drawn:
        parts.append(drawn[LEAKAGE])
    return Report(
        tuple(parts), tuple(details.instruments(sources)), tuple(details.provenance(sources)), sources.problems,
        tuple(sources.tokenizers), tuple(dict.fromkeys(row.item for cell in sources.cells for row in cell.rows)), command,
    )  # fmt: skip


def as_html(report: Report, heard: Heard = Heard()) -> str:
    """The page."""
    return rendering.render(
        TEMPLATE,
        report=report,
        heard=heard,
        mark=MARK,
        is_picture=lambda part: isinstance(part, Picture),
        svg=lambda panel: data_uri(panel.svg, "image/svg+xml"),
    )


def check_ending(path: Path) -> None:
    """Raises ConfigError for a file that is neither a page nor Markdown."""
    if path.suffix.lower() not in (*PAGES, *TEXTS):
        raise ConfigError(f"{text_of(path)}: reports end with .html or .md; choose one of them")


def made_before(path: Path) -> bool:
    """Whether a file is a report that this command made."""
    try:
        return MARK.encode() in path.read_bytes()
    except OSError:
        return False


def write(report: Report, outputs: Sequence[Path], sounds: Path | None = None) -> Heard:
    """Write every output, as its ending says; what is there is replaced: ask `made_before` first. sounds: folder of decoded songs for
    players in the page. Raises ConfigError, ReportError and OSError."""
    for path in outputs:
        check_ending(path)
    heard = Heard()
    if sounds is not None and any(path.suffix.lower() in PAGES for path in outputs):
        heard = players(sounds, LIMIT - len(as_html(report).encode()), report.tokenizers, report.songs)
    for path in outputs:
        text = as_html(report, heard) if path.suffix.lower() in PAGES else as_markdown(report, MARK)
        write_bytes(path, text.encode())
    return heard
