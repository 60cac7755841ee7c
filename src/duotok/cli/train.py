"""`duotok train`: one stage of the recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def train(
    stage: Annotated[str, typer.Argument(help="separator, autoencoder, stage1, stage2, stage3, stage4, or adapt.")],
    config: Annotated[Path, typer.Option("--config", "-c", help="YAML, e.g. configs/mini/stage1.yaml.")],
    runs: Annotated[Path, typer.Option(help="Folder of all runs; the stage trains in RUNS/STAGE.")] = Path("runs/mini"),
    audio: Annotated[list[Path] | None, typer.Option(help="Folders of training audio; decoded once into RUNS/cache.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override a key: --set steps=100.")] = None,
    stop_after: Annotated[int | None, typer.Option(help="Stop with a checkpoint after this many steps in all.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check config and data, print parameter counts, train nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the held-out losses as JSON.")] = False,
) -> None:  # fmt: skip
    """Train one stage; run the same command again to go on after a kill.

    The order is separator, autoencoder, stage1, stage2 (needs separator and stage1), stage3 (needs stage2), stage4 once with
    --set track=vocals and once with --set track=accompaniment (needs stage3 and autoencoder), adapt (needs stage4).
    `make mini` does all of it.

    Example: duotok train stage1 --config configs/mini/stage1.yaml --audio ../shared/audio --runs runs/mini
    """
    from duotok.config import load_config
    from duotok.errors import ConfigError
    from duotok.training.corpus import Corpus, prepare
    from duotok.training.engine import train as run_training
    from duotok.training.stages import build_stage, config_class

    load_config(config_class(stage), config, overrides or [])  # a wrong key is told before hours of decoding
    cache = runs / "cache"
    if audio:
        for folder in audio:
            if not folder.is_dir():
                raise ConfigError(f"{folder}: no such folder; name a folder of audio")
        prepare(audio, cache)
    built = build_stage(stage, config, overrides or [], runs, Corpus(cache))
    if dry_run:
        counts = {name: sum(p.numel() for p in module.parameters()) for name, module in built.modules.items()}
        typer.echo(json.dumps({"stage": built.name, "parameters": counts, "steps": built.config.steps}))
        return
    losses = run_training(built, runs / built.name, stop_after)
    typer.echo(json.dumps(losses) if as_json else f"{built.name}: done, in {runs / built.name}")
