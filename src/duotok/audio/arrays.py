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
    soundfile has it (`Layout` tells which); floats, or int16, int32 and uint8 samples; a pair of such and its rate, as
    librosa.load gives it; or an AudioSegment of pydub. Raises AudioError for anything else.
    """
    audio, rate = samples_of(source, rate, name)
    return Layout().channels_first(audio, name), rate


def samples_of(source: Any, rate: Any, name: str) -> tuple[Tensor, int]:
    """As `sound_of`, with one or two axes as they came."""
    if isinstance(source, tuple) and len(source) == 2 and np.ndim(source[1]) == 0:
        source, rate = source
    elif all(hasattr(source, key) for key in ("get_array_of_samples", "frame_rate", "sample_width", "channels")):
        source, rate = _pydub_samples(source), source.frame_rate
    rate = check_rate(rate, name)
    audio = _floats(source, name)
    if audio.ndim not in (1, 2) or audio.numel() == 0:
        raise AudioError(f"{name}: sound of shape {list(audio.shape)}; give [samples] or [channels, samples]")
    if not float(audio.abs().max()) <= LARGEST_SAMPLE:
        raise AudioError(f"{name}: NaN, infinite or absurdly large samples; repair the sound first")
    return audio, rate


def check_rate(rate: Any, name: str) -> int:
    """Samples per second as a whole number. Raises AudioError for anything else."""
    if isinstance(rate, bool) or not isinstance(rate, int | float | np.integer | np.floating) or not 0 < rate < 1e9:
        raise AudioError(f"{name}: rate {rate!r}; give samples per second")
    if rate != int(rate):
        raise AudioError(f"{name}: rate {rate}; give a whole number of samples per second")
    return int(rate)


class Layout:
    """Which of two axes of sound is time: one of over 32, since no sound has so many channels; else the last one, of a sound alone.

    Of a block of a stream, where neither axis is over 32, it is the one that is not as long as the sound before has channels.
    """

    def __init__(self, before: Tensor | None = None) -> None:
        """before: sound of the same stream, of which the longer axis is time."""
        self._channels, self._turned = 0, False
        if before is not None and before.ndim == 1:
            self._channels = 1
        elif before is not None:
            self._channels, self._turned = min(before.shape), before.shape[0] > before.shape[1]

    def channels_first(self, sound: Tensor, name: str) -> Tensor:
        """`[channels, samples]` of `[samples]` or of two axes. Raises AudioError for too many channels."""
        if sound.ndim == 1:
            return sound[None]
        rows, columns = sound.shape
        if min(rows, columns) > MOST_CHANNELS:
            raise AudioError(
                f"{name}: sound of shape {[rows, columns]} would have over {MOST_CHANNELS} channels; {ACCEPTED}"
            )
        if tells(sound):
            self._channels, self._turned = min(rows, columns), rows > columns
            turned = self._turned
        elif self._channels not in (rows, columns):
            turned = self._channels > 0 and rows > columns
        else:
            turned = self._turned if rows == columns else columns == self._channels
        return sound.T if turned else sound


def tells(sound: Tensor) -> bool:
    """Whether the shape alone says which axis is time."""
    return max(sound.shape) > MOST_CHANNELS


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
