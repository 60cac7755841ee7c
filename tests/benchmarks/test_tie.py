"""What a note tells of a chord: all, nothing, and half, where that is known."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
from benchmarks.tie import beats, entropy, of_tokens, pitch_class, sung, tie
from tests.lm.small import CODEC

from duotok.lm.corpus import TokenCorpus, write_tokens
from duotok.lm.song import TokenizedSong


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


def test_codes_are_tied_in_the_frame_and_not_later_or_elsewhere(tmp_path: Path) -> None:
    """The accompaniment is the vocals' code and one bit; where nobody sings nothing counts."""
    rng = np.random.default_rng(0)
    songs = []
    for n in range(3):
        vocals = rng.integers(0, 5, (1, 4000), dtype=np.int32)
        band = 2 * vocals + rng.integers(0, 2, (1, 4000), dtype=np.int32)
        songs.append(TokenizedSong(f"s{n}", "train", {"vocals": vocals, "accompaniment": band}))
    write_tokens(tmp_path / "t.parquet", CODEC, songs)
    found = of_tokens(TokenCorpus(tmp_path / "t.parquet"))
    assert all(note > 0 for pairs in found.values() for _, note in pairs)
    (here, later, other) = (tie(pairs) for pairs in found.values())
    assert here == (pytest.approx(3, abs=0.01), pytest.approx(1, abs=0.01))
    for alone, given in (later, other):
        assert alone == pytest.approx(math.log2(10), abs=0.01) and given == pytest.approx(alone, abs=0.02)
