"""`duotok decode`: token files to sound."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from duotok.cli.console import open_model, progress_bars, put_json, say
from duotok.errors import DuoTokError


class Track(StrEnum):
    """What to render."""

    mix = "mix"
    vocals = "vocals"
    accompaniment = "accompaniment"


class Format(StrEnum):
    """Sound files that can be written."""

    wav = "wav"
    flac = "flac"


def decode(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Token files, or folders of them.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the sound, or NAME.wav / NAME.flac for one file.")
    ],
    track: Annotated[Track, typer.Option(help="Both tracks together, or one alone.")] = Track.mix,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Diffusion steps: more is slower and finer. Default: the bundle's.")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="ddim, dpmpp-2m or dpmpp-3m-sde. Default: the bundle's.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same sound.")] = 0,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="Scale of the noise: below 1 is calmer and duller.")
    ] = None,
    form: Annotated[
        Format, typer.Option("--format", help="For files in a folder: float wav or 24-bit flac.")
    ] = Format.wav,
    model: Annotated[
        str, typer.Option(help="The bundle that made the tokens: a name, a folder, or owner/name.")
    ] = "mini",
    force: Annotated[bool, typer.Option("--force", help="Replace sound files that are already there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a file on stdout.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
) -> None:
    """Turn token files into 48 kHz sound.

    The sound is as long as the song was, to the sample, and as loud. Single tracks in a folder are named
    NAME.vocals.wav and NAME.accompaniment.wav. A file that is already there is left alone unless you say --force.

    \b
      duotok decode song.duotok -o again.wav
      duotok decode song.duotok -o vocals.flac --track vocals
      duotok decode tokens/ -o sound/ --format flac          whole trees
      duotok decode song.duotok -o fine.wav --steps 50 --sampler dpmpp-3m-sde --seed 7
    """
    from duotok.audio.io import AUDIO_SUFFIXES, WRITE_SUFFIXES
    from duotok.cli.files import check_writable, expand, targets
    from duotok.tokens import SUFFIX, load

    jobs = expand(inputs, lambda folder: sorted(folder.rglob(f"*{SUFFIX}")), f"{SUFFIX} files")
    ending = f".{form.value}"
    if len(jobs) == 1 and out.suffix.lower() in WRITE_SUFFIXES:
        ending = out.suffix.lower()
    elif out.suffix.lower() in AUDIO_SUFFIXES and not out.is_dir():
        if out.suffix.lower() in WRITE_SUFFIXES:
            raise DuoTokError(f"{out}: one file cannot take {len(jobs)} songs; give a folder")
        raise DuoTokError(f"{out}: cannot write '{out.suffix}' files; name it .wav or .flac, or give a folder")
    elif track is not Track.mix:
        ending = f".{track.value}{ending}"
    planned = targets(jobs, out, ending)
    for _, target in planned:
        check_writable(target)
    codec = open_model(model, device)

    counts = {"decoded": 0, "skipped": 0, "failed": 0}
    with progress_bars(len(planned)) as bars:
        for source, target in planned:
            facts: dict[str, Any] = {"input": str(source), "output": str(target), "track": track.value}
            if target.exists() and not force:
                facts["status"] = "skipped"
            else:
                try:
                    with bars.file(str(source)) as advance:
                        began = time.monotonic()
                        tokens = load(source)
                        codec.check(tokens, str(source))
                        settings = {"steps": steps, "sampler": sampler, "seed": seed, "temperature": temperature}
                        codec.decode_to(target, tokens, track.value, progress=advance, **settings)
                        wall = time.monotonic() - began
                        facts |= {
                            "status": "decoded",
                            "seconds": round(tokens.seconds, 6),
                            "took_seconds": round(wall, 3),
                            "real_time_factor": round(wall / tokens.seconds, 4),
                        }
                except DuoTokError as error:
                    facts |= {"status": "failed", "error": str(error)}
            counts[facts["status"]] += 1
            _report(facts, as_json)
    if len(planned) > 1:
        say(", ".join(f"{count} {status}" for status, count in counts.items() if count))
    if counts["failed"]:
        raise typer.Exit(1)


def _report(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        put_json(facts)
    if facts["status"] == "failed":
        say(f"error: {facts['error']}")
    elif facts["status"] == "skipped" and not as_json:
        say(f"skipped: {facts['output']} is already there; --force replaces it")
    elif not as_json:
        took = f"{facts['seconds']:.1f} s, {facts['real_time_factor']:.2f} x real time"
        say(f"decoded: {facts['input']} -> {facts['output']}  {took}")
