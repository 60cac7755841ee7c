"""The controls are what they are said to be: notes and chords of the very songs, and just as much jitter as was asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.controls import LOWEST, NOTES, QUALITIES, STREAMS, composed, jittered, pitch_vectors, split_of, sung
from tests.lm.small import MIXED, song

from duotok.lm.song import TokenizedSong, check_song
from duotok.songs import generate

pytest.importorskip("espeakng_loader", reason="needs duotok[songs]")


def test_notes_and_chords_are_those_of_the_song() -> None:
    made, codes = generate(1, 8.0, rate=24_000), composed(1, 8.0)
    check_song(NOTES, TokenizedSong("a", "train", codes), "composed")
    for note in made.notes:
        middle = int(25 * (note.start + note.end) / 2)
        assert codes["vocals"][0, middle] > 0
    pitches = [int(codes["vocals"][0, int(25 * (n.start + n.end) / 2)]) for n in made.notes]
    assert np.array_equal(np.diff(pitches), np.diff([round(n.pitch) for n in made.notes]))
    roots = [int(codes["accompaniment"][0, int(25 * (c.start + c.end) / 2)] - 1) // len(QUALITIES) for c in made.chords]
    names = [c.name for c in made.chords]
    assert len(set(zip(roots, names, strict=True))) == len(set(names))  # one name, one root


def test_a_share_of_the_codes_is_jittered() -> None:
    before = song("a", 2000, MIXED)
    after = jittered(before, MIXED, 0.2, seed=0)
    check_song(MIXED, after, "jittered")
    for stream in MIXED.streams:
        for old, new, size in zip(
            before.tokens[stream.name], after.tokens[stream.name], stream.codebook_sizes, strict=True
        ):
            assert np.mean(old != new) == pytest.approx(0.2 * (1 - 1 / size), abs=0.03)
    again = jittered(before, MIXED, 0.2, seed=0)
    assert all(np.array_equal(after.tokens[name], again.tokens[name]) for name in after.tokens)
    other = jittered(replace(before, id="b"), MIXED, 0.2, seed=0)
    assert any(not np.array_equal(after.tokens[name], other.tokens[name]) for name in after.tokens)


def test_the_melody_takes_the_place_of_the_vocals(tmp_path: Path) -> None:
    notes = [{"start": 1.0, "end": 2.0, "pitch": 60.2}, {"start": 3.0, "end": 99.0, "pitch": 200.0}]
    (tmp_path / "song-7").mkdir()
    (tmp_path / "song-7" / "song.json").write_text(json.dumps({"notes": notes}))
    codes = {stream.name: np.full((1, 100), 5, np.int32) for stream in STREAMS}
    whole = sung(TokenizedSong("songs/song-7", "test", codes), tmp_path)
    check_song(NOTES, whole, "sung")
    assert np.array_equal(whole.tokens["accompaniment"], codes["accompaniment"])
    expected = np.zeros(100, np.int32)
    expected[25:50], expected[75:] = 1 + 60 - LOWEST, STREAMS[0].codebook_sizes[0] - 1  # the highest there is
    assert np.array_equal(whole.tokens["vocals"][0], expected)
    stretch = sung(TokenizedSong("songs/song-7@40", "test", codes, "", "songs/song-7", 40), tmp_path)
    assert np.array_equal(stretch.tokens["vocals"][0][:60], expected[40:])


def test_pitches_have_vectors_that_tell_them_apart() -> None:
    table = pitch_vectors().astype(np.float32)
    assert table.shape == (STREAMS[0].codebook_sizes[0], 4) and not table[0].any()
    assert len(np.unique(table, axis=0)) == len(table)
    low, high = table[1 + 60 - LOWEST], table[1 + 72 - LOWEST]
    assert np.allclose(low[:2], high[:2], atol=1e-2) and high[2] - low[2] == pytest.approx(1.0, abs=1e-3)


def test_splits_are_of_the_song_and_of_the_stated_sizes() -> None:
    splits = [split_of(seed) for seed in range(2400)]
    assert splits.count("validation") == pytest.approx(200, abs=50)
    assert splits.count("test") == pytest.approx(400, abs=70)
