"""How much the notes of a voice tell of the chords under them, in generated songs: the tie that a language model could find.

    python -m benchmarks.tie SONGS
    python -m benchmarks.tie SONGS --tokens TOKENS.parquet     # and how much of it the tokens of these songs hold

SONGS is a folder of `duotok songs`. For each beat with singing: the chord as a degree of the key (root and quality), and the
note that sounds longest in it as a degree of the key. Entropies are of the counts with the correction of Miller and Madow.
The control pairs each song's notes with the chords of the next song: what it shows is not a tie.
With --tokens: how much the pitch that is sung tells of each track's code in the same frame. Controls: the codes of the next
song, and those four seconds later in the same song, because what both share as sounds of one song is no tie of moments. The
vocals' own code is the positive control: it holds pitch if the tokenizer holds any.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.calling import mistakes_in_one_line
from benchmarks.controls import pitches
from duotok.lm.corpus import TokenCorpus

NAMES = {name: n for n, name in enumerate(("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B"))}
FLATS = {"Db": 1, "Eb": 3, "Gb": 6, "Ab": 8, "Bb": 10, "Cb": 11, "Fb": 4}


def pitch_class(name: str) -> tuple[int, str]:
    """The pitch class that a name of a chord or key begins with, and the rest of the name."""
    for length in (2, 1):
        if (found := {**NAMES, **FLATS}.get(name[:length])) is not None:
            return found, name[length:]
    raise ValueError(f"{name!r} begins with no note")


def beats(song: dict[str, Any]) -> list[tuple[str, int | None]]:
    """For each beat: the chord as degree and quality, and the degree of the longest note; None where nobody sings."""
    tonic, _ = pitch_class(song["key"])
    times = [beat["time"] for beat in song["beats"]]
    rows: list[tuple[str, int | None]] = []
    for start, end in zip(times, [*times[1:], song["seconds"]], strict=True):
        middle = (start + end) / 2
        chord = next((c["name"] for c in song["chords"] if c["start"] <= middle < c["end"]), None)
        if chord is None:
            continue
        root, quality = pitch_class(chord)
        sounding = [(min(n["end"], end) - max(n["start"], start), n["pitch"]) for n in song["notes"]]
        longest = max((pair for pair in sounding if pair[0] > 0.02), default=None)
        note = None if longest is None else round(longest[1] - tonic) % 12
        rows.append((f"{(root - tonic) % 12}{quality}", note))
    return rows


def entropy(counts: Iterable[int]) -> float:
    """Bits, corrected for few counts (Miller and Madow)."""
    counts = [count for count in counts if count]
    total = sum(counts)
    plain = -sum(c / total * math.log2(c / total) for c in counts)
    return plain + (len(counts) - 1) / (2 * total * math.log(2))


def tie(pairs: Sequence[tuple[str, int]]) -> tuple[float, float]:
    """(bits of a chord, bits of a chord for one who hears the note)."""
    notes, both = Counter(note for _, note in pairs), Counter(pairs)
    given = 0.0
    for note, count in notes.items():
        given += count / len(pairs) * entropy(c for (_, n), c in both.items() if n == note)
    return entropy(Counter(chord for chord, _ in pairs).values()), given


def sung_beats(
    chords: Sequence[tuple[str, int | None]], notes: Sequence[tuple[str, int | None]]
) -> list[tuple[str, int]]:
    """Chords of one song and notes of one, perhaps another, beat by beat, where somebody sings."""
    return [(chord, note) for (chord, _), (_, note) in zip(chords, notes, strict=False) if note is not None]


def said(name: str, pairs: Sequence[tuple[str, int]]) -> str:
    """A line about pairs of something and a note."""
    alone, given = tie(pairs)
    return f"{name}: {alone:.3f} bits, given the note {given:.3f} bits: {100 * (1 - given / alone):.1f} % less"


def codes_and_pitches(
    corpus: TokenCorpus, folder: Path, stream: str, shift: int = 100
) -> dict[str, list[tuple[str, int]]]:
    """Pairs (the stream's first code, the pitch that is sung in that frame) of all sung frames, and those of both controls.

    shift: frames between a pitch and the code that it is paired with in the first control.
    """
    songs = [song for split in corpus.counts for song in corpus.songs(split)]
    ways: dict[str, list[tuple[str, int]]] = {name: [] for name in ("in the frame", "4 s later", "another song")}
    for n, song in enumerate(songs):
        sounding = pitches(song, folder)[0].tolist()
        here, other = (s.tokens[stream][0].tolist() for s in (song, songs[(n + 1) % len(songs)]))
        for name, codes in zip(ways, (here, here[shift:] + here[:shift], other), strict=True):
            ways[name] += [(str(code), pitch) for code, pitch in zip(codes, sounding, strict=False) if pitch]
    return ways


@mistakes_in_one_line
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("songs", type=Path, help="folder of duotok songs")
    parser.add_argument("--tokens", type=Path, help="Parquet file with tokens of these songs")
    options = parser.parse_args()
    folder = options.songs
    songs = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("song-*/song.json"))]
    if len(songs) < 2:
        parser.error(f"{folder}: {len(songs)} songs; make at least two: duotok songs -n 100 -o {folder}")
    tables = [beats(song) for song in songs]
    pairs = [pair for table in tables for pair in sung_beats(table, table)]
    others = [pair for n, table in enumerate(tables) for pair in sung_beats(tables[(n + 1) % len(tables)], table)]
    doubled = sum("doubled by" in song["details"] for song in songs)
    if not pairs or not others:
        parser.error(f"{folder}: nobody sings in these songs; make some with vocals")
    print(
        f"{len(songs)} songs, {sum(s['seconds'] for s in songs) / 3600:.1f} hours, the melody doubled in {doubled}; {len(pairs)} sung beats"
    )
    print(said("chords of the song", pairs))
    print(said("control: chords of another song", others))
    if options.tokens:
        corpus = TokenCorpus(options.tokens)
        for stream in (stream.name for stream in corpus.identity.streams):
            for way, found in codes_and_pitches(corpus, folder, stream).items():
                print(said(f"code of the {stream}, {way}", found))


if __name__ == "__main__":
    main()
