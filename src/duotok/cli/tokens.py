"""`duotok tokens`: packed tokens as files that other programs read, and back."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duotok.cli.console import put_json, say

if TYPE_CHECKING:
    from duotok.lm.layouts import Layout

HELP = """
Packed tokens as files that other programs read, and back.

\b
  duotok pack work -o tokens.parquet                                 a corpus of tokens
  duotok tokens export tokens.parquet -o export                      one flat row of numbers a song
  duotok tokens export tokens.parquet -o export --layout delayed --to hf
  duotok tokens import export -o again.parquet                       the very songs again
  duotok tokens import written.npy --layout export/layout.json -o song.duotok
"""

app = typer.Typer(name="tokens", help=HELP, no_args_is_help=True, rich_markup_mode=None)


class LayoutKind(StrEnum):
    """How a song is written as numbers."""

    parallel = "parallel"
    interleaved = "interleaved"
    delayed = "delayed"


class FileKind(StrEnum):
    """Files that can be written."""

    parquet = "parquet"
    npy = "npy"
    webdataset = "webdataset"
    hf = "hf"


@app.command("export")
def export(
    corpus: Annotated[str, typer.Argument(help="Packed tokens of duotok pack, or a store of duotok tokenize (a folder or URL).", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder.", show_default=False)],
    layout: Annotated[LayoutKind, typer.Option(help="Rows of codes, one number at a time, or rows with codebooks late.")] = LayoutKind.interleaved,
    to: Annotated[FileKind, typer.Option(help="Kind of files; hf is a folder for datasets.load_dataset.")] = FileKind.parquet,
    first_id: Annotated[int, typer.Option(min=0, help="interleaved: the smallest number, where a vocabulary of text comes first.")] = 0,
    shared: Annotated[bool, typer.Option("--shared", help="interleaved: all codebooks have the same numbers, as YuE's have.")] = False,
    delay: Annotated[list[int] | None, typer.Option(help="delayed: steps a codebook comes late, once for each.", show_default="0, 1 ...")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="What was written as one JSON object on stdout.")] = False,
) -> None:  # fmt: skip
    """Write packed tokens as sequences of numbers, with a layout.json that says how to read them.

    \b
      duotok tokens export tokens.parquet -o export --to npy
      duotok tokens export tokens.parquet -o yue --first-id 45334 --shared     as YuE has them: one vocabulary for both tracks
      duotok tokens export tokens.parquet -o levo --layout delayed             as LeVo and MusicGen have them
    """
    from duotok.lm.exchange import export_tokens
    from duotok.lm.layouts import Layout
    from duotok.lm.token_store import open_tokens

    packed = open_tokens(corpus)
    chosen = Layout(packed.identity, layout.value, first_id, shared, tuple(delay or ()))
    done = export_tokens(packed, out, chosen, to.value)
    facts = {"output": str(out), "vocabulary": chosen.as_json()["vocabulary"], **asdict(done)}
    if as_json:
        put_json(facts)
    else:
        counts = ", ".join(f"{count} songs of {split}" for split, count in done.songs.items())
        say(f"{out}: {counts}; numbers below {facts['vocabulary']:,}; layout.json says how to read them")


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="A folder of `duotok tokens export`, or one sequence as .npy.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Packed tokens (.parquet); of one sequence a token file (.duotok).", show_default=False)],
    layout: Annotated[Path | None, typer.Option(help="Of one sequence: the layout.json that its model learned from.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is already there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="What was made as one JSON object on stdout.")] = False,
) -> None:  # fmt: skip
    """Read an export back into packed tokens, or a sequence that a model has written into a token file.

    Every file of an export is checked by its hash, every song by its own. A sequence may lack BOS and EOS, or end in the middle of a frame.

    \b
      duotok tokens import export -o again.parquet
      duotok tokens import written.npy --layout export/layout.json -o song.duotok && duotok decode song.duotok -o song.wav
    """
    from duotok.cli.files import check_free, check_not_input, check_writable
    from duotok.lm.exchange import import_tokens, read_layout

    check_not_input([out], [source, layout])
    check_free([out], lambda _: False, force)
    check_writable(out)
    facts: dict[str, Any]
    if layout is None:
        facts = {"output": str(out), "songs": import_tokens(source, out)}
        message = f"{out}: {facts['songs']} songs"
    else:
        frames, left = _sequence(source, read_layout(layout)[0], out)
        facts = {"output": str(out), "frames": frames, "left_out": left}
        message = f"{out}: 2 x {frames} frames" + (
            f"; {left} numbers behind the end are left out, cut the sequence there to import them" if left else ""
        )
    put_json(facts) if as_json else say(message)


def _sequence(source: Path, layout: Layout, out: Path) -> tuple[int, int]:
    """Write one sequence as a token file; returns its frames, and the numbers behind its end that are left out.

    Raises DuoTokError for a codec without token files.
    """
    from duotok.errors import DuoTokError, TokenFileError
    from duotok.files import read_npy
    from duotok.tokens import SUFFIX, DualTokens
    from duotok.tracks import TRACKS

    if out.suffix != SUFFIX:
        raise DuoTokError(f"{out}: one sequence becomes a {SUFFIX} file; name it {out.stem or 'song'}{SUFFIX}")
    codec = layout.codec
    if tuple(column.stream for column in codec.columns) != TRACKS:
        raise DuoTokError(
            f"{source}: {codec} has other streams than a DuoTok bundle, and no {SUFFIX} files; import the whole export"
        )
    try:
        ids = read_npy(source)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "no array of numbers"
        raise TokenFileError(f"{source}: cannot be read ({reason}); write it with numpy.save") from None
    codes = layout.read_back(ids, str(source))
    sizes = tuple(column.size for column in codec.columns)
    tokens = DualTokens.from_codes(
        *(codes[track][0] for track in TRACKS), codebook_sizes=sizes, model_id=codec.name, model_hash=codec.hash,
        source=source.name,
    )  # fmt: skip
    tokens.save(out)
    return tokens.n_frames, layout.behind_the_end(ids)
