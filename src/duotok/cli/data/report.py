"""`duotok data report`: what the data set holds, as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from duotok.cli.console import put_json, say
from duotok.cli.data.options import AsJson, Work


def report(
    work: Work,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the page; WORK/report if not given.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files in OUT that are no report.")] = False,
    as_json: AsJson = False,
) -> None:
    """Draw what the segments are: length, sample types, languages, licences, loudness, splits, lyrics in the mixtures.

    One page that needs nothing but itself, the pictures beside it as PNG, the figures as facts.json. Also tells, from the
    ledgers of all steps, what was left out and why.

    \b
      duotok data report --work work              then open work/report/index.html
      duotok data report --work work -o docs/images/data --json
    """
    from duotok.data.corpus_page import facts
    from duotok.data.corpus_report import make_report

    data_report, page = make_report(work, out, force)
    if as_json:
        put_json({"page": str(page), **facts(data_report)}, indent=1)
        return
    for name, mixture in data_report.mixtures.items():
        if mixture.plain is None:
            empty = ", ".join(component for component, count in mixture.segments.items() if not count)
            typer.echo(f"{name}: cannot be drawn, no segments for {empty}")
            continue
        required = "not possible" if mixture.required is None else f"{mixture.required:.1%}"
        typer.echo(
            f"{name}: words known in {mixture.plain:.1%} as it is, {required} when required, {mixture.paper:.1%} in the paper"
        )
    say(f"{page}: written")
