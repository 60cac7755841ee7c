"""Files whose container lies, made from sound."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import soundfile

RATE = 48_000


def tune(seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """float32 `[samples, 2]`; the first half is soft, so that a variable bit rate begins low."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    loud = np.where(t < seconds / 2, 0.001, 0.3)
    sound = loud * np.sin(2 * np.pi * 220 * 2 ** (np.floor(3 * t) % 12 / 12) * t)
    return (sound[:, None] + loud[:, None] * 0.3 * rng.standard_normal((len(t), 2))).astype(np.float32)


def coded(path: Path, sound: np.ndarray, rate: int = RATE) -> bytes:
    """The bytes of `sound` in the format of the suffix, in blocks (libsndfile's vorbis cannot take long ones)."""
    opus = {"format": "OGG", "subtype": "OPUS"} if path.suffix == ".opus" else {}
    with soundfile.SoundFile(path, "w", rate, sound.shape[1], **opus) as file:
        for start in range(0, len(sound), rate):
            file.write(sound[start : start + rate])
    return path.read_bytes()


def without_first_frame(path: Path) -> bytes:
    """An mp3 without the frame that says how many there are."""
    with av.open(str(path)) as container:
        first = next(container.demux(container.streams.audio[0]))
        return path.read_bytes()[first.pos :]


def variable_mp3(path: Path, sound: np.ndarray) -> None:
    """An mp3 of variable bit rate (`libmp3lame -q:a 2`)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libmp3lame", rate=RATE, options={"flags": "+qscale", "global_quality": "236"})
        stream.layout = "stereo"
        size = 1152
        for at in range(0, len(sound), size):
            block = np.ascontiguousarray(sound[at : at + size].T)
            frame = av.AudioFrame.from_ndarray(block, "fltp", "stereo")
            frame.sample_rate, frame.pts = RATE, at
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def wav_that_counts(data: bytes, size: int) -> bytes:
    """A wav file with another size of its data in the header."""
    at = data.index(b"data") + 4
    return data[:at] + struct.pack("<I", size) + data[at + 4 :]
