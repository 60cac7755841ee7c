"""`duotok data prepare`: all steps of the data path."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from duotok.cli.console import put_json, say
from duotok.cli.data.options import (
    WORKERS,
    Address,
    AsJson,
    DryRun,
    EngineName,
    Retry,
    Seed,
    ShardFormat,
    ShardSegments,
    Work,
    Workers,
    tell_failed,
)

if TYPE_CHECKING:
    from duotok.data.pipeline import Step
    from duotok.lyrics.transcribers import ToolConfig


def prepare(
    work: Work,
    corpora: Annotated[
        list[str] | None,
        typer.Option("--corpus", metavar="NAME=FOLDER", help="Again for more; none goes on with WORK's catalog."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="CORPUS.OPTION=VALUE", help="`duotok data describe CORPUS` lists them."),
    ] = None,
    licences: Annotated[
        str,
        typer.Option(
            "--licences", metavar="CLASSES", help="Licence classes that may in, with commas; all if not given."
        ),
    ] = "",
    separator: Annotated[str, typer.Option(help="mini, demucs, bs-roformer, or none.")] = "mini",
    weights: Annotated[Path | None, typer.Option(help="Of the separator; see `duotok data separate`.")] = None,
    transcriber: Annotated[
        str, typer.Option(help="whisperx, funasr, auto, or none: only the lyrics there are.")
    ] = "none",
    python: Annotated[
        list[str] | None,
        typer.Option(
            "--python", metavar="TOOL=PATH", help="The transcriber's environment; see `duotok data transcribe`."
        ),
    ] = None,
    bundle: Annotated[
        str, typer.Option("--align", metavar="BUNDLE", help="Its lyric head places words that have no times.")
    ] = "",
    encoding: Annotated[
        str, typer.Option(help="Of the lyrics files, e.g. cp1251 or shift_jis; told from each file if not given.")
    ] = "",
    device: Annotated[str, typer.Option(help="Of separator and transcriber: cpu, cuda.")] = "cpu",
    cut: Annotated[
        list[str] | None,
        typer.Option("--segment", metavar="KEY=VALUE", help="How to cut; see `duotok data segment`."),
    ] = None,
    seed: Seed = 0,
    shard_segments: ShardSegments = 256,
    shard_format: ShardFormat = "flac",
    engine: EngineName = "local",
    workers: Workers = WORKERS,
    address: Address = None,
    retry: Retry = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Run all steps: catalog, separate, transcribe, scan, segment, shard, report.

    What is done is kept, so run the same command again to go on after a stop, or with more corpora. A recording that is
    broken is named with its reason in WORK/ledger/STEP.jsonl and stops nothing. The end: WORK/shards to train on, and
    WORK/report/index.html to look at.

    \b
      duotok data prepare --corpus folder=~/Music --work work
      duotok data prepare --corpus fma=/data/fma --corpus musdb18hq=/data/musdb18hq --work work \\
          --licences public-domain,attribution,share-alike --separator demucs --device cuda
      duotok data prepare --corpus fma=/data/fma --work /shared/work --engine ray --address auto
    """
    from duotok.config import override, parse
    from duotok.data import jobs, separate, transcribe
    from duotok.data import pipeline as path
    from duotok.data.segments import SegmentConfig

    options = path.PipelineOptions(
        corpora=corpora or (),
        settings=settings or (),
        licences=[name.strip() for name in licences.split(",") if name.strip()],
        separate=None if separator == "none" else separate.SeparationOptions(
            separator, weights=str(weights) if weights else None, device=device
        ),
        transcribe=transcribe.TranscriptionOptions(
            transcriber=transcriber, tools=_tools(python or [], device), bundle=bundle, device=device,
            encoding=encoding,
        ),
        segment=parse(SegmentConfig, override({}, cut or []), "--segment"),
        seed=seed, shard_segments=shard_segments, shard_format=shard_format, retry=retry,
    )  # fmt: skip
    chosen = jobs.engine(engine, workers, address)
    if dry_run:
        planned = path.preview(work, options)
        if as_json:
            put_json(planned, indent=1)
        for name, todo in planned.items() if not as_json else ():
            typer.echo(f"{name:<11}" + ", ".join(f"{key} {count:,}" for key, count in todo.items()))
        return
    steps = []
    for step in path.prepare(work, options, chosen):
        steps.append(step)
        if not as_json:
            _tell(step)
    if as_json:
        put_json({step.name: _row(step) for step in steps}, indent=1)
        return
    hours = next((step.facts["hours"] for step in steps if step.name == "scan"), 0.0)
    took = sum(step.took for step in steps)
    say(f"{work}: {hours:.2f} hours of recordings in {took / 60:.1f} minutes; see {work / 'report' / 'index.html'}")


def _tell(step: Step) -> None:
    facts = "".join(
        f", {value:,.2f} {name}" if value % 1 else f", {value:,.0f} {name}" for name, value in step.facts.items()
    )
    kept = f" ({step.kept:,} by an earlier run)" if step.kept else ""
    typer.echo(f"{step.name:<11}{step.done:,} done{kept}{facts}, {step.took:.1f} s")
    for warning in step.warning.splitlines():
        say(f"warning: {warning}")
    if step.failed and step.ledger is not None:
        tell_failed(step.failed, step.ledger)


def _row(step: Step) -> dict[str, object]:
    return {
        "done": step.done,
        "kept": step.kept,
        "took": round(step.took, 3),
        **step.facts,
        "failures": dict(step.failed),
        **({"warning": step.warning} if step.warning else {}),
    }


def _tools(pythons: list[str], device: str) -> dict[str, ToolConfig]:
    from duotok.errors import ConfigError
    from duotok.lyrics.transcribers import TOOLS, ToolConfig

    configs = {}
    for text in pythons:
        name, equals, place = text.partition("=")
        if not equals or name not in TOOLS:
            raise ConfigError(f"--python {text}: write TOOL=PATH with TOOL one of {', '.join(TOOLS)}")
        configs[name] = ToolConfig(name, place, device=device)
    return configs
