"""From a seed to a song."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from duotok.errors import ConfigError
from duotok.songs import band, choir, lyric, mastering, melody
from duotok.songs.score import Note, Score, plan
from duotok.songs.singer import Rng, Singer, random_singer
from duotok.songs.singing import SungNote, place
from duotok.songs.song import Beat, ChordSpan, Song, Sung, VocalNote, Word, unusual


def stream(seed: int, part: str) -> Rng:
    """A separate random generator for each part, so that a change in one part does not change the draws of the others."""
    return np.random.default_rng([seed, zlib.crc32(part.encode())])


def generate(
    seed: int,
    seconds: float = 30.0,
    *,
    rate: int = 48000,
    vocals: bool = True,
    soundfont: bool = False,
    doubled: float = 0.0,
) -> Song:
    """Make the song of a seed: the same seed, length and rate give the same song, bit for bit.

    `soundfont` plays some instruments from pretty_midi's General MIDI bank where that is installed. `doubled` is the
    probability that an instrument of the band plays the vocal melody note by note; all else is as without it.
    Raises MissingExtraError when the singing libraries are not installed (unless `vocals` is False), ConfigError for a
    length or rate out of range.
    """
    if seed < 0:
        raise ConfigError(f"seed {seed} is negative: give 0 or more")
    if not 4.0 <= seconds <= 1200.0:
        raise ConfigError(f"seconds {seconds} is out of range: give 4 to 1200")
    if not 16000 <= rate <= 96000:
        raise ConfigError(f"rate {rate} is out of range: give 16000 to 96000")
    if not 0 <= doubled <= 1:
        raise ConfigError(f"doubled {doubled} is no probability: give 0 to 1")
    score, language, singer, notes = compose(seed, seconds, vocals=vocals)
    count = round(seconds * rate)
    tags = [score.style.name, _pace(score.tempo / (1.6 if score.beats == 6 else 1.0)), score.mode]
    voice: NDArray[np.float32] = np.zeros((2, count), np.float32)
    details: dict[str, object] = {"style": score.style.name, "meter": score.beats, "swing": round(score.swing, 3)}
    if notes:
        voice, extra = choir.perform(stream(seed, "vocals"), score, singer, language, notes, rate)
        details |= extra
        tags += [f"{singer.gender} vocal", "singing", language]
    else:
        tags.append("instrumental")
    stems, played = band.perform(stream(seed, "band"), score, rate, soundfont=soundfont)
    details |= played
    dice = stream(seed, "doubling")
    if notes and dice.random() < doubled:
        melody_notes = [Note(n.start, n.end, round(n.pitch), 0.5 + 0.4 * n.strength) for n in notes]
        line, name = band.double(dice, score, melody_notes, rate)
        stems["other"] = stems["other"] + line * np.float32(10 ** (dice.uniform(-4, 2) / 20))
        details["sounds"] = sorted({*details["sounds"], name})  # type: ignore[misc]
        details["doubled by"] = name
    tags += sorted({str(v) for v in details.get("sounds", [])})  # type: ignore[attr-defined]
    tags += ["drums"] if np.any(stems["drums"]) else ["no drums"]
    if options := unusual(vocals=vocals, soundfont=soundfont, doubled=doubled):
        details["options"] = options
    stems = {"vocals": voice, **stems}
    stems = mastering.balance(stream(seed, "mix"), stems, rate, details)
    return Song(
        rate=rate,
        stems=stems,
        words=_words(notes, singer) if notes else [],
        notes=[VocalNote(round(n.start, 4), round(n.end, 4), n.pitch) for n in notes],
        chords=_chords(score),
        beats=_beats(score),
        tags=tags,
        seed=seed,
        tempo=round(score.tempo, 3),
        key=score.key,
        language=language,
        details=details,
    )


def compose(seed: int, seconds: float, *, vocals: bool = True) -> tuple[Score, str, Singer, list[SungNote]]:
    """A song before any sound: its plan, its language, who sings, and the notes of the voice (none without `vocals`)."""
    score = plan(stream(seed, "score"), seconds, vocals=vocals)
    language = str(stream(seed, "language").choice(lyric.LANGUAGES, p=lyric.SHARES))
    singer = random_singer(stream(seed, "singer"), language)
    notes = melody.compose(stream(seed, "melody"), score, singer, language) if vocals else []
    return score, language, singer, notes


def _words(notes: list[SungNote], singer: Singer) -> list[Word]:
    words: list[Word] = []
    open_: list[Sung] = []
    places = place(notes, singer)
    for i, (note, at) in enumerate(zip(notes, places, strict=True)):
        sung = Sung(round(at.onset, 4), round(at.end, 4), note.pitch, at.phones)
        begins = note.syllable == 0 and note.fresh
        if begins and open_:
            words.append(Word(notes[i - 1].word, open_[0].start, open_[-1].end, tuple(open_)))
            open_ = []
        open_.append(sung)
    words.append(Word(notes[-1].word, open_[0].start, open_[-1].end, tuple(open_)))
    return words


def _chords(score: Score) -> list[ChordSpan]:
    spans = []
    for bar in score.bars:
        length = score.bar_seconds / len(bar.chords)
        for i, chord in enumerate(bar.chords):
            start = bar.start + i * length
            spans.append(ChordSpan(round(start, 4), round(start + length, 4), chord.name))
    return spans


def _beats(score: Score) -> list[Beat]:
    return [Beat(round(bar.start + i * score.beat, 4), i + 1) for bar in score.bars for i in range(score.beats)]


def _pace(tempo: float) -> str:
    return "slow" if tempo < 85 else "fast" if tempo > 125 else "medium tempo"
