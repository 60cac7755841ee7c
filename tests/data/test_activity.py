"""Voice activity: runs and masks, thresholds that follow the recording, bleed, calibration by known words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duotok.data.activity import (
    ActivityConfig,
    clean,
    close_gaps,
    drop_short,
    from_runs,
    gated_level,
    hysteresis,
    runs,
    smooth,
    voice_activity,
)

CONFIG = ActivityConfig()
masks = st.lists(st.booleans(), max_size=80).map(lambda values: np.array(values, bool))


def voice(*pieces: tuple[float, int]) -> np.ndarray:
    """Levels from (dB, frames)."""
    return np.concatenate([np.full(frames, db) for db, frames in pieces])


@given(masks)
def test_runs_and_masks_are_two_ways_to_say_it(mask: np.ndarray) -> None:
    found = runs(mask)
    assert (from_runs(found, len(mask)) == mask).all()
    assert (found[:, 0] < found[:, 1]).all() and (found[1:, 0] > found[:-1, 1]).all()


@given(masks, st.integers(0, 10))
def test_closing_adds_and_dropping_takes(mask: np.ndarray, frames: int) -> None:
    closed, kept = close_gaps(mask, frames), drop_short(mask, frames)
    assert (closed | mask == closed).all() and (kept & mask == kept).all()
    gaps = runs(~closed)
    inner = gaps[(gaps[:, 0] > 0) & (gaps[:, 1] < len(mask))]
    assert ((inner[:, 1] - inner[:, 0]) > frames).all()
    assert (np.diff(runs(kept)) >= frames).all()


def test_stretches_that_overlap_are_one() -> None:
    assert runs(from_runs(np.array([[0, 5], [3, 8], [8, 9], [12, 99]]), 15)).tolist() == [[0, 9], [12, 15]]


def test_hysteresis_keeps_the_soft_ends_of_what_is_loud_somewhere() -> None:
    levels = voice((-90, 5), (-45, 5), (-20, 5), (-45, 5), (-90, 5), (-45, 5), (-90, 5))
    assert runs(hysteresis(levels, -30, -50)).tolist() == [[5, 20]]


def test_levels_that_are_no_numbers_are_silence() -> None:
    assert clean(np.array([np.nan, -np.inf, -200, -3.0])).tolist() == [-120, -120, -120, -3]
    assert gated_level(np.full(4, -120.0)) == -120
    assert not voice_activity(np.full(100, -np.inf), CONFIG).any()
    assert len(voice_activity(np.zeros(0), CONFIG)) == 0


def test_the_gated_level_is_that_of_the_loud_part() -> None:
    assert gated_level(voice((-20, 50), (-60, 950))) == pytest.approx(-20, abs=0.1)


@given(st.lists(st.floats(-120, 0), min_size=1, max_size=60))
def test_smoothing_stays_between_the_lowest_and_the_highest(values: list[float]) -> None:
    levels = np.array(values)
    soft = smooth(levels)
    assert soft.shape == levels.shape
    assert soft.min() >= levels.min() - 1e-3 and soft.max() <= levels.max() + 1e-6


def test_voice_is_found_where_it_is() -> None:
    mask = voice_activity(voice((-90, 100), (-25, 80), (-90, 60), (-38, 50), (-90, 10)), CONFIG)
    (a, b), (c, d) = runs(mask).tolist()
    assert abs(a - 100) <= 4 and abs(b - 180) <= 4 and abs(c - 240) <= 4 and abs(d - 290) <= 4


def test_breaths_are_closed_and_clicks_dropped() -> None:
    mask = voice_activity(voice((-90, 50), (-25, 50), (-90, 12), (-25, 50), (-90, 100), (-42, 1), (-90, 50)), CONFIG)
    assert len(runs(mask)) == 1


@settings(max_examples=30)
@given(st.floats(-14, 4), st.integers(0, 2**32 - 1))
def test_a_quieter_copy_has_the_same_voice(shift: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    levels = voice((-110, 60), (-8, 80), (-110, 40), (-12, 70)) + rng.uniform(-4, 4, 250)
    assert (voice_activity(levels + shift, CONFIG) == voice_activity(levels, CONFIG)).all()


def test_what_a_separator_leaves_of_the_band_is_no_voice() -> None:
    bleed, band = np.full(500, -48.0), np.full(500, -15.0)
    assert voice_activity(bleed, CONFIG).all()
    assert not voice_activity(bleed, CONFIG, band).any()


def test_known_words_tell_the_voice_from_leakage() -> None:
    rng = np.random.default_rng(0)
    levels = np.where(np.arange(1500) % 500 < 250, -24.0, -37.0) + rng.normal(0, 2, 1500)
    sung = (np.arange(1500) % 500 < 245) & (np.arange(1500) < 1000)
    assert voice_activity(levels, CONFIG).mean() > 0.95
    mask = voice_activity(levels, CONFIG, sung=sung)
    assert mask[sung].mean() > 0.9 and mask[300:480].mean() < 0.05
    assert mask[1010:1240].mean() > 0.9, "a voice as loud as the sung words is found without words, too"


def test_too_few_known_frames_do_not_calibrate() -> None:
    levels = voice((-24, 250), (-37, 250))
    sung = np.zeros(500, bool)
    sung[:50] = True
    assert (voice_activity(levels, CONFIG, sung=sung) == voice_activity(levels, CONFIG)).all()


def test_a_true_vocal_stem() -> None:
    folder = Path(__file__).parents[2].parent / "shared" / "audio" / "dual"
    if not folder.is_dir():
        pytest.skip("no ../shared/audio beside the project")
    from duotok.audio.io import read
    from duotok.data.scan import frame_levels

    levels = {
        track: frame_levels(read(folder / f"Sodium.{track}.opus", start=150, seconds=90))
        for track in ("vocals", "accompaniment")
    }
    mask = voice_activity(levels["vocals"], CONFIG, levels["accompaniment"])
    # the voice comes in at 3:08 of the song and stays
    assert not mask[: 36 * 25].any() and mask[40 * 25 :].mean() > 0.9
