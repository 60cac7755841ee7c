"""Measures of perceived quality that are published as programs, by the packages that carry them: PESQ and ViSQOL.

PESQ (ITU-T P.862.2, wide band) was made for speech over telephones, ViSQOL in audio mode for music at 48 kHz (arXiv 2004.09584).
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from duotok.audio.io import resample
from duotok.clock import SAMPLE_RATE
from duotok.errors import MetricError, MissingExtraError, one_line

PESQ_RATE = 16_000
PESQ_SHORTEST = 0.25
"""Seconds below which PESQ has no answer."""


def pesq(estimate: Tensor, target: Tensor, rate: int) -> float:
    """PESQ wide band, MOS-LQO 1.04 to 4.64 (higher is better), both in mono at 16 kHz.

    estimate, target: `[samples]` or `[channels, samples]` at `rate`; the shorter length counts. Raises MetricError where it has no
    answer (silence, less than 0.25 s), MissingExtraError without the package pesq.
    """
    try:
        from pesq import PesqError
        from pesq import pesq as measure
    except ImportError:
        raise MissingExtraError("PESQ needs the package pesq: pip install 'duotok[perceptual]'") from None
    a, b = _mono(estimate, target, rate, PESQ_RATE)
    if len(b) < PESQ_SHORTEST * PESQ_RATE:
        raise MetricError(f"PESQ has no answer for {len(b) / PESQ_RATE:.2f} s of sound; it needs {PESQ_SHORTEST:g} s")
    if not a.any() or not b.any():
        raise MetricError("PESQ has no answer for silence")
    try:
        return float(measure(PESQ_RATE, b, a, "wb"))
    except PesqError as error:
        reason = error.args[0] if error.args else error
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else one_line(error)
        raise MetricError(f"PESQ has no answer ({text})") from None


def visqol(estimate: Tensor, target: Tensor, rate: int) -> float:
    """ViSQOL v3 in audio mode, MOS-LQO 1 to about 4.7 (higher is better), both in mono at 48 kHz, by visqol-python.

    estimate, target: as for `pesq`. Raises MetricError where it has no answer (silence, less than a second), MissingExtraError
    without the package.
    """
    a, b = _mono(estimate, target, rate, SAMPLE_RATE)
    if len(b) < SAMPLE_RATE:
        raise MetricError(f"ViSQOL has no answer for {len(b) / SAMPLE_RATE:.2f} s of sound; it needs a second")
    if not a.any() or not b.any():
        raise MetricError("ViSQOL has no answer for silence")
    try:
        return float(_visqol().measure_from_arrays(b.astype(np.float64), a.astype(np.float64), SAMPLE_RATE).moslqo)
    except (ValueError, RuntimeError, IndexError, ZeroDivisionError) as error:
        raise MetricError(f"ViSQOL has no answer ({one_line(error)})") from None


@cache
def _visqol() -> Any:
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # songs run side by side, a process each
    try:
        from visqol import VisqolApi
    except ImportError:
        raise MissingExtraError("ViSQOL needs the package visqol-python: pip install 'duotok[perceptual]'") from None
    api = VisqolApi()
    api.create(mode="audio")
    return api


def _mono(estimate: Tensor, target: Tensor, rate: int, to: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    a, b = (sound.mean(0) if sound.dim() == 2 else sound for sound in (estimate, target))
    n = min(len(a), len(b))
    x, y = (resample(sound[None, :n], rate, to)[0].float().numpy() for sound in (a, b))
    return x, y
