"""`duotok eval`: how good tokenizers are, one command an instrument. Nothing heavy is imported until one runs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import typer

# Command -> its module in this package and its function.
COMMANDS = {
    "lm": ("lm", "lm"),
    "reconstruction": ("reconstruction", "reconstruction"),
    "stability": ("stability", "stability"),
    "tagging": ("tagging", "tagging"),
    "matched-decoder": ("matched_decoder", "matched_decoder"),
    "leakage": ("leakage", "leakage"),
    "all": ("all", "all_"),
}

HELP = """
How good tokenizers are.

\b
  duotok eval lm comparison.yaml -o results                       several tokenizers under one language model
  duotok eval reconstruction mini opus --songs songs -o results   what survives encoding and decoding
  duotok eval stability mini --songs songs -o results             which tokens stay when the song stays
  duotok eval tagging mini --data songs=songs -o results          what a probe can tell about the music
  duotok eval matched-decoder mini --data songs=songs -o results  reconstruction by one decoder for all
  duotok eval leakage mini --data index=audio -o results          what stems that are not clean do to tokens
  duotok eval all -c suite.yaml -o results                        every instrument on every tokenizer, into one store
"""

app = typer.Typer(name="eval", help=HELP, no_args_is_help=True, rich_markup_mode=None)


def _register() -> None:
    for name, (file, function) in COMMANDS.items():
        command: Callable[..., Any] = getattr(importlib.import_module(f"{__name__}.{file}"), function)
        app.command(name)(command)


_register()
