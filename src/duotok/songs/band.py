"""The accompaniment: players, their instruments, their places on the stage; drums, bass and other as stems."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from duotok.songs import drumming, effects, parts
from duotok.songs.drums import Kit
from duotok.songs.instruments import Sound, random_sound
from duotok.songs.score import Note, Score
from duotok.songs.singer import Rng

Samples = NDArray[np.float32]


def perform(
    rng: Rng, score: Score, rate: int, *, soundfont: bool = False
) -> tuple[dict[str, Samples], dict[str, object]]:
    """Stems drums, bass and other [2, samples], each at an arbitrary level, and details of what is played."""
    n = round(score.seconds * rate)
    rooms = _rooms(rng, rate)
    details: dict[str, object] = {}
    stems = {"drums": _drums(rng, score, rate, n, rooms, details), "bass": _bass(rng, score, rate, n, details)}
    other: Samples = np.zeros((2, n), np.float32)
    names = []
    for index in range(int(rng.choice([1, 2, 3], p=[0.3, 0.45, 0.25]))):
        name = str(rng.choice(score.style.sounds))
        pattern = str(rng.choice(score.style.comp))
        if name in names:
            continue
        names.append(name)
        place = float(rng.uniform(-0.7, 0.7)) if index else float(rng.normal(0, 0.15))
        x = _play(rng, parts.comp(rng, score, pattern), name, rate, n, place, soundfont=soundfont)
        other += _finish(rng, x, name, score, rate, rooms) * np.float32(10 ** (-rng.uniform(0, 6) * index / 20))
    if rng.random() < 0.5:
        name = str(rng.choice(score.style.leads))
        names.append(name)
        x = _play(rng, parts.lead(rng, score), name, rate, n, float(rng.uniform(-0.5, 0.5)), soundfont=soundfont)
        other += _finish(rng, x, name, score, rate, rooms) * np.float32(10 ** (rng.uniform(-8, 0) / 20))
    stems["other"] = other
    details["sounds"] = sorted(set(names))
    return stems, details


def double(rng: Rng, score: Score, melody: list[Note], rate: int) -> tuple[Samples, str]:
    """An instrument that plays the vocal melody, note by note, in one octave of its choice: `[2, samples]` and its name."""
    name = str(rng.choice(score.style.leads))
    octave = int(rng.choice([-12, 0, 12], p=[0.2, 0.5, 0.3]))
    notes = [Note(note.start, note.end, note.pitch + octave, note.velocity) for note in melody]
    x = _play(rng, notes, name, rate, round(score.seconds * rate), float(rng.uniform(-0.5, 0.5)), soundfont=False)
    return _finish(rng, x, name, score, rate, _rooms(rng, rate)), name


def _rooms(rng: Rng, rate: int) -> list[Samples]:
    """A small and a large room, shared by the band."""
    lengths = [float(rng.uniform(0.2, 0.7)), float(rng.uniform(0.9, 3.0))]
    return [
        effects.impulse(rng, s, rate, bright=float(rng.uniform(0.2, 1)), early=float(rng.uniform(0, 0.4)),
                        predelay=float(rng.uniform(0, 0.03))) for s in lengths
    ]  # fmt: skip


def _level(x: Samples, target: float = 0.1) -> Samples:
    """Scale so that the loud passages reach an RMS of `target`."""
    frames = x.shape[1] // 4800
    if not frames or not np.any(x):
        return x
    power = (x[:, : frames * 4800].reshape(2, frames, 4800) ** 2).mean(axis=(0, 2))
    return x * np.float32(target / np.sqrt(np.percentile(power, 90) + 1e-12))


def _drums(rng: Rng, score: Score, rate: int, n: int, rooms: list[Samples], details: dict[str, object]) -> Samples:
    hits = drumming.play(rng, score)
    out: Samples = np.zeros((2, n), np.float32)
    if not hits:
        return out
    name = str(rng.choice(score.style.kits))
    kit = Kit(rng, name, rate)
    details["kit"] = name
    wide = float(rng.uniform(0.2, 1.0))
    for time, piece, level, take in hits:
        at = int(time * rate)
        sound = kit.hit(piece, take)[: max(0, n - at)]
        stereo = effects.pan(sound, float(np.clip(kit.pans[piece] * wide, -0.9, 0.9)))
        out[:, at : at + len(sound)] += stereo * np.float32(level * kit.levels[piece])
    out = effects.equalise(out, effects.random_tone(rng, 0.8), rate)
    if rng.random() < 0.6:
        out = effects.compress(out, -float(rng.uniform(3, 14)), float(rng.uniform(2, 6)),
                               float(rng.uniform(0.003, 0.03)), float(rng.uniform(0.05, 0.2)), rate)  # fmt: skip
    if rng.random() < 0.35:
        out = effects.saturate(out, float(rng.uniform(0.4, 2.0)))
    if rng.random() < 0.7:
        out = effects.reverb(out, rooms[int(rng.random() < 0.2)], float(10 ** (rng.uniform(-28, -9) / 20)))
    return _level(out)


def _bass(rng: Rng, score: Score, rate: int, n: int, details: dict[str, object]) -> Samples:
    notes = parts.bass(rng, score)
    if not notes:
        return np.zeros((2, n), np.float32)
    name = str(rng.choice(score.style.bass_sounds))
    details["bass"] = name
    x = _mono(random_sound(rng, name), notes, rate, n)
    out = np.stack([x, x])
    if rng.random() < 0.3:
        out = effects.saturate(out, float(rng.uniform(0.5, 3.0)))
    bands = [*effects.random_tone(rng, 0.7), ("lowpass", float(rng.uniform(1500, 9000)), 0.0, 0.7)]
    out = effects.equalise(out, bands, rate)
    if rng.random() < 0.6:
        out = effects.compress(out, -float(rng.uniform(4, 12)), float(rng.uniform(2, 5)), 0.01, 0.15, rate)
    return _level(out)


def _mono(sound: Sound, notes: list[Note], rate: int, n: int) -> Samples:
    """Play notes on a sound; equal notes are synthesised once."""
    out: Samples = np.zeros(n, np.float32)
    cache: dict[tuple[int, int], Samples] = {}
    for note in notes:
        at = int(note.start * rate)
        key = (note.pitch, round((note.end - note.start) * 50))
        if key not in cache:
            cache[key] = sound(note.pitch, max(0.04, key[1] / 50), rate)
        x = cache[key][: max(0, n - at)]
        out[at : at + len(x)] += x * np.float32(note.velocity)
    return out


def _play(rng: Rng, notes: list[Note], name: str, rate: int, n: int, place: float, *, soundfont: bool) -> Samples:
    if soundfont:
        from duotok.songs import bank

        stereo = bank.play(rng, notes, name, rate, n)
        if stereo is not None:
            return _level(stereo)
    x = _mono(random_sound(rng, name), notes, rate, n)
    spread = float(rng.choice([0.0, rng.uniform(0.1, 0.6)]))
    if spread and name in ("piano", "epiano", "harp", "vibes", "marimba", "strings", "bell"):
        # low notes to one side, high ones to the other: split at the middle of the keyboard
        middle = float(np.median([note.pitch for note in notes])) if notes else 60.0
        low = _mono(random_sound(rng, name), [m for m in notes if m.pitch < middle], rate, n)
        high = x if not notes else _mono(random_sound(rng, name), [m for m in notes if m.pitch >= middle], rate, n)
        return effects.pan(low, place - spread / 2) + effects.pan(high, place + spread / 2)
    return effects.pan(x, place)


def _finish(rng: Rng, x: Samples, name: str, score: Score, rate: int, rooms: list[Samples]) -> Samples:
    """Amplifier, equaliser, modulation, echo and room of one instrument."""
    if not np.any(x):
        return x
    x = _level(x)
    if name == "distorted":
        x = effects.saturate(effects.equalise(x, [("highpass", 90.0, 0.0, 0.7)], rate), float(rng.uniform(4, 20)))
        x = effects.equalise(x, [("lowpass", float(rng.uniform(3000, 6500)), 0.0, 0.8)], rate)
    x = effects.equalise(x, [("highpass", float(rng.uniform(40, 220)), 0.0, 0.7), *effects.random_tone(rng)], rate)
    wobbly = name in ("strings", "choir", "epiano", "supersaw", "saw", "organ", "guitar", "glass")
    if rng.random() < (0.5 if wobbly else 0.15):
        x = effects.chorus(
            x, float(rng.uniform(0.001, 0.005)), float(rng.uniform(0.15, 2.5)), float(rng.uniform(0.3, 0.9)), rate
        )
    if rng.random() < 0.12:
        x = effects.saturate(x, float(rng.uniform(0.5, 3)))
    if rng.random() < 0.2:
        x = effects.delay(x, float(rng.choice([0.5, 0.75, 1.0])) * score.beat, float(rng.uniform(0.2, 0.55)),
                          float(rng.uniform(0.1, 0.4)), rate, pingpong=bool(rng.random() < 0.6))  # fmt: skip
    if rng.random() < 0.75:
        x = effects.reverb(x, rooms[int(rng.random() < 0.6)], float(10 ** (rng.uniform(-24, -6) / 20)))
    return _level(effects.widen(x, float(rng.uniform(0.6, 1.3))))
