"""Tiny shards made of tones, by the real writer: what the readers are tested on."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from duotok.clock import FRAME_SAMPLES, SAMPLE_RATE
from duotok.data.jobs import LocalEngine
from duotok.data.scan import run_scan
from duotok.data.sharding import run_shards
from duotok.records import Recording, Segment, segment_key


def segment(recording: str, start: int = 0, frames: int = 50, **values: Any) -> Segment:
    """A segment with sensible defaults for what is not given."""
    stems = values.pop("stems", ("accompaniment", "vocals"))
    defaults: dict[str, Any] = {
        "corpus": recording.split("/")[0], "kind": "song", "split": "train", "identity": recording,
        "activity": "voice", "types": ("mix", "vocals", "accompaniment"), "gain_db": 0.0, "loudness": -18.0,
    }  # fmt: skip
    values = {**defaults, **values}
    if values.get("words") and "text" not in values:
        values["text"] = " ".join(word for word, _, _ in values["words"])
        values["activity"] = "lyrics"
    return Segment(
        key=segment_key(recording, start), recording=recording, start_frame=start, frames=frames, stems=stems, **values
    )


def sound(key: str, stem: str, frames: int, channels: int = 2) -> np.ndarray:
    """int16 `[samples, channels]`: a gliding tone with overtones and noise, its own for every key and stem."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{key} {stem}".encode()).digest()[:8], "big"))
    t = np.arange(frames * FRAME_SAMPLES) / SAMPLE_RATE
    phase = 2 * np.pi * np.cumsum(rng.uniform(100, 600) * (1 + 0.3 * np.sin(rng.uniform(1, 4) * t))) / SAMPLE_RATE
    tone = sum(np.sin(k * phase) / k for k in range(1, 6)) * (1 + np.sin(2 * np.pi * rng.uniform(0.5, 2) * t))
    samples = 0.08 * tone[:, None] * rng.uniform(0.5, 1, channels) + 0.003 * rng.standard_normal((len(t), channels))
    return (samples * 32767).round().astype(np.int16)


def make_shards(
    folder: Path, segments: list[Segment], per_shard: int = 4, seed: int = 0, channels: dict[str, int] | None = None
) -> Path:
    """Write the sound of each recording (silence between its segments), scan it, and make `folder` of shards by the real writer.

    channels: stem -> channels of its file (2).
    """
    work = folder.with_name(f"{folder.name}-work")
    recordings = []
    of: dict[str, list[Segment]] = {}
    for item in segments:
        of.setdefault(item.recording, []).append(item)
    for parts in of.values():
        item = parts[0]
        audio = {stem: work / "sources" / item.recording / f"{stem}.flac" for stem in item.stems}
        for stem, path in audio.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            count = (channels or {}).get(stem, 2)
            samples = np.zeros((max(p.start_frame + p.frames for p in parts) * FRAME_SAMPLES, count), np.int16)
            for part in parts:
                start = part.start_frame * FRAME_SAMPLES
                samples[start : start + part.frames * FRAME_SAMPLES] = sound(part.key, stem, part.frames, count)
            soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")
        files = {stem: str(path) for stem, path in audio.items()}
        recordings.append(Recording(item.recording, item.corpus, item.kind, item.split, item.identity, files))
    engine = LocalEngine(1)
    assert not run_scan(recordings, work, engine).failed
    run_shards(segments, recordings, work, engine, seed=seed, shard_segments=per_shard)
    os.replace(work / "shards", folder)
    shutil.rmtree(work)
    return folder


def small_songs(count: int = 6, **values: Any) -> list[Segment]:
    """Songs of one to two seconds, half with words, one of them for validation."""
    found = []
    for i in range(count):
        frames = 25 + 5 * (i % 5)
        words = tuple((f"word{k}", 0.1 + 0.3 * k, 0.35 + 0.3 * k) for k in range(3)) if i % 2 == 0 else ()
        split = "validation" if i == count - 1 else "train"
        found.append(segment(f"tiny/song{i}", frames=frames, words=words, split=split, gain_db=-2.0 + i, **values))
    return found
