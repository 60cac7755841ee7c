"""`duotok train`: one stage of the recipe, or what it would cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duotok.cli.console import put_json, say

if TYPE_CHECKING:
    from duotok.training.cost.estimate import Cost
    from duotok.training.stage import Stage, StageConfig


def train(
    stage: Annotated[str, typer.Argument(help="separator, autoencoder, stage1, stage2, stage3, stage4, adversarial, adapt, or lm.")],
    config: Annotated[Path, typer.Option("--config", "-c", help="A YAML file, or a recipe of `duotok recipes list`: mini/stage1.")],
    data: Annotated[Path | None, typer.Option(help="Folder of `duotok data prepare`: its shards, and derived/ for what follows from them.")] = None,
    shards: Annotated[str | None, typer.Option(help="Where the shards are, if not in DATA/shards: a folder or a URL.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of all runs; the stage trains in RUNS/STAGE.")] = Path("runs"),
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override a key: --set steps=100.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that derive arrays before the first step.")] = 1,
    stop_after: Annotated[int | None, typer.Option(min=1, help="Stop with a checkpoint after this many steps in all.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0.001, help="Train so long, not for the config's steps; schedules follow.")] = None,
    prepare: Annotated[bool, typer.Option("--prepare", help="Derive its arrays, as far as earlier stages are trained, and stop.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print parameters, memory, FLOPs, speed and days; train and write nothing.")] = False,
    processes: Annotated[int, typer.Option(min=1, help="How many processes a dry run should plan for.")] = 1,
    measure: Annotated[float, typer.Option(min=0, help="Seconds of trial steps in a dry run; three steps at least.")] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the held-out losses, or the costs, as JSON.")] = False,
) -> None:  # fmt: skip
    """Train one stage; run the same command again to go on after a kill.

    A run goes on where its folder RUNS/STAGE has one; a folder that holds other files of the same names is left alone.

    The order is separator, autoencoder, stage1, stage2 (needs separator and stage1), stage3 (needs stage2), stage4 once with
    --set track=vocals and once with --set track=accompaniment (needs stage3 and autoencoder), and for better sound
    adversarial (needs the autoencoder) and adapt (needs both runs of stage4, and adversarial where that was trained). The
    config names these runs: start_from, tokenizer_from, autoencoder_from, teacher_from, renderer_from; a relative name is a
    folder in RUNS. The language model (lm) learns from the tokens of `duotok pack`, which its config names as data.
    On several GPUs start it with `accelerate launch` or `torchrun`; --dry-run needs neither data nor earlier runs (lm: its
    tokens), and says which it would start from.

    \b
      duotok train stage1 --config paper/stage1 --dry-run --processes 64
      duotok train stage1 --config mini/stage1 --data WORK --runs runs/mini
      duotok train stage1 --config mini/stage1 --data WORK --minutes 90
      duotok train stage3 --config mini/stage3 --data WORK --runs runs/other --set start_from=../mini/stage2
      torchrun --nproc-per-node 8 -m duotok train stage1 -c paper/stage1 --data WORK
    """
    from duotok.config import load_config
    from duotok.errors import ConfigError
    from duotok.training.earlier_runs import check_runs, described_runs
    from duotok.training.stages.registry import config_class

    overrides = [*(overrides or []), *([f"minutes={minutes}"] if minutes is not None else [])]
    if stage == "lm":
        if given := [option for option, value in {"--data": data, "--shards": shards}.items() if value]:
            raise ConfigError(f"lm: {given[0]} is about shards, and lm learns from packed tokens: --set data=FILE")
        if prepare:
            typer.echo("lm: derives nothing; its tokens are packed already")
            return
        if dry_run:
            _language_model_cost(config, overrides, processes, measure, as_json)
        else:
            _language_model(config, overrides, runs, stop_after, as_json)
        return
    parsed = load_config(config_class(stage), config, overrides)  # reports a wrong key before data are opened
    if dry_run:
        from dataclasses import replace

        from duotok.training.cost.estimate import estimate

        earlier = described_runs(parsed, runs)
        for key, text in {} if as_json else earlier.items():
            typer.echo(f"{key}: {text}")
        built, notes = _with_data(stage, parsed, data, shards, runs)
        say(f"{stage}: counting and measuring, up to a few minutes for a large model")
        # adversarial has the sizes of the run that it starts from
        cost = estimate(stage, built.config if built is not None else parsed, built, measure, processes)
        cost = replace(cost, notes=[*notes, *cost.notes])
        put_json({**cost.as_json(), "earlier_runs": earlier}) if as_json else _print(cost)
        return
    if data is None:
        raise ConfigError("--data is missing: name the folder of `duotok data prepare` (--dry-run needs none)")
    from duotok.training.checkpoint import Untrained
    from duotok.training.processes import join
    from duotok.training.stages.stage4 import Stage4Config

    name = f"{stage}.{parsed.track}" if isinstance(parsed, Stage4Config) else stage
    # deriving has no precision of training: a CPU may do it for a GPU
    joined = parsed.model_copy(update={"precision": "fp32"}) if prepare else parsed
    with join(joined).main_process_first():  # the first process derives, the others wait and reuse it
        if not prepare:  # checked before hours of deriving
            check_runs(parsed, runs)
            _check(runs / name)
        try:
            built = _build(stage, parsed, data, shards, runs, workers)
        except Untrained as error:
            if not prepare:
                raise
            typer.echo(f"{stage}: derived what does not wait for an earlier stage; {error}")
            return
    if prepare:
        typer.echo(f"{built.name}: all that it needs is in {data / 'derived'}")
        return
    _train(built, runs / built.name, stop_after, as_json)


def _check(run: Path) -> None:
    """Check a run in the first process only, since that one writes files that the others would see."""
    from duotok.distributed import rank
    from duotok.training.checkpoint import check_run

    if rank() == 0:
        check_run(run)


def _train(built: Stage, run: Path, stop_after: int | None, as_json: bool) -> None:
    from duotok.distributed import rank
    from duotok.training.engine import train as run_training
    from duotok.training.processes import leave

    _check(run)
    losses = run_training(built, run, stop_after)
    if rank() == 0:
        put_json(losses) if as_json else typer.echo(f"{built.name}: done, in {run}")
    leave()


def _language_model_cost(config: Path, overrides: list[str], processes: int, measure: float, as_json: bool) -> None:
    from duotok.config import load_config
    from duotok.lm.cost import estimate_lm
    from duotok.lm.stage import LMStageConfig

    parsed = load_config(LMStageConfig, config, overrides)
    say("lm: counting and measuring, up to a few minutes for a large model")
    cost = estimate_lm(parsed, measure, processes)
    put_json(cost.as_json()) if as_json else _print(cost)


def _language_model(config: Path, overrides: list[str], runs: Path, stop_after: int | None, as_json: bool) -> None:
    """Train the language model on packed tokens, which its config names, instead of shards."""
    from duotok.config import load_config
    from duotok.lm.stage import LMStage, LMStageConfig
    from duotok.training.processes import join

    parsed = load_config(LMStageConfig, config, overrides)
    with join(parsed).main_process_first():
        built = LMStage(parsed)
    _train(built, runs / built.name, stop_after, as_json)


def _build(
    stage: str, config: StageConfig, data: Path, shards: str | None, runs: Path, workers: int, writable: bool = True
) -> Stage:
    from duotok.shards.store import ShardStore
    from duotok.training.stages.registry import Needs, build

    store = ShardStore(shards or data / "shards", data / "derived", writable=writable)
    return build(stage, config, Needs(runs, store, workers))


def _with_data(
    stage: str, config: StageConfig, data: Path | None, shards: str | None, runs: Path
) -> tuple[Stage | None, list[str]]:
    """The stage where everything that it needs exists; otherwise notes on what is missing."""
    from duotok.errors import DuoTokError
    from duotok.shards.deriving import NotDerived
    from duotok.training.cost.synthetic import SKETCHES

    if data is None or stage not in SKETCHES:
        return None, []
    try:
        return _build(stage, config, data, shards, runs, 1, writable=False), []
    except NotDerived as error:
        return None, [f"will be derived first: {error}"]
    except DuoTokError as error:
        return None, [f"cannot start yet: {error}"]


def _print(cost: Cost) -> None:
    from rich.console import Console
    from rich.table import Table

    def table(title: str, *heads: str) -> Table:
        new_table = Table(title=title, title_justify="left", box=None, pad_edge=False, title_style="bold")
        new_table.add_column(heads[0], min_width=30)
        for head in heads[1:]:
            new_table.add_column(head, justify="right", min_width=10)
        return new_table

    console = Console(highlight=False)
    parameters = table(f"{cost.stage}: parameters", "part", "trained", "frozen")
    for name, counts in cost.parameters.items():
        parameters.add_row(name, *(f"{n:,}" if n else "-" for n in counts))
    parameters.add_row(
        "in all", *(f"{sum(column):,}" for column in zip(*cost.parameters.values(), strict=True)), style="bold"
    )
    memory = table("memory of one process (estimate)", "what for", "GB")
    for name, size in cost.memory.items():
        per_item = f" ({size / 1e9 / cost.speed.of:.2f} an item)" if name == "activations" else ""
        memory.add_row(name + per_item, f"{size / 1e9:.2f}")
    memory.add_row("in all", f"{sum(cost.memory.values()) / 1e9:.2f}", style="bold")
    step = table(f"one step of {cost.steps:,}", "what", "")
    for name, value in _step(cost):
        step.add_row(name, value)
    for shown_table in (parameters, memory, step):
        console.print(shown_table)
        console.print()
    for note in cost.notes:
        console.print(f"- {note}", markup=False, soft_wrap=True)


def _step(cost: Cost) -> list[tuple[str, Any]]:
    seconds = cost.frames / 25
    rows = [
        ("items", f"{cost.items:,} over {cost.processes} process" + ("es" if cost.processes > 1 else "")),
        ("token frames", f"{cost.frames:,.0f} ({seconds / 60:,.1f} min of sound)"),
        ("padding, share of a batch", f"{cost.padding:.1%}"),
        ("FLOPs forward", _with_prefix(cost.forward)),
        ("FLOPs backward", _with_prefix(cost.backward)),
        ("FLOPs in all steps", _with_prefix(cost.flops * cost.steps)),
    ]
    speed = cost.speed
    how = "expected on" if speed.items is None else "measured on"
    rows += [
        (f"steps per second, {how} {speed.device}, {speed.precision}", f"{1 / speed.seconds:.4g}"),
        ("FLOPs per second of a process", _with_prefix(cost.flops / cost.processes / speed.seconds)),
        ("days for all steps", f"{cost.days:,.4g}"),
    ]
    if speed.preparing:
        rows.append(("items per second of one loader", f"{1 / speed.preparing:.3g}"))
    return rows


def _with_prefix(value: float) -> str:
    for power, prefix in ((21, "Z"), (18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M")):
        if value >= 10**power:
            return f"{value / 10**power:.3g} {prefix}"
    return f"{value:.3g}"
