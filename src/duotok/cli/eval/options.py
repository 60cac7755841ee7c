"""What the commands that go over tokenizers and songs share: options, progress, output."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from duotok.cli.console import put_json, say

if TYPE_CHECKING:
    from duotok.suite.costs import Todo
    from duotok.suite.leakage.experiment import Plan as LeakagePlan
    from duotok.suite.matched.conduct import Plan as MatchedPlan
    from duotok.suite.run import Chosen, Plan
    from duotok.suite.runner import Found
    from duotok.suite.tagging.conduct import Plan as TaggingPlan

    Experiment = TaggingPlan | MatchedPlan | LeakagePlan

WORKERS = os.cpu_count() or 1

Tokenizers = Annotated[
    list[str],
    typer.Argument(
        metavar="TOKENIZER...",
        help="A bundle, transformers:FOLDER, external:FILE, or an anchor: opus, opus:12000, codec2:3200, lowpass, original; "
        "NAME=TOKENIZER gives it a name in tables.",
    ),
]
Songs = Annotated[Path, typer.Option("--songs", help="Folder of songs: mixes, or stems in any layout.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="Folder of the results; what is done in it stays.")]
Seconds = Annotated[float, typer.Option(min=1.0, help="Length of a stretch of a song.")]
Segments = Annotated[int, typer.Option(min=1, help="Stretches of a song at most, spread evenly; one: its middle.")]
Short = Annotated[
    str, typer.Option(metavar="gap|whole", help="Songs shorter than a stretch: named and left out, or measured whole.")
]
Separator = Annotated[
    str, typer.Option(help="For songs that are only a mix: mini, demucs, or none (then only the mix is measured).")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first songs, by name.")]
Codebooks = Annotated[
    int | None, typer.Option(min=1, help="The first so many codebooks of tokenizers that have several.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes side by side, each on one thread.")]
OneWorker = Annotated[
    int, typer.Option("--workers", min=1, help="Processes side by side, each on one thread; 1: in this one.")
]
Retry = Annotated[bool, typer.Option("--retry", help="Measure the songs again that failed before.")]
Force = Annotated[bool, typer.Option("--force", help="Measure everything again.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be measured and what it costs; measure nothing.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def make_plan(
    tokenizers: list[str], chosen: Chosen, songs: Path, output: Path, *, seconds: float, segments: int, short: str,
    separator: str, limit: int | None, codebooks: int | None, device: str, retry: bool, force: bool, keep: Path | None = None,
) -> Plan:  # fmt: skip
    """The plan of one instrument."""
    from duotok.config import parse
    from duotok.evaluation.systems import parse_system
    from duotok.suite.run import STEMS, Plan
    from duotok.suite.songs import SongsConfig, find_songs

    values = {
        "folder": str(songs), "seconds": seconds, "segments": segments, "short": short, "separator": separator, "limit": limit,
    }  # fmt: skip
    # a run that goes on must not take what it has made for songs
    made = (output, output / STEMS, *([keep] if keep is not None else []))
    found = find_songs(parse(SongsConfig, values, "options"), made)
    systems = tuple(parse_system(text, codebooks if _has_several(text) else None, device) for text in tokenizers)
    return Plan(systems, (chosen,), found, output, keep, retry, force)


def _has_several(text: str) -> bool:
    """Whether a tokenizer has codebooks to choose from."""
    from duotok.codec.checkpoint_folder import PREFIX
    from duotok.codec.external.registry import EXTERNAL
    from duotok.codec.external.settings import PREFIX as EXTERNAL_PREFIX
    from duotok.codec.external.settings import read_settings
    from duotok.errors import ConfigError

    model = text.partition("=")[2] if "=" in text else text
    if not model.startswith(EXTERNAL_PREFIX):
        return model.startswith(PREFIX)
    try:
        settings = read_settings(Path(model.removeprefix(EXTERNAL_PREFIX)))
        if settings.adapter:  # of one's own: its file says how many
            return False
        entry = EXTERNAL[settings.codec].entry
    except (ConfigError, KeyError):  # told where it is opened
        return True
    return entry.codebooks > 1 and isinstance(entry.codebook_size, int)


def follow(plan: Plan, workers: int, dry_run: bool, as_json: bool, comparison: Path | None = None) -> None:
    """Run a plan, and a comparison of language models with it, and print the tables; exit code 1 when a system could not be
    measured at all."""
    from duotok.errors import ConfigError, DuoTokError
    from duotok.suite.run import conduct
    from duotok.suite.run import dry_run as tried
    from duotok.suite.table import as_json as json_of
    from duotok.suite.table import as_markdown

    if plan.store.exists() and not plan.store.is_dir():
        raise ConfigError(f"{plan.store}: a file; results go into a folder, name one with -o")
    if dry_run:
        from duotok.suite import predictability

        todo, problems = tried(plan, say)
        if comparison is not None:
            say("trying the speed of language models")
            todo += predictability.todo(comparison, plan.store)
        put_plan(todo, workers, as_json, problems)
        return
    done = conduct(plan, workers, say)
    if comparison is not None:
        from duotok.suite.predictability import study

        try:
            done.cells += study(comparison, plan.store, say, workers)
        except DuoTokError as error:
            done.problems.append(f"lm: {error}")
    if done.cells:
        put_json(json_of(done.cells, done.problems), indent=1) if as_json else typer.echo(
            as_markdown(done.cells, done.problems), nl=False
        )
    for problem in () if done.cells else done.problems:
        say(f"error: {problem}")
    if done.unmeasured or not done.cells:
        raise typer.Exit(1)


def put_plan(todo: list[Todo], workers: int, as_json: bool, problems: list[str]) -> None:
    """What a run would do and what it costs."""
    from duotok.suite.costs import in_all

    if as_json:
        total = sum(one.minutes or 0.0 for one in todo)
        unknown = sum(one.minutes is None for one in todo)
        found = {
            "todo": [vars(one) for one in todo],
            "core_minutes": total,
            "unknown": unknown,
            "problems": problems,
        }
        put_json(found, indent=1)
        return
    for line in (*map(str, todo), in_all(todo, workers)):
        typer.echo(line)
    for problem in problems:
        typer.echo(f"cannot be measured: {problem}")


def experiment(
    plan: Experiment, output: Path, workers: int, retry: bool, force: bool, dry_run: bool, as_json: bool
) -> Found | None:
    """Run one experiment as `duotok eval all` does, and say what went wrong; None for a dry run."""
    from duotok.data.jobs import LocalEngine
    from duotok.suite.runner import Runner

    if dry_run:
        put_plan(plan.todo(retry, force), workers, as_json, [])
        return None
    found = plan.conduct(Runner(output, LocalEngine(workers), retry, force, say))
    for problem in found.problems:
        say(problem)
    return found


def end(found: Found, plan: Experiment) -> None:
    """Exit code 1 when a tokenizer could not be measured at all."""
    if plan.gaps or not found.cells or any(cell.gap for cell in found.cells):
        raise typer.Exit(1)
