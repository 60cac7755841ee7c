"""The plan of a song: tempo, key, sections, bars and chords. Times in seconds, pitches in MIDI."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from duotok.songs.singer import Rng
from duotok.songs.styles import STYLE_SHARES, STYLES, Style
from duotok.songs.theory import MODE_SHARES, MODES, NAMES, Chord, chord_on, random_progression


@dataclass(frozen=True)
class Note:
    """An instrument's note."""

    start: float
    end: float
    pitch: int
    velocity: float


@dataclass(frozen=True)
class Bar:
    """One bar: its start, its chords (each over an equal part), section, energy 0..1, whether there is singing."""

    index: int
    start: float
    chords: tuple[Chord, ...]
    section: str
    energy: float
    vocals: bool
    last_of_section: bool


@dataclass(frozen=True)
class Score:
    """The plan that all parts are composed over."""

    style: Style
    tempo: float  # beats a minute
    beats: int  # beats in a bar
    swing: float  # 0.5 straight .. 0.67 triplets
    tonic: int
    mode: str
    bars: tuple[Bar, ...]
    phrase_bars: int
    seconds: float
    ending: float  # where the music stops and fades

    @property
    def beat(self) -> float:
        return 60.0 / self.tempo

    @property
    def bar_seconds(self) -> float:
        return self.beat * self.beats

    @property
    def key(self) -> str:
        return f"{NAMES[self.tonic]} {self.mode}"

    @property
    def scale(self) -> frozenset[int]:
        return frozenset((self.tonic + i) % 12 for i in MODES[self.mode])

    def at(self, bar: Bar, beat: float) -> float:
        """Seconds of a beat (may be fractional) of a bar, with swing on the eighths."""
        full_beats, part = divmod(beat, 1.0)
        bent = part * 2 * self.swing if part < 0.5 else self.swing + (part - 0.5) * 2 * (1 - self.swing)
        return bar.start + (full_beats + bent) * self.beat

    def chord_at(self, bar: Bar, beat: float) -> Chord:
        index = int(beat / self.beats * len(bar.chords))
        return bar.chords[min(max(index, 0), len(bar.chords) - 1)]


def plan(rng: Rng, seconds: float, *, vocals: bool = True) -> Score:
    """Draw a song's plan that fills `seconds`."""
    style = STYLES[int(rng.choice(len(STYLES), p=np.array(STYLE_SHARES) / sum(STYLE_SHARES)))]
    beats = int(rng.choice(style.meters))
    tempo = float(rng.uniform(*style.tempo)) * (1.6 if beats == 6 else 1.0)
    swing = float(rng.uniform(0.56, 0.67)) if rng.random() < style.swing and beats != 6 else 0.5
    mode = str(rng.choice(list(MODES), p=MODE_SHARES))
    tonic = int(rng.integers(12))
    bar = 60.0 / tempo * beats
    lead = float(rng.choice([0.0, rng.uniform(0.0, 0.4)]))
    tail = min(float(rng.uniform(0.3, 1.8)), 0.1 * seconds)
    count = max(1, int((seconds - lead - tail) / bar + 1e-6))
    phrase = 4 if beats == 3 and tempo > 110 else 2
    two = rng.random() < (0.35 if style.sevenths > 0.5 else 0.15)
    seventh = bool(rng.random() < style.sevenths)
    bars: list[Bar] = []
    progressions: dict[str, tuple[int, ...]] = {}
    for name, length, energy in _sections(rng, count, phrase, vocals):
        kind = "verse" if name in ("intro", "outro") else name
        progression = progressions.setdefault(kind, random_progression(rng, mode))
        for i in range(length):
            picks = [2 * i, 2 * i + 1] if two else [i]
            chords = [_chord(tonic, mode, progression[p % len(progression)], seventh, style, rng) for p in picks]
            final = len(bars) == count - 1
            if final:
                chords = [chord_on(tonic, mode, 0, seventh=seventh and rng.random() < 0.4)]
            sung = vocals and name not in ("intro", "break", "outro")
            at = lead + len(bars) * bar
            bars.append(Bar(len(bars), at, tuple(chords), name, energy, sung, i == length - 1))
    return Score(style, tempo, beats, swing, tonic, mode, tuple(bars), phrase, seconds, lead + count * bar)


def _chord(tonic: int, mode: str, degree: int, seventh: bool, style: Style, rng: Rng) -> Chord:
    dominant = mode == "minor" and degree == 4 and rng.random() < 0.35
    power = style.name == "metal" and rng.random() < 0.5
    return chord_on(tonic, "harmonic minor" if dominant else mode, degree, seventh=seventh, power=power)


def _sections(rng: Rng, count: int, phrase: int, vocals: bool) -> list[tuple[str, int, float]]:
    """Names, lengths in bars and energies of the sections; together `count` bars."""
    sections: list[tuple[str, int, float]] = []
    remaining = count
    calm = float(rng.uniform(0.35, 0.8))
    if rng.random() < 0.7 and remaining > 3 * phrase:
        length = int(rng.choice([1, phrase]))
        sections.append(("intro", length, calm * float(rng.uniform(0.5, 1.0))))
        remaining -= length
    order = ["verse", "chorus"] if rng.random() < 0.75 else ["chorus", "verse"]
    turn = 0
    while remaining > 0:
        name = order[turn % 2]
        if turn >= 2 and rng.random() < 0.3 and sections[-1][0] != "break":
            name = "break"
        length = int(phrase * rng.choice([1, 2, 2, 4])) if name != "break" else int(rng.choice([1, phrase]))
        if remaining - length < phrase:
            length = remaining
        energy = {"verse": calm, "chorus": min(1.0, calm + float(rng.uniform(0.1, 0.4))), "break": calm}[name]
        sections.append((name, length, energy))
        remaining -= length
        turn += name != "break"
    if len(sections) > 2 and sections[-1][1] == 1 and rng.random() < 0.6:
        sections[-1] = ("outro", 1, sections[-1][2])
    return sections
