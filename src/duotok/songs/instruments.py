"""Instruments: five small synthesis methods and the named sounds drawn from them.

Every sound is a function (pitch, seconds, rate) -> mono float32 samples, drawn once for a song; its parameters are
random, so that every song has its own piano. Peak levels are near 1; the arrangement scales them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from duotok.songs.singer import Rng

Samples = NDArray[np.float32]
Sound = Callable[[float, float, int], Samples]
TABLE = 4096


def hertz(pitch: float) -> float:
    return float(440.0 * 2 ** ((pitch - 69) / 12))


def envelope(
    n: int, rate: int, note_seconds: float, attack: float, decay: float, sustain: float, release: float
) -> Samples:
    """Attack, exponential decay to `sustain`, release after `note_seconds`; [n]."""
    time = np.arange(n, dtype=np.float32) / rate
    level = sustain + (1 - sustain) * np.exp(-np.maximum(time - attack, 0) / max(decay, 1e-3))
    level *= np.clip(time / max(attack, 1e-3), 0, 1)
    level *= np.exp(-np.maximum(time - note_seconds, 0) / max(release / 4, 1e-3))
    fade = min(n, max(1, int(0.004 * rate)))
    level[n - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    return np.asarray(level, np.float32)


def wavetable(rng: Rng, shape: str, *, brightness: float = 0.5, unison: int = 1, attack: float = 0.005,
              decay: float = 0.3, sustain: float = 0.6, release: float = 0.15, vibrato: float = 0.0
              ) -> Sound:  # fmt: skip
    """Subtractive and additive: a spectrum under a resonant low-pass that closes over the note.

    The filter is applied to the harmonics (exactly band-limited): an open and a closed table, cross-faded in time.
    """
    harmonics = np.arange(1, 257)
    odd = harmonics % 2 == 1
    width = rng.uniform(0.15, 0.5)
    spectra = {
        "saw": 1.0 / harmonics,
        "square": np.where(odd, 1.0 / harmonics, 0.0),
        "pulse": np.abs(np.sin(np.pi * harmonics * width)) / harmonics,
        "triangle": np.where(odd, 1.0 / harmonics**2.0, 0.0),
        "organ": np.isin(harmonics, (1, 2, 3, 4, 6, 8, 10, 12, 16))
        * np.maximum(rng.random(256) ** 1.5, harmonics == 1),
        "choir": 1.0 / harmonics**1.2,
        "reed": rng.uniform(0.3, 1.0, 256) / harmonics**0.8,
        "flute": np.where(harmonics == 1, 1.0, rng.uniform(0.1, 0.5, 256) / harmonics**1.8),
    }
    base = spectra[shape] * np.exp(rng.normal(0, 0.15, 256))
    formants = [(rng.uniform(400, 900), 250.0), (rng.uniform(1000, 2600), 400.0)] if shape in ("choir", "reed") else []
    phases = rng.uniform(0, 2 * np.pi, 256) if rng.random() < 0.7 else np.zeros(256)
    open_at = 300 * 2 ** (5.5 * np.clip(brightness + rng.normal(0, 0.12), 0, 1.1))
    closed_at = open_at * 2 ** -rng.uniform(0.3, 3.0)
    steep, resonance = rng.choice([2, 4]), rng.choice([0.0, rng.uniform(0.5, 3.0)])
    sweep = rng.uniform(0.05, 0.8)
    detune = rng.uniform(0.04, 0.22)
    spread = rng.uniform(-1, 1, unison)
    spread -= spread.mean()
    rate_of_vibrato = rng.uniform(4.5, 6.5)
    chiff = rng.uniform(0.0, 0.12) if shape == "flute" else 0.0
    seed = int(rng.integers(2**31))

    def table(f0: float, cutoff: float, rate: int) -> Samples:
        f = harmonics * f0
        x = f / cutoff
        gain = 1 / np.sqrt(1 + x ** (2 * steep)) + resonance * np.exp(-((np.log2(x) / 0.25) ** 2)) * 0.5
        for centre, band in formants:
            gain = gain * (0.35 + 2.0 * np.exp(-(((f - centre) / band) ** 2)))
        spectrum = np.zeros(TABLE // 2 + 1, complex)
        spectrum[1:257] = np.where(f < 0.45 * rate, base * gain, 0.0) * np.exp(1j * phases)
        wave = np.fft.irfft(spectrum) * TABLE / 2
        return np.asarray(wave, np.float32)

    def sound(pitch: float, seconds: float, rate: int) -> Samples:
        f0 = hertz(pitch)
        n = int((seconds + release) * rate)
        local = np.random.default_rng([seed, round(pitch * 16)])
        time = np.arange(n, dtype=np.float64) / rate
        bright, dark = table(f0, open_at, rate), table(f0, closed_at, rate)
        scale = 1.0 / max(float(np.abs(bright).max()), float(np.abs(dark).max()), 1e-6)
        mix = np.exp(-time / sweep).astype(np.float32)
        out = np.zeros(n, np.float32)
        for offset in spread:
            phase = f0 * 2 ** (offset * detune / 12) * time
            if vibrato:
                turn = 2 * np.pi * rate_of_vibrato
                grown = np.clip((time - 0.2) / 0.4, 0, 1)
                phase = phase - f0 * vibrato * 0.0578 / turn * grown * np.cos(turn * time)
            index = ((phase + local.random() * (unison > 1)) % 1.0 * TABLE).astype(np.int32) & (TABLE - 1)
            out += mix * bright[index] + (1 - mix) * dark[index]
        out *= scale / np.sqrt(unison)
        if chiff:
            out += chiff * local.standard_normal(n).astype(np.float32) * (0.3 + 0.7 * mix)
        return out * envelope(n, rate, seconds, attack, decay, sustain, release)

    return sound


def fm(rng: Rng, ratio: float, index: float, *, attack: float = 0.003, decay: float = 0.6, sustain: float = 0.3,
       release: float = 0.25, fall: float | None = None) -> Sound:  # fmt: skip
    """Two-operator frequency modulation; the index falls over the note."""
    index *= rng.uniform(0.6, 1.4)
    fall = rng.uniform(0.1, 0.8) if fall is None else fall
    floor = rng.uniform(0.05, 0.5)
    slow = rng.uniform(0.0, 0.6)
    feedback = rng.uniform(0, 0.4)

    def sound(pitch: float, seconds: float, rate: int) -> Samples:
        f0 = hertz(pitch)
        n = int((seconds + release) * rate)
        time = np.arange(n, dtype=np.float64) / rate
        # a modulator whose side bands pass Nyquist would alias
        depth = min(index, max(0.0, (0.42 * rate / f0 - 1) / (ratio + 0.5)))
        amount = (depth * (floor + (1 - floor) * np.exp(-time / fall))).astype(np.float32)
        turn = ((f0 * time) % 1.0 * (2 * np.pi)).astype(np.float32)
        modulator = ((f0 * ratio * time) % 1.0 * (2 * np.pi)).astype(np.float32)
        shape = np.sin(modulator + np.float32(feedback) * np.sin(modulator))
        out = np.sin(turn + amount * shape)
        if slow:
            out *= 1 - 0.3 * np.float32(slow) * (1 + np.sin((2 * np.pi * 5 * time).astype(np.float32))) / 2
        return np.asarray(out, np.float32) * envelope(n, rate, seconds, attack, decay, sustain, release)

    return sound


def string(rng: Rng, *, decay: float = 2.0, damping: float = 0.5, pick: float = 0.2, hammer: float = 0.0,
           stiff: float = 0.0, release: float = 0.12, courses: int = 1, attack: float = 0.001) -> Sound:  # fmt: skip
    """A plucked or struck string: Karplus-Strong solved in the frequency domain, so that tuning, decay and stiffness
    are exact. `damping` 0 bright .. 1 dull, `pick` position along the string, `hammer` softness in seconds."""
    decay *= rng.uniform(0.6, 1.5)
    damping = float(np.clip(damping + rng.normal(0, 0.1), 0.02, 1.0))
    pick = float(np.clip(pick + rng.normal(0, 0.05), 0.04, 0.5))
    apart = rng.uniform(0.005, 0.05)
    body = [(rng.uniform(90, 260), rng.uniform(2, 8)), (rng.uniform(300, 900), rng.uniform(1, 5))]
    seed = int(rng.integers(2**31))

    def sound(pitch: float, seconds: float, rate: int) -> Samples:
        n = int((seconds + release) * rate)
        size = 1 << int(np.ceil(np.log2(n + rate // 8)))
        shrink = np.log(1e4) / size  # evaluated inside the unit circle, otherwise the tail would wrap around
        local = np.random.default_rng([seed, round(pitch * 16)])
        f = np.arange(size // 2 + 1) * (rate / size)
        out = np.zeros(n)
        for course in range(courses):
            f0 = hertz(pitch + (course - (courses - 1) / 2) * apart)
            order = f / f0
            delay = np.sqrt(1 + stiff * order**2) if stiff else 1.0
            ringing = decay * (220 / f0) ** 0.5
            loss = np.exp(-6.9 / (ringing * f0) * (1 + damping * 6 * (f / 2500) ** 1.5))
            loop = loss * np.exp(-2j * np.pi * order / delay) * np.exp(-shrink * rate / f0)
            if hammer:
                excite = np.exp(-((f * hammer * 2.5) ** 2)) + 0.02 * np.exp(-f / 4000)
            else:
                burst = local.standard_normal(max(8, int(rate / f0)))
                excite = np.fft.rfft(burst * np.exp(-shrink * np.arange(len(burst))), size) / np.sqrt(len(burst))
                excite = excite / (1 + (f / (900 + 9000 * (1 - damping))) ** 2)
            comb = 1 - np.exp(-2j * np.pi * order * pick)
            out += np.fft.irfft(excite * comb / (1 - loop), size)[:n]
        out *= np.exp(shrink * np.arange(n))
        for centre, gain in body:
            out = _resonate(out, centre, gain, rate)
        out /= max(float(np.abs(out[: rate // 2]).max()), 1e-9)
        return (out * envelope(n, rate, seconds, attack, 100.0, 1.0, release)).astype(np.float32)

    return sound


def _resonate(x: NDArray[np.float64], centre: float, gain: float, rate: int) -> NDArray[np.float64]:
    from duotok.songs.effects import peak_filter

    return peak_filter(x, centre, gain, 1.2, rate)


def distort(inner: Sound, drive: float) -> Sound:
    """A sound through a clipping amplifier."""

    def sound(pitch: float, seconds: float, rate: int) -> Samples:
        x = inner(pitch, seconds, rate)
        return np.asarray(np.tanh(drive * x) / np.tanh(drive), np.float32)

    return sound


def random_sound(rng: Rng, name: str) -> Sound:
    """Draw the parameters of a named sound."""
    u = rng.uniform
    if name == "piano":
        return string(rng, decay=u(2, 5), damping=u(0.1, 0.5), pick=u(0.1, 0.16), hammer=u(0.0001, 0.0004),
                      stiff=u(0.0001, 0.0006), courses=int(rng.integers(1, 4)), release=0.2)  # fmt: skip
    if name in ("guitar", "nylon", "harp"):
        dull = {"guitar": u(0.1, 0.4), "nylon": u(0.4, 0.9), "harp": u(0.2, 0.6)}[name]
        return string(rng, decay=u(1.2, 4), damping=dull, pick=u(0.1, 0.4), courses=int(rng.choice([1, 1, 2])))
    if name == "clav":
        return string(rng, decay=u(0.5, 1.2), damping=u(0.05, 0.2), pick=u(0.06, 0.12), release=0.04)
    if name in ("picked", "upright"):
        dull = u(0.3, 0.9) if name == "picked" else u(0.8, 1.0)
        return string(rng, decay=u(1.5, 4), damping=dull, pick=u(0.1, 0.4), release=0.07)
    if name == "distorted":
        return string(rng, decay=u(3, 8), damping=u(0.2, 0.6), pick=u(0.08, 0.3), release=0.06)
    if name == "epiano":
        return fm(rng, float(rng.choice([1, 1, 14, 2])), u(0.6, 2.0), decay=u(0.8, 2.0), sustain=0.1, release=0.3)
    if name in ("bell", "glass", "vibes", "marimba"):
        ratio = {"bell": u(2.5, 5.2), "glass": u(1.4, 3.6), "vibes": 4.0, "marimba": 3.9}[name]
        long = 0.25 if name == "marimba" else u(0.6, 2.0)
        return fm(rng, ratio, u(0.5, 2.5), decay=long, sustain=0.0, release=0.1 if name == "marimba" else 0.6)
    if name == "fm":
        return fm(rng, float(rng.choice([0.5, 1, 1.5, 2, 3, 7])), u(1, 5), sustain=u(0.2, 0.8))
    if name == "brass":
        return wavetable(rng, "saw", brightness=u(0.45, 0.75), attack=u(0.02, 0.06), sustain=0.8, unison=2, vibrato=0.1)
    if name == "organ":
        return wavetable(rng, "organ", brightness=u(0.6, 1.0), attack=0.005, sustain=1.0, release=0.06,
                         vibrato=u(0, 0.2), unison=int(rng.integers(1, 3)))  # fmt: skip
    if name == "strings":
        return wavetable(rng, str(rng.choice(["saw", "pulse"])), brightness=u(0.4, 0.65), attack=u(0.06, 0.3),
                         sustain=0.9, release=u(0.2, 0.6), unison=int(rng.integers(3, 6)), vibrato=0.1)  # fmt: skip
    if name == "choir":
        return wavetable(
            rng, "choir", brightness=0.7, attack=u(0.1, 0.3), sustain=0.9, release=0.4, unison=4, vibrato=0.2
        )
    if name in ("flute", "fiddle", "accordion"):
        shape = {"flute": "flute", "fiddle": "reed", "accordion": "reed"}[name]
        return wavetable(rng, shape, brightness=u(0.5, 0.8), attack=u(0.03, 0.08), sustain=0.9, vibrato=u(0.1, 0.35),
                         unison=2 if name == "accordion" else 1)  # fmt: skip
    if name == "supersaw":
        return wavetable(rng, "saw", brightness=u(0.6, 1.0), attack=u(0.005, 0.15), sustain=0.8, release=0.3, unison=6)
    if name == "pluck":
        return wavetable(rng, str(rng.choice(["saw", "pulse", "square"])), brightness=u(0.5, 0.8), decay=u(0.08, 0.3),
                         sustain=0.0, unison=2)  # fmt: skip
    if name == "sub":
        return wavetable(rng, "triangle", brightness=u(0.05, 0.3), decay=u(0.3, 2.0), sustain=0.5, release=0.08)
    if name == "synth":
        return wavetable(
            rng, str(rng.choice(["saw", "pulse", "square"])), brightness=u(0.15, 0.5), decay=0.2, release=0.06
        )
    if name == "growl":
        return distort(wavetable(rng, "saw", brightness=u(0.3, 0.6), release=0.06), u(2, 6))
    if name == "square":
        return wavetable(rng, str(rng.choice(["square", "pulse"])), brightness=u(0.4, 1.0), vibrato=u(0, 0.3))
    return wavetable(rng, "saw", brightness=u(0.35, 0.9), unison=int(rng.integers(1, 4)))
