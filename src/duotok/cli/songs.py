"""`duotok songs`: generated songs with true stems, words and notes."""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer

from duotok.cli.console import progress_bars, put_json, say


def songs(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the songs, one folder each.")] = Path("songs"),
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many songs.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The first song's seed; the next ones count on.")] = 0,
    seconds: Annotated[float, typer.Option(min=4, max=1200, help="Length of each song.")] = 30.0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that work side by side.")] = os.cpu_count() or 1,
    format: Annotated[
        str, typer.Option(help="flac, wav (24 bit), flac16, wav16, or opus (small; its stems sum only roughly).")
    ] = "flac",
    rate: Annotated[int, typer.Option(min=16000, max=96000, help="Samples a second.")] = 48000,
    vocals: Annotated[bool, typer.Option(help="Whether somebody sings.")] = True,
    soundfont: Annotated[
        bool, typer.Option(help="Play some instruments from a General MIDI bank (tinysoundfont, pretty_midi).")
    ] = False,
    doubled: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of the songs in which an instrument plays the vocal melody as well."),
    ] = 0.0,
    mono: Annotated[bool, typer.Option("--mono", help="One channel instead of two.")] = False,
    tracks: Annotated[
        str | None,
        typer.Option(help="Write these tracks only, e.g. vocals,accompaniment; the others can be made again."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="What was made as one JSON object on stdout.")] = False,
) -> None:
    """Make songs that sing, from seeds: the same seed and length give the same song, bit for bit.

    Each song is a folder OUT/song-SEED with mix, vocals, accompaniment, drums, bass and other, and song.json: words and
    syllables with times, notes, chords, beats, tags, tempo, key. The stems add up to the mix exactly. Songs that are
    there already are kept, so a stopped run goes on where it was. Needs: pip install 'duotok[songs]'.

    \b
    duotok songs                                one song of 30 s in songs/song-00000000
    duotok songs -n 120 -o data --workers 2     an hour of songs, two at a time
    duotok songs -n 20 --format opus            small files
    duotok songs -n 1800 --seconds 60 --rate 24000 --format flac16 --mono --tracks vocals,accompaniment
                                                30 hours to train a tokenizer on: 6 GB
    """
    from duotok.songs import GeneratedSong, generate_many

    start = perf_counter()
    with progress_bars(count) as bars:

        def report(song: GeneratedSong) -> None:
            with bars.file(song.folder.name):
                pass
            if not as_json:
                say(
                    f"{song.folder}: " + ("was there" if song.skipped else f"{song.seconds:.0f} s in {song.took:.1f} s")
                )

        result = generate_many(
            range(seed, seed + count),
            out,
            workers,
            seconds=seconds,
            rate=rate,
            vocals=vocals,
            soundfont=soundfont,
            doubled=doubled,
            mono=mono,
            tracks=None if tracks is None else tuple(name.strip() for name in tracks.split(",")),
            format=format,
            progress=report,
        )
    new_songs = [item for item in result if not item.skipped]
    elapsed = perf_counter() - start
    if as_json:
        put_json(
            {
                "folder": str(out),
                "songs": [str(item.folder) for item in sorted(result, key=lambda item: item.seed)],
                "made": len(new_songs),
                "kept": len(result) - len(new_songs),
                "seconds": round(sum(item.seconds for item in result), 3),
                "took": round(elapsed, 3),
            }
        )
    else:
        minutes = sum(item.seconds for item in new_songs) / 60
        say(
            f"{len(new_songs)} made ({minutes:.1f} minutes in {elapsed / 60:.1f}), {len(result) - len(new_songs)} kept, in {out}"
        )
