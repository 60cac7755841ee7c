"""Effects on stereo samples [2, n] (some on [n]): filters, dynamics, saturation, echoes, rooms.

All return new arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal

from duotok.songs.singer import Rng

Samples = NDArray[np.float32]


def _biquad(kind: str, hz: float, gain: float, q: float, rate: int) -> NDArray[np.float64]:
    """Coefficients [1, 6] after Bristow-Johnson's audio EQ cookbook."""
    hz = min(hz, 0.45 * rate)
    a = 10 ** (gain / 40)
    w = 2 * np.pi * hz / rate
    c, alpha = np.cos(w), np.sin(w) / (2 * q)
    if kind == "peak":
        b = [1 + alpha * a, -2 * c, 1 - alpha * a]
        d = [1 + alpha / a, -2 * c, 1 - alpha / a]
    elif kind == "low":
        s = 2 * np.sqrt(a) * alpha
        b = [a * ((a + 1) - (a - 1) * c + s), 2 * a * ((a - 1) - (a + 1) * c), a * ((a + 1) - (a - 1) * c - s)]
        d = [(a + 1) + (a - 1) * c + s, -2 * ((a - 1) + (a + 1) * c), (a + 1) + (a - 1) * c - s]
    elif kind == "high":
        s = 2 * np.sqrt(a) * alpha
        b = [a * ((a + 1) + (a - 1) * c + s), -2 * a * ((a - 1) + (a + 1) * c), a * ((a + 1) + (a - 1) * c - s)]
        d = [(a + 1) - (a - 1) * c + s, 2 * ((a - 1) - (a + 1) * c), (a + 1) - (a - 1) * c - s]
    elif kind == "highpass":
        b = [(1 + c) / 2, -(1 + c), (1 + c) / 2]
        d = [1 + alpha, -2 * c, 1 - alpha]
    else:  # lowpass
        b = [(1 - c) / 2, 1 - c, (1 - c) / 2]
        d = [1 + alpha, -2 * c, 1 - alpha]
    return np.asarray(np.array([*b, *d])[None] / d[0])


def equalise(x: Any, bands: list[tuple[str, float, float, float]], rate: int) -> Samples:
    """Bands as (kind, hertz, dB, q), kind one of peak, low, high, lowpass, highpass; along the last axis."""
    sections = np.concatenate([_biquad(*band, rate) for band in bands])
    return np.asarray(signal.sosfilt(sections.astype(np.float32), x, axis=-1), np.float32)


def peak_filter(x: NDArray[np.float64], hz: float, gain: float, q: float, rate: int) -> NDArray[np.float64]:
    return np.asarray(signal.sosfilt(_biquad("peak", hz, gain, q, rate), x))


def random_tone(rng: Rng, strength: float = 1.0) -> list[tuple[str, float, float, float]]:
    """A random but musical equaliser."""
    bands = [
        ("low", float(rng.uniform(80, 300)), float(rng.normal(0, 2.5 * strength)), 0.7),
        ("peak", float(np.exp(rng.uniform(np.log(250), np.log(1200)))), float(rng.normal(0, 2.5 * strength)), 0.9),
        ("peak", float(np.exp(rng.uniform(np.log(1200), np.log(6000)))), float(rng.normal(0, 2.5 * strength)), 0.9),
        ("high", float(rng.uniform(3000, 10000)), float(rng.normal(0, 3.0 * strength)), 0.7),
    ]
    if rng.random() < 0.08:
        bands.append(("lowpass", float(rng.uniform(3500, 12000)), 0.0, 0.7))
    return bands


def compress(x: Samples, threshold: float, ratio: float, attack: float, release: float, rate: int) -> Samples:
    """Feed-forward compressor, both channels alike; threshold in dB below the loud passages of x itself."""
    hop = 128
    n = x.shape[-1]
    blocks = -(-n // hop)
    padded = np.zeros((2, blocks * hop), np.float32)
    padded[:, :n] = x
    power = (padded.reshape(2, blocks, hop) ** 2).mean(axis=(0, 2))
    loud = np.percentile(power, 95) + 1e-12
    level = 10 * np.log10(power / loud + 1e-7)
    reduction = -np.maximum(level - threshold, 0) * (1 - 1 / ratio)
    up, down = np.exp(-hop / (attack * rate)), np.exp(-hop / (release * rate))
    gain = np.empty(blocks)
    now = 0.0
    for i, target in enumerate(reduction.tolist()):
        factor = up if target < now else down
        now = target + (now - target) * factor
        gain[i] = now
    curve = np.interp(np.arange(n), np.arange(blocks) * hop + hop / 2, gain)
    return np.asarray(x * (10 ** (curve / 20)).astype(np.float32), np.float32)


def saturate(x: Samples, drive: float, asymmetry: float = 0.0) -> Samples:
    """Soft clipping at `drive` times the 99.9th percentile; keeps the level roughly."""
    top = float(np.percentile(np.abs(x[..., ::7]), 99.9)) + 1e-9
    scaled = x * np.float32(drive / top)
    shaped = np.tanh(scaled + asymmetry) - np.tanh(asymmetry)
    return np.asarray(shaped * np.float32(top / np.tanh(drive)), np.float32)


def impulse(rng: Rng, seconds: float, rate: int, *, bright: float, early: float, predelay: float) -> Samples:
    """A room's response [2, n]: early echoes, then noise that decays faster at the top."""
    n = max(64, int(seconds * rate))
    time = np.arange(n) / rate
    noise = rng.standard_normal((2, n))
    low = signal.sosfilt(_biquad("lowpass", 500 + 5500 * bright, 0, 0.7, rate), noise, axis=-1)
    low = signal.sosfilt(_biquad("highpass", 120, 0, 0.7, rate), low, axis=-1)
    room = low * np.exp(-6.9 * time / seconds) + noise * 0.3 * bright * np.exp(-6.9 * time / (0.4 * seconds))
    room *= np.clip(time / 0.01, 0, 1)
    for _ in range(int(rng.integers(4, 12))):
        at = int(rng.uniform(0.003, 0.06) * rate)
        if at < n:
            room[int(rng.integers(2)), at] += early * rng.uniform(3, 12) * np.exp(-at / rate * 25) * rng.choice([-1, 1])
    room = np.pad(room, ((0, 0), (int(predelay * rate), 0)))
    return np.asarray(room / np.sqrt((room**2).sum(axis=1, keepdims=True)), np.float32)


def reverb(x: Samples, response: Samples, amount: float) -> Samples:
    """x plus `amount` times its reverb, which is computed from the mono sum."""
    n = x.shape[-1]
    size = fft.next_fast_len(n + response.shape[-1], real=True)
    spectrum = fft.rfft(x.mean(axis=0), size)
    wet = fft.irfft(spectrum[None] * fft.rfft(response, size, axis=-1), size, axis=-1)[:, :n]
    return np.asarray(x + np.float32(amount) * wet.astype(np.float32), np.float32)


def delay(x: Samples, seconds: float, feedback: float, amount: float, rate: int, *, pingpong: bool = False) -> Samples:
    """Repeats, each duller than the last."""
    out = x.copy()
    shift = int(seconds * rate)
    echo = x
    level = amount
    for i in range(1, 7):
        at = i * shift
        if at >= x.shape[-1] or level < 0.01:
            break
        echo = equalise(echo, [("lowpass", 5000.0, 0.0, 0.7)], rate)
        source = echo[::-1] if pingpong and i % 2 else echo
        out[:, at:] += np.float32(level) * source[:, :-at]
        level *= feedback
    return out


def chorus(x: Samples, depth: float, speed: float, amount: float, rate: int) -> Samples:
    """Modulated delays, opposite in the two channels; depth in seconds."""
    n = x.shape[-1]
    time = np.arange(n, dtype=np.float64)
    out = x.copy()
    for channel, phase in ((0, 0.0), (1, np.pi / 2)):
        position = time - rate * (0.008 + depth * (1 + np.sin(2 * np.pi * speed / rate * time + phase)))
        position = np.maximum(position, 0)
        low = position.astype(np.int64)
        part = (position - low).astype(np.float32)
        line = x[channel]
        out[channel] += np.float32(amount) * ((1 - part) * line[low] + part * line[np.minimum(low + 1, n - 1)])
    return out


def pan(x: NDArray[np.float32], place: float) -> Samples:
    """Mono [n] to stereo by constant power; place -1 left .. 1 right."""
    angle = (place + 1) * np.pi / 4
    return np.stack([x * np.float32(np.cos(angle)), x * np.float32(np.sin(angle))]) * np.float32(np.sqrt(2))


def widen(x: Samples, width: float) -> Samples:
    """Scale the side signal: 0 mono, 1 as it is."""
    mid, side = (x[0] + x[1]) / 2, (x[0] - x[1]) / 2 * np.float32(width)
    return np.stack([mid + side, mid - side])
