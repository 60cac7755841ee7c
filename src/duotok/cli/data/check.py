"""`duotok data check`: every byte of the shards, and of what was derived from them, against their hashes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from duotok.cli.console import put_json, say
from duotok.cli.data.options import WORKERS, Address, AsJson, EngineName, Workers
from duotok.errors import DuoTokError


def check(
    work: Annotated[str | None, typer.Option("--work", help="Folder of the data path; its shards are checked.")] = None,
    shards: Annotated[
        str | None, typer.Option("--shards", help="Folder or URL of shards, e.g. s3://bucket/shards.")
    ] = None,
    engine: EngineName = "local",
    workers: Workers = WORKERS,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Read all shards and compare every hash, place and length with the manifest; with --work the arrays derived from them as
    well. Exits with 1 when something is wrong.

    \b
      duotok data check --work work
      duotok data check --shards s3://bucket/shards
    """
    from duotok.data import jobs
    from duotok.data.checking import check_shards
    from duotok.errors import ConfigError

    if (work is None) == (shards is None):
        raise ConfigError("give --work WORK, or --shards FOLDER")
    url = shards or f"{work}/shards"
    derived = None if work is None else Path(work) / "derived"
    problems = check_shards(url, jobs.engine(engine, workers, address), derived)
    if as_json:
        put_json({"shards": url, "problems": problems}, indent=1)
    for problem in problems[:20] if not as_json else []:
        say(problem)
    if problems:
        raise DuoTokError(f"{url}: {len(problems)} problems; copy or make these files again")
    if not as_json:
        say(f"{url}: all as it was written")
