"""`duotok eval`: how good tokenizers are, one command an instrument. Nothing heavy is imported until one runs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import typer

# Command -> its module in this package and its function. Commands without a module are left out of the help.
COMMANDS = {
    "lm": ("lm", "lm"),
    "tagging": ("tagging", "tagging"),
    "leakage": ("leakage", "leakage"),
    "matched-decoder": ("matched_decoder", "matched_decoder"),
}

HELP = """
How good tokenizers are.

\b
  duotok eval lm comparison.yaml -o results      several tokenizers under one language model
  duotok eval tagging --data songs=songs -o results   what a probe can tell about the music from frozen tokens
  duotok eval matched-decoder --data songs=songs -o results   one decoder for every tokenizer
  duotok eval leakage --data index=audio -o results   what stems that are not clean do to tokens
"""

app = typer.Typer(name="eval", help=HELP, no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Makes typer keep `lm` as a subcommand while it is the only one."""


def _register() -> None:
    for name, (file, function) in COMMANDS.items():
        module = f"{__name__}.{file}"
        try:
            command: Callable[..., Any] = getattr(importlib.import_module(module), function)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            continue
        app.command(name)(command)


_register()
