"""`duotok eval stability`: which tokens stay when the song stays."""

from __future__ import annotations

from typing import Annotated

import typer

from duotok.cli.eval.options import (
    WORKERS,
    AsJson,
    Codebooks,
    Device,
    DryRun,
    Force,
    Limit,
    Output,
    Retry,
    Seconds,
    Segments,
    Separator,
    Short,
    Songs,
    Tokenizers,
    Workers,
)


def stability(
    tokenizers: Tokenizers,
    songs: Songs,
    output: Output,
    cases: Annotated[
        list[str] | None, typer.Option("--case", help="Only this one; may be given several times. All by default.")
    ] = None,
    seconds: Seconds = 30.0,
    segments: Segments = 1,
    short: Short = "gap",
    separator: Separator = "mini",
    limit: Limit = None,
    codebooks: Codebooks = None,
    device: Device = "cpu",
    workers: Workers = WORKERS,
    retry: Retry = False,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Encode songs again after changes that a listener would not mind, and count the tokens that stay.

    Decoded and encoded again; shifted by 1 ms to a frame (compared at the same moment of the song); 6 dB quieter and louder;
    rounded to 16 bits; through MP3; resampled; in another batch, with other threads. Controls: nothing changed must give 1,
    another song must give chance, which is computed from how often each code comes.

    \b
      duotok eval stability mini --songs songs -o results --limit 5
      duotok eval stability mini dac=transformers:models/dac_44khz --songs songs -o results --case decoded --case mp3
    """
    from duotok.cli.eval.options import follow, make_plan
    from duotok.suite.run import choose

    plan = make_plan(
        tokenizers, choose("stability", **({"cases": cases} if cases else {})), songs, output, seconds=seconds, segments=segments,
        short=short, separator=separator, limit=limit, codebooks=codebooks, device=device, retry=retry, force=force,
    )  # fmt: skip
    follow(plan, workers, dry_run, as_json)
