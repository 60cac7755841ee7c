"""Both protocols by hand, the paper's lengths, and the mistakes that can be made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.lm.small import CODEC, MIXED

from duotok.codec.contract import Stream
from duotok.errors import ConfigError
from duotok.lm.protocols import aligned, batched, parallel, track_to_track
from duotok.lm.streams import CodecIdentity

SOS, EOS, PAD = 20, 21, 22
THREE = {"vocals": np.array([[1, 2, 3]], np.int32), "accompaniment": np.array([[11, 12, 13]], np.int32)}


def test_parallel_by_hand() -> None:
    inputs, targets, mask = parallel(CODEC).example(THREE)
    assert inputs.tolist() == [[SOS, SOS], [1, 11], [2, 12], [3, 13]]
    assert targets.tolist() == [[1, 11], [2, 12], [3, 13], [EOS, EOS]]
    assert mask.tolist() == [[True, True]] * 4
    assert parallel(CODEC).scored == (0, 1)


def test_track_to_track_by_hand() -> None:
    protocol = track_to_track(CODEC, "vocals", "accompaniment", prefix_seconds=0.04)
    inputs, targets, mask = protocol.example(THREE)
    given = [[1, PAD], [2, PAD], [3, PAD], [PAD, 11]]
    assert inputs.tolist() == [*given, [SOS, SOS], [PAD, 12], [PAD, 13]]
    assert targets.tolist()[4:] == [[PAD, 12], [PAD, 13], [PAD, EOS]]
    assert mask.tolist() == [[False, False]] * 4 + [[False, True]] * 3
    assert protocol.scored == (1,)


def test_the_other_direction() -> None:
    inputs, targets, mask = track_to_track(CODEC, "accompaniment", "vocals", prefix_seconds=0.0).example(THREE)
    assert inputs.tolist() == [[PAD, 11], [PAD, 12], [PAD, 13], [SOS, SOS], [1, PAD], [2, PAD], [3, PAD]]
    assert targets[mask].tolist() == [1, 2, 3, EOS]


def test_how_far_a_source_lies_from_its_target() -> None:
    """docs/lm.md says it of pieces of 30 s; it had the prefix in it."""
    climbing = {name: np.arange(750)[None] for name in ("vocals", "accompaniment")}
    sizes = (Stream("vocals", (750,)), Stream("accompaniment", (750,)))
    inputs = track_to_track(replace(CODEC, streams=sizes), "vocals", "accompaniment").example(climbing).inputs.tolist()
    places = {row[1]: step for step, row in enumerate(inputs)}
    assert {places[frame] - frame for frame in range(50, 750)} == {751}


def test_aligned_by_hand() -> None:
    inputs, targets, mask = aligned(CODEC, "vocals", "accompaniment", prefix_seconds=0.04).example(THREE)
    assert inputs.tolist() == [[1, SOS], [2, 11], [3, 12], [PAD, 13]]
    assert targets.tolist() == [[PAD, 11], [PAD, 12], [PAD, 13], [PAD, EOS]]
    assert mask.tolist() == [[False, False], *[[False, True]] * 3]


def test_codebooks_of_their_own_sizes() -> None:
    tokens = {"vocals": np.array([[1, 2], [3, 4]], np.int32), "accompaniment": np.array([[5, 6]], np.int32)}
    inputs, targets, _ = parallel(MIXED).example(tokens)
    assert inputs.tolist() == [[7, 9, 30], [1, 3, 5], [2, 4, 6]]
    assert targets.tolist() == [[1, 3, 5], [2, 4, 6], [8, 10, 31]]
    inputs, targets, mask = track_to_track(MIXED, "accompaniment", "vocals", 0.1).example(tokens)
    assert inputs.tolist() == [[9, 11, 5], [9, 11, 6], [1, 3, 32], [7, 9, 30], [2, 4, 32]]
    assert targets.tolist()[3:] == [[2, 4, 32], [8, 10, 32]]
    assert mask.tolist()[3:] == [[True, True, False]] * 2


def test_the_lengths_of_the_paper() -> None:
    """B.1.4 at 25 Hz and 30 s: 750 + 50 + 1 + 700 + 1 steps."""
    tokens = {name: np.zeros((1, 750), np.int32) for name in THREE}
    inputs, targets, mask = track_to_track(CODEC, "vocals", "accompaniment").example(tokens)
    whole = torch.cat([inputs, targets[-1:]])
    assert len(whole) == 750 + 50 + 1 + 700 + 1
    assert (whole[:, 1] == SOS).nonzero()[:, 0].tolist() == [800]
    assert mask[:, 1].sum() == 700 + 1 and not mask[:800].any() and not mask[:, 0].any()
    inputs, _, mask = parallel(CODEC).example(tokens)
    assert len(inputs) == 751 and mask.all()


def test_a_prefix_longer_than_the_track() -> None:
    for frames in (20, 50):
        tokens = {name: np.zeros((1, frames), np.int32) for name in THREE}
        with pytest.raises(ConfigError, match=r"a prefix of 2 s \(50 frames\) leaves nothing of a track of"):
            track_to_track(CODEC, "vocals", "accompaniment").example(tokens)


def test_streams_that_are_not_there() -> None:
    mix = CodecIdentity("x", "00", 75.0, 24_000, (Stream("mix", (1024,) * 8),))
    for source, target in (("vocals", "accompaniment"), ("mix", "mix")):
        with pytest.raises(ConfigError, match="has the streams mix; name two of them"):
            track_to_track(mix, source, target)
    with pytest.raises(ConfigError, match="prefix_seconds -1 must be 0 or more"):
        track_to_track(CODEC, "vocals", "accompaniment", -1)
    assert len(parallel(mix).scored) == 8


def test_a_batch_is_padded_where_nothing_is_asked() -> None:
    short = {name: codes[:, :1] for name, codes in THREE.items()}
    inputs, targets, mask = batched([parallel(CODEC).example(tokens) for tokens in (THREE, short)], CODEC)
    assert inputs.shape == targets.shape == mask.shape == (2, 4, 2)
    assert inputs[1].tolist() == [[SOS, SOS], [1, 11], [PAD, PAD], [PAD, PAD]]
    assert mask[1].tolist() == [[True, True], [True, True], [False, False], [False, False]]
