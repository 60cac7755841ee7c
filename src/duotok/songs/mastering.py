"""Balance and loudness: levels of the stems, and one gain curve for all of them, so that they still sum to the mix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import signal
from scipy.ndimage import minimum_filter1d, uniform_filter1d

from duotok.songs.singer import Rng
from duotok.tracks import STEMS

Samples = NDArray[np.float32]
TARGET = -16.0  # LUFS of the mix
CEILING = 0.94


def loudness(x: Samples, rate: int) -> float:
    """Integrated loudness in LUFS (ITU-R BS.1770-4, gated) of [2, samples]; -inf when silent.

    In numpy, although `duotok.audio` measures it too, so that the workers that generate songs start without torch.
    """
    w = 2 * np.pi * 1681.974450955533 / rate
    a, q = 10 ** (3.999843853973347 / 40), 0.7071752369554196
    alpha, c = np.sin(w) / (2 * q), np.cos(w)
    s = 2 * np.sqrt(a) * alpha
    shelf_b = [a * ((a + 1) + (a - 1) * c + s), -2 * a * ((a - 1) + (a + 1) * c), a * ((a + 1) + (a - 1) * c - s)]
    shelf_a = [(a + 1) - (a - 1) * c + s, 2 * ((a - 1) - (a + 1) * c), (a + 1) - (a - 1) * c - s]
    w = 2 * np.pi * 38.13547087602444 / rate
    alpha, c = np.sin(w) / (2 * 0.5003270373238773), np.cos(w)
    high_b = [(1 + c) / 2, -(1 + c), (1 + c) / 2]
    high_a = [1 + alpha, -2 * c, 1 - alpha]
    sos = np.array([[*shelf_b, *shelf_a], [*high_b, *high_a]])
    sos /= sos[:, 3:4]
    weighted = signal.sosfilt(sos, x, axis=-1)
    hop = int(0.1 * rate)
    count = weighted.shape[1] // hop
    if count < 4:
        power = np.array([(weighted**2).mean(axis=1).sum()])
    else:
        steps = (weighted[:, : count * hop].reshape(2, count, hop) ** 2).mean(axis=2).sum(axis=0)
        power = np.convolve(steps, np.full(4, 0.25), "valid")
    loud = power[power > 10 ** ((-70 + 0.691) / 10)]
    if not len(loud):
        return float("-inf")
    loud = loud[loud > loud.mean() / 10]
    return float(-0.691 + 10 * np.log10(loud.mean()))


def balance(rng: Rng, stems: dict[str, Samples], rate: int, details: dict[str, object]) -> dict[str, Samples]:
    """Set the stems' levels against each other, and the mix to about -16 LUFS without clipping.

    Every stem is multiplied by the same slowly moving gain (a look-ahead limiter driven by the mix).
    """
    levels = {
        "vocals": float(rng.normal(0.0, 2.5)),
        "drums": float(rng.normal(-3.0, 2.5)),
        "bass": float(rng.normal(-5.0, 2.0)),
        "other": float(rng.normal(-3.5, 2.5)),
    }
    levelled: dict[str, Samples] = {}
    for name in STEMS:
        loud = loudness(stems[name], rate)
        gain = 10 ** ((levels[name] - 20 - loud) / 20) if np.isfinite(loud) else 0.0
        levelled[name] = stems[name] * np.float32(gain)
    mix = levelled["vocals"] + (levelled["drums"] + levelled["bass"] + levelled["other"])
    loud = loudness(mix, rate)
    if not np.isfinite(loud):
        return levelled
    n = mix.shape[1]
    fade = np.ones(n, np.float32)
    last = min(n, int(0.25 * rate))
    fade[n - last :] = np.cos(np.linspace(0, np.pi / 2, last)) ** 2
    curve = fade
    gain = 10 ** ((TARGET - loud) / 20)
    for _ in range(3):  # compensate for the loudness that the limiter removes
        curve = fade * np.float32(gain) * _limit(levelled, gain, rate)
        missed = TARGET - loudness(mix * curve, rate)
        if missed < 0.3:
            break
        gain *= 10 ** (min(missed, 3.0) / 20)
    details["levels"] = {k: round(v, 1) for k, v in levels.items()}
    return {name: np.ascontiguousarray(levelled[name] * curve) for name in STEMS}


def _limit(stems: dict[str, Samples], gain: float, rate: int) -> Samples:
    """Gain [n] that keeps the mix, the accompaniment and every stem below the ceiling: the smallest needed nearby, smoothed."""
    accompaniment = stems["drums"] + stems["bass"] + stems["other"]
    top = np.abs(stems["vocals"] + accompaniment).max(axis=0)
    for stem in (accompaniment, *stems.values()):
        np.maximum(top, np.abs(stem).max(axis=0), out=top)
    top *= np.float32(gain)
    hop = 32
    n = len(top)
    blocks = -(-n // hop)
    padded = np.zeros(blocks * hop, np.float32)
    padded[:n] = top
    need = np.minimum(1.0, CEILING / np.maximum(padded.reshape(blocks, hop).max(axis=1), 1e-9))
    reach = max(3, int(0.03 * rate / hop) | 1)
    # each value is the least gain in a window twice as wide as `reach`, so the mean over `reach` stays below it
    smooth = uniform_filter1d(minimum_filter1d(need, 2 * reach + 1), reach)
    smooth = np.minimum(smooth, need)
    curve = np.interp(np.arange(n), np.arange(blocks) * hop + hop / 2, smooth)
    limit = np.repeat(need, hop)[:n]
    return np.asarray(np.minimum(curve, limit), np.float32)
