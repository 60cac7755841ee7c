"""Options that the steps of the data path share, and reports on their units."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from duotok.cli.console import say

if TYPE_CHECKING:
    from duotok.data.jobs import Pending, Results

SHOWN = 10

Work = Annotated[Path, typer.Option("--work", help="Folder of the data path; everything goes there.")]
EngineName = Annotated[str, typer.Option("--engine", help="local (processes here) or ray (Ray Data).")]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Processes of the local engine.")]
Address = Annotated[
    str | None, typer.Option("--address", help="Ray cluster, e.g. auto or ray://host:10001; none starts one here.")
]
Retry = Annotated[bool, typer.Option("--retry", help="Try again what failed in an earlier run.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done and write nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Seed = Annotated[int, typer.Option("--seed", help="Shuffles segments over the shards.")]
ShardSegments = Annotated[int, typer.Option("--shard-segments", min=1, help="Segments in a shard.")]
ShardFormat = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="How shards store sound: flac, opus (lossy, about a tenth), opus:24 (kbit/s a channel).",
    ),
]
WORKERS = os.cpu_count() or 1


def tell_failed(failed: Mapping[str, str], ledger: Path) -> None:
    """Print the first units that failed, one line each, and the ledger that lists all."""
    for unit, reason in list(failed.items())[:SHOWN]:
        say(f"failed: {unit}: {reason}")
    if len(failed) > SHOWN:
        say(f"... and {len(failed) - SHOWN} more")
    if failed:
        say(f"{len(failed)} failed, the rest goes on; {ledger} has them all, --retry tries them again")


def counts(results: Results) -> dict[str, int]:
    """Number of units that are done, that an earlier run did, and that failed."""
    return {"done": len(results.done), "kept": results.kept, "failed": len(results.failed)}


def would(before: Pending) -> dict[str, int]:
    """The same for a dry run."""
    return {"to do": len(before.todo), "kept": len(before.done), "failed": len(before.failed)}
