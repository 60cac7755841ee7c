"""`duotok listen serve`: the test in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from duotok.cli.console import say


def serve(
    test: Annotated[Path, typer.Argument(help="A folder that duotok listen build made.")],
    host: Annotated[str, typer.Option(help="Who can reach it: this machine alone, or 0.0.0.0 for all of the network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8017,
) -> None:  # fmt: skip
    """Let people rate, until Ctrl-C.

    Everyone who opens the address and presses Begin is a new rater, with an order of their own. Ratings go into
    TEST/ratings.sqlite as they are given: a stop, a crash or a reload loses none, and the same command goes on. A rating can be
    changed by going back; the last one counts. Nothing is kept but ratings: no name, no address, no time.

    \b
      duotok listen serve test
      duotok listen serve test --host 0.0.0.0 --port 80     for phones in the same network; anyone who reaches it can rate
    """
    from duotok.listening.plan import load
    from duotok.listening.ratings import Ratings
    from duotok.listening.server import application
    from duotok.listening.serving import LOCAL, listen_on, run

    found = load(test)
    opened = listen_on(host, port)
    ratings = Ratings(found, create=True)
    if host not in LOCAL:
        say(
            f"warning: --host {host}: everyone who reaches port {opened.getsockname()[1]} of this machine can hear the clips and rate them"
        )
    run(application(found, ratings), opened, lambda address: say(f"{found.plan.title}: {address}   (Ctrl-C ends it)"))
    given = ratings.all()
    say(
        f"{len(given)} ratings of {len({one.rater for one in given})} raters in {ratings.path}; duotok listen report {test}"
    )
