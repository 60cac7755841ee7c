"""`duotok eval tagging`: what a small probe can tell about the music from frozen tokens."""

from __future__ import annotations

from typing import Annotated

import typer

from duotok.cli.console import put_json
from duotok.cli.eval.options import AsJson, Device, DryRun, Force, OneWorker, Output, Retry, Tokenizers


def tagging(
    tokenizers: Tokenizers,
    data: Annotated[str, typer.Option("--data", metavar="KIND=FOLDER", help="magnatagatune, songs or pseudo, and its folder.")],
    output: Output,
    probes: Annotated[list[str] | None, typer.Option("--probe", help="conformer (default), se, linear; again for more.")] = None,
    split: Annotated[str, typer.Option(help="Of MagnaTagATune: artist (no artist on two sides) or marble (by folder).")] = "artist",
    threshold: Annotated[float, typer.Option(help="Probability from which a pseudo-label counts.")] = 0.25,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override a key: --set training.lr=1e-4.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Only so many recordings, generated songs by name; 0: all.")] = 0,
    device: Device = "cpu",
    workers: OneWorker = 1,
    retry: Retry = False,
    force: Force = False,
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
      duotok eval tagging mini --data pseudo=../shared/audio -o pseudo --set 'seeds=[0]' --probe linear --workers 2
    """
    import torch

    from duotok.cli.console import default_threads
    from duotok.cli.eval.options import end, experiment
    from duotok.config import override, parse
    from duotok.evaluation.systems import parse_system
    from duotok.suite.tagging.conduct import TaggingSettings, plan
    from duotok.suite.tagging.table import as_markdown

    torch.set_num_threads(default_threads())
    values = {
        **override({}, list(overrides or [])), "data": data, "probes": probes or ["conformer"], "split": split, "threshold": threshold,
        "limit": limit, "device": device,
    }  # fmt: skip
    opened = plan(parse(TaggingSettings, values, "--set"), [parse_system(t, device=device) for t in tokenizers], output)
    found = experiment(opened, output, workers, retry, force, dry_run, as_json)
    if found is None:
        return
    if as_json:
        put_json(
            [{"tokenizer": c.inputs.tokenizer, "instrument": c.inputs.instrument, **c.about} for c in found.cells], indent=1
        )  # fmt: skip
    else:
        typer.echo(as_markdown(found.cells))
    end(found, opened)
