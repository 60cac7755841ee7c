"""`duotok encode`: songs to token files."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duotok.cli.console import Advance, progress_bars, put_json, say
from duotok.cli.pool import Opening, run
from duotok.errors import DuoTokError, TokenFileError

if TYPE_CHECKING:
    from duotok.codec.duotok import DuoTok
    from duotok.tokens import DualTokens, SourceFile


@dataclass(frozen=True)
class EncodeTask:
    """One song to encode. files: its sound files by role; song: the file that names the tokens; exact: whether the user named
    the target, so that no other name may be used."""

    name: str
    song: Path
    files: Mapping[str, Path]
    target: Path
    exact: bool
    force: bool
    dry_run: bool
    batch_size: int


def encode(
    inputs: Annotated[
        list[Path] | None, typer.Argument(metavar="INPUT", help="Songs, or folders of songs; - is standard input.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder for the tokens, NAME.duotok for one song, - for standard output. Default: beside the song."
        ),
    ] = None,
    vocals: Annotated[
        Path | None, typer.Option(help="The vocals of the song, where you have them: nothing is separated then.")
    ] = None,
    accompaniment: Annotated[
        Path | None, typer.Option(help="Everything but the vocals, where you have it. One of the two and the song do.")
    ] = None,
    model: Annotated[str, typer.Option(help="A bundle: a name, a folder, or owner/name on the hub.")] = "mini",
    force: Annotated[bool, typer.Option("--force", help="Encode again what is already done, and replace any file that is in the way.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    follow: Annotated[bool, typer.Option("--follow-symlinks", help="Go into linked folders as well.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a song on stdout.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    batch_size: Annotated[int, typer.Option(min=1, help="Windows of a song at once; more than 1 pays on a GPU.")] = 1,
    precision: Annotated[
        str, typer.Option(help="fp32; bf16, faster on a GPU; int8, faster on a CPU. Both move some tokens (docs/tokens.md).")
    ] = "fp32",
    workers: Annotated[int, typer.Option(min=1, help="Songs at once, each in a process of its own.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="Threads of each process; 0: what is idle here, one with --workers.")] = 0,
) -> None:  # fmt: skip
    """Turn songs into token files.

    A token file holds two streams of 25 tokens a second, vocals and accompaniment, equally long. Reads wav, flac, mp3,
    ogg, opus, m4a and more, the sound of films too, at any rate and channel count and of any length. The song is separated
    by the bundle's own separator unless you give stems.

    Folders keep their tree; what in them was no sound is told at the end. A song is done, and skipped, when the very same
    bytes were encoded by the same model, with the same separator or stems, windows and precision; so the same command goes on where it was stopped,
    and a song that was exported again is encoded again. Songs of one name from two places get two names. A file that cannot
    be read is reported and the others are done; the exit code is 1 then.

    \b
      duotok encode song.mp3                              song.duotok beside it
      duotok encode song.mp3 -o tokens/song.duotok
      duotok encode music/ more/ -o tokens/               whole trees
      duotok encode --vocals v.wav --accompaniment a.wav -o song.duotok
      duotok encode song.wav --vocals v.wav               accompaniment = song - vocals
      duotok encode music/ -o tokens/ --workers 4 --json > log.jsonl
      ffmpeg -i film.mkv -f wav - | duotok encode - -o film.duotok
    """
    from duotok.audio.finding import AUDIO_SUFFIXES, SearchResult, search
    from duotok.audio.marks import without_marked
    from duotok.cli import files
    from duotok.tokens import SUFFIX

    if out is not None and out.suffix.lower() in AUDIO_SUFFIXES and not out.is_dir():
        raise DuoTokError(f"{out}: tokens are no sound; name the output NAME{SUFFIX}, or give a folder")
    stems = {role: path for role, path in (("vocals", vocals), ("accompaniment", accompaniment)) if path is not None}
    result = SearchResult()

    def find(folder: Path) -> list[Path]:
        return result.take(without_marked(search(folder, AUDIO_SUFFIXES, follow)))

    jobs = files.expand(inputs or [], find, "audio files", result)
    if stems and len(jobs) > 1:
        raise DuoTokError("--vocals and --accompaniment belong to one song; give one INPUT with them")
    if not jobs:
        if len(stems) < 2:
            raise DuoTokError("nothing to encode; give a song, or --vocals and --accompaniment")
        if out is None:
            raise DuoTokError("two stems have no name together; say where to with -o NAME.duotok")
        jobs = [(stems["vocals"], Path(stems["vocals"].name))]
    if out is None and any(files.streamed(source) for source, _ in jobs):
        raise DuoTokError("standard input has no name; say where to with -o NAME.duotok, or -o - for standard output")
    if out == files.STREAM:
        if len(jobs) > 1:
            raise DuoTokError(f"-o -: standard output takes one song, not {len(jobs)}; give a folder")
        if as_json:
            raise DuoTokError("-o - and --json both want standard output; leave one of them out")
    if inputs and not stems and (pairs := _stems_among([source for source, _ in jobs])):
        say(
            f"warning: {len(pairs)} of these files are named as tracks of a song ({', '.join(path.name for path in pairs[:3])}"
            f"{', ...' if len(pairs) > 3 else ''}); each is taken for a song and separated. Together: duotok tokenize, or --vocals and "
            "--accompaniment, song by song"
        )
    opening = Opening(model, device, threads, precision)
    with files.stream_copies([*(source for source, _ in jobs), *stems.values()]) as copies:
        if out == files.STREAM:
            with files.to_stdout(SUFFIX) as place:
                tasks = [EncodeTask("", jobs[0][0], {}, place, True, True, False, batch_size)]
                if _run(tasks, bool(inputs), stems, copies, opening, 1, as_json):
                    raise typer.Exit(1)  # told; there is nothing to send
            return
        planned = files.targets(jobs, out, SUFFIX)
        for _, target in planned:
            files.check_writable(target)
        files.check_not_input([target for _, target in planned], [*(source for source, _ in jobs), *stems.values()])
        exact = out is not None and len(planned) == 1 and planned[0][1] == out
        tasks = [EncodeTask("", source, {}, target, exact, force, dry_run, batch_size) for source, target in planned]
        failed = _run(tasks, bool(inputs), stems, copies, opening, workers, as_json)
    if result.left_out:
        say(f"left out: {result.summary()}")
    if failed:
        raise typer.Exit(1)


def _stems_among(sources: list[Path]) -> list[Path]:
    """Files that are vocals or accompaniment of a song of which the other track is there too."""
    from duotok.corpora.stem_names import parse_stem_name
    from duotok.tracks import TRACKS

    tracks: dict[Path, dict[str, list[Path]]] = {}
    for source in sources:
        name = parse_stem_name(source)
        if name is not None and name.track in TRACKS:
            tracks.setdefault(name.song, {}).setdefault(name.track, []).append(source)
    return [
        path for found in tracks.values() if len(found) == len(TRACKS) for paths in found.values() for path in paths
    ]


def _run(
    tasks: list[EncodeTask], has_mix: bool, stems: dict[str, Path], copies: dict[Path, Path], opening: Opening, workers: int,
    as_json: bool,
) -> int:  # fmt: skip
    """Encode all songs and report each; returns how many failed."""
    from duotok.cli.files import shown

    def files_of(task: EncodeTask) -> dict[str, Path]:
        roles = ({"mix": task.song} if has_mix else {}) | stems
        return {role: copies.get(path, path) for role, path in roles.items()}

    named_tasks = [(shown(task.song), replace(task, name=shown(task.song), files=files_of(task))) for task in tasks]
    codec = opening.model()
    counts = {"encoded": 0, "skipped": 0, "failed": 0, "would encode": 0}
    with progress_bars(len(named_tasks)) as bars:
        for number, facts in run(encode_one, named_tasks, codec, opening, workers, bars):
            row = {"input": named_tasks[number][0], "output": shown(named_tasks[number][1].target), **facts}
            counts[row["status"]] += 1
            _report(row, as_json)
    if len(named_tasks) > 1:
        say(", ".join(f"{count} {status}" for status, count in counts.items() if count))
    return counts["failed"]


def encode_one(codec: DuoTok, task: EncodeTask, advance: Advance) -> dict[str, Any]:
    """Encode one song, unless its tokens exist already."""
    from duotok.cli.files import origin, shown
    from duotok.codec.spool import AudioSource
    from duotok.tokens import SEPARATOR

    sources = {
        role: source_file for role, path in task.files.items() if (source_file := AudioSource(path).file()) is not None
    }
    if set(sources) == {"mix"} and codec.separator_source is not None:
        sources[SEPARATOR] = codec.separator_source
    target, why, done = choose_target(task, codec, sources)
    if done:
        return {"status": "skipped", "output": shown(target)}
    output = {"output": shown(target), **({"note": why} if why else {})}
    if task.dry_run:
        return {"status": "would encode", **output}
    began = time.monotonic()
    tokens = codec.encode(
        task.files.get("mix"), vocals=task.files.get("vocals"), accompaniment=task.files.get("accompaniment"),
        batch_size=task.batch_size, progress=advance,
    )  # fmt: skip
    replace(tokens, origin=origin(task.song, target)).save(target)
    wall = time.monotonic() - began
    return {
        "status": "encoded",
        **output,
        "seconds": round(tokens.seconds, 6),
        "frames": tokens.n_frames,
        "gain_db": round(tokens.gain_db, 3),
        "model_hash": tokens.model_hash,
        "took_seconds": round(wall, 3),
        "real_time_factor": round(wall / tokens.seconds, 4),
    }


def choose_target(task: EncodeTask, codec: DuoTok, sources: Mapping[str, SourceFile]) -> tuple[Path, str, bool]:
    """The path for the tokens of a song, a note about it, and whether the tokens exist already.

    Tokens of the same song (from the same path) are replaced when the song, the stems, the model or the windows have changed;
    those of another song, and edited ones, are kept, and this one gets another name. Raises TokenFileError when another file is in the way, or
    the user named a file that holds another song, or an edit.
    """
    from duotok.cli.files import origin
    from duotok.editing import is_edited
    from duotok.files import fitted, text_of
    from duotok.tokens import SUFFIX, is_token_file, load

    stem, target = task.song.stem, task.target
    song_origin = origin(task.song, target)
    taken = "another song of this name"
    names = [
        fitted(task.song.name, SUFFIX),
        *(fitted(f"{stem}.{song_origin[:digits]}", SUFFIX) for digits in (8, 12, 16)),
    ]
    for candidate in [target] if task.exact else [target, *(target.with_name(name) for name in names)]:
        if not os.path.lexists(candidate):
            note = "" if candidate == target else f"{target.name} holds {taken}"
            return candidate, note, False
        try:
            existing = load(candidate)
        except TokenFileError:
            if is_token_file(candidate):
                return candidate, "what was there was damaged", False
            if task.force:
                return candidate, "replaces a file that was no token file", False
            raise TokenFileError(
                f"{candidate}: is there already and no token file; choose another place with -o, or --force replaces it"
            ) from None
        difference = _difference(existing, codec, sources)
        if not difference and not task.force:
            return candidate, "", True
        edited = is_edited(existing)
        if not edited and (
            existing.origin == song_origin
            or (not existing.origin and existing.source == text_of(task.song.name))
            or not difference
        ):
            return candidate, difference, False
        if candidate == target and edited:
            taken = "an edit"
        if task.exact:
            if task.force:
                return (
                    candidate,
                    f"replaces {'an edit' if edited else 'the tokens'} of {existing.source or 'another song'}",
                    False,
                )
            if edited:
                raise TokenFileError(
                    f"{candidate}: holds an edit of {existing.source or 'a song'}; choose another name with -o, or --force replaces it"
                )
            raise TokenFileError(
                f"{candidate}: holds the tokens of another song ({existing.source or 'of no name'}); choose another name with "
                "-o, or --force replaces it"
            )
    raise TokenFileError(f"{target}: taken by other songs of this name; choose another folder with -o")


def _difference(existing: DualTokens, codec: DuoTok, sources: Mapping[str, SourceFile]) -> str:
    """How existing tokens differ from those that would be made; "" when they are the same."""
    from duotok.codec.duotok import FULL_PRECISION
    from duotok.tokens import SEPARATOR

    if existing.model_hash != codec.model_hash:
        return f"those that were there are of another model ({existing.model_id or 'unknown'})"
    if existing.plan != codec.config.codec.plan:
        return "those that were there were made in other windows"
    if (existing.precision or FULL_PRECISION) != codec.precision:
        known = f"were encoded in {existing.precision}" if existing.precision else "do not say in which precision"
        return f"those that were there {known}"
    if sources.keys() - existing.sources.keys() == {SEPARATOR} and existing.sources:
        return "those that were there do not say which separator took the song apart"
    if existing.sources.keys() != sources.keys():
        return (
            "those that were there were made of other stems"
            if existing.sources
            else "those that were there do not say of what bytes"
        )
    for role, file in sources.items():
        if (existing.sources[role].sha256, existing.sources[role].bytes) != (file.sha256, file.bytes):
            if role == SEPARATOR:
                return "those that were there were made with another separator"
            return f"the {'song' if role == 'mix' else role} has changed since"
    return ""


def _report(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        put_json(facts)
    if facts["status"] == "failed":
        say(f"error: {facts['error']}")
    elif not as_json:
        detail = "  already done; --force encodes again" if facts["status"] == "skipped" else ""
        if facts["status"] == "encoded":
            detail = (
                f"  {facts['seconds']:.1f} s, {facts['frames']} frames, {facts['real_time_factor']:.2f} x real time"
            )
        note = f"  ({facts['note']})" if facts.get("note") else ""
        say(f"{facts['status']}: {facts['input']} -> {facts['output']}{detail}{note}")
