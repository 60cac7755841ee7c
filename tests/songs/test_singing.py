"""The singer: the written pitch, consonants before the beat, words independent of what was said before."""

from __future__ import annotations

import time

import numpy as np
import pytest
from tests.forked import python

from duotok.songs.singer import REGISTERS, random_singer
from duotok.songs.singing import SungNote, place, sing, words_of
from duotok.songs.spoken import is_vowel, split

pw = pytest.importorskip("pyworld", reason="needs duotok[songs]")
pytest.importorskip("espeakng_loader", reason="needs duotok[songs]")
RATE = 24000
FRAME = 0.005


@pytest.mark.parametrize(("register", "language", "text"), [("tenor", "en", "moonlight river"), ("alto", "es", "luna")])
def test_pitch_follows_the_notes(register: str, language: str, text: str) -> None:
    rng = np.random.default_rng(5)
    singer = random_singer(rng, language, register)
    notes = []
    for i, word in enumerate(text.split()):
        for syllable in range(len(words_of(singer, word).syllables)):
            start = 0.4 + 0.5 * len(notes)
            pitch = singer.low + (0, 4, 7, 5, 2)[len(notes) % 5] + 3
            notes.append(SungNote(start, start + 0.5, float(pitch), word, syllable, 1.0, True, i == 0))
    seconds = notes[-1].end + 0.3
    voice = sing(notes, singer, seconds, RATE, rng).astype(np.float64)
    assert len(voice) == round(seconds * RATE)
    f0, _ = pw.harvest(voice, RATE, f0_floor=60, f0_ceil=900)
    errors = []
    for note in notes:
        part = f0[int((note.start + 0.15) / FRAME) : int((note.end - 0.1) / FRAME)]
        part = part[part > 0]
        assert len(part) > 10
        errors.append(abs(np.median(69 + 12 * np.log2(part / 440)) - note.pitch))
    assert np.median(errors) < 0.1
    # nothing before the first breath or after the last note
    assert np.abs(voice[int((notes[-1].end + 0.15) * RATE) :]).max() < 0.01 * np.abs(voice).max()


def test_consonants_come_before_the_beat() -> None:
    singer = random_singer(np.random.default_rng(1), "en", "baritone")
    notes = [SungNote(1.0, 1.5, 50, "stone", 0, 1.0, True, True), SungNote(1.5, 2.0, 52, "star", 0, 1.0, True, False)]
    first, second = place(notes, singer)
    assert first.onset < first.vowel == 1.0
    assert first.end == second.onset < second.vowel == 1.5
    assert second.end == 2.0


def test_a_word_sounds_the_same_whatever_was_said_before() -> None:
    from duotok.songs.espeak import speak

    once = speak.__wrapped__("en-us+f2", "shadow", 150, 40)
    speak.__wrapped__("de+m3", "Straße", 150, 40)
    again = speak.__wrapped__("en-us+f2", "shadow", 150, 40)
    np.testing.assert_array_equal(once.samples, again.samples)
    assert once.phones == again.phones


def test_unknown_voice_is_named() -> None:
    from duotok.errors import DuoTokError
    from duotok.songs.espeak import speak

    with pytest.raises(DuoTokError, match="no-such-voice"):
        speak("no-such-voice", "hello")


def test_singers_differ() -> None:
    rng = np.random.default_rng(0)
    singers = [random_singer(rng, "en") for _ in range(40)]
    assert {s.register for s in singers} >= set(REGISTERS) - {"child"}
    assert len({s.espeak for s in singers}) > 20
    assert all(s.high - s.low >= 11 for s in singers)


def test_syllables() -> None:
    assert [is_vowel(p) for p in ("ˈeɪ", "ɐ", "n", "t͡ʃ", "ɯᵝ", "j", "yɛ", "˥")] == [1, 1, 0, 0, 1, 0, 1, 0]
    phones = [(0.0, "w"), (10.0, "ɪ"), (20.0, "n"), (30.0, "t"), (40.0, "ɚ"), (60.0, "z")]
    first, second = split(phones, 70.0)
    assert first.phones == ("w", "ɪ", "n") and second.phones == ("t", "ɚ", "z")
    assert (first.start, first.vowel, first.vowel_end, first.end) == (0, 10, 20, 30)
    assert second.end == 70
    assert len(split([(0.0, "ʃ")], 20.0)) == 1


VOICES = ("en-us+f2", "en-us+f3", "en-us+f5", "en-us+whisper", "de+f2", "en-us+m3")


def test_words_sound_alike_in_every_process() -> None:
    """Breathy voices hold noise, whose generator espeak seeds with the time."""
    code = (
        "import hashlib\nfrom duotok.songs.espeak import speak\n"
        f"for voice in {VOICES!r}:\n"
        "    found = speak(voice, 'melody')\n"
        "    print(voice, hashlib.sha256(found.samples.tobytes()).hexdigest(), found.phones)\n"
    )
    told = []
    for wait in (0.0, 1.1):  # the time counts in seconds
        time.sleep(wait)
        told.append(python(code))
    assert told[0] == told[1] and len(told[0].stdout.splitlines()) == len(VOICES)
