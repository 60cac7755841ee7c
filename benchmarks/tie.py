"""How much the notes of a voice tell of the chords under them, in generated songs: the tie that a language model could find.

    python -m benchmarks.tie SONGS
    python -m benchmarks.tie TOKENS.parquet      # of `benchmarks.controls sung`: does a pitch tell the accompaniment's code?

SONGS is a folder of `duotok songs`. For each beat with singing: the chord as a degree of the key (root and quality), and the
note that sounds longest in it as a degree of the key. Entropies are of the counts with the correction of Miller and Madow.
The control pairs each song's notes with the chords of the next song: what it shows is not a tie.
Of tokens: the same of the accompaniment's code in each frame with singing, and its vocals' code. The second control pairs
codes with those four seconds later in the same song: what both share as sounds of one song is no tie of moments.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

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


def sung(chords: Sequence[tuple[str, int | None]], notes: Sequence[tuple[str, int | None]]) -> list[tuple[str, int]]:
    """Chords of one song and notes of one, perhaps another, beat by beat, where somebody sings."""
    return [(chord, note) for (chord, _), (_, note) in zip(chords, notes, strict=False) if note is not None]


def say(name: str, pairs: Sequence[tuple[str, int]], what: str, given_what: str) -> None:
    alone, given = tie(pairs)
    less = 100 * (1 - given / alone)
    print(f"{name}: a {what} has {alone:.3f} bits, given the {given_what} {given:.3f} bits: {less:.1f} % less")


def of_tokens(corpus: TokenCorpus, shift: int = 100) -> dict[str, list[tuple[str, int]]]:
    """Pairs (the accompaniment's code, the vocals' code in the same frame) where the vocals' is not 0, and those of both controls."""
    songs = [song.tokens for split in corpus.counts for song in corpus.songs(split)]
    ways: dict[str, list[tuple[str, int]]] = {
        "codes of the frame": [],
        "control: 4 s later": [],
        "control: another song": [],
    }
    for n, tokens in enumerate(songs):
        vocals = tokens["vocals"][0].tolist()
        band, other = (song["accompaniment"][0].tolist() for song in (tokens, songs[(n + 1) % len(songs)]))
        for name, codes in zip(ways, (band, band[shift:] + band[:shift], other), strict=True):
            ways[name] += [(str(code), note) for code, note in zip(codes, vocals, strict=False) if note]
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("songs", type=Path, help="folder of duotok songs, or a Parquet file of tokens")
    folder = parser.parse_args().songs
    if folder.is_file():
        for name, pairs in of_tokens(TokenCorpus(folder)).items():
            say(name, pairs, "code", "vocals' code")
        return
    songs = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("song-*/song.json"))]
    if len(songs) < 2:
        parser.error(f"{folder}: {len(songs)} songs; make at least two: duotok songs -n 100 -o {folder}")
    tables = [beats(song) for song in songs]
    pairs = [pair for table in tables for pair in sung(table, table)]
    others = [pair for n, table in enumerate(tables) for pair in sung(tables[(n + 1) % len(tables)], table)]
    doubled = sum("doubled by" in song["details"] for song in songs)
    print(
        f"{len(songs)} songs, {sum(s['seconds'] for s in songs) / 3600:.1f} hours, the melody doubled in {doubled}; {len(pairs)} sung beats"
    )
    for name, rows in (("chords of the song", pairs), ("control: chords of another song", others)):
        say(name, rows, "chord", "note")


if __name__ == "__main__":
    main()
