"""`duotok encode`: songs to token files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duotok.cli.console import Advance, open_model, progress_bars, put_json, say
from duotok.errors import DuoTokError, TokenFileError

if TYPE_CHECKING:
    from duotok.codec import DuoTok


def encode(
    inputs: Annotated[
        list[Path] | None, typer.Argument(metavar="INPUT", help="Songs, or folders of songs.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder for the tokens, or NAME.duotok for one song. Default: beside the song."
        ),
    ] = None,
    vocals: Annotated[
        Path | None, typer.Option(help="The vocals of the song, where you have them: nothing is separated then.")
    ] = None,
    accompaniment: Annotated[
        Path | None, typer.Option(help="Everything but the vocals, where you have it. One of the two and the song do.")
    ] = None,
    model: Annotated[str, typer.Option(help="A bundle: a name, a folder, or owner/name on the hub.")] = "mini",
    force: Annotated[bool, typer.Option("--force", help="Encode again what is already done.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a song on stdout.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    batch_size: Annotated[int, typer.Option(min=1, help="Windows of 20 s at once; more than 1 pays on a GPU.")] = 1,
    precision: Annotated[
        str,
        typer.Option(
            help="fp32; bf16, faster on a GPU; int8, faster on a CPU. Both move some tokens (docs/tokens.md)."
        ),
    ] = "fp32",
) -> None:
    """Turn songs into token files.

    A token file holds two streams of 25 tokens a second, vocals and accompaniment, equally long. Reads wav, flac, mp3,
    ogg, opus, m4a and more, at any rate and channel count and of any length. The song is separated by the bundle's own
    separator unless you give stems.

    Folders keep their tree. What is already encoded by the same model is skipped, so the same command goes on where it
    was stopped. A file that cannot be read is reported and the others are done; the exit code is 1 then.

    \b
      duotok encode song.mp3                              song.duotok beside it
      duotok encode song.mp3 -o tokens/song.duotok
      duotok encode music/ more/ -o tokens/               whole trees
      duotok encode --vocals v.wav --accompaniment a.wav -o song.duotok
      duotok encode song.wav --vocals v.wav               accompaniment = song - vocals
      duotok encode music/ -o tokens/ --json > log.jsonl
    """
    from duotok.audio.io import AUDIO_SUFFIXES, find_audio
    from duotok.cli.files import check_writable, expand, targets
    from duotok.tokens import SUFFIX

    if out is not None and out.suffix.lower() in AUDIO_SUFFIXES:
        raise DuoTokError(f"{out}: tokens are no sound; name the output NAME{SUFFIX}, or give a folder")
    stems = {"vocals": vocals, "accompaniment": accompaniment}
    given = [path for path in stems.values() if path is not None]
    jobs = expand(inputs or [], find_audio, "audio files")
    if given and len(jobs) > 1:
        raise DuoTokError("--vocals and --accompaniment belong to one song; give one INPUT with them")
    if not jobs:
        if len(given) < 2:
            raise DuoTokError("nothing to encode; give a song, or --vocals and --accompaniment")
        if out is None:
            raise DuoTokError("two stems have no name together; say where to with -o NAME.duotok")
        jobs = [(given[0], Path(given[0].name))]
    has_mix = bool(inputs)
    planned = targets(jobs, out, SUFFIX)
    for _, target in planned:
        check_writable(target)
    codec = open_model(model, device, precision)

    counts = {"encoded": 0, "skipped": 0, "failed": 0, "would encode": 0}
    with progress_bars(len(planned)) as bars:
        for source, target in planned:
            facts: dict[str, Any] = {"input": str(source), "output": str(target)}
            if not force and _is_done(target, codec, source.name):
                facts["status"] = "skipped"
            elif dry_run:
                facts["status"] = "would encode"
            else:
                try:
                    with bars.file(str(source)) as advance:
                        facts |= _encode_one(codec, source if has_mix else None, target, stems, batch_size, advance)
                except DuoTokError as error:
                    facts |= {"status": "failed", "error": str(error)}
            counts[facts["status"]] += 1
            _report(facts, as_json)
    if len(planned) > 1:
        say(", ".join(f"{count} {status}" for status, count in counts.items() if count))
    if counts["failed"]:
        raise typer.Exit(1)


def _is_done(target: Path, codec: DuoTok, source: str) -> bool:
    from duotok.tokens import load

    try:
        tokens = load(target)
    except TokenFileError:
        return False
    return tokens.model_hash == codec.model_hash and tokens.source == source


def _encode_one(
    codec: DuoTok, mix: Path | None, target: Path, stems: dict[str, Path | None], batch_size: int, advance: Advance
) -> dict[str, Any]:
    began = time.monotonic()
    tokens = codec.encode(
        mix,
        vocals=stems["vocals"],
        accompaniment=stems["accompaniment"],
        batch_size=batch_size,
        progress=advance,
    )
    tokens.save(target)
    wall = time.monotonic() - began
    return {
        "status": "encoded",
        "seconds": round(tokens.seconds, 6),
        "frames": tokens.n_frames,
        "gain_db": round(tokens.gain_db, 3),
        "model_hash": tokens.model_hash,
        "took_seconds": round(wall, 3),
        "real_time_factor": round(wall / tokens.seconds, 4),
    }


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
        say(f"{facts['status']}: {facts['input']} -> {facts['output']}{detail}")
