"""What the published packages say of a few fixed sounds: `tests/evaluation/reference_values.json`, which tests compare ours with.

Needs torchaudio, torchmetrics, auraloss, mir_eval, pesq and pystoi, which take long to import and are not installed for tests:

    pip install torchaudio torchmetrics auraloss mir_eval 'duotok[eval,perceptual]'
    python -m benchmarks.reference_values > tests/evaluation/reference_values.json
"""

from __future__ import annotations

import json
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor

PACKAGES = ("torchaudio", "torchmetrics", "auraloss", "mir_eval", "pesq", "pystoi")
RATES = (16_000, 24_000, 44_100)
SECONDS = 2.0
PESQ_RATE = 16_000
TIMES = {
    "same": ([0.5, 1.0, 1.5, 2.0], [0.5, 1.0, 1.5, 2.0]),
    "late": ([0.5, 1.0, 1.5, 2.0], [0.54, 1.06, 1.55, 2.2]),
    "crowd": ([0.5, 0.53, 0.56, 1.0], [0.48, 0.52, 0.55, 0.6, 1.0, 1.02, 3.0]),
    "few": ([0.2, 0.4, 0.6], [0.41]),
    "shared": ([0.5, 0.53, 1.0], [0.51, 1.4]),
}
"""Seconds of onsets: reference and estimate."""


@cache
def sounds(rate: int) -> dict[str, Tensor]:
    """A sung-like tune with rests, and what may become of it: `[samples]` at `rate`. Closed formulas: the same everywhere."""
    n = round(SECONDS * rate)
    t = np.arange(n) / rate
    note = np.floor(3 * t) % 5
    pitch = 196.0 * 2 ** (note * 2 / 12) * (1 + 0.01 * np.sin(2 * np.pi * 5.5 * t))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    tune = sum(np.sin(k * phase) / k**1.2 for k in range(1, 12))
    envelope = np.exp(-4 * ((3 * t) % 1)) * (np.sin(2 * np.pi * 0.4 * t) > -0.8)
    # Chaos instead of a random generator: no library's stream of numbers may change under it.
    noise = np.sin(1e5 * np.sin(np.arange(n) * 12.9898 + 78.233)) % 1.0 - 0.5
    clean = 0.2 * tune * envelope + 1e-4 * noise
    made = {
        "clean": clean,
        "noisy": clean + 0.02 * noise,
        "hissing": clean + 0.1 * noise,
        "louder": 1.5 * clean,
        "crushed": np.round(clean * 16) / 16,
        "late": np.concatenate([np.zeros(rate // 200), clean])[:n],
    }
    return {name: torch.from_numpy(sound.astype(np.float32)) for name, sound in made.items()}


def _mel(estimate: Tensor, target: Tensor, rate: int) -> float:
    """As the public evaluation code computes it."""
    import torchaudio

    total = 0.0
    for n_fft in (32, 64, 128, 256, 512, 1024, 2048):
        transform = torchaudio.transforms.MelSpectrogram(rate, n_fft, hop_length=n_fft // 4, n_mels=5 * n_fft // 32)
        a, b = (transform(sound).clamp_min(1e-5).log() for sound in (estimate, target))
        total += float((a - b).abs().mean())
    return total / 7


def values() -> dict[str, Any]:
    import auraloss
    import mir_eval
    from torchmetrics.functional.audio import (
        perceptual_evaluation_speech_quality,
        scale_invariant_signal_distortion_ratio,
        short_time_objective_intelligibility,
    )

    spectra = auraloss.freq.MultiResolutionSTFTLoss()
    pairs: dict[str, dict[str, dict[str, float]]] = {}
    for rate in RATES:
        target = sounds(rate)["clean"]
        for name, estimate in sounds(rate).items():
            found = {"mel": _mel(estimate, target, rate)}
            if rate == 24_000:
                found["stft"] = float(spectra(estimate[None, None], target[None, None]))
                if name != "clean":
                    found["si_sdr"] = float(scale_invariant_signal_distortion_ratio(estimate.double(), target.double()))
                found["stoi"] = float(short_time_objective_intelligibility(estimate, target, rate))
            if rate == PESQ_RATE:
                found["pesq"] = float(perceptual_evaluation_speech_quality(estimate, target, rate, "wb"))
            pairs.setdefault(str(rate), {})[name] = found
    onsets = {
        name: float(mir_eval.onset.f_measure(np.array(a), np.array(b), window=0.05)[0])
        for name, (a, b) in TIMES.items()
    }
    return {"pairs": pairs, "onset_f1": onsets, "f0": _pitch(mir_eval)}


def _pitch(mir_eval: Any) -> dict[str, float]:
    """Raw pitch accuracy within 50 cents of our own pitch tracks, over the target's voiced frames that sound."""
    from duotok.evaluation.music import _sounding, f0

    rate, result = 24_000, {}
    target = sounds(rate)["clean"]
    wanted = torch.where(_sounding(target), f0(target), torch.zeros(1)).double().numpy()
    for name, estimate in sounds(rate).items():
        cents = [mir_eval.melody.hz2cents(track) for track in (wanted, f0(estimate).double().numpy())]
        voiced = [(track > 0).astype(float) for track in cents]
        result[name] = float(
            mir_eval.melody.raw_pitch_accuracy(voiced[0], cents[0], voiced[1], cents[1], cent_tolerance=50)
        )
    return result


if __name__ == "__main__":
    print(json.dumps({"made_with": {name: metadata.version(name) for name in PACKAGES}, **values()}, indent=1))
