"""`duotok decode`: token files to sound."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duotok.cli.console import Advance, progress_bars, put_json, say
from duotok.cli.pool import Opening, run
from duotok.errors import DuoTokError

if TYPE_CHECKING:
    from duotok.codec.duotok import DuoTok


class Tracks(StrEnum):
    """What to render."""

    mix = "mix"
    vocals = "vocals"
    accompaniment = "accompaniment"
    both = "vocals+accompaniment"
    all = "all"


class Format(StrEnum):
    """Sound files that can be written."""

    wav = "wav"
    flac = "flac"
    mp3 = "mp3"
    ogg = "ogg"
    opus = "opus"


@dataclass(frozen=True)
class DecodeTask:
    """One token file to decode. targets: output by track; settings: of rendering; gains: dB by track."""

    name: str
    source: Path
    targets: Mapping[str, Path]
    settings: Mapping[str, Any]
    gains: Mapping[str, float]
    force: bool


def decode(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Token files, or folders of them; - is standard input.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the sound, NAME.wav (.flac, .mp3, .ogg, .opus) for one file, - for standard output.")
    ],
    track: Annotated[Tracks, typer.Option(help="Both tracks together, one alone, or all: the mix and each track in a file of its own.")] = Tracks.mix,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Diffusion steps: more is slower and finer. Default: the bundle's.")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="ddim, dpmpp-2m or dpmpp-3m-sde. Default: the bundle's.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same sound.")] = 0,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="Scale of the noise: below 1 is calmer and duller.")
    ] = None,
    gain: Annotated[
        list[str] | None, typer.Option(help="Louder or softer than it was: --gain vocals=-3dB; repeatable.", show_default=False)
    ] = None,
    form: Annotated[
        Format, typer.Option("--format", help="For files in a folder and standard output: float wav, 24-bit flac, or a lossy one.")
    ] = Format.wav,
    model: Annotated[
        str, typer.Option(help="The bundle that made the tokens: a name, a folder, or owner/name.")
    ] = "mini",
    force: Annotated[bool, typer.Option("--force", help="Replace sound files that are already there.")] = False,
    follow: Annotated[bool, typer.Option("--follow-symlinks", help="Go into linked folders as well.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a file on stdout.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    workers: Annotated[int, typer.Option(min=1, help="Files at once, each in a process of its own.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="Threads of each process; 0: what is idle here, one with --workers.")] = 0,
) -> None:  # fmt: skip
    """Turn token files into 48 kHz sound.

    The sound is as long as the song was, to the sample, and as loud. Single tracks in a folder are named
    NAME.vocals.wav and NAME.accompaniment.wav. A sound that was made from the same tokens with the same settings is done,
    and skipped; any other file that is in the way is left alone unless you say --force, and counts as failed.

    \b
      duotok decode song.duotok -o again.wav
      duotok decode song.duotok -o vocals.flac --track vocals
      duotok decode song.duotok -o soft.wav --gain vocals=-3dB
      duotok decode song.duotok -o song.mp3 --track all      song.mp3, song.vocals.mp3, song.accompaniment.mp3
      duotok decode tokens/ -o sound/ --format flac          whole trees
      duotok decode song.duotok -o fine.wav --steps 50 --sampler dpmpp-3m-sde --seed 7
      duotok encode song.mp3 -o - | duotok decode - -o - | ffplay -
    """
    from duotok.audio.finding import AUDIO_SUFFIXES, search
    from duotok.audio.io import WRITE_SUFFIXES
    from duotok.cli import files
    from duotok.files import fitted
    from duotok.tokens import SUFFIX

    jobs = files.expand(inputs, lambda folder: search(folder, (SUFFIX,), follow).files, f"{SUFFIX} files")
    settings = {"steps": steps, "sampler": sampler, "seed": seed, "temperature": temperature}
    gains = gains_of(gain or ())
    if track is Tracks.both:
        track = Tracks.mix
    if track in (Tracks.vocals, Tracks.accompaniment) and (unheard := gains.keys() - {track.value}):
        raise DuoTokError(f"--gain {unheard.pop()}: only --track {track.value} is decoded; leave the gain out")
    ending = f".{form.value}"
    with files.stream_copies([source for source, _ in jobs], SUFFIX) as copies, contextlib.ExitStack() as stack:
        if out == files.STREAM:
            if len(jobs) > 1 or track is Tracks.all or as_json:
                raise DuoTokError("-o -: standard output takes one sound and nothing else; name a file or a folder")
            planned = [(jobs[0][0], stack.enter_context(files.to_stdout(ending)))]
        elif len(jobs) == 1 and out.suffix.lower() in WRITE_SUFFIXES and not out.is_dir():
            ending = out.suffix.lower()
            planned = [(jobs[0][0], out)]
        else:
            if out.suffix.lower() in AUDIO_SUFFIXES and not out.is_dir():
                if out.suffix.lower() in WRITE_SUFFIXES:
                    raise DuoTokError(f"{out}: one file cannot take {len(jobs)} songs; give a folder")
                ends = ", ".join(WRITE_SUFFIXES)
                raise DuoTokError(f"{out}: cannot write '{out.suffix}' files; name it {ends}, or give a folder")
            single = f".{track.value}" if track not in (Tracks.mix, Tracks.all) else ""
            planned = files.targets(jobs, out, single + ending)
        tasks = []
        taken: dict[Path, str] = {}
        for source, target in planned:
            places = {track.value: target}
            if track is Tracks.all:
                places = {"mix": target} | {
                    name: target.with_name(fitted(target.stem, f".{name}{target.suffix}"))
                    for name in ("vocals", "accompaniment")
                }
            name = files.shown(source)
            for place in places.values():
                files.check_writable(place)
                if (other := taken.setdefault(place, name)) != name:
                    raise DuoTokError(
                        f"{place}: would be a track of {other} and the mix of {name}; decode one of them into a folder of its own"
                    )
            tasks.append(
                (
                    name,
                    DecodeTask(name, copies.get(source, source), places, settings, gains, force or out == files.STREAM),
                )
            )
        files.check_not_input(
            [place for _, task in tasks for place in task.targets.values()], [source for source, _ in jobs]
        )
        opening = Opening(model, device, threads)
        codec = opening.model()
        counts = {"decoded": 0, "skipped": 0, "failed": 0}
        with progress_bars(len(tasks)) as bars:
            for number, facts in run(decode_one, tasks, codec, opening, workers, bars):
                name, task = tasks[number]
                outputs = {key: files.shown(place) for key, place in task.targets.items()}
                row = {"input": name, "output": next(iter(outputs.values())), "track": track.value, **facts}
                if len(outputs) > 1:
                    row["outputs"] = outputs
                counts[row["status"]] += 1
                _report(row, as_json)
        if counts["failed"] and out == files.STREAM:
            raise typer.Exit(1)
    if len(tasks) > 1:
        say(", ".join(f"{count} {status}" for status, count in counts.items() if count))
    if counts["failed"]:
        raise typer.Exit(1)


def decode_one(codec: DuoTok, task: DecodeTask, advance: Advance) -> dict[str, Any]:
    """Render one token file, unless its sound exists already."""
    from duotok.audio.io import Writer
    from duotok.audio.marks import comment_of
    from duotok.cli.files import shown
    from duotok.clock import SAMPLE_RATE
    from duotok.tokens import load
    from duotok.tracks import TRACKS

    began = time.monotonic()
    tokens = load(task.source)
    codec.check(tokens, task.name)
    settings = {**task.settings, **{f"gain.{name}": value for name, value in task.gains.items() if value}}
    marks = {track: mark(codec, tokens, track, settings) for track in task.targets}
    existing = [track for track, place in task.targets.items() if os.path.lexists(place)]
    if existing and not task.force:
        foreign = [track for track in existing if comment_of(task.targets[track]) != marks[track]]
        if foreign:
            raise DuoTokError(
                f"{shown(task.targets[foreign[0]])}: is there already, and was not made of these tokens by this model with these settings; "
                "choose another place with -o, or --force replaces it"
            )
        if len(existing) == len(task.targets):
            return {"status": "skipped"}
    needed = TRACKS if "mix" in task.targets else tuple(task.targets)
    with contextlib.ExitStack() as stack:
        writers: dict[str, Writer] = {}
        for blocks in codec.decode_tracks(tokens, needed, progress=advance, **task.settings):
            blocks = {name: block * 10 ** (task.gains.get(name, 0.0) / 20) for name, block in blocks.items()}
            sounds = blocks if "mix" not in task.targets else {**blocks, "mix": blocks[TRACKS[0]] + blocks[TRACKS[1]]}
            for track, place in task.targets.items():
                if track not in writers:
                    channels = sounds[track].shape[0]
                    writers[track] = stack.enter_context(
                        Writer(place, SAMPLE_RATE, channels, n_samples=tokens.n_samples, comment=marks[track])
                    )
                writers[track].write(sounds[track])
    wall = time.monotonic() - began
    return {
        "status": "decoded",
        "seconds": round(tokens.seconds, 6),
        "took_seconds": round(wall, 3),
        "real_time_factor": round(wall / tokens.seconds, 4),
    }


def gains_of(words: Sequence[str]) -> dict[str, float]:
    """dB by track of `TRACK=-3dB`. Raises DuoTokError for a track that does not exist, or a value that is no number of dB."""
    from duotok.tokens import LARGEST_GAIN_DB
    from duotok.tracks import TRACKS

    gains: dict[str, float] = {}
    for word in words:
        track, _, value = word.partition("=")
        if track not in TRACKS:
            raise DuoTokError(
                f"--gain {word}: write TRACK=DECIBELS with TRACK one of {', '.join(TRACKS)}, as in vocals=-3dB"
            )
        if track in gains:
            raise DuoTokError(f"--gain {word}: {track} has a gain already; give one for each track")
        try:
            gains[track] = float(value.strip().lower().removesuffix("db"))
        except ValueError:
            gains[track] = math.nan
        if not abs(gains[track]) <= LARGEST_GAIN_DB:
            raise DuoTokError(f"--gain {word}: '{value}' is no number of decibels; write it as in {track}=-3dB")
    return gains


def mark(codec: DuoTok, tokens: Any, track: str, settings: Mapping[str, Any]) -> str:
    """The comment in a sound file that identifies how it was made: tokens, what decodes them, track, and settings other than the bundle's."""
    import hashlib

    from duotok.audio.marks import MARK
    from duotok.tokens import to_bytes

    # The sound follows from none of what later formats say, and songs that were decoded before them must stay known.
    token_hash = hashlib.sha256(to_bytes(replace(tokens, origin="", sources={}), version=2)).hexdigest()[:16]
    chosen = [f"{name}={value}" for name, value in settings.items() if value is not None]
    return " ".join([f"{MARK}{token_hash} {codec.model_id} {codec.sound_hash[:16]} {track}", *chosen])


def _report(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        put_json(facts)
    if facts["status"] == "failed":
        say(f"error: {facts['error']}")
    elif facts["status"] == "skipped" and not as_json:
        say(f"skipped: {facts['output']} is already there; --force replaces it")
    elif not as_json:
        speed = f"{facts['seconds']:.1f} s, {facts['real_time_factor']:.2f} x real time"
        say(f"decoded: {facts['input']} -> {', '.join(facts.get('outputs', {'': facts['output']}).values())}  {speed}")
