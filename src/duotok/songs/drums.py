"""Drums: hits synthesised for every song, from kits that differ widely."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from duotok.songs.singer import Rng

Samples = NDArray[np.float32]
PIECES = ("kick", "snare", "hat", "open", "ride", "crash", "tom", "lowtom", "clap", "rim", "shaker", "tamb", "cowbell")
# kit -> kick hertz, kick decay, snare hertz, snare noise decay, hat decay, drive, dull (low-pass hertz)
KITS = {
    "acoustic": ((48, 70), (0.12, 0.3), (160, 260), (0.12, 0.25), (0.03, 0.08), (0.5, 1.5), (9000, 20000)),
    "electronic": ((42, 60), (0.15, 0.4), (170, 240), (0.1, 0.25), (0.02, 0.06), (1.0, 3.0), (14000, 22000)),
    "eight": ((36, 52), (0.35, 1.1), (150, 220), (0.08, 0.2), (0.02, 0.05), (0.5, 2.0), (12000, 22000)),
    "lofi": ((50, 75), (0.08, 0.2), (160, 280), (0.07, 0.16), (0.02, 0.07), (1.5, 4.0), (4000, 9000)),
    "brush": ((55, 75), (0.1, 0.2), (180, 300), (0.15, 0.35), (0.02, 0.06), (0.2, 0.8), (8000, 18000)),
    "industrial": ((40, 65), (0.1, 0.35), (140, 320), (0.15, 0.4), (0.03, 0.1), (3.0, 8.0), (7000, 20000)),
}


def _noise(rng: Rng, n: int, low: float, high: float, rate: int) -> NDArray[np.float64]:
    edges = [low, min(high, 0.47 * rate)]
    sos = signal.butter(2, edges, "bandpass", fs=rate, output="sos")
    return np.asarray(signal.sosfilt(sos, rng.standard_normal(n)))


def _metal(rng: Rng, n: int, rate: int, base: float) -> NDArray[np.float64]:
    """Six clashing squares, as in the analogue machines."""
    time = np.arange(n) / rate
    ratios = np.array([1.0, 1.3, 1.6, 1.9, 2.3, 2.9]) * rng.uniform(0.95, 1.05, 6)
    return np.asarray(sum(np.sign(np.sin(2 * np.pi * base * r * time + rng.uniform(0, 6))) for r in ratios) / 6)


class Kit:
    """A drawn kit; `hit` gives one of a few variations of a piece, mono [n], peak 1."""

    def __init__(self, rng: Rng, name: str, rate: int) -> None:
        self.rate = rate
        self._rng = rng
        self.name = name
        self.kick_hz, self.kick_decay, self.snare_hz, self.snare_decay, self.hat_decay, self.drive, self.dull = (
            float(rng.uniform(*span)) for span in KITS[name]
        )
        self.sweep = float(rng.uniform(1.5, 6.0))
        self.sweep_time = float(rng.uniform(0.012, 0.05))
        self.click = float(rng.uniform(0.05, 0.6))
        self.snap = float(rng.uniform(0.3, 0.9))
        self.metal = float(rng.uniform(0, 1)) if name != "brush" else 0.0
        self.metal_hz = float(rng.uniform(280, 560))
        self.pans = {p: float(rng.normal(0, 0.35)) for p in PIECES}
        self.pans["kick"], self.pans["snare"] = 0.0, float(rng.normal(0, 0.08))
        self.levels = {p: float(10 ** (rng.normal(0, 2) / 20)) for p in PIECES}
        self._hits: dict[str, list[Samples]] = {}

    def hit(self, piece: str, take: int) -> Samples:
        if piece not in self._hits:
            self._hits[piece] = [self._make(piece) for _ in range(2)]
        takes = self._hits[piece]
        return takes[take % len(takes)]

    def _make(self, piece: str) -> Samples:
        rng, rate = self._rng, self.rate

        def time(seconds: float) -> NDArray[np.float64]:
            return np.arange(int(seconds * rate)) / rate

        if piece == "kick":
            t = time(min(1.2, 5 * self.kick_decay))
            x = self._thump(t, self.kick_hz, self.sweep, self.kick_decay)
            x = x + self.click * np.exp(-t / 0.004) * _noise(rng, len(t), 1500, 9000, rate)
        elif piece in ("tom", "lowtom"):
            t = time(0.5)
            x = self._thump(t, 140 if piece == "tom" else 95, 1.4, 0.16) + 0.1 * np.exp(
                -t / 0.05
            ) * rng.standard_normal(len(t))
        elif piece == "snare":
            t = time(min(0.8, 6 * self.snare_decay))
            tone = self._thump(t, self.snare_hz, 1.5, 0.07) + 0.5 * self._thump(t, self.snare_hz * 1.62, 1.3, 0.05)
            slow = np.clip(t / 0.03, 0, 1) if self.name == "brush" else 1.0
            wires = _noise(rng, len(t), 1200, 12000, rate) * np.exp(-t / (self.snare_decay / 1.5)) * slow
            x = (1 - self.snap) * tone + 1.6 * self.snap * wires
        elif piece in ("hat", "open", "ride", "crash"):
            last = {"hat": self.hat_decay, "open": 0.25, "ride": 0.5, "crash": 0.8}[piece] * rng.uniform(0.85, 1.15)
            t = time(5 * last)
            low = {"hat": 6500, "open": 6000, "ride": 4000, "crash": 3000}[piece]
            hiss = _noise(rng, len(t), low, 19000, rate)
            sos = signal.butter(2, low, "highpass", fs=rate, output="sos")
            ring = signal.sosfilt(sos, _metal(rng, len(t), rate, self.metal_hz))
            x = ((1 - self.metal) * hiss + 1.5 * self.metal * ring) * np.exp(-t / last)
            if piece == "ride":
                x = x + 0.5 * np.exp(-t / 0.6) * np.sin(2 * np.pi * 3100 * t) * np.exp(-t / 0.2)
        elif piece == "clap":
            t = time(0.35)
            bursts = sum(np.exp(-np.maximum(t - d, 0) / 0.006) * (t >= d) for d in (0, 0.011, 0.021))
            x = _noise(rng, len(t), 800, 6000, rate) * (bursts + np.exp(-np.maximum(t - 0.03, 0) / 0.07) * (t > 0.03))
        elif piece == "rim":
            t = time(0.08)
            x = np.exp(-t / 0.008) * (np.sin(2 * np.pi * 1700 * t) + 0.6 * np.sin(2 * np.pi * 480 * t))
        elif piece in ("shaker", "tamb"):
            t = time(0.16)
            x = _noise(rng, len(t), 4500, 16000, rate) * np.clip(t / 0.02, 0, 1) * np.exp(-t / 0.035)
            if piece == "tamb":
                x = x + 0.6 * np.exp(-t / 0.05) * sum(np.sin(2 * np.pi * f * t) for f in (6300, 7900, 9600)) / 3
        else:  # cowbell
            t = time(0.25)
            x = np.exp(-t / 0.06) * (np.sign(np.sin(2 * np.pi * 562 * t)) + np.sign(np.sin(2 * np.pi * 845 * t)))
            x = signal.sosfilt(signal.butter(2, [400, 3500], "bandpass", fs=rate, output="sos"), x)
        x = np.tanh(self.drive * x / (np.abs(x).max() + 1e-9))
        if self.dull < 0.4 * rate:
            x = signal.sosfilt(signal.butter(2, self.dull, "lowpass", fs=rate, output="sos"), x)
        x[-64:] *= np.linspace(1, 0, 64)
        return np.asarray(x / (np.abs(x).max() + 1e-9), np.float32)

    def _thump(self, t: NDArray[np.float64], hz: float, sweep: float, decay: float) -> NDArray[np.float64]:
        phase = hz * t + hz * (sweep - 1) * self.sweep_time * (1 - np.exp(-t / self.sweep_time))
        return np.asarray(np.sin(2 * np.pi * phase) * np.exp(-t / (decay / 2)) * np.clip(t / 0.0008, 0, 1))
