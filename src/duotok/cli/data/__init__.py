"""`duotok data`: from corpora to training shards, one command a step. Nothing heavy is imported until one runs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import typer

# Command -> its module in this package and its function. Commands without a module are left out of the help.
COMMANDS = {
    "list": ("list", "list_"),
    "describe": ("describe", "describe"),
    "prepare": ("prepare", "prepare"),
    "catalog": ("catalog", "catalog"),
    "separate": ("separate", "separate"),
    "transcribe": ("transcribe", "transcribe"),
    "scan": ("scan", "scan"),
    "segment": ("segment", "segment"),
    "shard": ("shard", "shard"),
    "report": ("report", "report"),
    "check": ("check", "check"),
}

HELP = """
From corpora to training shards. `prepare` runs all steps; each is a command of its own.

\b
  duotok data list                                       the corpora it knows
  duotok data describe fma                               what to put where
  duotok data prepare --corpus folder=songs --work work  all steps, resumable
  duotok data check --work work                          every hash of the shards

Everything goes into the folder WORK; a run that was stopped goes on where it was. docs/data.md tells it all.
"""

app = typer.Typer(name="data", help=HELP, no_args_is_help=True, rich_markup_mode=None)


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
