"""How far a bundle's lyric head places words from where they are sung: known times taken away, and found again.

    python -m benchmarks.alignment                      songs of ../shared/audio with word times that people set
    python -m benchmarks.alignment --model FOLDER       another bundle
    python -m benchmarks.alignment --limit 2            a look

`even` is what needs no model: the same words spread evenly over the recording by their letters. `margin` is by how many
nats a letter the text fits better than the text read backwards: about 0 for a head that knows nothing of the words.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.calling import mistakes_in_one_line, positive_int
from benchmarks.output import conditions, parser, show, table
from duotok.corpora.base import get, lyrics_part
from duotok.data.lyric_head import LyricHead
from duotok.lyrics.readers import read_lyrics
from duotok.lyrics.text import BERT_NAME
from duotok.lyrics.types import LyricLine, Lyrics, SungWord
from duotok.lyrics.words import share
from duotok.records import Recording

Times = list[float]
HEAD = ["recording", "words", "margin", "median error, s", "within 0.3 s", "within 1 s", "even: median", "0.3 s", "1 s"]


def untimed(lyrics: Lyrics) -> Lyrics:
    lines = tuple(LyricLine(line.text, words=tuple(SungWord(w.text) for w in line.words)) for line in lyrics.lines)
    return dataclasses.replace(lyrics, lines=lines)


def figures(starts: Times, true: Times) -> list[float]:
    """Median error in seconds, shares within 0.3 and 1 s."""
    error = (torch.tensor(starts) - torch.tensor(true)).abs()
    return [float(error.median()), float((error < 0.3).float().mean()), float((error < 1.0).float().mean())]


def measure(head: LyricHead, recording: Recording) -> tuple[float, Times, Times, Times]:
    """Margin, and where words begin: found, evenly spread, true."""
    path, start, _ = lyrics_part(recording.lyrics)
    seconds = recording.seconds or 0.0
    lyrics = read_lyrics(path, start=start, seconds=seconds)
    aligned = head.align(untimed(lyrics), recording.audio)
    even = share(0.0, seconds, [w.text for w in lyrics.words])
    found, true = ([w.start or 0.0 for w in known.words] for known in (aligned.lyrics, lyrics))
    return aligned.margin, found, [first or 0.0 for first, _ in even], true


@mistakes_in_one_line
def main() -> None:
    about = parser(__doc__ or "")
    about.add_argument("--vocab", default=BERT_NAME, help="BERT's vocab.txt, for a bundle with that many classes")
    about.add_argument("--limit", type=positive_int, metavar="N", help="only the first N songs")
    options = about.parse_args()
    torch.set_num_threads(options.threads)
    head = LyricHead(options.model, options.vocab, options.device)
    known = [r for r in get("index")(options.audio).recordings() if r.seconds and _has_times(r)][: options.limit]
    rows: list[list[object]] = []
    every: tuple[Times, Times, Times] = ([], [], [])
    console = Console(stderr=True)
    for recording in track(known, "align", console=console, disable=not console.is_terminal):
        margin, found, even, true = measure(head, recording)
        rows.append([recording.id, len(true), margin, *figures(found, true), *figures(even, true)])
        for whole, part in zip(every, (found, even, true), strict=True):
            whole += part
    found, even, true = every
    rows.append(["all words", len(true), None, *figures(found, true), *figures(even, true)])
    result = {
        "conditions": conditions(head.model, options.threads),
        "recordings": [dict(zip(HEAD, row, strict=True)) for row in rows],
    }
    show(result, [table(HEAD, rows)], options.json)


def _has_times(recording: Recording) -> bool:
    return "ultrastar" in recording.lyrics or "jamendolyrics" in recording.lyrics


if __name__ == "__main__":
    main()
