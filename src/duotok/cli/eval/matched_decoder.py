"""`duotok eval matched-decoder`: one decoder for every tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from duotok.cli.console import progress_bars, put_json, say


def matched_decoder(
    data: Annotated[str, typer.Option("--data", metavar="CORPUS=FOLDER", help="Songs with true stems: songs, index, musdb18hq, ...")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Store of results; arrays and runs are kept in it.")],
    models: Annotated[
        list[str] | None, typer.Option("--model", metavar="[NAME=]MODEL", help="Bundle, transformers:FOLDER, external:FILE; again for more.")
    ] = None,
    autoencoder: Annotated[str, typer.Option(help="Bundle whose autoencoder gives the latents: ours, or an ear-VAE.")] = "mini",
    limit: Annotated[int, typer.Option(min=0, help="The first so many songs by id; 0: all.")] = 0,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override a key: --set training.steps=500.")] = None,
    device: Annotated[str, typer.Option(help="Of the tokenizers: cpu, cuda, ...; the training's: --set training.device=cuda.")] = "cpu",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what is to do and what it costs; train and write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The rows as one JSON document on stdout.")] = False,
) -> None:  # fmt: skip
    """Reconstruct songs from each tokenizer's frozen embeddings by the same decoder (paper, 5.4 and B.3.1, Table 4a).

    For every tokenizer and track it trains the same latent diffusion transformer: same shape and start, steps, seeds, songs, noise
    and latents. Only the condition differs. Two controls tell whether the figures mean anything: embeddings in a random order in
    time (worse) and the log-mel of the true track (better). Run it again after a stop: training goes on at its last checkpoint.

    \b
      duotok eval matched-decoder --data songs=songs --model mini -o matched --dry-run
      duotok eval matched-decoder --data songs=songs --model mini --model dac=transformers:dac -o matched --set training.steps=2000
      duotok eval matched-decoder --data musdb18hq=/data/musdb18hq --model mini -o musdb --set training.device=cuda
    """
    from duotok.config import override, parse
    from duotok.evaluation.summaries import summarise
    from duotok.suite.matched.conduct import as_markdown, conduct, plan
    from duotok.suite.matched.experiment import MatchedExperimentConfig

    config = parse(MatchedExperimentConfig, override({}, list(overrides or [])), "--set")
    found = plan(data, models or ["mini"], output, config, autoencoder, limit, device)
    if dry_run:
        put_json(found.lines(), indent=1) if as_json else typer.echo("\n".join(found.lines()))
        return
    with progress_bars(len(found.rows)) as bars:
        cells = conduct(found, say, bars.file)
    if as_json:
        put_json([[s.tokenizer, s.measure.name, s.track, s.mean, s.n, s.failures] for s in summarise(cells)], indent=1)
        return
    typer.echo(as_markdown(cells))
