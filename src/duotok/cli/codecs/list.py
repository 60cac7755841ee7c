"""`duotok codecs list`: which tokenizers there are."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from duotok.cli.console import put_json


def list_(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """The tokenizers that can be opened, and the classical codecs that they are heard against.

    Nothing is fetched. `here` says what is missing on this machine; a licence is that of the weights.

    \b
      duotok codecs list
      duotok codecs describe encodec-48khz      how to get it, exact lines
    """
    from duotok.codec.catalogue import ENTRIES, usable
    from duotok.evaluation.anchors import ANCHORS

    if as_json:
        codecs = {name: {**dataclasses.asdict(entry), "here": usable(name)} for name, entry in ENTRIES.items()}
        anchors = {a.name: {**dataclasses.asdict(a), "here": a.here()} for a in ANCHORS.values()}
        put_json({"codecs": codecs, "anchors": anchors}, indent=1)
        return
    typer.echo(f"{'codec':<17}{'Hz':>6} {'ch':>2}  {'frames/s':>8}  {'codebooks':<13}{'does':<8}here")
    for name, entry in ENTRIES.items():
        does = "both" if entry.encodes and entry.decodes else "encodes" if entry.encodes else "decodes"
        typer.echo(
            f"{name:<17}{entry.sample_rate:>6} {entry.channels:>2}  {entry.frame_rate:>8.6g}  {entry.sizes:<13}{does:<8}{usable(name)}"
        )
        typer.echo(f"{'':<17}{entry.what}")
        typer.echo(f"{'':<17}licence: {entry.weights_licence}")
    typer.echo("\nclassical, by their sound alone (no tokens)")
    for anchor in ANCHORS.values():
        typer.echo(f"{anchor.name:<17}{anchor.what}; here: {anchor.here()}")
