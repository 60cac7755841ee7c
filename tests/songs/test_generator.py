"""Whole songs: the stems sum, seeds decide, words and notes lie in the song, the voice sings the notes."""

from __future__ import annotations

import dataclasses
import sys
from itertools import pairwise

import numpy as np
import pytest

from duotok.errors import ConfigError, MissingExtraError
from duotok.songs import STEMS, Song, generate
from duotok.songs.mastering import loudness

pytest.importorskip("pyworld", reason="needs duotok[songs]")
pytest.importorskip("espeakng_loader", reason="needs duotok[songs]")

SECONDS = 8.0
RATE = 24000


@pytest.fixture(scope="module")
def songs() -> list[Song]:
    return [generate(seed, SECONDS, rate=RATE) for seed in (1, 2, 3)]


def test_stems_sum_to_the_mix(songs: list[Song]) -> None:
    for song in songs:
        assert set(song.stems) == set(STEMS)
        for stem in song.stems.values():
            assert stem.shape == (2, round(SECONDS * RATE)) and stem.dtype == np.float32
        accompaniment = song.stems["drums"] + song.stems["bass"] + song.stems["other"]
        np.testing.assert_array_equal(song.accompaniment, accompaniment)
        np.testing.assert_array_equal(song.mix, song.stems["vocals"] + accompaniment)


def test_level(songs: list[Song]) -> None:
    for song in songs:
        mix = song.mix
        assert np.isfinite(mix).all()
        assert np.abs(mix).max() < 0.96
        assert max(np.abs(stem).max() for stem in song.stems.values()) < 0.96
        assert -18.5 < loudness(mix, RATE) < -15


def test_seed_decides(songs: list[Song]) -> None:
    again = generate(2, SECONDS, rate=RATE)
    for name in STEMS:
        np.testing.assert_array_equal(again.stems[name], songs[1].stems[name])
    assert again.facts() == songs[1].facts()
    assert not np.array_equal(songs[0].mix, songs[1].mix)
    assert len({(song.key, song.tempo) for song in songs}) == len(songs)


def test_words_lie_in_the_song(songs: list[Song]) -> None:
    for song in songs:
        assert len(song.words) >= 3
        assert song.lyrics.split() == [word.text for word in song.words]
        syllables = [syllable for word in song.words for syllable in word.syllables]
        assert len(syllables) == len(song.notes)
        for word in song.words:
            assert 0 <= word.start < word.end <= song.seconds
            assert word.start == word.syllables[0].start and word.end == word.syllables[-1].end
        for before, after in pairwise(syllables):
            assert before.start < before.end <= after.start + 1e-3
        assert all(a.start < b.start for a, b in pairwise(song.notes))


def test_vocals_sound_where_the_words_are(songs: list[Song]) -> None:
    for song in songs:
        voice = np.abs(song.stems["vocals"]).max(axis=0)
        loud = np.percentile(voice, 95)
        sounding = [voice[int(w.start * RATE) : int(w.end * RATE)].max() > 0.03 * loud for w in song.words]
        assert np.mean(sounding) > 0.95


def test_beats_and_chords_cover_the_song(songs: list[Song]) -> None:
    for song in songs:
        times = np.array([beat.time for beat in song.beats])
        np.testing.assert_allclose(np.diff(times), 60 / song.tempo, atol=2e-3)
        assert song.beats[0].number == 1
        assert song.chords[0].start == pytest.approx(times[0], abs=1e-3)
        for a, b in pairwise(song.chords):
            assert a.end == pytest.approx(b.start, abs=1e-3)
        assert song.chords[-1].end <= song.seconds


def test_a_doubled_melody_is_in_the_accompaniment(songs: list[Song]) -> None:
    usual = songs[0]
    doubled = generate(usual.seed, SECONDS, rate=RATE, doubled=1.0)
    assert (doubled.notes, doubled.words, doubled.chords) == (usual.notes, usual.words, usual.chords)
    assert doubled.details["doubled by"] in doubled.details["sounds"]
    assert "doubled by" not in usual.details and "options" not in usual.details

    def heard(song: Song) -> float:
        """Median over notes: the share of the power of `other` within half a semitone of the note, in the best octave."""
        shares = []
        for note in song.notes:
            start, end = (round(t * RATE) for t in (note.start, note.end))
            x = song.stems["other"].mean(0)[start:end]
            power = np.abs(np.fft.rfft(x * np.hanning(len(x)), 1 << 15)) ** 2 + 1e-12
            semitones = 69 + 12 * np.log2(np.fft.rfftfreq(1 << 15, 1 / RATE)[1:] / 440)
            near = [np.abs(semitones - note.pitch - octave) < 0.5 for octave in (-12, 0, 12)]
            shares.append(max(power[1:][band].sum() for band in near) / power.sum())
        return float(np.median(shares))

    assert heard(doubled) > 2 * heard(usual)


def test_instrumental_needs_no_voice() -> None:
    song = generate(5, 6.0, rate=RATE, vocals=False)
    assert not song.stems["vocals"].any() and not song.words and not song.notes
    assert song.mix.any() and "instrumental" in song.tags


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from duotok.songs import spoken

    spoken.analyse.cache_clear()
    monkeypatch.setitem(sys.modules, "pyworld", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'duotok\[songs\]'"):
        generate(1, 6.0, rate=RATE)


@pytest.mark.parametrize("arguments", [{"seed": -1}, {"seed": 1, "seconds": 1.0}, {"seed": 1, "rate": 8000}])
def test_bad_arguments(arguments: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="give"):
        generate(**arguments)  # type: ignore[arg-type]


def test_facts_are_plain(songs: list[Song]) -> None:
    import json

    facts = json.loads(json.dumps(songs[0].facts()))
    assert facts["words"][0]["syllables"][0]["phones"]
    assert {field.name for field in dataclasses.fields(songs[0].notes[0])} == set(facts["notes"][0])
