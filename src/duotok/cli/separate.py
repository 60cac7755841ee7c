"""`duotok separate`: songs to vocals and accompaniment, as sound."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duotok.cli.console import Advance, progress_bars, put_json, say
from duotok.cli.decode import Format
from duotok.cli.pool import Opening, run
from duotok.errors import DuoTokError

if TYPE_CHECKING:
    from duotok.codec.duotok import DuoTok


@dataclass(frozen=True)
class SeparateTask:
    """One song and the paths of its stems."""

    name: str
    source: Path
    targets: Mapping[str, Path]
    force: bool


def separate(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT", help="Songs, or folders of songs; - is standard input.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for NAME.vocals.wav and NAME.accompaniment.wav.")],
    form: Annotated[Format, typer.Option("--format", help="Float wav, 24-bit flac, or a lossy one.")] = Format.wav,
    model: Annotated[str, typer.Option(help="The bundle whose separator it is: a name, a folder, or owner/name.")] = "mini",
    force: Annotated[bool, typer.Option("--force", help="Replace files that are already there.")] = False,
    follow: Annotated[bool, typer.Option("--follow-symlinks", help="Go into linked folders as well.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a song on stdout.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    workers: Annotated[int, typer.Option(min=1, help="Songs at once, each in a process of its own.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="Threads of each process; 0: what is idle here, one with --workers.")] = 0,
) -> None:  # fmt: skip
    """Take songs apart into vocals and accompaniment with the bundle's own separator.

    48 kHz stereo, as long as the song. The names are those that `duotok encode --vocals --accompaniment` and `duotok data
    prepare` take for the tracks of one song. What was separated from the very same file by the same separator is done, and skipped; any other file
    that is in the way is left alone unless you say --force.

    \b
      duotok separate song.mp3 -o stems/
      duotok separate music/ -o stems/ --format flac --workers 4
      duotok encode --vocals stems/song.vocals.wav --accompaniment stems/song.accompaniment.wav -o song.duotok
    """
    from duotok.audio.finding import AUDIO_SUFFIXES, SearchResult, search
    from duotok.audio.marks import without_marked
    from duotok.cli import files
    from duotok.tracks import TRACKS

    if out.suffix.lower() in AUDIO_SUFFIXES and not out.is_dir():
        raise DuoTokError(f"{out}: two stems do not go into one file; name a folder")
    result = SearchResult()

    def find(folder: Path) -> list[Path]:
        return result.take(without_marked(search(folder, AUDIO_SUFFIXES, follow)))

    jobs = files.expand(inputs, find, "audio files", result)
    # a name that fits with the longest one fits with the others
    ending = max((f".{track}.{form.value}" for track in TRACKS), key=len)
    with files.stream_copies([source for source, _ in jobs]) as copies:
        tasks = []
        for source, target in files.targets(jobs, out, ending):
            stem = target.name.removesuffix(ending)
            places = {track: target.with_name(f"{stem}.{track}.{form.value}") for track in TRACKS}
            for place in places.values():
                files.check_writable(place)
            name = files.shown(source)
            tasks.append((name, SeparateTask(name, copies.get(source, source), places, force)))
        files.check_not_input(
            [place for _, task in tasks for place in task.targets.values()], [source for source, _ in jobs]
        )
        opening = Opening(model, device, threads)
        codec = opening.model()
        counts = {"separated": 0, "skipped": 0, "failed": 0}
        with progress_bars(len(tasks)) as bars:
            for number, facts in run(separate_one, tasks, codec, opening, workers, bars):
                name, task = tasks[number]
                row = {"input": name, "outputs": {k: files.shown(p) for k, p in task.targets.items()}, **facts}
                counts[row["status"]] += 1
                _report(row, as_json)
    if len(tasks) > 1:
        say(", ".join(f"{count} {status}" for status, count in counts.items() if count))
    if result.left_out:
        say(f"left out: {result.summary()}")
    if counts["failed"]:
        raise typer.Exit(1)


def separate_one(codec: DuoTok, task: SeparateTask, advance: Advance) -> dict[str, Any]:
    """Separate one song, unless its stems exist already."""
    from duotok.audio.io import Writer
    from duotok.audio.marks import SEPARATED, comment_of
    from duotok.cli.files import shown
    from duotok.clock import SAMPLE_RATE
    from duotok.codec.spool import AudioSource
    from duotok.files import sha256

    began = time.monotonic()
    expected = max(1, AudioSource(task.source).expected_samples)
    separator = codec.separator_source
    song = f"{SEPARATED} {sha256(task.source)[:16]} by "
    mark = song + codec.model_id + (f" {separator.sha256[:16]}" if separator is not None else "")
    existing = [place for place in task.targets.values() if os.path.lexists(place)]
    if existing and not task.force:
        foreign = [place for place in existing if comment_of(place) != mark]
        if foreign:
            what = "was not separated from this song"
            if (comment_of(foreign[0]) or "").startswith(song):
                what = "was separated from this song by another separator"
            raise DuoTokError(
                f"{shown(foreign[0])}: is there already, and {what}; choose another folder with -o, or --force replaces it"
            )
        if len(existing) == len(task.targets):
            return {"status": "skipped"}
    samples = 0
    with contextlib.ExitStack() as stack:
        writers = {
            track: stack.enter_context(Writer(place, SAMPLE_RATE, 2, n_samples=expected, comment=mark))
            for track, place in task.targets.items()
        }
        for blocks in codec.separate_blocks(task.source):
            for track, writer in writers.items():
                writer.write(blocks[track])
            samples += blocks["vocals"].shape[1]
            advance(min(1.0, samples / expected))
    wall = time.monotonic() - began
    seconds = samples / SAMPLE_RATE
    return {
        "status": "separated",
        "seconds": round(seconds, 6),
        "took_seconds": round(wall, 3),
        "real_time_factor": round(wall / max(seconds, 1e-9), 4),
    }


def _report(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        put_json(facts)
    outputs = ", ".join(facts["outputs"].values())
    if facts["status"] == "failed":
        say(f"error: {facts['error']}")
    elif facts["status"] == "skipped" and not as_json:
        say(f"skipped: {outputs} are already there; --force replaces them")
    elif not as_json:
        speed = f"{facts['seconds']:.1f} s, {facts['real_time_factor']:.2f} x real time"
        say(f"separated: {facts['input']} -> {outputs}  {speed}")
