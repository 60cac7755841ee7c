"""What a listener's file does to a sound: MPEG-1 layer 3 at a bit rate, there and back."""

from __future__ import annotations

from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duotok.clock import SAMPLE_RATE

BLOCK = 1152


def mp3(audio: Tensor, bit_rate: int = 128_000) -> Tensor:
    """`[1 or 2, samples]` at 48 kHz through libmp3lame and back, equally long. The encoder's delay is in its packets, so the decoder
    leaves it out."""
    layout = "stereo" if audio.shape[0] == 2 else "mono"
    sound: NDArray[np.float32] = audio.float().numpy()
    n = sound.shape[1]
    padded = np.pad(sound, ((0, 0), (0, 4 * BLOCK + -n % BLOCK)))
    encoder = av.CodecContext.create("libmp3lame", "w")
    encoder.sample_rate, encoder.layout, encoder.format, encoder.bit_rate = SAMPLE_RATE, layout, "fltp", bit_rate
    decoder: Any = av.CodecContext.create("mp3float", "r")  # "mp3" decodes to integers
    packets = []
    for start in range(0, padded.shape[1], BLOCK):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(padded[:, start : start + BLOCK]), "fltp", layout)
        frame.sample_rate, frame.pts = SAMPLE_RATE, start
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    frames = [frame.to_ndarray() for packet in [*packets, None] for frame in decoder.decode(packet)]
    decoded = np.concatenate(frames, axis=1).astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(decoded[:, :n]))
