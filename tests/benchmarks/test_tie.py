"""What a note tells of a chord: all, nothing, and half, where that is known."""

from __future__ import annotations

import math
import random

import pytest
from benchmarks.tie import beats, entropy, pitch_class, sung, tie


def test_a_tie_that_is_known_is_found() -> None:
    rng = random.Random(0)
    notes = [rng.randrange(4) for _ in range(4000)]
    sure = [(str(note), note) for note in notes]
    half = [(f"{note % 2}{rng.randrange(2)}", note) for note in notes]
    none = [(str(rng.randrange(4)), note) for note in notes]
    for pairs, given in ((sure, 0), (half, 1), (none, 2)):
        assert tie(pairs) == (pytest.approx(2, abs=0.01), pytest.approx(given, abs=0.01))


def test_entropy_is_corrected_for_few_counts() -> None:
    assert entropy([5, 5]) == pytest.approx(1 + 1 / (20 * math.log(2)))


def test_chords_and_notes_are_degrees_of_the_key_beat_by_beat() -> None:
    song = {
        "key": "D minor", "seconds": 2.0, "beats": [{"time": 0.0}, {"time": 0.5}, {"time": 1.0}, {"time": 1.5}],
        "chords": [{"start": 0.0, "end": 1.0, "name": "Dm"}, {"start": 1.0, "end": 2.0, "name": "Bb7"}],
        "notes": [{"start": 0.0, "end": 0.6, "pitch": 62}, {"start": 0.6, "end": 1.0, "pitch": 65}, {"start": 1.1, "end": 1.2, "pitch": 70}],
    }  # fmt: skip
    table = beats(song)
    assert table == [("0m", 0), ("0m", 3), ("87", 8), ("87", None)]
    assert sung(table, table) == [("0m", 0), ("0m", 3), ("87", 8)]
    assert [pitch_class(name)[0] for name in ("C", "F#m", "Bb", "Ebmaj7")] == [0, 6, 10, 3]
