"""`duotok kit`: training on a machine without network, and the results back."""

from __future__ import annotations

import platform as machine
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from duotok.cli.console import put_json, say

if TYPE_CHECKING:
    from duotok.config import Config

HELP = """
A folder that trains on a machine without network, and the way of its results back.

\b
  duotok kit make -o kit --stages stage1,stage2 --data work --have torch     here: everything into the folder kit
  python kit/run.py --workers 16                                              there: set up, prepare, train, go on
  python kit/run.py --collect results                                         there: newest checkpoints in pieces
  duotok kit join results --runs runs/mine                                    here: checked and joined

All details: docs/kit.md.
"""

app = typer.Typer(name="kit", help=HELP, no_args_is_help=True, rich_markup_mode=None)


def _this_platform() -> str:
    system = {"Darwin": "macos"}.get(machine.system(), machine.system().lower())
    return f"{system}-{machine.machine()}"


@app.command()
def make(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the kit.")],
    stages: Annotated[str, typer.Option(help="What it trains, in this order: stage1,stage4.vocals; stage4 is both.")] = "",
    configs: Annotated[Path, typer.Option(help="Folder with one YAML for each stage, or a set of `duotok recipes list`: mini, gpu.")] = Path("mini"),
    minutes: Annotated[list[str] | None, typer.Option(metavar="[RUN=]M", help="Minutes of each training, or of one; else its steps decide.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--train-set", metavar="[RUN.]KEY=VALUE", help="As steps=3, stage2.lr=1e-4.")] = None,
    data: Annotated[Path | None, typer.Option(metavar="WORK", help="Its shards come along.")] = None,
    corpora: Annotated[list[str] | None, typer.Option("--corpus", metavar="NAME=FOLDER", help="Recordings to prepare there.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="CORPUS.OPTION=VALUE", help="See `duotok data describe CORPUS`.")] = None,
    licences: Annotated[str, typer.Option(metavar="CLASSES", help="Licence classes that may in, with commas; all if not given.")] = "",
    separator: Annotated[str, typer.Option(help="Of recordings that are prepared there: mini, or none.")] = "mini",
    cut: Annotated[list[str] | None, typer.Option("--segment", metavar="KEY=VALUE", help="How to cut them; see `duotok data segment`.")] = None,
    shard_segments: Annotated[int, typer.Option(min=1, help="Segments in a shard; arrays are derived shard by shard.")] = 256,
    songs: Annotated[int, typer.Option(min=0, help="Songs to generate there besides.")] = 0,
    runs: Annotated[Path | None, typer.Option(help="RUNS whose newest checkpoints come along, to go on or start from.")] = None,
    include: Annotated[list[Path] | None, typer.Option(help="A further file or folder; it is in KIT/extra.")] = None,
    bundle: Annotated[bool, typer.Option("--bundle", help="The packaged model comes along even where no step needs it.")] = False,
    python: Annotated[str, typer.Option(help="The Python of that machine, as in 3.12.")] = f"{sys.version_info.major}.{sys.version_info.minor}",
    platform: Annotated[str, typer.Option(help="linux-x86_64, linux-aarch64, macos-arm64 or macos-x86_64.")] = _this_platform(),
    have: Annotated[list[str] | None, typer.Option(metavar="NAME,...", help="What that machine has, as in torch==2.11.0,numpy.")] = None,
    extra: Annotated[str, typer.Option(metavar="NAME,...", help="Extras of duotok besides train: songs, eval, lm.")] = "",
    wheels: Annotated[bool, typer.Option("--wheels/--no-wheels", help="Without: that machine's environment has everything.")] = True,
    requirement: Annotated[Path | None, typer.Option(metavar="FILE", help="Bring exactly the wheels of this requirements file.")] = None,
    find_links: Annotated[list[str] | None, typer.Option(metavar="FOLDER", help="A folder of wheels where pip looks too.")] = None,
    no_index: Annotated[bool, typer.Option("--no-index", help="pip asks no index, only --find-links.")] = False,
    constraint: Annotated[Path | None, typer.Option(metavar="FILE", help="pip's constraints, e.g. constraints.txt.")] = None,
    max_size: Annotated[str, typer.Option(metavar="SIZE", help="Largest kit.")] = "2GiB",
    part_size: Annotated[str, typer.Option(metavar="SIZE", help="Cut the kit into numbered parts, each below this: 60MiB.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go in, wheels apart, and write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:  # fmt: skip
    """Put code, configs, data and wheels into one folder with one script, run.py, that needs no network.

    There it installs the wheels, prepares the recordings that came along, and trains each stage for its minutes. It may be
    stopped at any moment; the same command goes on. Every file is compared with its hash first.

    \b
      duotok kit make -o kit --stages separator,autoencoder --minutes 60 --data work --have torch
      duotok kit make -o kit --stages stage1,stage2,stage3 --minutes 30 --minutes stage1=90 --separator none \\
          --corpus folder=~/Music --set folder.kind=song --python 3.12 --have torch,numpy,scipy --part-size 60MiB
      duotok kit make -o kit --stages stage4 --data work --runs runs/mine --train-set loader_workers=8 --have torch
    """
    from duotok.errors import ConfigError
    from duotok.training.kit.collect import parse_size
    from duotok.training.kit.contents import check_size, groups
    from duotok.training.kit.make import KitOptions, gather, make_kit
    from duotok.training.kit.wheels import Sources, Target
    from duotok.training.stages.registry import NAMES

    if separator not in ("mini", "none"):
        raise ConfigError(
            f"--separator {separator}: a kit brings mini, or none; separate here first for another, and give --data"
        )
    try:
        limit, part = parse_size(max_size), parse_size(part_size) if part_size else None
    except ValueError as error:
        raise ConfigError(str(error)) from None
    options = KitOptions(
        stages=_names("--stages", stages), configs=configs, minutes=minutes or (), overrides=overrides or (), data=data,
        corpora=corpora or (), settings=settings or (), licences=_names("--licences", licences),
        separator=separator, segment=cut or (), shard_segments=shard_segments,
        songs=songs, runs=runs, include=include or (), bundle=bundle, target=Target(python, platform) if wheels else None,
        extras=_names("--extra", extra), have=have or (), requirement=requirement,
        sources=Sources(find_links or (), no_index, constraint), max_size=limit, part_size=part,
    )  # fmt: skip
    stage_names = (*NAMES, "lm")
    if dry_run:
        items, _ = gather(options, _config_class, stage_names)
        sizes = groups(items)
        check_size(items, limit)
        if as_json:
            put_json({"files": len(items), "bytes": sum(sizes.values()), "groups": sizes})
        for name, size in () if as_json else sizes.items():
            typer.echo(f"{size / 2**20:9.1f} MiB  {name}")
        return
    facts = make_kit(out, options, _config_class, stage_names, say)
    if as_json:
        put_json(facts)
        return
    for name, size in list(facts["groups"].items())[:12]:
        typer.echo(f"{size / 2**20:9.1f} MiB  {name}")
    parts = f", in {len(facts['parts'])} parts" if facts["parts"] else ""
    typer.echo(
        f"{out}: {facts['files']:,} files, {facts['bytes'] / 2**20:.1f} MiB{parts}; there: python {out.name}/run.py"
    )


def _names(option: str, text: str) -> list[str]:
    """The names in an option's value, none where it was not given. Raises ConfigError for a value without any."""
    from duotok.errors import ConfigError

    names = [name.strip() for name in text.split(",") if name.strip()]
    if text and not names:
        raise ConfigError(f"{option} '{text}': names nothing; write names with commas between, or leave it out")
    return names


def _config_class(stage: str) -> type[Config]:
    if stage == "lm":
        from duotok.lm.stage import LMStageConfig

        return LMStageConfig
    from duotok.training.stages.registry import config_class

    return config_class(stage)


@app.command()
def join(
    results: Annotated[Path, typer.Argument(help="Folder that `run.py --collect` wrote.")],
    runs: Annotated[Path, typer.Option(help="Folder of runs that the checkpoints go into.")],
    stages: Annotated[str, typer.Option(help="Only these runs, with commas.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Check collected pieces against their hashes and join them into RUNS, ready for later stages or `duotok bundle`.

    Nothing is written when a piece is missing or damaged, or RUNS holds other checkpoints of the same run.

    \b
      duotok kit join results --runs runs/mine
      duotok train stage2 -c mini/stage2 --data work --runs runs/mine
    """
    from duotok.training.kit.join import join_results

    joined = join_results(results, runs, _names("--stages", stages))
    if as_json:
        put_json({"runs": joined})
        return
    for row in joined:
        note = "" if row["resumable"] else " (weights only: it cannot be trained further)"
        typer.echo(f"{row['folder']}: step {row['step']:,}{note}")
