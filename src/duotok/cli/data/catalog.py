"""`duotok data catalog`: corpora -> one list of recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from duotok.cli.console import put_json, say


def catalog(
    corpora: Annotated[
        list[str],
        typer.Option("--corpus", metavar="NAME=FOLDER", help="Or AS:NAME=FOLDER, under another name; again for more."),
    ],
    work: Annotated[Path, typer.Option("--work", help="Folder of the data path; gets recordings.parquet.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="CORPUS.OPTION=VALUE", help="`duotok data describe CORPUS` lists them."),
    ] = None,
    licences: Annotated[
        str,
        typer.Option(
            "--licences", metavar="CLASSES", help="Licence classes that may in, with commas; all if not given."
        ),
    ] = "",
    add: Annotated[bool, typer.Option("--add", help="Keep other corpora that WORK has already.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what there is and write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """List the recordings of one or more corpora into WORK/recordings.parquet, the first step of the data path.

    Only metadata is read. A recording whose audio file is missing is listed all the same: `duotok data scan` names it.
    No artist, speaker or song is in two splits. Licence classes: public-domain, attribution, share-alike,
    no-derivatives, non-commercial, restricted, unknown.

    \b
      duotok data catalog --corpus index=/data/audio --work work
      duotok data catalog --corpus fma=/data/fma --set fma.size=medium --corpus jazz:folder=~/Music/jazz --work work
      duotok data catalog --corpus fma=/data/fma --licences public-domain,attribution,share-alike --work work --dry-run
    """
    from duotok.data.catalog import TABLE, build, open_corpora, read, summary, validation_warning, write

    allowed = [name.strip() for name in licences.split(",") if name.strip()]
    before = read(work) if add and (work / TABLE).is_file() else []
    result = build(open_corpora(corpora, settings or ()), allowed, before)
    path = work / TABLE
    if not dry_run:
        write(work, result)
    facts = summary(result)
    if as_json:
        put_json(
            {
                "table": str(path),
                "written": not dry_run,
                "corpora": facts,
                "left_out": dict(result.left_out),
                "failures": result.problems,
            },
            indent=1,
        )
        return
    for name, row in facts.items():
        everything = row["all"]
        unknown = f", {everything['no length']:.0f} without a length" if everything["no length"] else ""
        typer.echo(
            f"{name}: {everything['recordings']:,.0f} recordings, {everything['hours']:,.1f} hours by the metadata{unknown}, "
            f"{everything['lyrics']:,.0f} with lyrics"
        )
        for column in ("split", "kind", "licence", "language"):
            counts = sorted(row[column].items(), key=lambda item: -item[1])
            typer.echo(f"  {column:<10}" + ", ".join(f"{key} {count:,.0f}" for key, count in counts))
    if result.left_out:
        say("left out by --licences: " + ", ".join(f"{name} {n:,}" for name, n in sorted(result.left_out.items())))
    for name, why in result.problems.items():
        say(f"failed: {name}: {why}")
    if validation_warning(result.recordings):
        say(f"warning: {validation_warning(result.recordings)}")
    say(f"{path}: " + (f"would hold {len(result.recordings):,} recordings" if dry_run else "written"))
