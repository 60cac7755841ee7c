"""`duotok bundle`: from trained runs to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from duotok.cli.console import say
from duotok.errors import DuoTokError


def bundle(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the bundle.")],
    data: Annotated[Path, typer.Option(help="Folder of `duotok data prepare` that the runs were trained on: licences and attributions.")],
    runs: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    name: Annotated[str, typer.Option(help="The model's name, as token files will know it.")] = "duotok",
    force: Annotated[bool, typer.Option("--force", help="Replace what OUT holds already.")] = False,
    tokens_only: Annotated[bool, typer.Option("--tokens-only", help="Of stage 3 alone: it encodes and cannot decode.")] = False,
) -> None:  # fmt: skip
    """Collect the trained parts of RUNS into a bundle of half precision with its model card.

    Needs separator, autoencoder (or adapt), stage3 and stage4 of both tracks. RUNS/notes.md and RUNS/measurements.md go
    into the card. What `duotok encode --model FOLDER` and DuoTok.from_pretrained(FOLDER) then open.

    \b
      duotok bundle --runs runs/mine --data work -o my-bundle --name my-duotok
      duotok bundle --runs runs/mine --data work -o tokens --tokens-only     before stage 4: for `duotok pack`
    """
    from duotok.corpora.store import ShardStore
    from duotok.training.assemble import assemble

    if out.is_dir() and any(out.iterdir()) and not force:
        raise DuoTokError(f"{out}: holds files already; name a new folder, or --force puts the bundle there")
    store = ShardStore(data / "shards", data / "derived")
    command = f"duotok bundle --runs {runs} --data {data} -o {out} --name {name}"
    written = assemble(
        runs, store, out, name, command + " --tokens-only" * tokens_only, tokens_only=tokens_only, force=force
    )
    size = sum(path.stat().st_size for path in written.iterdir())
    say(f"{written}: {size / 1e6:.1f} MB")
