"""`duotok eval all`: every instrument on every tokenizer of a suite."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from duotok.cli.eval.options import WORKERS, AsJson, DryRun, Force, Output, Retry, Workers


def all_(
    output: Output,
    config: Annotated[Path, typer.Option("-c", "--config", help="YAML that describes the suite.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override a key: --set songs.limit=3.")] = None,
    only: Annotated[
        list[str] | None, typer.Option("--instrument", metavar="NAME", help="Only this one of the suite's; again for more.")
    ] = None,
    workers: Workers = WORKERS,
    retry: Retry = False,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Measure every tokenizer of a suite with every instrument, on the same songs, into one store.

    What is done stays, also what a command of its own has measured, and a run that was stopped goes on at the song. A tokenizer
    that cannot be opened, a song that breaks one, a measure without an answer, an instrument for which these songs have no tags or
    true stems: each is named, the rest arrives. Without `instruments` there are reconstruction, stability and usage; the others take hours.

    \b
      duotok eval all -c suite.yaml -o results --dry-run
      duotok eval all -c suite.yaml -o results --workers 2
      duotok eval all -c suite.yaml -o results --instrument tagging

    \b
    suite.yaml:
      songs: {folder: songs, seconds: 30, separator: mini}
      tokenizers:
        duotok-mini: mini
        opus-6k: opus
        dac: {model: "transformers:models/dac_44khz", codebooks: 4}
      instruments:
        reconstruction: {}
        stability: {cases: [again, decoded, mp3, other_song]}
        usage: {}
        tagging: {data: songs=songs, probes: [conformer, linear]}
        matched-decoder: {data: songs=songs, training: {steps: 2000}}
        leakage: {separators: [mini]}
      lm: comparison.yaml      # optional: docs/lm.md
    """
    from duotok.cli.eval.options import follow
    from duotok.suite.config import load_suite

    plan, comparison = load_suite(config, output, overrides or [], retry, force, only or [])
    follow(plan, workers, dry_run, as_json, comparison)
