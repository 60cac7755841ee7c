"""`duotok listen report`: what the ratings say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from duotok.cli.console import put_json, say


def report(
    test: Annotated[Path, typer.Argument(help="A test folder with ratings.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the page and the tables.")] = Path("listening-report"),
    reference_least: Annotated[
        float | None, typer.Option(help="Screening: least mean of the hidden reference (MOS: 3.5), or least score (MUSHRA: 90).")
    ] = None,
    anchor_gap: Annotated[float, typer.Option(help="Screening, MOS: how far the anchor's mean must be below the reference's.")] = 1.0,
    force: Annotated[bool, typer.Option("--force", help="Replace files in OUTPUT that no report made.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All figures as one JSON document on stdout.")] = False,
) -> None:  # fmt: skip
    """Mean scores of every system and track with 95 % intervals, and who was excluded why.

    Raters who do not hear the hidden reference as good, or the low-pass anchor as worse, are left out by a stated rule; the
    same tables without screening stand below. Writes index.html (needs nothing but itself), report.md, report.json, means.csv
    and ratings.csv; may run while the test is being taken.

    \b
      duotok listen report test -o result
      duotok listen report test -o result --reference-least 3.5 --anchor-gap 0.5
    """
    from duotok import __version__
    from duotok.cli.files import check_free
    from duotok.errors import DuoTokError
    from duotok.listening.analysis import analyse
    from duotok.listening.plan import load
    from duotok.listening.ratings import Ratings
    from duotok.listening.report import as_json as json_of
    from duotok.listening.report import as_markdown, made_before, outputs, write
    from duotok.listening.scale import RANGES
    from duotok.listening.screening import Rule

    found = load(test)
    given = Ratings(found).all()
    if not given:
        raise DuoTokError(f"{test}: nobody has rated anything yet; duotok listen serve {test}")
    low, high = RANGES[found.plan.method]
    if not abs(anchor_gap) <= high - low:
        raise DuoTokError(f"--anchor-gap {anchor_gap:g}: scores of this test are at most {high - low} apart")
    rule = Rule(gap=anchor_gap)
    if reference_least is not None:
        if not low <= reference_least <= high:
            raise DuoTokError(f"--reference-least {reference_least:g}: scores of this test go from {low} to {high}")
        rule = Rule(reference_least, anchor_gap, reference_least)
    check_free(outputs(output), made_before(output), force)
    result = analyse(found, given, rule)
    write(result, output, __version__)
    put_json(json_of(result, __version__), indent=1) if as_json else typer.echo(as_markdown(result))
    say(f"open {output / 'index.html'}")
