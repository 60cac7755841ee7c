"""`duotok data transcribe`: the words of every recording, with times where there are any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from duotok.cli.console import put_json, say
from duotok.cli.data.options import (
    Address,
    AsJson,
    DryRun,
    EngineName,
    Retry,
    Work,
    Workers,
    counts,
    tell_failed,
    would,
)

if TYPE_CHECKING:
    from duotok.lyrics.transcribers import ToolConfig


def transcribe(
    work: Work,
    transcriber: Annotated[
        str, typer.Option(help="For recordings without lyrics: whisperx, funasr, auto (funasr for zh), or none.")
    ] = "none",
    python: Annotated[
        list[str] | None,
        typer.Option(
            "--python", metavar="[TOOL=]PATH", help="Python of the tool's environment, its folder, or a script in it."
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", metavar="[TOOL=]NAME", help="The tool's model; large-v3 and paraformer-zh unless given."
        ),
    ] = None,
    kinds: Annotated[str, typer.Option(metavar="KINDS", help="Kinds of recordings, with commas.")] = "song,music,voice",
    bundle: Annotated[str, typer.Option(help="Whose lyric head places words without times.")] = "mini",
    vocab: Annotated[
        str, typer.Option(help="vocab.txt of BERT, for a bundle of its classes; fetched from the hub if not given.")
    ] = "",
    align: Annotated[bool, typer.Option(help="Place words that have no times.")] = True,
    margin: Annotated[
        float, typer.Option(help="Least margin of an alignment, in nats a letter (docs/lyrics.md).")
    ] = 0.5,
    encoding: Annotated[
        str, typer.Option(help="Of the lyrics files, e.g. cp1251 or shift_jis; told from each file if not given.")
    ] = "",
    timeout: Annotated[float, typer.Option(min=1, help="Seconds a transcriber may take for one recording.")] = 1800,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    engine: EngineName = "local",
    workers: Workers = 1,
    address: Address = None,
    retry: Retry = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Find the words of every recording with a voice: WORK/lyrics/ID.json.

    A recording's own lyrics come first (LRC, UltraStar, WhisperX, FunASR, jamendolyrics, plain text): they are read and
    repaired. Words without times are placed by the lyric head of a bundle, if it recognizes them (the mini bundle's does
    not). Recordings without lyrics go to WhisperX or FunASR, each in an environment of its own. Every worker loads the
    models once more, so one is the default. WORK/ledger/transcribe.jsonl says what was done and what failed.

    \b
      duotok data transcribe --work work
      duotok data transcribe --work work --transcriber whisperx --python ~/envs/whisperx/bin/python
      duotok data transcribe --work work --transcriber auto --python whisperx=~/envs/w --python funasr=~/envs/f
    """
    from duotok.data import jobs
    from duotok.data.catalog import read
    from duotok.data.separate import with_stems
    from duotok.data.transcribe import LEDGER, TranscriptionOptions, pending_transcribe, run_transcribe, summary
    from duotok.lyrics.text import BERT_NAME

    chosen = jobs.engine(engine, workers, address)
    options = TranscriptionOptions(
        transcriber=transcriber, tools=_tools(transcriber, python or [], model or [], device, timeout),
        kinds=tuple(k.strip() for k in kinds.split(",") if k.strip()),
        bundle=bundle if align else "", vocab=vocab or BERT_NAME, device="cpu" if device == "auto" else device, margin=margin, encoding=encoding,
    )  # fmt: skip
    recordings = with_stems(read(work), work)
    if dry_run:
        todo = would(pending_transcribe(recordings, work, options, retry))
        put_json(todo) if as_json else typer.echo(", ".join(f"{name}: {n:,}" for name, n in todo.items()))
        return
    results = run_transcribe(recordings, work, options, chosen, retry)
    facts = summary(results)
    if as_json:
        put_json({**counts(results), **facts, "failures": results.failed}, indent=1)
        return
    tell_failed(results.failed, work / LEDGER)
    sources = ", ".join(f"{name} {n:,}" for name, n in sorted(facts["sources"].items(), key=lambda item: -item[1]))
    say(f"{len(results.done):,} recordings with lyrics ({results.kept:,} by an earlier run): {sources or 'none'}")
    say(
        f"{facts['words']:,} words, {facts['timed words']:,} with times; {facts['without times']:,} recordings have none"
    )


def _tools(
    transcriber: str, pythons: list[str], models: list[str], device: str, timeout: float
) -> dict[str, ToolConfig]:
    """`TOOL=VALUE`, or `VALUE` alone when one tool is chosen."""
    from duotok.errors import ConfigError
    from duotok.lyrics.transcribers import TOOLS, ToolConfig

    def by_tool(values: list[str], option: str) -> dict[str, str]:
        chosen = {}
        for value in values:
            name, equals, rest = value.partition("=")
            if equals and name in TOOLS:
                chosen[name] = rest
            elif transcriber in TOOLS:
                chosen[transcriber] = value
            else:
                raise ConfigError(f"{option} {value}: say for which tool: {option} {next(iter(TOOLS))}={value}")
        return chosen

    model_names = by_tool(models, "--model")
    return {
        tool: ToolConfig(tool, python, model_names.get(tool, ""), device, timeout=timeout)
        for tool, python in by_tool(pythons, "--python").items()
    }
