"""`duotok data scan`: decode every file once, find what is damaged."""

from __future__ import annotations

import typer

from duotok.cli.console import put_json, say
from duotok.cli.data.options import WORKERS, Address, AsJson, DryRun, EngineName, Retry, Work, Workers, tell_failed
from duotok.cli.data.options import counts as counted
from duotok.cli.data.options import would as would_do


def scan(
    work: Work,
    engine: EngineName = "local",
    workers: Workers = WORKERS,
    address: Address = None,
    retry: Retry = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Decode every file of the catalog once: exact length, loudness, peak, level of each token frame, hash.

    A file that is missing, empty, damaged, not as long as its metadata say, or not as long as its sister stems, leaves
    its recording out; WORK/ledger/scan.jsonl says why. A changed file is scanned again.

    \b
      duotok data scan --work work
      duotok data scan --work /shared/work --engine ray --address auto
    """
    from duotok.data import jobs
    from duotok.data.pipeline import catalogued
    from duotok.data.scan import pending_scan, run_scan

    chosen = jobs.engine(engine, workers, address)
    recordings = catalogued(work)
    if dry_run:
        todo = would_do(pending_scan(recordings, work, retry))
        put_json(todo) if as_json else typer.echo(", ".join(f"{name}: {n:,}" for name, n in todo.items()))
        return
    results = run_scan(recordings, work, chosen, retry)
    seconds = sum(facts["seconds"] for facts in results.done.values())
    if as_json:
        put_json({**counted(results), "hours": seconds / 3600, "failures": results.failed}, indent=1)
        return
    tell_failed(results.failed, work / "ledger" / "scan.jsonl")
    say(f"{len(results.done):,} recordings scanned ({results.kept:,} by an earlier run), {seconds / 3600:.2f} hours")
