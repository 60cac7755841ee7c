"""Codec2 at a few kbit/s by its command-line tools: what a voice channel makes of a song."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duotok.audio.io import resample
from duotok.clock import SAMPLE_RATE
from duotok.errors import ConfigError, DuoTokError
from duotok.evaluation.anchors import ANCHORS
from duotok.evaluation.opus import Coded

RATE = 8000
FRAME = 320  # samples of 40 ms, whole frames in every mode
MODES = ("3200", "2400", "1600", "1400", "1300", "1200", "700C")
DELAY = {"700C": 0.030}
USUAL_DELAY = 0.020
"""Seconds that Codec2 is late, by mode. Its waveform does not follow the original's, so nothing can be found by comparing the two:
measured on envelopes of noise and voices (docs/experiments/codecs-verified.md)."""
TIMEOUT = 600.0


def codec2(audio: Tensor, mode: str = "3200") -> Coded:
    """Mono `[channels, samples]` at 48 kHz through `c2enc MODE` and `c2dec MODE` and back, at 8 kHz between.

    mode: bits a second; kbps tells more where the tools fill up bytes. Its delay is removed. Raises ConfigError without the tools or
    for a mode that there is not, DuoTokError when a tool fails.
    """
    if mode not in MODES:
        raise ConfigError(f"codec2 mode '{mode}' does not exist; choose {', '.join(MODES)}")
    for program in ANCHORS["codec2"].programs:
        if shutil.which(program) is None:
            raise ConfigError(f"codec2: no `{program}` on this machine; {ANCHORS['codec2'].install}")
    mono = audio.mean(0, keepdim=True).float()
    n = mono.shape[1]
    narrow: NDArray[np.float32] = resample(mono, SAMPLE_RATE, RATE)[0].numpy()
    padded = np.pad(narrow, (0, FRAME + -(len(narrow) + FRAME) % FRAME))
    raw = (padded.clip(-1, 1) * 32767).round().astype("<i2").tobytes()
    bits = _run("c2enc", mode, raw)
    heard = np.frombuffer(_run("c2dec", mode, bits), dtype="<i2").astype(np.float32) / 32767
    decoded = resample(torch.from_numpy(heard)[None], RATE, SAMPLE_RATE)[0].numpy()
    lag = round(DELAY.get(mode, USUAL_DELAY) * SAMPLE_RATE)
    aligned = np.pad(decoded, (0, n + lag))[lag : lag + n][None]
    return Coded(torch.from_numpy(np.ascontiguousarray(aligned)), 8 * len(bits) / (len(padded) / RATE) / 1000)


def _run(program: str, mode: str, data: bytes) -> bytes:
    try:
        done = subprocess.run([program, mode, "-", "-"], input=data, capture_output=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DuoTokError(f"{program} {mode}: {error.__class__.__name__}; check the installation") from None
    if done.returncode or not done.stdout:
        reason = " ".join(done.stderr.decode("utf-8", "replace").split())[-200:]
        raise DuoTokError(f"{program} {mode}: ended with code {done.returncode} ({reason or 'without a word'})")
    return done.stdout
