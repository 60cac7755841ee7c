"""`duotok codecs describe`: one tokenizer, and how to get it."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import Annotated

import typer

from duotok.cli.console import put_json


def describe(
    name: Annotated[str, typer.Argument(metavar="CODEC", help="A name from `duotok codecs list`.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Say what a tokenizer is, how to get and use it, what its codes depend on, its licences and its paper.

    \b
      duotok codecs describe dac-44khz
      duotok codecs describe yue-xcodec --json
    """
    from duotok.codec.catalogue import entry_of, how_to, usable
    from duotok.evaluation.anchors import ANCHORS

    if name in ANCHORS:
        anchor = ANCHORS[name]
        if as_json:
            put_json({**dataclasses.asdict(anchor), "here": anchor.here()}, indent=1)
            return
        typer.echo(f"{anchor.name}: {anchor.what}\n")
        _put("here", anchor.here())
        _put("get", anchor.install)
        _put("use", anchor.use)
        return
    entry = entry_of(name)
    if as_json:
        put_json({**dataclasses.asdict(entry), "here": usable(name), "how_to": how_to(name)}, indent=1)
        return
    typer.echo(f"{entry.name}: {entry.what}\n")
    does = (
        "encodes and decodes"
        if entry.encodes and entry.decodes
        else "encodes only"
        if entry.encodes
        else "decodes only"
    )
    for label, value in {
        "sound": f"{entry.sample_rate} Hz, {'mono' if entry.channels == 1 else 'stereo'}",
        "frames": f"{entry.frame_rate:.10g} a second",
        "codebooks": entry.sizes,
        "streams": entry.streams,
        "does": does,
        "windows": entry.windows,
        "code": entry.code_licence,
        "weights": entry.weights_licence,
        "verified": entry.verified,
        "read": entry.read or "-",
        "cite": entry.cite,
        "needs": entry.needs,
        "here": usable(name),
    }.items():
        _put(label, value)
    typer.echo("\nHow to get it")
    for line in how_to(name):
        typer.echo(f"  {line}")
    typer.echo(f"\nUse it: duotok pack WORK -o tokens.parquet {entry.use}")


def _put(label: str, value: str) -> None:
    lines = textwrap.wrap(value, 96, break_long_words=False) or ["-"]
    typer.echo(f"{label:<12}{lines[0]}")
    for line in lines[1:]:
        typer.echo(f"{'':<12}{line}")
