"""`duotok plot`: learning curves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def plot(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs: what `duotok train` made, e.g. runs/mini/stage2.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Picture to write (.png, .svg, .pdf).")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is no such picture.")] = False,
) -> None:  # fmt: skip
    """Learning curves of one run, or of several on top of each other, as a picture.

    Losses (train pale and smoothed, held out as dots), code use, learning rate, gradient norms (by part for a single run),
    steps a second and the share of time that the trainer waits for batches (dotted).

    \b
      duotok plot runs/mini/stage3 -o stage3.png
      duotok plot runs/*/stage3 -o compared.png
    """
    from duotok.training.plot import plot as draw

    draw(runs, output, force)
    typer.echo(str(output))
