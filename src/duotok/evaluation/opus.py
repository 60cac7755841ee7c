"""Opus at a few kbit/s as a reference that listeners know, on the same sound and in the same run."""

from __future__ import annotations

from typing import NamedTuple

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duotok.clock import SAMPLE_RATE

FRAME = 960  # 20 ms
LONGEST_DELAY = 4800


class Coded(NamedTuple):
    """`audio [1, samples]` after coding and decoding, aligned with the input; `kbps` is the actual rate."""

    audio: Tensor
    kbps: float


def opus(audio: Tensor, bit_rate: int = 6000, application: str = "audio") -> Coded:
    """Mono `[channels, samples]` at 48 kHz through libopus (VBR, 20 ms frames, highest effort) and back.

    VBR and `audio` measured best of libopus' modes on music at 6 kbit/s. The codec's delay is found by
    cross-correlation and removed, so that Opus is not judged for being late.
    """
    mono: NDArray[np.float32] = audio.mean(0, keepdim=True).float().numpy()
    n = mono.shape[1]
    padded = np.pad(mono, ((0, 0), (0, LONGEST_DELAY + -(n + LONGEST_DELAY) % FRAME)))
    encoder = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format, encoder.bit_rate = SAMPLE_RATE, "mono", "flt", bit_rate
    encoder.options = {"application": application, "vbr": "on", "frame_duration": "20", "compression_level": "10"}
    decoder = av.CodecContext.create("opus", "r")
    decoder.sample_rate, decoder.layout = SAMPLE_RATE, "mono"
    packets = []
    for start in range(0, padded.shape[1], FRAME):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(padded[:, start : start + FRAME]), "flt", "mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE, start
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    bits = 8 * sum(packet.size for packet in packets)
    frames = [frame.to_ndarray() for packet in [*packets, None] for frame in decoder.decode(packet)]
    decoded = np.concatenate(frames, axis=1)[:1]
    lag = lag_of(decoded[0], mono[0])
    aligned = np.pad(decoded, ((0, 0), (0, n)))[:, lag : lag + n]
    return Coded(torch.from_numpy(np.ascontiguousarray(aligned)), bits / (len(packets) * FRAME / SAMPLE_RATE) / 1000)


def lag_of(late: NDArray[np.float32], original: NDArray[np.float32]) -> int:
    """By how many samples (0 to 100 ms) `late` follows `original`, from 30 s around its loudest sample."""
    first = max(0, int(np.abs(original).argmax()) - 15 * SAMPLE_RATE)
    late, original = (sound[first : first + 30 * SAMPLE_RATE] for sound in (late, original))
    size = 1 << (len(late) + len(original)).bit_length()
    product = np.fft.rfft(late, size) * np.conj(np.fft.rfft(original, size))
    return int(np.argmax(np.fft.irfft(product, size)[:LONGEST_DELAY]))
