"""Singers: a language, an espeak voice, and the parameters that make a voice individual."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rng = np.random.Generator

# Male variants have long vocal tracts, female ones short ones; the envelope warp does the rest.
MALE_VARIANTS: tuple[str, ...] = (
    "",
    "m1",
    "m2",
    "m3",
    "m4",
    "m5",
    "m6",
    "m7",
    "m8",
    "klatt",
    "klatt2",
    "klatt4",
    "croak",
    "Alex",
)
MALE_VARIANTS += (
    "adam",
    "Andy",
    "Denis",
    "Diogo",
    "Lee",
    "Mario",
    "Michael",
    "ed",
    "iven2",
    "marcelo",
    "miguel",
    "rob",
)
FEMALE_VARIANTS: tuple[str, ...] = (
    "f1",
    "f2",
    "f3",
    "f4",
    "f5",
    "Annie",
    "steph",
    "linda",
    "aunty",
    "anika",
    "belinda",
    "Alicia",
)
FEMALE_VARIANTS += ("Andrea", "shelby", "steph2", "klatt3")
VOICES = {  # language of the words -> espeak voices that speak it
    "en": ("en-us", "en-gb-x-rp", "en-gb-scotland", "en-029"),
    "es": ("es", "es-419"),
    "it": ("it",),
    "de": ("de",),
    "fr": ("fr", "fr-be"),
    "pt": ("pt", "pt-br"),
    "zh": ("cmn",),
    "ja": ("ja",),
    "la": ("la",),
    "sw": ("sw",),
}
# register: lowest and highest written note (MIDI), formant scale against a male vocal tract
REGISTERS = {
    "bass": (40, 59, (0.88, 1.00)),
    "baritone": (43, 63, (0.93, 1.06)),
    "tenor": (47, 67, (0.98, 1.12)),
    "alto": (54, 72, (1.08, 1.22)),
    "soprano": (58, 78, (1.14, 1.30)),
    "child": (60, 78, (1.26, 1.42)),
}
FEMALE_SCALE = 1.14  # formant scale that the female variants already have


@dataclass(frozen=True)
class Singer:
    """Parameters of a voice for the renderer. Frequencies in hertz, times in seconds, pitches in semitones."""

    register: str
    low: int
    high: int
    espeak: str
    pitch: int  # espeak's base pitch, 0..99
    formants: float  # scale of the frequency axis of the envelope
    bend: tuple[float, ...]  # further scale at BEND_AT, different for every singer
    colour: tuple[float, ...]  # dB at COLOUR_AT
    tilt: float  # dB an octave above 1 kHz
    ring: tuple[float, float]  # singer's formant: hertz, dB
    breath: float  # 0 none .. 1 almost whispered
    air: float  # dB a kilohertz that the envelope of noise falls above espeak's 11 kHz
    sheen: tuple[float, float]  # least level of voiced sound at 4 kHz against its middle, dB; fall per octave above
    upper: tuple[float, ...]  # dB of the formants at UPPER_AT, which espeak does not have
    hiss: float  # dB on consonants without voice
    vibrato_rate: float
    vibrato_depth: float
    vibrato_delay: float
    glide: float  # time constant from note to note
    scoop: float  # how far below its pitch the first note of a phrase begins
    drift: float  # slow random detuning
    dynamics: float  # dB between strong and weak notes
    legato: float  # 0 every note apart .. 1 joined
    inhale: float  # how often a breath is heard before a phrase, 0..1
    growl: float  # subharmonic roughness, 0..1

    @property
    def gender(self) -> str:
        return {"bass": "male", "baritone": "male", "tenor": "male", "child": "child"}.get(self.register, "female")


BEND_AT: NDArray[np.float64] = np.array([0.0, 500.0, 1500.0, 2700.0, 4200.0, 9000.0])
UPPER_AT: NDArray[np.float64] = np.array([3300.0, 4300.0, 5600.0, 7200.0, 9000.0, 11500.0])
COLOUR_AT: NDArray[np.float64] = np.array([0.0, 250.0, 600.0, 1200.0, 2200.0, 3500.0, 5500.0, 8000.0, 12000.0])


def random_singer(rng: Rng, language: str, register: str | None = None) -> Singer:
    """Draw a singer of the language; the register too unless it is given."""
    if register is None:
        register = str(rng.choice(list(REGISTERS), p=[0.1, 0.18, 0.22, 0.25, 0.2, 0.05]))
    low, high, scale = REGISTERS[register]
    scale_target = rng.uniform(*scale)
    female = rng.random() < (0.15 if register in ("bass", "baritone", "tenor") else 0.65)
    variant = str(rng.choice(FEMALE_VARIANTS if female else MALE_VARIANTS))
    base = str(rng.choice(VOICES[language]))
    span = int(rng.integers(12, 19))
    low += int(rng.integers(0, max(1, high - low - span + 1)))
    loud_vibrato = rng.random() < 0.2
    return Singer(
        register=register,
        low=low,
        high=min(high, low + span),
        espeak=f"{base}+{variant}" if variant else base,
        pitch=int(rng.integers(25, 60)),
        formants=float(scale_target / (FEMALE_SCALE if female else 1.0)),
        bend=tuple(float(x) for x in np.clip(rng.normal(1.0, 0.05, len(BEND_AT)), 0.88, 1.12)),
        colour=tuple(float(x) for x in np.clip(rng.normal(0.0, 3.0, len(COLOUR_AT)), -7, 7)),
        tilt=float(rng.uniform(-2.5, 1.5)),
        ring=(float(rng.uniform(2400, 3600)), float(rng.choice([0.0, rng.uniform(2, 10)]))),
        breath=min(float(rng.beta(1.3, 4.0)), 0.6),
        air=float(rng.uniform(0.4, 2.0)),
        sheen=(float(rng.uniform(-19, 1)), float(rng.uniform(4, 13))),
        upper=tuple(float(x) for x in rng.uniform(-4, 8, len(UPPER_AT))),
        hiss=float(rng.uniform(0, 7)),
        vibrato_rate=float(rng.uniform(4.4, 6.8)),
        vibrato_depth=float(rng.uniform(0.5, 0.9) if loud_vibrato else rng.choice([0.0, 1.0], p=[0.15, 0.85]))
        * (1.0 if loud_vibrato else float(rng.uniform(0.1, 0.45))),
        vibrato_delay=float(rng.uniform(0.08, 0.45)),
        glide=float(rng.uniform(0.012, 0.045)),
        scoop=float(rng.choice([0.0, rng.uniform(0.5, 2.5)])),
        drift=float(rng.uniform(0.01, 0.05)),
        dynamics=float(rng.uniform(2, 9)),
        legato=float(rng.uniform(0.2, 1.0)),
        inhale=float(rng.choice([0.0, rng.uniform(0.3, 1.0)], p=[0.35, 0.65])),
        growl=float(rng.choice([0.0, rng.uniform(0.1, 0.5)], p=[0.85, 0.15])),
    )
