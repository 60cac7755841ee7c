"""`duotok eval lm`: how well a language model predicts tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from duotok.cli.console import put_json, say


def lm(
    config: Annotated[Path, typer.Argument(help="YAML that describes the comparison (docs/lm.md), or a recipe: comparisons/ablations.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the runs, the table and the pictures.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Override a key: --set lm.steps=100.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Runs trained side by side; what each says is in log.txt of its folder.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace tables and pictures in FOLDER that no comparison made.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, list the runs and what they cost; write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The table as one JSON document on stdout.")] = False,
) -> None:  # fmt: skip
    """Compare tokenizers by how well the same language model predicts them.

    For every tokenizer, protocol and seed it trains a model and scores the same moments of the same songs; everything but
    the tokens is held constant, and unequal songs or settings are refused. Run it again after a stop: what is done stays.
    A table, a picture or a run's folder that no comparison made is left alone.

    \b
      duotok eval lm comparison.yaml -o results --dry-run
      duotok eval lm comparison.yaml -o results --workers 4
      duotok eval lm comparisons/ablations -o results --set tokens=$PWD/tokens
      duotok eval lm comparison.yaml -o trial --set lm.steps=50 --set 'seeds=[0]'

    \b
    comparison.yaml:
      tokenizers: {duotok-mini: full.parquet, without-noise: without-noise.parquet}
      lm: {model: {preset: mini}, steps: 2000, seconds: 30}
      seeds: [0, 1, 2]
      corruption: {}
    """
    from duotok.cli.files import check_free, check_not_input
    from duotok.comparison.run import train_and_score
    from duotok.comparison.study import Comparison
    from duotok.comparison.table import as_json as json_of
    from duotok.comparison.table import as_markdown, made_before, outputs, write
    from duotok.comparison.workers import conduct

    comparison = Comparison(config, output, overrides or [])
    places = outputs(comparison.config, output)
    check_not_input(places, [config, *(Path(one.path) for corpora in comparison.trained.values() for one in corpora)])
    check_free(places, made_before(output), force)
    if dry_run:
        from duotok.comparison.cost import Costs

        costs, runs = Costs(comparison), list[dict[str, Any]]()
        for number, run in enumerate(comparison.runs):
            say(f"{comparison.title(number)}: trying its speed")
            runs.append(
                {"folder": str(run.folder), "todo": comparison.todo(run), "core_minutes": costs.minutes(number)}
            )
        total = sum(one["core_minutes"] for one in runs)
        if as_json:
            put_json({"runs": runs, "core_minutes": total}, indent=1)
            return
        for one in runs:
            todo = f"{', '.join(one['todo'])}, {one['core_minutes']:.1f} minutes of a core" if one["todo"] else "done"
            typer.echo(f"{one['folder']}: {todo}")
        typer.echo(f"in all {total:.1f} minutes of a core, with {workers} workers about {total / workers:.1f}")
        return
    result = conduct(comparison, train_and_score, say, workers)
    written = write(result, output)
    put_json(json_of(result), indent=1) if as_json else typer.echo(as_markdown(result))
    say("written: " + ", ".join(map(str, written)))
