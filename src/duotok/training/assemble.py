"""From a folder of runs to a bundle with its model card."""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from torch import nn

from duotok.clock import FRAME_RATE
from duotok.codec.bundle import BundleConfig, CodecConfig, DiTConfigs, write_bundle
from duotok.config import override, parse
from duotok.errors import BundleError, ConfigError
from duotok.model.config import TokenizerConfig
from duotok.model.tokenizer import Tokenizer
from duotok.renderer.contract import LatentDiffusion
from duotok.seals import read_json
from duotok.shards.store import ShardStore
from duotok.tracks import TRACKS
from duotok.training.batches.remix import GENERATED
from duotok.training.checkpoint import best, checkpoints
from duotok.training.stages.loading import (
    load_autoencoder,
    load_dit,
    load_sampling,
    load_separator,
    load_tokenizer,
    run_config,
    run_highpass,
)

MAX_BYTES = 60_000_000
MEASUREMENTS = "measurements.md"
NOTES = "notes.md"


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def data_section(store: ShardStore, only: Collection[str] | None = None) -> str:
    """What the weights were trained on: minutes by kind and licence, then every attribution. only: of these recordings."""
    minutes: dict[tuple[str, str], float] = defaultdict(float)
    credits: dict[tuple[str, str, str], float] = defaultdict(float)
    held: set[str] = set()
    for stored in store.segments:
        segment = stored.segment
        if only is not None and segment.recording not in only:
            continue
        if segment.split != "train":
            held.add(segment.recording)
            continue
        kind = f"{segment.kind} (generated)" if segment.corpus == GENERATED else segment.kind
        minutes[kind, segment.licence] += segment.seconds / 60
        credits[kind, segment.attribution, segment.licence] += segment.seconds / 60
    rows = [f"| {kind} | {licence} | {value:.1f} |" for (kind, licence), value in sorted(minutes.items())]
    lines = [f"- {kind}: {who} ({licence}), {value:.1f} min" for (kind, who, licence), value in sorted(credits.items())]
    kept_out = [f"Never trained on (validation and test): {', '.join(sorted(held))}."] if held else []
    return "\n".join(
        ["| kind | licence | minutes |", "|---|---|---|", *rows, "", "Attribution:", "", *lines, "", *kept_out]
    )


def _held_out(run: Path) -> str:
    """The held-out figures at the checkpoint that is used, as the run's log has them; mel distances with their deviation."""
    step, found = int(best(run).name.split("-")[1]), {}
    for line in _read(run / "log.jsonl").splitlines():
        with contextlib.suppress(ValueError):
            told = read_json(line)
            if told.get("kind") == "held_out" and told.get("step") == step:
                found = {name: value for name, value in told.items() if isinstance(value, float)}
    shown = {name: f"{value:.3g}" for name, value in found.items() if not name.endswith("_deviation")}
    for name in shown:
        if f"{name}_deviation" in found:
            shown[name] += f" ± {found[f'{name}_deviation']:.2g}"
    return ", ".join(f"{name} {text}" for name, text in shown.items())


def model_card(
    runs: Path, store: ShardStore, name: str, command: str, tokenizer: TokenizerConfig, tokens_only: bool = False
) -> str:
    """The card: data, licences, attribution, steps of every stage, notes and measurements (RUNS/notes.md, measurements.md), the command."""
    steps = "\n".join(
        f"| {run.name} | {int(best(run).name.split('-')[1])} | {_held_out(run)} |"
        for run in sorted(runs.iterdir())
        if run.is_dir() and checkpoints(run)
    )
    notes = _read(runs / NOTES)
    books = "one codebook for both" if tokenizer.shared_codebook else "a codebook each"
    kbps = FRAME_RATE * len(TRACKS) * math.log2(tokenizer.codebook_size) / 1000
    decoded = "without a renderer: it encodes and cannot decode" if tokens_only else "decoded to 48 kHz"
    numbers = _read(runs / MEASUREMENTS) or "Not measured yet: run the benchmarks."
    return f"""---
license: apache-2.0
library_name: duotok
tags: [audio, music, tokenizer, codec]
---
# {name}

A small dual-track music tokenizer: vocals and accompaniment, 25 tokens a second each, {books} of {tokenizer.codebook_size:,} entries
({kbps:.3g} kbit/s), {decoded}. Trained on a CPU with two cores; it shows that the chain works and is no match for a model of the paper's size.

Weights: Apache-2.0 as far as the authors of this project can license them; the recordings below keep their own licences.

## Made by

    {command}

| run | steps | held out |
|---|---|---|
{steps}

{notes}

## Measured

{numbers}

A small mel distance says that loudness and colour are right at every moment, not that the notes are: chroma correlation and the agreement
of the fundamental frequency, in the same table of `python -m benchmarks.fidelity`, tell how much of melody and harmony is in the sound.

## Data

{data_section(store)}
"""


def without_mask_head(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer less the head that stage 3 no longer has."""
    smaller = Tokenizer(tokenizer.config.model_copy(update={"mask_head": False}))
    state = tokenizer.state_dict()
    smaller.load_state_dict({name: state[name] for name in smaller.state_dict()})
    return smaller.eval()


def assemble(
    runs: Path,
    store: ShardStore,
    folder: Path,
    name: str,
    command: str,
    tokens_only: bool = False,
    overrides: Sequence[str] = (),
    force: bool = False,
) -> Path:
    """Collect the trained parts of `runs` into a bundle of eight bits a weight.

    tokens_only: the tokenizer of stage 3 without a renderer, and the separator if there is one; overrides: of the codec's
    config, as `--set` has them; force: as `write_bundle`. Raises ConfigError when a
    run is missing, BundleError when duotok-mini is over 60 MB.
    """
    tokenizer = without_mask_head(load_tokenizer(runs))
    modules: dict[str, nn.Module] = {"tokenizer": tokenizer}
    if not tokens_only:
        modules["autoencoder"] = load_autoencoder(runs, "adapt" if checkpoints(runs / "adapt") else "autoencoder")
        modules |= {f"dit.{track}": load_dit(runs, track) for track in TRACKS}
    if not tokens_only or checkpoints(runs / "separator"):
        modules["separator"] = load_separator(runs)
    parts: dict[str, Any] = {key: module.config for key, module in modules.items() if not key.startswith("dit.")}
    dits = None if tokens_only else DiTConfigs(**{t: cast(LatentDiffusion, modules[f"dit.{t}"]).config for t in TRACKS})
    codec = codec_config(runs, not tokens_only, overrides)
    config = BundleConfig(name=name, codec=codec, dit=dits, **{"autoencoder": None, **parts})
    written = write_bundle(
        folder,
        config,
        modules,
        model_card(runs, store, name, command, tokenizer.config, tokens_only),
        storage="int8",
        force=force,
    )
    size = sum(path.stat().st_size for path in written.iterdir())
    if name == "duotok-mini" and size > MAX_BYTES:
        raise BundleError(
            f"{written}: {size / 1e6:.1f} MB, over the {MAX_BYTES / 1e6:.0f} MB a package may carry; make a part smaller"
        )
    return written


def codec_config(runs: Path, renders: bool = True, overrides: Sequence[str] = ()) -> CodecConfig:
    """Windows and high-pass of the crops that stage 3 was trained on, the sampler that stage 4 was told, then `overrides`.

    Raises ConfigError where the two runs of stage 4 were told different things: a bundle has one sampler.
    """
    window = int(run_config(runs / "stage3")["crops"]["frames"])
    values: dict[str, Any] = {"window": window, "context": window // 8, "highpass_hz": run_highpass(runs / "stage3")}
    if renders:
        vocals, accompaniment = (asdict(load_sampling(runs, track)) for track in TRACKS)
        named = {assignment.partition("=")[0].split(".")[0] for assignment in overrides}
        for name in vocals:
            if vocals[name] != accompaniment[name] and name not in named:
                raise ConfigError(
                    f"{runs}: {name} is {vocals[name]} in stage4.vocals and {accompaniment[name]} in stage4.accompaniment, "
                    f"a bundle has one; say which: --set {name}=..."
                )
        values |= vocals | {"render": vocals["render"].model_dump()}
    return parse(CodecConfig, override(values, list(overrides)), f"{runs}: codec of the bundle")
