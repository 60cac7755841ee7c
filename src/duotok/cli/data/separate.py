"""`duotok data separate`: vocals and accompaniment for recordings that are a mix."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duotok.cli.console import put_json, say
from duotok.cli.data.options import (
    WORKERS,
    Address,
    AsJson,
    DryRun,
    EngineName,
    Retry,
    Work,
    counts,
    tell_failed,
    would,
)

if TYPE_CHECKING:
    from duotok.data.separate import SeparationOptions
    from duotok.data.separation_check import Quality
    from duotok.records import Recording


def separate(
    work: Work,
    separator: Annotated[str, typer.Option(help="mini (in the package), demucs, or bs-roformer.")] = "mini",
    model: Annotated[str, typer.Option(help="Which Demucs.")] = "htdemucs",
    weights: Annotated[
        Path | None,
        typer.Option(help="demucs: folder of weights (else the hub); bs-roformer: .safetensors; mini: a bundle."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="The YAML of bs-roformer; the one beside its weights if not given.")
    ] = None,
    stems: Annotated[str, typer.Option(metavar="FORMAT", help="flac, flac24, or opus (a quarter of flac).")] = "flac",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    engine: EngineName = "local",
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Processes of the local engine. If not given: the cores; on a GPU one."),
    ] = None,
    address: Address = None,
    retry: Retry = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; measure on the recordings whose true stems are known.")
    ] = False,
    check_seconds: Annotated[
        float | None, typer.Option("--check-seconds", min=1, help="Only so many seconds from the middle of each.")
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Separate every song and every piece of music of the catalog that is only a mix: WORK/stems/ID/.

    Vocals come from the separator, the accompaniment is the mix minus the vocals; as FLAC the two sum to the mix. This is
    the slow step: mini takes about a quarter of a song's time on one core, the others want a GPU. A recording that cannot be
    read is named in WORK/ledger/separate.jsonl, the others are done. --check tells how good the separator is: SI-SDR of
    both tracks, against the mix itself as the estimate.

    \b
      duotok data separate --work work
      duotok data separate --work work --separator demucs --device cuda
      duotok data separate --work work --separator bs-roformer --weights bs/model.safetensors --device cuda
      duotok data separate --work work --check --check-seconds 60
    """
    from duotok.data import jobs
    from duotok.data.catalog import read
    from duotok.data.separate import LEDGER, SeparationOptions, pending_separate, run_separate

    options = SeparationOptions(
        separator, str(weights) if weights else None, str(config) if config else None, model, device,
        "flac" if stems == "flac24" else stems, 24 if stems == "flac24" else 16,
    )  # fmt: skip
    chosen = jobs.engine(engine, workers or (WORKERS if device == "cpu" else 1), address)
    recordings = read(work)
    if check:
        _check(recordings, options, check_seconds, as_json)
        return
    if dry_run:
        todo = would(pending_separate(recordings, work, options, retry))
        put_json(todo) if as_json else typer.echo(", ".join(f"{name}: {n:,}" for name, n in todo.items()))
        return
    results = run_separate(recordings, work, options, chosen, retry, note=say)
    seconds, took, clipped = (sum(r[key] for r in results.done.values()) for key in ("seconds", "took", "clipped"))
    if as_json:
        facts = {"hours": seconds / 3600, "worker_hours": took / 3600, "clipped": clipped}
        put_json({**counts(results), **facts, "failures": results.failed}, indent=1)
        return
    tell_failed(results.failed, work / LEDGER)
    speed = f", {took / seconds:.2f} x real time a worker" if seconds else ""
    say(
        f"{len(results.done):,} recordings separated ({results.kept:,} by an earlier run), {seconds / 3600:.2f} hours{speed}"
    )
    if clipped:
        say(f"{clipped:,} samples of stems were beyond full scale and are clipped; their sum is not the mix there")


def _check(recordings: list[Recording], options: SeparationOptions, seconds: float | None, as_json: bool) -> None:
    from rich.console import Console
    from rich.progress import track

    from duotok.data.separation_check import mean_quality, measure_separation, with_true_stems
    from duotok.errors import DuoTokError

    with_stems = with_true_stems(recordings)
    if not with_stems:
        raise DuoTokError("no recording of the catalog has true stems; add such a corpus, e.g. musdb18hq")
    measured = measure_separation(with_stems, options.open(), seconds)
    console = Console(stderr=True)
    bar = track(measured, "check", len(with_stems), console=console, transient=True, disable=not console.is_terminal)
    qualities = list(bar)
    means = mean_quality(qualities)
    if as_json:
        put_json(
            {"separator": options.stamp(), "recordings": [_row(q) for q in qualities], "mean": _clean(means)}, indent=1
        )
        return
    width = max(len("recording"), *(len(q.recording) for q in qualities))
    typer.echo(
        f"SI-SDR in dB, mix as estimate -> separated\n{'recording':{width}}  {'vocals':>16}  {'accompaniment':>16}"
    )
    for quality in qualities:
        cells = (_cell(quality.nothing[t], quality.separated[t]) for t in ("vocals", "accompaniment"))
        speed = quality.took / quality.seconds if quality.seconds else math.nan
        typer.echo(f"{quality.recording:{width}}  {'  '.join(cells)}  {speed:.2f} x real time")
    typer.echo(
        f"{'mean':{width}}  {'  '.join(_cell(m['nothing'], m['separated']) for m in means.values())}  "
        f"gain {means['vocals']['gain']:.2f} and {means['accompaniment']['gain']:.2f}"
    )


def _cell(before: float, after: float) -> str:
    return f"{'silent':>16}" if math.isnan(before) else f"{before:6.2f} -> {after:6.2f}"


def _row(quality: Quality) -> dict[str, Any]:
    return {
        "recording": quality.recording, "seconds": quality.seconds, "took": quality.took,
        "nothing": _clean(quality.nothing), "separated": _clean(quality.separated),
    }  # fmt: skip


def _clean(value: Any) -> Any:
    """NaN (a silent track) as None, since JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
