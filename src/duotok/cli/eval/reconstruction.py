"""`duotok eval reconstruction`: how much of a song survives."""

from __future__ import annotations

from pathlib import Path
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


def reconstruction(
    tokenizers: Tokenizers,
    songs: Songs,
    output: Output,
    measures: Annotated[
        list[str] | None, typer.Option("--measure", help="Only this one; may be given several times. All by default.")
    ] = None,
    seconds: Seconds = 30.0,
    segments: Segments = 1,
    short: Short = "gap",
    separator: Separator = "mini",
    limit: Limit = None,
    codebooks: Codebooks = None,
    keep_audio: Annotated[
        Path | None, typer.Option("--keep-audio", metavar="FOLDER", help="Keep what was decoded, with lists and a YAML for VERSA.")
    ] = None,
    device: Device = "cpu",
    workers: Workers = WORKERS,
    retry: Retry = False,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Encode and decode songs with each tokenizer, and measure each track against what went in.

    Sound: mel distance, STFT distance, SI-SDR, loudness; what listeners would say: PESQ, STOI, ViSQOL; music: chroma, pitch of
    vocals, onsets. Songs without stems are separated first; all tokenizers get the same stems. A song that fails, or has no
    answer to a measure, is named with the reason and stops nothing. Run it again after a stop: what is done stays.

    \b
      duotok eval reconstruction mini opus --songs songs -o results --dry-run
      duotok eval reconstruction mini opus dac=transformers:models/dac_44khz --songs songs -o results
      duotok eval reconstruction mini --songs songs -o results --measure mel --measure chroma --json
      duotok eval reconstruction mini --songs songs -o results --keep-audio decoded
    """
    from duotok.cli.console import say
    from duotok.cli.eval.options import follow, make_plan
    from duotok.suite.run import choose
    from duotok.suite.versa import check_folder, write_lists

    chosen = choose("reconstruction", **({"names": measures} if measures else {}))
    plan = make_plan(
        tokenizers, chosen, songs, output, seconds=seconds, segments=segments, short=short, separator=separator, limit=limit,
        codebooks=codebooks, device=device, retry=retry, force=force, keep=keep_audio,
    )  # fmt: skip
    if keep_audio is not None and not dry_run:
        check_folder(keep_audio)
    follow(plan, workers, dry_run, as_json)
    if keep_audio is not None and not dry_run:
        written = write_lists(keep_audio)
        say(f"for VERSA: {len(written) - 1} lists and {written[-1]}")
