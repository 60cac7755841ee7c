"""`duotok eval tagging`: what a small probe can tell about the music from frozen tokens."""

from __future__ import annotations

from typing import Annotated

import typer

from duotok.cli.console import progress_bars, put_json, say
from duotok.cli.eval.options import AsJson, Device, DryRun, Output, Tokenizers


def tagging(
    tokenizers: Tokenizers,
    data: Annotated[str, typer.Option("--data", metavar="KIND=FOLDER", help="magnatagatune, songs or pseudo, and its folder.")],
    output: Output,
    probes: Annotated[list[str] | None, typer.Option("--probe", help="conformer (default), se, linear; again for more.")] = None,
    split: Annotated[str, typer.Option(help="Of MagnaTagATune: artist (no artist on two sides) or marble (by folder).")] = "artist",
    threshold: Annotated[float, typer.Option(help="Probability from which a pseudo-label counts.")] = 0.25,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override a key: --set training.lr=1e-4.")] = None,
    device: Device = "cpu",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Tell tags from frozen tokens: macro average precision and ROC area of a probe, beside controls (paper, 5.3 and B.2).

    Only post-quantization embeddings are read. Every run has its controls: the same codes with random vectors, the embeddings in
    a random order in time, and mel statistics without any tokenizer. Embeddings are made once; run it again after a stop.

    \b
      duotok eval tagging mini --data songs=songs -o results --dry-run
      duotok eval tagging mini dac=transformers:dac --data songs=songs -o results --probe conformer --probe linear
      duotok eval tagging mini --data magnatagatune=/data/mtt -o mtt --probe se --set training.lr=1e-4
      duotok eval tagging mini --data pseudo=../shared/audio -o pseudo --set 'seeds=[0]'
    """
    import torch

    from duotok.cli.console import default_threads
    from duotok.suite.tagging.conduct import Plan, conduct, plan
    from duotok.suite.tagging.table import as_markdown

    torch.set_num_threads(default_threads())
    found: Plan = plan(data, tokenizers, output, probes or ["conformer"], overrides or [], split, threshold, device)
    if dry_run:
        put_json(found.costs(), indent=1) if as_json else typer.echo("\n".join(found.lines()))
        return
    with progress_bars(len(found.jobs)) as bars:
        cells = conduct(found, output, say, bars.file)
    if as_json:
        put_json(
            [{"tokenizer": c.inputs.tokenizer, "instrument": c.inputs.instrument, **c.about} for c in cells], indent=1
        )
        return
    typer.echo(as_markdown(cells))
