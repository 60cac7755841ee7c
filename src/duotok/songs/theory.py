"""Keys, modes, chords and progressions."""

from __future__ import annotations

from dataclasses import dataclass

from duotok.songs.singer import Rng

NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
MODES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
    "lydian": (0, 2, 4, 6, 7, 9, 11),
    "harmonic minor": (0, 2, 3, 5, 7, 8, 11),
}
MODE_SHARES = (0.42, 0.3, 0.09, 0.09, 0.03, 0.03, 0.04)
# scale degrees, one for each half phrase; they hold for all modes, the mode colours them
PROGRESSIONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "bright": (
        (0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 4, 3), (0, 3, 0, 4), (5, 3, 0, 4), (0, 2, 3, 4), (0, 3, 5, 4),
        (0, 4, 5, 2, 3, 0, 3, 4), (0, 0, 3, 0, 4, 3, 0, 4), (3, 4, 0, 5), (1, 4, 0, 0), (0, 6, 3, 0), (0, 1, 3, 0),
    ),
    "dark": (
        (0, 5, 2, 6), (0, 6, 5, 6), (0, 3, 4, 0), (0, 5, 6, 0), (0, 3, 6, 2), (0, 2, 6, 5), (0, 0, 5, 4),
        (0, 6, 5, 4), (5, 6, 0, 0), (0, 4, 5, 3), (0, 3, 0, 4), (0, 2, 3, 5),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Chord:
    """A chord: pitch class of its root, semitones above the root, printed name."""

    root: int
    intervals: tuple[int, ...]
    name: str

    @property
    def pitch_classes(self) -> frozenset[int]:
        return frozenset((self.root + i) % 12 for i in self.intervals)

    def voicing(self, around: int, notes: int = 4) -> list[int]:
        """`notes` chord tones as close as possible around a MIDI pitch, rising."""
        tones = [p for p in range(around - 14, around + 15) if p % 12 in self.pitch_classes]
        tones.sort(key=lambda p: abs(p - around))
        return sorted(tones[:notes])


def chord_on(tonic: int, mode: str, degree: int, *, seventh: bool = False, power: bool = False) -> Chord:
    """The chord on a degree (0..6) of the mode."""
    scale = MODES[mode]

    def step(n: int) -> int:
        return scale[(degree + n) % 7] + 12 * ((degree + n) // 7)

    intervals = [step(n) - step(0) for n in ((0, 2, 4, 6) if seventh else (0, 2, 4))]
    root = (tonic + step(0)) % 12
    if power:
        intervals = [0, 7] if intervals[2] == 7 else intervals[:3]
    quality = {(4, 7): "", (3, 7): "m", (3, 6): "dim", (4, 8): "aug", (4, 6): "b5", (2, 6): "sus2b5"}
    name = "5" if len(intervals) == 2 else quality.get((intervals[1], intervals[2]), "")
    if len(intervals) > 3:
        name += "maj7" if intervals[3] == 11 else "7"
    return Chord(root, tuple(intervals), NAMES[root] + name)


def random_progression(rng: Rng, mode: str) -> tuple[int, ...]:
    pool = PROGRESSIONS["bright" if MODES[mode][2] == 4 else "dark"]
    return pool[int(rng.integers(len(pool)))]
