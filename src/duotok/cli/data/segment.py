"""`duotok data segment`: scanned recordings and their lyrics -> segments of 5-30 s."""

from __future__ import annotations

from typing import Annotated

import typer

from duotok.cli.console import put_json, say
from duotok.cli.data.options import Address, AsJson, DryRun, EngineName, Work, Workers


def segment(
    work: Work,
    licences: Annotated[
        str,
        typer.Option(
            "--licences", metavar="CLASSES", help="Licence classes that may in, with commas; all if not given."
        ),
    ] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Such as target_seconds=10 or activity.floor_db=-50."),
    ] = None,
    engine: EngineName = "local",
    workers: Workers = 1,
    address: Address = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Cut recordings into segments: between sentences where lyrics are known, at quiet places otherwise.

    Nothing is decoded: a few milliseconds a recording, so all of it is done again each time. What is left out is named in
    WORK/ledger/segment.jsonl with the reason. Settings: min_seconds, max_seconds, target_seconds, whole_seconds (shorter
    recordings are left out), voice_share, silence_db, loudness, max_gain_db, activity.* (docs/segments.md).

    \b
      duotok data segment --work work
      duotok data segment --work work --licences public-domain,attribution,share-alike
      duotok data segment --work work --set whole_seconds=1 --set target_seconds=10 --dry-run
    """
    from duotok.config import override, parse
    from duotok.data import jobs
    from duotok.data.segmenting import LEDGER, TABLE, lyrics_warning, most_frequent, segment_all, summary
    from duotok.data.segments import SegmentConfig

    config = parse(SegmentConfig, override({}, settings or []), "--set")
    allowed = [name.strip() for name in licences.split(",") if name.strip()]
    result = segment_all(work, config, allowed, jobs.engine(engine, workers, address), dry_run)
    facts = summary(result.segments)
    if as_json:
        put_json(
            {
                "table": str(work / TABLE), "written": not dry_run, "summary": facts,
                "left_out": result.left_out, "notes": result.notes,
            },
            indent=1,
        )  # fmt: skip
        return
    for column, cells in facts.items():
        ordered = sorted(cells.items(), key=lambda cell: -cell[1]["hours"])
        text = ", ".join(f"{value} {c['segments']:,.0f} ({c['hours']:,.2f} h)" for value, c in ordered)
        typer.echo(f"{column:<10}{text.removeprefix('all ')}")
    if result.left_out:
        say(f"{len(result.left_out):,} recordings left out: {most_frequent(result.left_out)}; all in {work / LEDGER}")
    if result.notes:
        lost = lyrics_warning(result.notes) or "words of some recordings are in no segment"
        say(f"{lost}; {len(result.notes):,} recordings have notes in {work / LEDGER}")
    say(f"{work / TABLE}: " + (f"would hold {len(result.segments):,} segments" if dry_run else "written"))
