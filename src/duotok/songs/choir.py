"""The vocal stem: lead, doubles, harmonies, and the studio around the voice."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from duotok.songs import effects
from duotok.songs.score import Score
from duotok.songs.singer import Rng, Singer, random_singer
from duotok.songs.singing import SungNote, sing

Samples = NDArray[np.float32]


def perform(
    rng: Rng, score: Score, singer: Singer, language: str, notes: list[SungNote], rate: int
) -> tuple[Samples, dict[str, object]]:
    """Sing the notes; the stem [2, samples] with its effects, and details of it."""
    count = round(score.seconds * rate)
    lead = _voice(rng, notes, singer, score.seconds, rate)
    details: dict[str, object] = {"voice": singer.espeak, "register": singer.register}
    out = effects.pan(lead, float(rng.normal(0, 0.04)))
    chorus = [n for n in notes if _section(score, n.start) == "chorus"]
    if rng.random() < 0.28:  # a double: the same singer again, with slightly different timing
        out += _doubles(rng, chorus if chorus and rng.random() < 0.6 else notes, singer, score.seconds, rate)
        details["doubled"] = True
    if rng.random() < 0.3:
        part = chorus if chorus and rng.random() < 0.7 else notes
        out += _harmony(rng, score, part, singer, language, rate)
        details["harmony"] = True
    out = out[:, :count]
    return _studio(rng, out, score, rate, details), details


def _voice(rng: Rng, notes: list[SungNote], singer: Singer, seconds: float, rate: int) -> Samples:
    x = sing(notes, singer, seconds, rate, rng)
    loud = np.sqrt(np.mean(x[np.abs(x) > 0.05 * np.abs(x).max()] ** 2)) if np.any(x) else 1.0
    return np.asarray(x * np.float32(0.1 / max(float(loud), 1e-9)), np.float32)


def _section(score: Score, time: float) -> str:
    for bar in reversed(score.bars):
        if time >= bar.start - 0.1:
            return bar.section
    return score.bars[0].section


def _doubles(rng: Rng, notes: list[SungNote], singer: Singer, seconds: float, rate: int) -> Samples:
    shift = float(rng.choice([0.0, 0.0, -12.0, 12.0]))
    out: Samples = np.zeros((2, round(seconds * rate)), np.float32)
    wide = float(rng.uniform(0.2, 0.9))
    for side in (-1, 1):
        again = dataclasses.replace(singer, formants=singer.formants * float(rng.uniform(0.96, 1.04)), drift=0.08)
        moved = _with_new_timing(rng, notes, shift)
        level = 10 ** (rng.uniform(-12, -4) / 20)
        out += effects.pan(_voice(rng, moved, again, seconds, rate) * np.float32(level), side * wide)
        if rng.random() < 0.5:
            break
    return out


def _with_new_timing(rng: Rng, notes: list[SungNote], shift: float) -> list[SungNote]:
    """The same notes with slightly different timing, as if sung again."""
    moved: list[SungNote] = []
    for note in notes:
        late = float(np.clip(rng.normal(0, 0.012), -0.03, 0.03))
        start = max(0.02, note.start + late)
        if moved and moved[-1].end > start:
            start = max(start, moved[-1].start + 0.05)
            moved[-1] = dataclasses.replace(moved[-1], end=min(moved[-1].end, start))
        moved.append(dataclasses.replace(note, start=start, end=max(note.end, start + 0.05), pitch=note.pitch + shift))
    return moved


def _harmony(rng: Rng, score: Score, notes: list[SungNote], singer: Singer, language: str, rate: int) -> Samples:
    """A second singer a third or sixth apart in the scale, with words or on the same syllables."""
    second_singer = singer if rng.random() < 0.5 else random_singer(rng, language)
    if second_singer.espeak != singer.espeak:  # the same phones, so that the syllables agree, with another timbre
        second_singer = dataclasses.replace(second_singer, espeak=singer.espeak, pitch=singer.pitch)
    steps = int(rng.choice([2, 2, -2, -3, 4, -5]))
    scale = sorted(p for p in range(20, 110) if p % 12 in score.scale)
    moved = []
    for note in _with_new_timing(rng, notes, 0.0):
        index = int(np.searchsorted(scale, note.pitch))
        moved.append(dataclasses.replace(note, pitch=float(scale[min(max(index + steps, 0), len(scale) - 1)])))
    level = 10 ** (rng.uniform(-10, -3) / 20)
    return effects.pan(
        _voice(rng, moved, second_singer, score.seconds, rate) * np.float32(level), float(rng.uniform(-0.8, 0.8))
    )


def _studio(rng: Rng, x: Samples, score: Score, rate: int, details: dict[str, object]) -> Samples:
    bands = [("highpass", float(rng.uniform(60, 140)), 0.0, 0.7), *effects.random_tone(rng, 0.8)]
    x = effects.equalise(x, bands, rate)
    if rng.random() < 0.85:
        x = effects.compress(x, -float(rng.uniform(4, 20)), float(rng.uniform(2, 6)), float(rng.uniform(0.002, 0.02)),
                             float(rng.uniform(0.05, 0.25)), rate)  # fmt: skip
    if rng.random() < 0.3:
        x = effects.saturate(x, float(rng.uniform(0.5, 2.5)), float(rng.uniform(0, 0.3)))
        details["vocal saturation"] = True
    if rng.random() < 0.04:  # telephone
        x = effects.equalise(x, [("highpass", 400.0, 0.0, 0.9), ("lowpass", 3200.0, 0.0, 0.9)], rate)
        details["telephone"] = True
    if rng.random() < 0.15:
        x = effects.chorus(
            x, float(rng.uniform(0.001, 0.004)), float(rng.uniform(0.2, 1.5)), float(rng.uniform(0.2, 0.7)), rate
        )
        details["vocal chorus"] = True
    if rng.random() < 0.3:
        beats = float(rng.choice([0.25, 0.5, 0.75, 1.0]))
        x = effects.delay(x, beats * score.beat, float(rng.uniform(0.2, 0.5)), float(rng.uniform(0.1, 0.35)), rate,
                          pingpong=bool(rng.random() < 0.5))  # fmt: skip
        details["vocal delay"] = True
    if rng.random() < 0.88:
        length = float(np.exp(rng.uniform(np.log(0.2), np.log(3.0))))
        room = effects.impulse(rng, length, rate, bright=float(rng.uniform(0.2, 1.0)), early=float(rng.uniform(0, 0.3)),
                               predelay=float(rng.uniform(0, 0.05)))  # fmt: skip
        x = effects.reverb(x, room, float(10 ** (rng.uniform(-26, -7) / 20)))
        details["vocal reverb"] = round(length, 2)
    return x
