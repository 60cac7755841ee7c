"""Optional: instruments of a General MIDI sound bank, where tinysoundfont and pretty_midi's bank are installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from duotok.songs.score import Note
from duotok.songs.singer import Rng

PROGRAMS = {
    "piano": (0, 1, 2), "guitar": (25, 26, 27), "nylon": (24,), "harp": (46,), "clav": (7,), "epiano": (4, 5),
    "bell": (9, 14), "vibes": (11,), "marimba": (12,), "organ": (16, 17, 18), "strings": (48, 49, 50),
    "choir": (52, 53), "flute": (73, 75), "fiddle": (40, 110), "accordion": (21, 22), "brass": (61, 62, 56),
    "distorted": (29, 30),
}  # fmt: skip


def play(rng: Rng, notes: list[Note], name: str, rate: int, n: int) -> NDArray[np.float32] | None:
    """Notes on a bank's instrument, [2, n]; None where there is no bank or no such instrument."""
    if name not in PROGRAMS or not notes:
        return None
    try:
        import pretty_midi
        import tinysoundfont
    except ImportError:
        return None
    path = Path(pretty_midi.__file__).with_name("TimGM6mb.sf2")
    if not path.exists():
        return None
    synth = tinysoundfont.Synth(samplerate=rate, gain=-12)
    font = synth.sfload(str(path))
    synth.program_select(0, font, 0, int(rng.choice(PROGRAMS[name])))
    events = [(note.start, 1, note) for note in notes] + [(note.end, 0, note) for note in notes]
    events.sort(key=lambda e: (e[0], e[1]))
    out = np.zeros((2, n), np.float32)
    at = 0
    for time, on, note in events:
        until = min(n, int(time * rate))
        if until > at:
            out[:, at:until] = np.frombuffer(synth.generate(until - at), np.float32).reshape(-1, 2).T
            at = until
        if on:
            synth.noteon(0, note.pitch, int(np.clip(100 * note.velocity, 20, 127)))
        else:
            synth.noteoff(0, note.pitch)
    if n > at:
        out[:, at:] = np.frombuffer(synth.generate(n - at), np.float32).reshape(-1, 2).T
    return out
