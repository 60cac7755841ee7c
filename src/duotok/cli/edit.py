"""`duotok edit`: songs changed as tokens, in a moment and without sound."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from duotok.cli.console import put_json, say

if TYPE_CHECKING:
    from duotok.tokens import DualTokens

HELP = """
Change songs as tokens: exact to the frame (40 ms), in a moment, without sound.

\b
  duotok edit cut song.duotok --from 1:02 --to 1:30 -o chorus.duotok
  duotok edit join intro.duotok chorus.duotok chorus.duotok -o song.duotok
  duotok edit loop song.duotok --from 8 --to 16 --times 4 -o longer.duotok
  duotok edit combine --vocals a.duotok --accompaniment b.duotok -o mashup.duotok
  duotok edit splice song.duotok new.duotok --from 20 --track accompaniment -o changed.duotok
  duotok edit mute song.duotok --track vocals --to 10 -o quiet.duotok

Moments are seconds (12.5), minutes and seconds (1:02.5) or frames (310f). All songs of an edit are tokens of one model. The result has
one gain, that of the first song: parts of several songs come at equal loudness. What was done stands in the token file: duotok info.
"""

app = typer.Typer(name="edit", help=HELP, no_args_is_help=True, rich_markup_mode=None)

Song = Annotated[Path, typer.Argument(metavar="SONG", help="A token file.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", "-o", help="The token file to write.", show_default=False)]
From = Annotated[str, typer.Option("--from", help="Where the part begins: 12.5, 1:02.5 or 310f.")]
To = Annotated[str | None, typer.Option("--to", help="Where it ends.", show_default="the end")]
Track = Annotated[str, typer.Option(help="vocals or accompaniment.", show_default=False)]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is already there.")]
Json = Annotated[bool, typer.Option("--json", help="What was made as one JSON object on stdout.")]


@app.command()
def cut(song: Song, out: Out, start: From = "0", stop: To = None, force: Force = False, as_json: Json = False) -> None:
    """Keep a part of a song.

    \b
      duotok edit cut song.duotok --from 1:02 --to 1:30 -o chorus.duotok
    """
    from duotok import editing

    _check(out, [song], force)
    (tokens,), files = _load(song)
    _save(editing.cut(tokens, *_part(start, stop)), files, out, as_json)


@app.command()
def join(
    songs: Annotated[list[Path], typer.Argument(metavar="SONG...", help="Token files, in their order.", show_default=False)],
    out: Out, force: Force = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Put songs behind each other.

    \b
      duotok edit join intro.duotok chorus.duotok -o song.duotok
    """
    from duotok import editing

    _check(out, songs, force)
    tokens, files = _load(*songs)
    _save(editing.join(tokens), files, out, as_json)


@app.command()
def loop(
    song: Song, out: Out, start: From = "0", stop: To = None,
    times: Annotated[int, typer.Option(min=1, help="How often the part is played in all.")] = 2,
    force: Force = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Play a part of a song several times.

    \b
      duotok edit loop song.duotok --from 8 --to 16 --times 4 -o longer.duotok
    """
    from duotok import editing

    _check(out, [song], force)
    (tokens,), files = _load(song)
    _save(editing.loop(tokens, *_part(start, stop), times), files, out, as_json)


@app.command()
def combine(
    out: Out,
    vocals: Annotated[Path, typer.Option(help="The token file whose vocals are taken.", show_default=False)],
    accompaniment: Annotated[Path, typer.Option(help="The token file whose accompaniment is taken.", show_default=False)],
    shift: Annotated[str, typer.Option(help="How much later the vocals enter: 1.5 or 38f; -1.5: how much earlier.")] = "0",
    force: Force = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Sing one song over the accompaniment of another, as long as both last.

    \b
      duotok edit combine --vocals a.duotok --accompaniment b.duotok -o mashup.duotok
      duotok edit combine --vocals a.duotok --accompaniment b.duotok --shift -0.48 -o mashup.duotok
    """
    from duotok import editing

    _check(out, [vocals, accompaniment], force)
    frames = -editing.frame_at(shift[1:]) if shift.startswith("-") else editing.frame_at(shift)
    (voice, band), files = _load(vocals, accompaniment)
    _save(editing.combine(voice, band, frames), files, out, as_json)


@app.command()
def splice(
    song: Song,
    insert: Annotated[Path, typer.Argument(metavar="INSERT", help="The token file whose beginning replaces a part.", show_default=False)],
    out: Out, start: From = "0",
    track: Annotated[list[str] | None, typer.Option(help="Only this track; repeatable.", show_default="both")] = None,
    force: Force = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Replace a part of a song, in one track or both, by another; the song stays as long as it was.

    \b
      duotok edit splice song.duotok new.duotok --from 20 --track accompaniment -o changed.duotok
    """
    from duotok import editing
    from duotok.tracks import TRACKS

    _check(out, [song, insert], force)
    (tokens, other), files = _load(song, insert)
    _save(editing.replace_part(tokens, other, editing.frame_at(start), track or TRACKS), files, out, as_json)


@app.command()
def mute(
    song: Song, out: Out, track: Track, start: From = "0", stop: To = None,
    model: Annotated[str, typer.Option(help="The bundle that made the tokens; it knows what silence encodes to.")] = "mini",
    force: Force = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Replace a track, or a part of it, by the tokens of silence.

    \b
      duotok edit mute song.duotok --track vocals --from 0 --to 10 -o intro.duotok
    """
    from duotok import editing
    from duotok.codec.duotok import DuoTok

    _check(out, [song], force)
    (tokens,), files = _load(song)
    codec = DuoTok.from_pretrained(model)
    codec.check(tokens, str(song))
    _save(editing.mute(tokens, track, codec.silence(track), *_part(start, stop)), files, out, as_json)


def _part(start: str, stop: str | None) -> tuple[int, int | None]:
    from duotok.editing import frame_at

    return frame_at(start), None if stop is None else frame_at(stop)


def _check(out: Path, songs: list[Path], force: bool) -> None:
    """Raises DuoTokError for an output that is an input, exists already, or cannot be written."""
    from duotok.cli.files import check_free, check_not_input, check_writable
    from duotok.errors import DuoTokError
    from duotok.tokens import SUFFIX

    if out.suffix != SUFFIX:
        raise DuoTokError(f"{out}: tokens are written as {SUFFIX} files; name it {out.stem or 'song'}{SUFFIX}")
    check_not_input([out], songs)
    check_free([out], lambda _: False, force)
    check_writable(out)


def _load(*paths: Path) -> tuple[list[DualTokens], list[bytes]]:
    """The songs, a file that is named twice as one, and the bytes of their files. Raises TokenFileError."""
    from dataclasses import replace

    from duotok.files import text_of
    from duotok.tokens import from_bytes, read_bytes

    data = {path: read_bytes(path) for path in paths}
    songs = {path: from_bytes(of, str(path)) for path, of in data.items()}
    named = {path: of if of.source else replace(of, source=text_of(path.name)) for path, of in songs.items()}
    return [named[path] for path in paths], [data[path] for path in paths]


def _save(tokens: DualTokens, files: list[bytes], out: Path, as_json: bool) -> None:
    from duotok.editing import done_to, story

    done_to(tokens, files).save(out)
    description = [*story(tokens.sources).values()][-1].name
    facts = {"output": str(out), "seconds": round(tokens.seconds, 6), "frames": tokens.n_frames, "edit": description}
    if as_json:
        put_json(facts)
    else:
        say(f"{out}: {tokens.seconds:.2f} s, 2 x {tokens.n_frames} frames; {description}")
