"""`duotok eval matched-decoder`: one decoder for every tokenizer."""

from __future__ import annotations

from typing import Annotated

import typer

from duotok.cli.console import put_json
from duotok.cli.eval.options import AsJson, Device, DryRun, Force, OneWorker, Output, Retry, Tokenizers


def matched_decoder(
    tokenizers: Tokenizers,
    data: Annotated[str, typer.Option("--data", metavar="CORPUS=FOLDER", help="Songs with true stems: songs, index, musdb18hq, ...")],
    output: Output,
    autoencoder: Annotated[str, typer.Option(help="Bundle whose autoencoder gives the latents: ours, or an ear-VAE.")] = "mini",
    limit: Annotated[int, typer.Option(min=0, help="The first so many songs by id; 0: all.")] = 0,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override a key: --set training.steps=500.")] = None,
    device: Device = "cpu",
    workers: OneWorker = 1,
    retry: Retry = False,
    force: Force = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Reconstruct songs from each tokenizer's frozen embeddings by the same decoder (paper, 5.4 and B.3.1, Table 4a).

    For every tokenizer and track it trains the same latent diffusion transformer: same shape and start, steps, seeds, songs, noise
    and latents. Only the condition differs. Two controls tell whether the figures mean anything: embeddings in a random order in
    time (worse) and the log-mel of the true track (better). Run it again after a stop: training goes on at its last checkpoint.

    \b
      duotok eval matched-decoder mini --data songs=songs -o matched --dry-run
      duotok eval matched-decoder mini dac=transformers:dac --data songs=songs -o matched --set training.steps=2000
      duotok eval matched-decoder mini --data musdb18hq=/data/musdb18hq -o musdb --set training.device=cuda
    """
    from duotok.cli.eval.options import end, experiment
    from duotok.config import override, parse
    from duotok.evaluation.summaries import summarise
    from duotok.evaluation.systems import parse_system
    from duotok.suite.matched.conduct import MatchedSettings, as_markdown, plan

    values = {**override({}, list(overrides or [])), "data": data, "autoencoder": autoencoder, "limit": limit}
    systems = [parse_system(text, device=device) for text in tokenizers]
    opened = plan(parse(MatchedSettings, values, "--set"), systems, output)
    found = experiment(opened, output, workers, retry, force, dry_run, as_json)
    if found is None:
        return
    if as_json:
        summaries = summarise(found.cells)
        put_json([[s.tokenizer, s.measure.name, s.track, s.mean, s.n, s.failures] for s in summaries], indent=1)
    else:
        typer.echo(as_markdown(found.cells))
    end(found, opened)
