"""What a note tells of a chord: all, nothing, and half, where that is known."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from benchmarks.tie import beats, codes_and_pitches, entropy, main, pitch_class, sung_beats, tie
from tests.lm.small import CODEC

from duotok.errors import DuoTokError
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
    assert sung_beats(table, table) == [("0m", 0), ("0m", 3), ("87", 8)]
    assert [pitch_class(name)[0] for name in ("C", "F#m", "Bb", "Ebmaj7")] == [0, 6, 10, 3]


def test_codes_are_tied_to_the_pitch_in_the_frame_and_not_later_or_elsewhere(tmp_path: Path) -> None:
    """The accompaniment's code is the pitch and one bit, the vocals' nothing; where nobody sings nothing counts."""
    rng = np.random.default_rng(0)
    songs = []
    for n in range(3):
        sounding = rng.integers(0, 5, 2000)
        notes = [
            {"start": i / 25, "end": (i + 1) / 25, "pitch": 59 + int(pitch)}
            for i, pitch in enumerate(sounding)
            if pitch
        ]
        (tmp_path / f"s{n}").mkdir()
        (tmp_path / f"s{n}" / "song.json").write_text(json.dumps({"notes": notes}))
        band = (2 * sounding + rng.integers(0, 2, 2000)).astype(np.int32)[None]
        noise = rng.integers(0, 4, (1, 2000), dtype=np.int32)
        songs.append(TokenizedSong(f"songs/s{n}", "train", {"vocals": noise, "accompaniment": band}))
    write_tokens(tmp_path / "t.parquet", CODEC, songs)
    corpus = TokenCorpus(tmp_path / "t.parquet")
    here, later, other = (tie(pairs) for pairs in codes_and_pitches(corpus, tmp_path, "accompaniment").values())
    assert here == (pytest.approx(3, abs=0.01), pytest.approx(1, abs=0.01))
    for alone, given in (later, other):
        assert alone == pytest.approx(math.log2(10), abs=0.01) and given == pytest.approx(alone, abs=0.02)
    for pairs in codes_and_pitches(corpus, tmp_path, "vocals").values():
        assert len(pairs) == sum(len(json.loads(p.read_text())["notes"]) for p in tmp_path.glob("*/song.json"))
        assert tie(pairs) == (pytest.approx(2, abs=0.01), pytest.approx(2, abs=0.02))
    with pytest.raises(DuoTokError, match=r"nowhere/s0/song\.json: no song of"):
        codes_and_pitches(corpus, tmp_path / "nowhere", "vocals")


def test_songs_without_singers_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    song = {
        "key": "C major", "seconds": 1.0, "beats": [{"time": 0.0}], "chords": [{"start": 0.0, "end": 1.0, "name": "C"}],
        "notes": [], "details": {},
    }  # fmt: skip
    for n in range(2):
        (tmp_path / f"song-{n}").mkdir()
        (tmp_path / f"song-{n}" / "song.json").write_text(json.dumps(song))
    monkeypatch.setattr("sys.argv", ["tie", str(tmp_path)])
    with pytest.raises(SystemExit):
        main()
    assert "nobody sings in these songs" in capsys.readouterr().err
