"""`duotok eval leakage`: what stems that are not clean do to tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from duotok.cli.console import put_json, say
from duotok.cli.eval.options import AsJson, Device, DryRun, OneWorker, Output, Retry, Tokenizers


def leakage(
    tokenizers: Tokenizers,
    data: Annotated[str, typer.Option("--data", metavar="CORPUS=FOLDER", help="Songs with true stems: index, songs, musdb18hq, ... and the folder.")],
    output: Output,
    separators: Annotated[
        list[str] | None,
        typer.Option("--separator", metavar="NAME[=WEIGHTS]", help="mini, demucs, bs-roformer; again for more. All that open if none is named."),
    ] = None,
    lms: Annotated[
        list[str] | None,
        typer.Option("--lm", help="Language model of a tokenizer; again for more. `mini` for the bundle mini if none is named."),
    ] = None,
    splits: Annotated[list[str] | None, typer.Option("--split", help="train, validation, test; again for more. All if none is named.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="The first so many songs by id; 0: all.")] = 0,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override a key: --set seconds=10, --set 'levels=[-30, -10]'.")] = None,
    picture: Annotated[Path | None, typer.Option("--picture", help="PNG or SVG; leakage.png in the store by default.")] = None,
    device: Device = "cpu",
    workers: OneWorker = 1,
    retry: Retry = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a picture that this command did not make.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """How tokens change when stems are separated, or carry some of the other track (the paper's first limitation, section 8).

    Songs with true stems are encoded with these, with the other track added at -40 to -10 dB, with the stems of each separator, and
    without stems (the mix goes in as the accompaniment). For each: codes equal to those of the true stems, mel distance of the
    decoded sound, unigram cost and entropy of the codes, cnBPT where the tokenizer's language model is here. Run it again after a stop.

    \b
      duotok eval leakage mini --data index=../shared/audio -o leakage --dry-run
      duotok eval leakage mini dac=transformers:dac --data songs=songs --limit 12 -o leakage
      duotok eval leakage mini --data musdb18hq=/data/musdb18hq --split test --separator demucs -o musdb
    """
    import torch

    from duotok.cli.console import default_threads
    from duotok.cli.eval.options import end, experiment
    from duotok.cli.files import check_free
    from duotok.config import override, parse
    from duotok.evaluation.systems import parse_system
    from duotok.suite.leakage.experiment import LeakageSettings, plan
    from duotok.suite.leakage.figure import draw, made_before
    from duotok.suite.leakage.table import as_markdown

    torch.set_num_threads(default_threads())
    values = {
        **override({}, list(overrides or [])), "data": data, "separators": separators or [], "lms": lms, "splits": splits or [],
        "limit": limit, "device": device,
    }  # fmt: skip
    place = picture or output / "leakage.png"
    check_free([place], made_before, force)
    systems = [parse_system(text, device=device) for text in tokenizers]
    opened = plan(parse(LeakageSettings, values, "--set"), systems, output)
    found = experiment(opened, output, workers, retry, False, dry_run, as_json)
    if found is None:
        return
    if any(not cell.gap for cell in found.cells):
        draw(found.cells, place)
        say(f"written: {place}")
    if as_json:
        put_json([{"tokenizer": c.inputs.tokenizer, **c.about} for c in found.cells], indent=1)
    else:
        typer.echo(as_markdown(found.cells))
    end(found, opened)
