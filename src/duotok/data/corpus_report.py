"""The report on a data set: its figures as a page, pictures and JSON, in a folder."""

from __future__ import annotations

import json
from pathlib import Path

from duotok.data.corpus_figures import CorpusReport, draw, gather, read_segments
from duotok.data.corpus_page import facts, render
from duotok.data.jobs import atomic_write
from duotok.records import CorpusError


def _is_report(folder: Path) -> bool:
    """Whether the folder holds a report of ours."""
    try:
        return bool({"duotok", "mixtures"} <= json.loads((folder / "facts.json").read_text(encoding="utf-8")).keys())
    except (OSError, ValueError, AttributeError):
        return False


def make_report(work: Path, folder: Path | None = None, force: bool = False) -> tuple[CorpusReport, Path]:
    """Write the page, the pictures and facts.json into `folder` (WORK/report), each atomically.

    Raises CorpusError when there are no segments, or when the named folder holds files of these names but no report of ours
    (unless `force`).
    """
    folder = folder or work / "report"
    table = read_segments(work)
    report = gather(work, table)
    drawn = draw(table, report)
    existing = [name for name in (*drawn, "facts.json", "index.html") if (folder / name).exists()]
    if existing and not force and folder != work / "report" and not _is_report(folder):
        raise CorpusError(f"{folder / existing[0]}: is there already, and no report; name another folder, or --force")
    for name, data in drawn.items():
        with atomic_write(folder / name) as file:
            file.write(data)
    with atomic_write(folder / "facts.json") as file:
        file.write(json.dumps(facts(report), indent=1).encode())
    page = folder / "index.html"
    with atomic_write(page) as file:
        file.write(render(report, drawn).encode())
    return report, page
