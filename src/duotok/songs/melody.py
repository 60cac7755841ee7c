"""Melodies: lines of text on rhythms and pitches that a singer can sing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from duotok.songs import lyric
from duotok.songs.score import Bar, Score
from duotok.songs.singer import Rng, Singer
from duotok.songs.singing import SungNote, words_of


@dataclass(frozen=True)
class Habits:
    """Properties of a song's whole melody."""

    density: float  # syllables a second
    syncopation: float
    rest: float  # share of a phrase left for breath
    leap: float  # typical leap in semitones
    melisma: float
    staccato: float  # share of a note's length that sounds


@dataclass(frozen=True)
class MelodyLine:
    """A sung line relative to its phrase: text, and per note (beat, length, word, syllable, fresh)."""

    text: tuple[str, ...]
    rhythm: tuple[tuple[float, float, int, int, bool], ...]
    pitches: tuple[int, ...]


def random_habits(rng: Rng, density: tuple[float, float]) -> Habits:
    return Habits(
        density=float(rng.uniform(*density)),
        syncopation=float(rng.uniform(0.0, 0.8)),
        rest=float(rng.uniform(0.08, 0.35)),
        leap=float(rng.uniform(1.6, 4.0)),
        melisma=float(rng.choice([0.0, rng.uniform(0.03, 0.25)])),
        staccato=float(rng.uniform(0.8, 1.0)),
    )


def compose(rng: Rng, score: Score, singer: Singer, language: str) -> list[SungNote]:
    """The whole vocal line: a line of text to each phrase that has singing; choruses are repeated unchanged."""
    habits = random_habits(rng, score.style.density)
    memory: dict[tuple[str, int], MelodyLine] = {}
    notes: list[SungNote] = []
    la = rng.random() < 0.07  # a song without words
    i = 0
    place = 0
    while i < len(score.bars):
        bar = score.bars[i]
        phrase = [b for b in score.bars[i : i + score.phrase_bars] if b.section == bar.section]
        if i == 0 or score.bars[i - 1].section != bar.section:
            place = 0
        if bar.vocals:
            key = (bar.section, place % 4)
            line = memory.get(key) if bar.section == "chorus" else None
            if line is None or len(phrase) < score.phrase_bars:
                model = memory.get((bar.section, (place + 2) % 4)) or memory.get((bar.section, 0))
                text = _text(rng, language, bar.section, habits, score, len(phrase), la)
                line = _line(rng, score, singer, habits, text, phrase, model)
                memory[key] = line
            notes += _lay(score, phrase, line, habits, rng)
        place += 1
        i += len(phrase)
    return notes


def _text(rng: Rng, language: str, section: str, habits: Habits, score: Score, bars: int, la: bool) -> list[str]:
    seconds = bars * score.bar_seconds * (1 - habits.rest)
    target = max(2, round(seconds * habits.density * rng.uniform(0.8, 1.15)))
    if la or rng.random() < 0.04:
        return lyric.vocalise(rng, language, min(target, 10))
    kind = "hook" if section == "chorus" and rng.random() < 0.5 else "line"
    text = lyric.line(rng, language, max(2, round(0.75 * target)), target, kind)
    count = sum(lyric.guess_syllables(w) for w in text)
    while target - count > 3:  # long phrases hold two short lines
        more = lyric.line(rng, language, 2, target - count)
        text = text + more
        count += sum(lyric.guess_syllables(w) for w in more)
    return text


def _line(
    rng: Rng, score: Score, singer: Singer, habits: Habits, text: list[str], phrase: list[Bar], model: MelodyLine | None
) -> MelodyLine:
    total = len(phrase) * score.beats
    step = 0.5
    usable = total * (1 - habits.rest)
    counts = [len(words_of(singer, w).syllables) for w in text]
    if sum(counts) > 0.75 * usable / 0.5 and score.beat > 0.45:
        step = 0.25
    slots = max(2, int(usable / step))
    while sum(counts) > slots and len(counts) > 1:
        counts, text = counts[:-1], text[:-1]
    syllables = [(w, s, True) for w, n in enumerate(counts) for s in range(n)][:slots]
    # a melisma: some syllables continue over a second note
    extended: list[tuple[int, int, bool]] = []
    for item in syllables:
        extended.append(item)
        if rng.random() < habits.melisma and len(extended) + len(syllables) < slots:
            extended.append((item[0], item[1], False))
    extended = extended[:slots]
    starts = _rhythm(rng, score, habits, len(extended), slots, step)
    if model is not None and len(model.rhythm) == len(extended) and rng.random() < 0.7:
        starts = [r[0] for r in model.rhythm]
    ends = [*starts[1:], min(starts[-1] + float(rng.choice([1, 1.5, 2, 3])), total - 0.25)]
    ends[-1] = max(ends[-1], starts[-1] + 0.5)
    rhythm = []
    for a, b, (word, syllable, fresh) in zip(starts, ends, extended, strict=True):
        rhythm.append((a, min(b - a, 3.0), word, syllable, fresh))
    copied = model.pitches if model is not None and rng.random() < 0.6 else ()
    pitches = _pitches(rng, score, singer, habits, [(r[0], r[1]) for r in rhythm], phrase, copied)
    return MelodyLine(tuple(text), tuple(rhythm), tuple(pitches))


def _rhythm(rng: Rng, score: Score, habits: Habits, count: int, slots: int, step: float) -> list[float]:
    """`count` of `slots` places, the strong ones more likely; rising beats."""
    weights = np.empty(slots)
    for i in range(slots):
        beat = i * step
        strong = 4.0 if beat % score.beats == 0 else 2.5 if beat % 1 == 0 else 1.0 if beat % 0.5 == 0 else 0.35
        weights[i] = strong ** (1 - habits.syncopation)
    shift = 0
    if count < 0.6 * slots and rng.random() < 0.3:
        shift = int(rng.integers(1, 3))
    weights[:shift] = 1e-6
    noisy = np.log(weights) + rng.gumbel(size=slots)  # drawing without replacement
    if not shift:
        noisy[0] = np.inf
    # of two draws keep the one with the more even gaps
    chosen = np.sort(np.argsort(-noisy)[:count])
    alternative = np.sort(np.argsort(-(np.log(weights) + 0.6 * rng.gumbel(size=slots)))[:count])
    if count > 2 and np.std(np.diff(alternative)) < np.std(np.diff(chosen)):
        chosen = alternative
    return [float(c * step) for c in chosen]


def _pitches(
    rng: Rng,
    score: Score,
    singer: Singer,
    habits: Habits,
    rhythm: list[tuple[float, float]],
    phrase: list[Bar],
    model: tuple[int, ...],
) -> list[int]:
    allowed = np.array([p for p in range(singer.low, singer.high + 1) if p % 12 in score.scale])
    chorus = phrase[0].section == "chorus"
    low, high = float(allowed[0]), float(allowed[-1])
    span = high - low
    centre = low + span * ((0.58 if chorus else 0.42) + rng.uniform(-0.08, 0.08))
    shape = int(rng.integers(5))
    result: list[int] = []
    previous = centre
    count = len(rhythm)
    for i, (beat, length) in enumerate(rhythm):
        u = i / max(count - 1, 1)
        bow = (np.sin(np.pi * u), u, 1 - u, np.sin(2 * np.pi * u), 0.5)[shape]
        target = centre + span * 0.3 * (bow - 0.5)
        if i < len(model) and rng.random() < 0.85:
            target = previous = float(model[i])
        bar = phrase[min(int(beat // score.beats), len(phrase) - 1)]
        chord = score.chord_at(bar, beat % score.beats)
        stable = beat % 1 == 0 or length >= 1 or i == count - 1
        distance = np.abs(allowed - previous)
        weight = -((distance / habits.leap) ** 1.2) - ((allowed - target) / (0.28 * span + 1)) ** 2
        inside = np.array([p % 12 in chord.pitch_classes for p in allowed])
        weight = weight + inside * (2.2 if stable else 0.4)
        weight = weight - 0.7 * (distance == 0)
        if i == count - 1 and phrase[-1].last_of_section:
            weight = weight + 2.5 * np.array([p % 12 == score.tonic for p in allowed])
        chance = np.exp(weight - weight.max())
        pick = int(rng.choice(allowed, p=chance / chance.sum()))
        result.append(pick)
        previous = float(pick)
    return result


def _lay(score: Score, phrase: list[Bar], line: MelodyLine, habits: Habits, rng: Rng) -> list[SungNote]:
    """The notes of a line at the time of its phrase, in seconds."""
    notes: list[SungNote] = []
    late = float(rng.normal(0.0, 0.006))
    for i, ((beat, length, word, syllable, fresh), pitch) in enumerate(zip(line.rhythm, line.pitches, strict=True)):
        start = _seconds(score, phrase, beat) + late + (float(rng.normal(0.0, 0.007)) if fresh else 0.0)
        end = _seconds(score, phrase, beat + length) + late
        following = line.rhythm[i + 1] if i + 1 < len(line.rhythm) else None
        continues = following is not None and not following[4]
        end = start + (end - start) * (1.0 if continues else habits.staccato)
        end = min(end, score.seconds - 0.05)
        start = max(start, notes[-1].start + 0.05 if notes else 0.02)
        if end - start < 0.06:
            continue
        if notes and notes[-1].end > start:
            last = notes.pop()
            notes.append(SungNote(last.start, start, last.pitch, last.word, last.syllable, last.strength, last.fresh,
                                  last.breath))  # fmt: skip
        strong = 0.75 + 0.25 * (beat % 1 == 0) + 0.15 * (phrase[0].energy - 0.5)
        strength = float(np.clip(strong + rng.normal(0, 0.08), 0.2, 1.2))
        notes.append(SungNote(start, end, float(pitch), line.text[word], syllable, strength, fresh, i == 0))
    return notes


def _seconds(score: Score, phrase: list[Bar], beat: float) -> float:
    index, inside = divmod(beat, score.beats)
    if index < len(phrase):
        return score.at(phrase[int(index)], inside)
    return phrase[-1].start + score.bar_seconds + (beat - len(phrase) * score.beats) * score.beat
