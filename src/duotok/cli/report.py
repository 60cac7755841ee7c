"""`duotok report`: what was measured, as one page beside the paper."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER...", help="Stores of `duotok eval`, folders of `duotok eval lm`, of `duotok listen report`, in any mixture."),
    ],
    output: Annotated[list[Path], typer.Option("-o", "--output", help="Page (.html) or Markdown (.md); may be given twice.")],
    sounds: Annotated[
        Path | None, typer.Option("--sounds", metavar="FOLDER", help="Decoded songs, for players: from `duotok eval reconstruction --keep-audio`.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is no report.")] = False,
) -> None:  # fmt: skip
    """The paper's Tables 1 to 6 and 9 to 11 and its Figures 1, 3, 4 and 6 with what was measured, as one page.

    The paper's own figures stand beside ours, marked, with the reason why they cannot be compared. A table for which nothing
    was given says so and names the command that fills it; what is damaged, of another version, or measured on other data is
    named and left out. The page needs nothing but itself and stays under 15 MB.

    \b
      duotok report results -o report.html
      duotok report results comparison -o report.html -o report.md
      duotok report results -o report.html --sounds decoded
    """
    from duotok.cli.console import say
    from duotok.cli.files import check_free, check_not_input, check_writable
    from duotok.files import text_of
    from duotok.report.page import check_ending, made_before, make, write
    from duotok.report.sources import gather

    for path in output:
        check_ending(path)
        check_writable(path)
    check_free(output, made_before, force)
    check_not_input(output, [file for folder in folders for file in folder.glob("*") if file.is_file()])
    sources = gather(folders)
    words = ["duotok", "report", *map(text_of, folders), *(w for path in output for w in ("-o", text_of(path)))]
    if sounds is not None:
        words += ["--sounds", text_of(sounds)]
    made = make(sources, shlex.join(words))
    heard = write(made, output, sounds)
    for title, _ in made.missing:
        say(f"missing: {title}")
    for line in (*made.problems, *heard.notes):
        say(line)
    for path in output:
        typer.echo(text_of(path))
