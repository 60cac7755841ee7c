"""`duotok demo`: one song through everything, and a page to hear and see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from duotok.cli.console import open_model, put_json, say


def demo(
    song: Annotated[
        Path | None,
        typer.Argument(help="Any sound file; without it, the song that comes with DuoTok.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the page and the sounds.")] = Path("demo"),
    vocals: Annotated[
        Path | None, typer.Option(help="The vocals, if you have them: nothing is separated then.", show_default=False)
    ] = None,
    accompaniment: Annotated[
        Path | None, typer.Option(help="The accompaniment, if you have it.", show_default=False)
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="How much of the song to take; 0 takes all of it.")] = 60.0,
    start: Annotated[float, typer.Option(min=0, help="Where to start, in seconds.")] = 0.0,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Diffusion steps: more is slower and finer. Default: the bundle's.", show_default=False
        ),
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="ddim, dpmpp-2m or dpmpp-3m-sde. Default: the bundle's.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same sound.")] = 0,
    model: Annotated[str, typer.Option(help="A bundle: its folder, its name, or owner/name on the hub.")] = "mini",
    force: Annotated[
        bool, typer.Option("--force", help="Replace files in OUT that an earlier demo did not make.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="What was measured as one JSON object on stdout.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
) -> None:
    """Encode a song, decode it again, and write a page that lets you hear and see what happened.

    OUT/index.html needs nothing but itself: players for the song, its two tracks and what the tokens give back, mel
    pictures, the token streams, the use of the codes, and measured distances. Beside it: the sounds as FLAC, the tokens
    (song.duotok), facts.json and picture.png. Files in OUT that no demo made are left alone unless you say --force.

    \b
    duotok demo                            the song that comes with DuoTok
    duotok demo song.mp3 --start 45        one minute of yours
    duotok demo --vocals v.wav --accompaniment a.wav --seconds 0
    """
    from duotok.cli.files import check_free, check_not_input, check_writable
    from duotok.demo import outputs
    from duotok.demo import report as reports

    if song is None and vocals is None and accompaniment is None:
        source = reports.demo_song()
    else:
        source = reports.DemoSong(song, vocals, accompaniment)
    check_not_input(outputs.outputs(out), (song, vocals, accompaniment))
    check_free(outputs.outputs(out), outputs.made_before(out), force)
    for path in outputs.outputs(out):
        check_writable(path)
    settings = reports.DemoSettings(steps, sampler, seed, seconds or None, start)
    codec = open_model(model, device)
    with _step_bars() as note:
        report = reports.make(source, codec, settings, note)
        page = outputs.save(report, out, note)
    if as_json:
        put_json({**report.facts(), "page": str(page)}, indent=2)
        return
    distances = ", ".join(f"{name} {values['duotok']:.2f}" for name, values in report.distances.items())
    say(f"{report.seconds:.1f} s of music, 2 x {report.tokens.n_frames} tokens; mel distance: {distances}")
    if report.full_seconds - report.seconds > 0.1:
        say(f"this is a part of {report.full_seconds:.0f} s; --seconds 0 takes all of it")
    say(f"open {page}")


@contextmanager
def _step_bars() -> Iterator[Callable[[str, float], None]]:
    """Yields a function of (step, fraction) that shows a lasting bar for each step; plain lines without a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    tasks: dict[str, TaskID] = {}
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:

        def note(step: str, fraction: float) -> None:
            if step not in tasks:
                for task in tasks.values():
                    bars.update(task, completed=1.0)
                tasks[step] = bars.add_task(step, total=1.0)
                if not console.is_terminal:
                    say(step)
            bars.update(tasks[step], completed=fraction)

        yield note
        for task in tasks.values():
            bars.update(task, completed=1.0)
