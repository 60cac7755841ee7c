"""From a folder of runs to a bundle with its model card."""

from __future__ import annotations

import contextlib
import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import Field
from torch import nn

from duotok.clock import FRAME_RATE
from duotok.codec.bundle import BundleConfig, CodecConfig, DiTConfigs, write_bundle
from duotok.config import Config, override, parse
from duotok.errors import BundleError, ConfigError
from duotok.lineage import Origin
from duotok.model.config import TokenizerConfig
from duotok.model.tokenizer import Tokenizer
from duotok.renderer.contract import LatentDiffusion
from duotok.renderer.render import RenderSettings
from duotok.seals import read_json
from duotok.shards.index import SegmentIndex
from duotok.tracks import TRACKS
from duotok.training.checkpoint import best, checkpoints
from duotok.training.earlier_runs import config_of, find_run, highpass_of, mismatch, origin_of, train_anew
from duotok.training.stage import START_FROM, NamedRun
from duotok.training.stages.autoencoder import AUTOENCODERS
from duotok.training.stages.loading import (
    load_autoencoder,
    load_dit,
    load_render_settings,
    load_separator,
    load_tokenizer,
    stage4_config,
)
from duotok.training.stages.stage4 import RendererRuns
from duotok.training.unpack import CARD

MAX_BYTES = 60_000_000
MEASUREMENTS = "measurements.md"
NAMED = (START_FROM, "tokenizer_from", "autoencoder_from", "separator_from", "teacher_from")
"""Config keys that name earlier runs whose weights a run has or learned from."""
NOTES = "notes.md"


class BundleRuns(Config):
    """The runs that a bundle takes its parts from: folders in RUNS, or absolute paths."""

    tokenizer_from: Path | None = Field(
        default=None, description="null: that of the vocals' renderer; stage3 for a bundle of tokens only"
    )
    autoencoder_from: Path | None = Field(
        default=None, description="null: adapt where it was trained, else that of the vocals' renderer"
    )
    renderer_from: RendererRuns = RendererRuns()
    separator_from: Path = Path("separator")


def find_parts(chosen: BundleRuns, runs: Path, tokens_only: bool) -> dict[str, Path]:
    """Part of a bundle -> the run it comes from. Raises ConfigError for a run that is missing or of another stage."""
    parts: dict[str, Path] = {}
    if not tokens_only:
        for track, named in chosen.renderer_from.named().items():
            parts[f"dit.{track}"] = find_run(named, runs)
        renderer = stage4_config(best(parts[f"dit.{TRACKS[0]}"]))
        home = parts[
            f"dit.{TRACKS[0]}"
        ].parent  # runs that its config names are relative to the folder it was trained in
        adapted = NamedRun("autoencoder_from", Path("adapt"), ("adapt",))
        if chosen.autoencoder_from is None and checkpoints(adapted.folder(runs)):
            parts["autoencoder"] = find_run(adapted, runs)
        else:
            name = chosen.autoencoder_from
            named = NamedRun("autoencoder_from", name or renderer.autoencoder_from, AUTOENCODERS)
            parts["autoencoder"] = find_run(named, home if name is None else runs)
        if chosen.tokenizer_from is None:
            parts["tokenizer"] = find_run(NamedRun("tokenizer_from", renderer.tokenizer_from, ("stage3",)), home)
            _check_own(parts["tokenizer"], runs)
    if "tokenizer" not in parts:
        name = chosen.tokenizer_from or Path("stage3")
        parts["tokenizer"] = find_run(NamedRun("tokenizer_from", name, ("stage3",)), runs)
    separator = NamedRun("separator_from", chosen.separator_from, ("separator",))
    if not tokens_only or checkpoints(separator.folder(runs)):
        parts["separator"] = find_run(separator, runs)
    return parts


def _check_own(tokenizer: Path, runs: Path) -> None:
    """Raises ConfigError where RUNS has codebooks of its own and its renderers were trained for those of `tokenizer`: a bundle would
    leave out what was trained last, without a word."""
    own = runs / "stage3"
    if checkpoints(own) and own.resolve() != tokenizer.resolve():
        raise ConfigError(
            f"{own}: trained, but the renderers are for the tokens of {tokenizer}; train stage 4 for the new ones (--set "
            f"tokenizer_from=stage3 of `duotok train stage4`), or bundle the others: --set tokenizer_from={tokenizer}"
        )


def check_parts(parts: Mapping[str, Path], origins: Mapping[str, Origin]) -> None:
    """Raises BundleError for a renderer that was trained for another tokenizer or autoencoder than the bundle's."""
    for track in TRACKS:
        part = f"dit.{track}"
        if part in origins and (problem := mismatch(origins[part], origins["tokenizer"], origins["autoencoder"])):
            raise BundleError(
                f"{parts[part]}: {problem}; {train_anew(parts[part])}, name the runs that it was trained on (--set tokenizer_from=RUN, "
                "--set autoencoder_from=RUN), or --mismatched bundles them all the same"
            )


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def data_section(store: SegmentIndex, only: Collection[str] | None = None) -> str:
    """The training data: minutes by kind and licence, then every attribution. only: restricts it to these recordings."""
    minutes: dict[tuple[str, str], float] = defaultdict(float)
    credits: dict[tuple[str, str, str], float] = defaultdict(float)
    held_out: set[str] = set()
    for stored in store.segments:
        segment = stored.segment
        if only is not None and segment.recording not in only:
            continue
        if segment.split != "train":
            held_out.add(segment.recording)
            continue
        kind = f"{segment.kind} (generated)" if segment.generated else segment.kind
        minutes[kind, segment.licence] += segment.seconds / 60
        credits[kind, segment.attribution, segment.licence] += segment.seconds / 60
    rows = [f"| {kind} | {licence} | {value:.1f} |" for (kind, licence), value in sorted(minutes.items())]
    lines = [f"- {kind}: {who} ({licence}), {value:.1f} min" for (kind, who, licence), value in sorted(credits.items())]
    kept_out = [f"Never trained on (validation and test): {', '.join(sorted(held_out))}."] if held_out else []
    return "\n".join(
        ["| kind | licence | minutes |", "|---|---|---|", *rows, "", "Attribution:", "", *lines, "", *kept_out]
    )


def _held_out(run: Path) -> str:
    """The held-out figures of the best checkpoint, from the run's log; mel distances with their deviation."""
    step, figures = int(best(run).name.split("-")[1]), {}
    for line in _read(run / "log.jsonl").splitlines():
        with contextlib.suppress(ValueError):
            row = read_json(line)
            if row.get("kind") == "held_out" and row.get("step") == step:
                figures = {name: value for name, value in row.items() if isinstance(value, float)}
    shown = {name: f"{value:.3g}" for name, value in figures.items() if not name.endswith("_deviation")}
    for name in shown:
        if f"{name}_deviation" in figures:
            shown[name] += f" ± {figures[f'{name}_deviation']:.2g}"
    return ", ".join(f"{name} {text}" for name, text in shown.items())


def model_card(
    runs: Path, store: SegmentIndex, name: str, command: str, tokenizer: TokenizerConfig, parameters: int, tokens_only: bool = False,
    used: Collection[Path] = (), elsewhere: str = "", started: str = "",
) -> str:  # fmt: skip
    """The card: data, licences, attribution, steps of every stage, notes and measurements (RUNS/notes.md, measurements.md), the command.

    used: runs that parts come from; those outside of RUNS are listed as well. elsewhere: `made_elsewhere` of its parts.
    started: `started_from` of their runs.
    """
    local_runs = [run for run in sorted(runs.iterdir()) if run.is_dir() and checkpoints(run)]
    steps = "\n".join(
        f"| {run.name if run in local_runs else run} | {int(best(run).name.split('-')[1])} | {_held_out(run)} |"
        for run in (*local_runs, *(run for run in used if run not in local_runs))
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

A dual-track music tokenizer: vocals and accompaniment, 25 tokens a second each, {books} of {tokenizer.codebook_size:,} entries
({kbps:.3g} kbit/s), {decoded}. {parameters / 1e6:.3g} million parameters.

Weights: Apache-2.0 as far as the authors of this project can license them; the recordings below keep their own licences.
{elsewhere}
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
{started}"""


def made_elsewhere(modules: Mapping[str, nn.Module]) -> str:
    """The section of a card on parts made by others: kind, licence, source; empty where there are none."""
    lines = []
    for part, module in modules.items():
        config: Any = getattr(module, "config", None)
        if getattr(config, "source", ""):
            lines.append(f"- {part}: {config.kind}, {config.licence}, {config.source}")
    return "\n".join(["", "Parts made by others, under licences of their own:", "", *lines, ""]) if lines else ""


def started_from(runs: Iterable[Path]) -> str:
    """The section of a card on released weights that training started from: the cards of their bundles, whole.

    runs: those that parts come from; the runs that their configs name are followed. Empty where none was unpacked.
    """
    cards: dict[str, list[str]] = {}
    seen: set[Path] = set()
    waiting = [run.resolve() for run in runs]
    while waiting:
        run = waiting.pop()
        if run in seen or not checkpoints(run):
            continue
        seen.add(run)
        if (run / CARD).is_file():
            cards.setdefault(_read(run / CARD), []).append(run.name)
        config = config_of(run)
        waiting += [(run.parent / config[key]).resolve() for key in NAMED if isinstance(config.get(key), str)]
    parts = [
        f"### From which {', '.join(sorted(names))} started\n\n{_lowered(card)}\n" for card, names in cards.items()
    ]
    return "\n".join(["", "## Released weights that training started from", "", *parts]) if parts else ""


def _lowered(card: str) -> str:
    """A card as a part of another: without its front matter, headings three levels down."""
    text = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL)
    return re.sub(r"^(#+) ", r"###\1 ", text, flags=re.MULTILINE).strip()


def without_mask_head(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer without the mask head, which stage 3 does not use."""
    smaller = Tokenizer(tokenizer.config.model_copy(update={"mask_head": False}))
    state = tokenizer.state_dict()
    smaller.load_state_dict({name: state[name] for name in smaller.state_dict()})
    return smaller.eval()


def assemble(
    runs: Path,
    store: SegmentIndex,
    folder: Path,
    name: str,
    command: str,
    tokens_only: bool = False,
    overrides: Sequence[str] = (),
    force: bool = False,
    mismatched: bool = False,
) -> Path:
    """Collect the trained parts of `runs` into a bundle with eight bits per weight.

    tokens_only: the tokenizer of stage 3 without a renderer, and the separator if there is one; overrides: settings of
    `BundleRuns` and of the codec's config, as with `--set`; force: as for `write_bundle`; mismatched: accept a renderer that
    was trained for other parts than the bundle's. Raises ConfigError when a run is missing or of another stage, BundleError
    when parts do not belong together, or duotok-mini is over 60 MB.
    """
    chosen, overrides = _chosen_runs(overrides, runs)
    runs_of = find_parts(chosen, runs, tokens_only)
    checkpoint_of = {part: best(run) for part, run in runs_of.items()}
    files = {part: "ema" if part.startswith("dit.") else part for part in runs_of}
    origins = {part: origin_of(path, files[part]) for part, path in checkpoint_of.items()}
    if not mismatched:
        check_parts(runs_of, origins)
    tokenizer = without_mask_head(load_tokenizer(checkpoint_of["tokenizer"]))
    modules: dict[str, nn.Module] = {"tokenizer": tokenizer}
    renderers = {track: checkpoint_of[f"dit.{track}"] for track in ([] if tokens_only else TRACKS)}
    if renderers:
        modules["autoencoder"] = load_autoencoder(checkpoint_of["autoencoder"])
        modules |= {f"dit.{track}": load_dit(path) for track, path in renderers.items()}
    if "separator" in checkpoint_of:
        modules["separator"] = load_separator(checkpoint_of["separator"])
    parts: dict[str, Any] = {key: module.config for key, module in modules.items() if not key.startswith("dit.")}
    dits = None if tokens_only else DiTConfigs(**{t: cast(LatentDiffusion, modules[f"dit.{t}"]).config for t in TRACKS})
    codec = codec_config(runs_of["tokenizer"], renderers, overrides)
    config = BundleConfig(name=name, codec=codec, dit=dits, lineage=origins, **{"autoencoder": None, **parts})
    written = write_bundle(
        folder,
        config,
        modules,
        model_card(
            runs,
            store,
            name,
            command,
            tokenizer.config,
            sum(parameter.numel() for module in modules.values() for parameter in module.parameters()),
            tokens_only,
            list(dict.fromkeys(runs_of.values())),
            made_elsewhere(modules),
            started_from(runs_of.values()),
        ),
        storage="int8",
        force=force,
    )
    size = sum(path.stat().st_size for path in written.iterdir())
    if name == "duotok-mini" and size > MAX_BYTES:
        raise BundleError(
            f"{written}: {size / 1e6:.1f} MB, over the {MAX_BYTES / 1e6:.0f} MB a package may carry; make a part smaller"
        )
    return written


def _chosen_runs(overrides: Sequence[str], runs: Path) -> tuple[BundleRuns, list[str]]:
    """The runs named by overrides, and the overrides of other keys."""
    of_runs = [text for text in overrides if text.partition("=")[0].split(".")[0] in BundleRuns.model_fields]
    return parse(BundleRuns, override({}, of_runs), f"{runs}: runs of the bundle"), [
        text for text in overrides if text not in of_runs
    ]


def _codec_keys(settings: RenderSettings) -> dict[str, Any]:
    """What a bundle stores of them; the seed is the listener's."""
    return {
        "steps": settings.steps, "sampler": settings.sampler, "temperature": settings.temperature,
        "render": settings.plan.model_dump(),
    }  # fmt: skip


def codec_config(tokenizer: Path, renderers: Mapping[str, Path], overrides: Sequence[str] = ()) -> CodecConfig:
    """Windows and high-pass of the crops that stage 3 was trained on, the sampler of stage 4, then `overrides`.

    tokenizer: the run of stage 3; renderers: checkpoints of stage 4 by track, none for a bundle of tokens only. Raises
    ConfigError where the two have different samplers: a bundle has one.
    """
    window = int(config_of(tokenizer)["crops"]["frames"])
    values: dict[str, Any] = {"window": window, "context": window // 8, "highpass_hz": highpass_of(tokenizer)}
    if renderers:
        vocals, accompaniment = (_codec_keys(load_render_settings(renderers[track])) for track in TRACKS)
        named = {assignment.partition("=")[0].split(".")[0] for assignment in overrides}
        for name in vocals:
            if vocals[name] != accompaniment[name] and name not in named:
                raise ConfigError(
                    f"{tokenizer.parent}: {name} is {vocals[name]} in stage4.vocals and {accompaniment[name]} in stage4.accompaniment, "
                    f"a bundle has one; say which: --set {name}=..."
                )
        values |= vocals
    return parse(CodecConfig, override(values, list(overrides)), f"{tokenizer.parent}: codec of the bundle")
