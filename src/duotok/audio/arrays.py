"""Sound in memory, however a caller holds it, as `[channels, samples]` floats."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from duotok.audio.io import LARGEST_SAMPLE
from duotok.errors import AudioError

MOST_CHANNELS = 32
# Integer samples as files have them: the value of silence, and full scale.
INTEGERS = {"uint8": (128, 128), "int16": (0, 1 << 15), "int32": (0, 1 << 31)}
ACCEPTED = "give a path, or samples [samples] or [channels, samples] as a tensor or array"


def sound_of(source: Any, rate: Any, name: str) -> tuple[Tensor, int]:
    """`source` as float32 `[channels, samples]`, and its rate.

    source: a tensor or whatever numpy takes for an array, `[samples]`, `[channels, samples]`, or `[samples, channels]` as
    soundfile has it (distinguished by the count: no sound has over 32 channels); floats, or int16, int32 and uint8 samples; a
    pair of such and its rate, as librosa.load gives it; or an AudioSegment of pydub. Raises AudioError for anything else.
    """
    if isinstance(source, tuple) and len(source) == 2 and np.ndim(source[1]) == 0:
        source, rate = source
    elif all(hasattr(source, key) for key in ("get_array_of_samples", "frame_rate", "sample_width", "channels")):
        source, rate = _pydub_samples(source), source.frame_rate
    if isinstance(rate, bool) or not isinstance(rate, int | float | np.integer | np.floating) or not 0 < rate < 1e9:
        raise AudioError(f"{name}: rate {rate!r}; give samples per second")
    if rate != int(rate):
        raise AudioError(f"{name}: rate {rate}; give a whole number of samples per second")
    audio = _floats(source, name)
    shape = list(audio.shape)
    if audio.ndim not in (1, 2) or audio.numel() == 0:
        raise AudioError(f"{name}: sound of shape {shape}; give [samples] or [channels, samples]")
    if audio.ndim == 1:
        audio = audio[None]
    if audio.shape[0] > MOST_CHANNELS:
        if audio.shape[1] > MOST_CHANNELS:
            raise AudioError(f"{name}: sound of shape {shape} would have over {MOST_CHANNELS} channels; {ACCEPTED}")
        audio = audio.T
    if not float(audio.abs().max()) <= LARGEST_SAMPLE:
        raise AudioError(f"{name}: NaN, infinite or absurdly large samples; repair the sound first")
    return audio, int(rate)


def _pydub_samples(segment: Any) -> np.ndarray:
    samples = np.array(segment.get_array_of_samples()).reshape(-1, segment.channels).T
    return samples.astype(np.float32) / float(1 << (8 * segment.sample_width - 1))


def _floats(source: Any, name: str) -> Tensor:
    """float32 of the same shape."""
    if isinstance(source, Tensor):
        tensor = source.detach().cpu()
    else:
        kind = type(source).__name__
        if source is None or isinstance(source, str | bytes | bytearray | dict | set) or callable(source):
            raise AudioError(f"{name}: {kind} is no sound; {ACCEPTED}")
        try:
            array = np.asarray(source)
            # A copy: torch takes no arrays that run backwards, are read-only or of another byte order.
            array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
            tensor = torch.from_numpy(array)
        except (TypeError, ValueError, RuntimeError):
            raise AudioError(f"{name}: {kind} is no sound; {ACCEPTED}") from None
    if tensor.is_floating_point():
        return tensor.float()
    silence, scale = INTEGERS.get(str(tensor.dtype).removeprefix("torch."), (0, 0))
    if not scale:
        raise AudioError(f"{name}: {tensor.dtype} samples; give floats between -1 and 1, or int16")
    return (tensor.double() - silence).div(scale).float()
