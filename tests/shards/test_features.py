"""Features of segments: those of the audio room, for the whole and for any part, from one stem or a sum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.shards.shard_maker import make_shards, segment, small_songs

from duotok.audio.features import HIGHPASS_HZ, Chroma, LogMel
from duotok.audio.highpass import highpass
from duotok.audio.io import resample
from duotok.shards.derived import possible_rows
from duotok.shards.features import Features, derive_features, derive_samples, frame_levels
from duotok.shards.store import ShardStore

SEGMENTS = [
    *small_songs(4),
    segment("band/long", frames=280, kind="instrumental", stems=("accompaniment",), types=("instrumental",)),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ShardStore:
    root = tmp_path_factory.mktemp("features")
    return ShardStore(make_shards(root / "shards", SEGMENTS, per_shard=3), root / "derived")


@pytest.fixture(scope="module")
def filled(store: ShardStore) -> ShardStore:
    opened = ShardStore(*store._arguments[:2])
    derive_features(opened)
    return opened


def close(found: np.ndarray, true: np.ndarray) -> bool:
    """Equal to the rounding of float16."""
    gap = np.abs(found.astype(np.float32) - true.astype(np.float32))
    return bool((gap <= 2e-3 * np.abs(true.astype(np.float32)) + 1e-4).all())


def test_whole_segments_are_as_whole_files(filled: ShardStore) -> None:
    for index, stored in enumerate(filled.segments):
        for track in ("vocals", "accompaniment", "mix"):
            if track not in filled.tracks(index):
                assert not filled.has(index, track, "mel")
                continue
            audio = filled.audio(index, track).mean(0) * 10 ** (stored.segment.gain_db / 20)
            low = resample(highpass(audio[None], HIGHPASS_HZ, 48_000), 48_000, 24_000)[0]
            assert close(filled.rows(index, track, "mel"), LogMel()(low).numpy())
            assert close(filled.rows(index, track, "chroma"), Chroma()(low).numpy())
            power = low.reshape(-1, 960).square().mean(1)
            assert close(filled.rows(index, track, "levels"), 10 * power.log10().numpy())


def test_any_part_is_that_part_of_the_whole(filled: ShardStore) -> None:
    rng = np.random.default_rng(0)
    features = Features(filled)
    for index, stored in enumerate(filled.segments):
        frames = stored.segment.frames
        for track in filled.tracks(index):
            for _ in range(4):
                start = int(rng.integers(0, frames - 1))
                count = int(rng.integers(1, frames - start + 1))
                part = features.rows(index, track, ("mel", "chroma", "levels"), start, count)
                for name, rows in part.items():
                    (per_frame,) = possible_rows(name)
                    stored_rows = filled.rows(index, track, name, per_frame * start, per_frame * count)
                    assert rows.dtype == np.float16
                    assert rows.shape == stored_rows.shape
                    assert close(rows, stored_rows)


def test_samples_are_kept_once_for_each_stem(store: ShardStore, tmp_path: Path) -> None:
    other = ShardStore(store.ranges.url, tmp_path / "derived")
    derive_samples(other, ("vocals", "accompaniment", "drums"))
    assert sorted({path.name for path in tmp_path.rglob("*.npy")}) == ["accompaniment.pcm.npy", "vocals.pcm.npy"]
    song = other.select(needs=("mix",))[0]
    assert other.rows(song, "vocals", "pcm").shape == (other.frames[song] * 1920, 2)
    assert not other.has(song, "mix", "pcm")
    assert torch.equal(other.audio(song, "mix", channels=2), store.audio(song, "mix", channels=2))


def test_silence_has_a_level() -> None:
    assert frame_levels(torch.zeros(3 * 960)).tolist() == [-120.0] * 3
