"""`duotok recipes`: the configurations that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from duotok.cli.console import put_json

HELP = """
The configurations that come with the package, for every stage at several sizes.

A command that takes a YAML file takes the name of one of these as well. To change a few values give --set, or write a file
of your own that says `extends: mini/stage1` and what is different.

\b
  duotok recipes list                         all of them, a line each
  duotok recipes show mini/stage1             one with its comments
  duotok train stage1 -c mini/stage1 ...      train by it
  duotok recipes copy mini -o recipes         copies to change; then: -c recipes/mini/stage1.yaml
"""

SETS = "mini, gpu, paper, ablations, effects, effects-released, lm, comparisons"

app = typer.Typer(name="recipes", help=HELP, no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_recipes(
    prefix: Annotated[str, typer.Argument(metavar="[SET]", help=f"Only these: {SETS}.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each on stdout.")] = False,
) -> None:  # fmt: skip
    """List the recipes, each with its first line.

    \b
      duotok recipes list
      duotok recipes list ablations
    """
    from duotok.recipes.packaged import recipes

    listed = recipes(prefix)
    if as_json:
        for recipe in listed:
            put_json({"name": recipe.name, "about": recipe.about, "extends": list(recipe.extends)})
        return
    width = max(len(recipe.name) for recipe in listed)
    for recipe in listed:
        typer.echo(f"{recipe.name:{width}}  {recipe.about}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As mini/stage1.")],
    whole: Annotated[bool, typer.Option("--whole", help="With all that it extends laid under it, as it is read; without comments.")] = False,
) -> None:  # fmt: skip
    """Print a recipe; a file of yours as well, to see with --whole what it comes to.

    \b
      duotok recipes show mini/stage1
      duotok recipes show gpu/stage1 --whole
    """
    import yaml

    from duotok.config import read_yaml
    from duotok.recipes.packaged import text_of

    typer.echo(yaml.safe_dump(read_yaml(name), sort_keys=False) if whole else text_of(name), nl=False)


@app.command()
def copy(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the copies: OUTPUT/mini/stage1.yaml.")],
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Recipes or sets of them; all if none is named.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files of the same names that differ.")] = False,
) -> None:  # fmt: skip
    """Copy recipes into a folder to change them there; what they extend comes along.

    Nothing is written where a file of that name is there and differs. Name the copies with their ending, `.yaml`: without it
    the packaged recipe is meant.

    \b
      duotok recipes copy mini/stage1 mini/stage2 -o recipes
      duotok recipes copy -o recipes
    """
    from duotok.recipes.packaged import copy as copy_recipes

    for path in copy_recipes(names or (), output, force):
        typer.echo(path)
