"""`duotok listen build`: a test folder from originals and systems."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from duotok.cli.console import progress_bars, say


def build(
    reference: Annotated[Path, typer.Argument(help="Folder of the originals: NAME.vocals.*, NAME.accompaniment.*, NAME.* (the mix).")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The test folder; a new one.")],
    system: Annotated[list[str] | None, typer.Option(metavar="NAME=FOLDER", help="Decoded sounds, named as the originals up to the ending.")] = None,
    tokenizer: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]MODEL", help="Encoded and decoded here: mini, a bundle, transformers:FOLDER, external:FILE."),
    ] = None,
    opus: Annotated[list[float] | None, typer.Option(metavar="KBPS", min=0.5, max=510, help="Opus at so many kbit/s.")] = None,
    method: Annotated[str, typer.Option(help="mos: each clip by itself, 1 to 5. mushra: all conditions beside the reference, 0 to 100.")] = "mos",
    seconds: Annotated[float, typer.Option(help="Length of a clip.")] = 10.0,
    clips: Annotated[int, typer.Option(help="Clips of each song.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Draws where clips begin, and the order of each rater.")] = 0,
    anchor: Annotated[list[float] | None, typer.Option(metavar="HZ", help="Low-passed originals; 3500 by default, give it twice for two.")] = None,
    must_hear: Annotated[float, typer.Option(help="Seconds of a sound that must be played before it is rated.")] = 3.0,
    clips_per_rater: Annotated[int, typer.Option(help="So many clips for each rater, by turns; 0: all.")] = 0,
    title: Annotated[str, typer.Option(help="What raters read on top; name no system in it.")] = "Listening test",
    device: Annotated[str, typer.Option(help="For tokenizers: cpu, cuda, cuda:1, mps.")] = "cpu",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the folders and say what raters would hear; write nothing.")] = False,
) -> None:  # fmt: skip
    """Make a blind listening test.

    Every clip is heard from each system, as a hidden reference and as a 3.5 kHz low-pass anchor, all at one loudness. All tracks
    of a song are cut at the same moment, drawn by the seed where none of them is quiet. File names tell nothing; test.json
    holds their meaning and is sealed. A song with a file that cannot be read is left out and named, and the exit code is 1. A
    tokenizer hears each clip with 5 s around it; for whole songs decode first, with `duotok encode` and `duotok decode`, and
    give the folder.

    \b
      duotok listen build originals -o test --system ours=decoded --system theirs=other
      duotok listen build originals -o test --tokenizer mini --opus 6 --opus 24 --seconds 8
      duotok listen build originals -o test --tokenizer mini --method mushra --anchor 3500 --anchor 7000
      duotok listen build originals -o test --system ours=decoded --clips 3 --clips-per-rater 12 --dry-run
    """
    from duotok import __version__
    from duotok.errors import DuoTokError
    from duotok.listening.build import BuildSettings, check_new, choose_clips
    from duotok.listening.build import build as make
    from duotok.listening.sources import Folder, System, check_names, opus_system
    from duotok.listening.sources import tokenizer as tokenizer_system

    if method not in ("mos", "mushra"):
        raise DuoTokError(f"--method {method}: choose mos or mushra")
    settings = BuildSettings(
        title, "mos" if method == "mos" else "mushra", seconds, clips, seed, tuple(anchor or (3500.0,)), min(must_hear, seconds),
        clips_per_rater,
    )  # fmt: skip
    check_new(output)
    originals = Folder("reference", reference)
    systems: list[System] = []
    for text in system or []:
        name, separator, folder = text.partition("=")
        if not separator:
            raise DuoTokError(f"--system {text}: write NAME=FOLDER")
        systems.append(Folder(name, Path(folder)))
    named = [_named(text) for text in tokenizer or []]
    codecs = [opus_system(kbps, originals) for kbps in opus or []]
    check_names(
        [*(one.name for one in systems), *(name for name, _ in named), *(one.name for one in codecs)],
        list(settings.named_anchors()),
    )
    for one in systems:
        if isinstance(one, Folder):
            one.check(originals)
    if dry_run:
        found, left_out = choose_clips(originals, settings)
        conditions = len(systems) + len(named) + len(codecs) + 1 + len(settings.anchors)
        heard = min(clips_per_rater or len(found), len(found)) * conditions
        say(
            f"{len({clip.song for clip in found})} songs, {len(found)} clips in {conditions} conditions: {len(found) * conditions} sounds; "
            f"a rater hears {heard}, about {heard * (seconds + 6) / 60:.0f} minutes"
        )
        _tell(left_out)
        return
    if named:
        import torch

        from duotok.cli.console import default_threads
        from duotok.codec import open_codec

        torch.set_num_threads(default_threads())
        systems += [tokenizer_system(name, open_codec(model, device), originals) for name, model in named]
    systems += codecs
    with progress_bars(1) as bars, bars.file("building") as advance:
        built = make(output, originals, systems, settings, __version__, advance)
    plan = built.plan
    if built.lowered:
        say(f"all sounds are at {plan.lufs:.1f} LUFS instead of -23, so that the peaks of {built.lowered} do not clip")
    say(f"{output}: {len(plan.sounds)} sounds of {len(plan.clips)} clips; duotok listen serve {output}")
    _tell(built.left_out)


def _tell(left_out: Mapping[str, str]) -> None:
    """Name the songs that are not in the test; exit code 1 when there are any, as for every file that cannot be read."""
    for song, reason in left_out.items():
        say(f"error: {song}: left out: {reason}")
    if left_out:
        raise typer.Exit(1)


def _named(text: str) -> tuple[str, str]:
    """NAME=MODEL, or MODEL, whose own name is the end of its path."""
    name, separator, model = text.partition("=")
    return (name, model) if separator else (Path(text.rpartition(":")[2]).name.removesuffix(".yaml"), text)
