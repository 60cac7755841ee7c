"""`duotok listen export`: the test for webMUSHRA."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from duotok.cli.console import say


def export(
    test: Annotated[Path, typer.Argument(help="A folder that duotok listen build made.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A new folder.")],
    name: Annotated[str, typer.Option(help="Name of the configuration.")] = "listening",
) -> None:
    """Write a test in the layout of webMUSHRA, for people who host that.

    Copy OUTPUT/configs into a webMUSHRA checkout and open /?config=NAME.yaml there. Sounds and conditions have names that tell
    nothing; OUTPUT/key.csv says what each is, and is not for the web.

    \b
      duotok listen export test -o webmushra --name study-1
    """
    from duotok.listening.plan import load
    from duotok.listening.webmushra import export as make

    config, key = make(load(test), output, name)
    say(
        f"{config}: copy {output / 'configs'} into webMUSHRA and open /?config={config.name}; what each sound is: {key}"
    )
