"""Where somebody sings or speaks, from the level of the voice on the token frames (25 a second).

Thresholds are relative to the voice level of the recording, so that quiet singers are detected and what a separator leaves of
the band in a loud song is not. Hysteresis keeps the soft ends of words; breaths are bridged, clicks removed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from duotok.clock import FRAME_RATE
from duotok.config import Config

SILENCE_DB = -120.0
SMOOTH_FRAMES = 9
CALIBRATION_FRAMES = 125
QUIET_PERCENTILE = 25.0
SUNG_PERCENTILES = (
    40.0,
    5.0,
)  # of the levels where words are sung: voice starts at the first percentile and ends at the second

Levels = NDArray[np.float64]
Mask = NDArray[np.bool_]
Runs = NDArray[np.int64]


class ActivityConfig(Config):
    """What counts as voice. The defaults come from songs with true vocals and word times (docs/segments.md)."""

    floor_db: float = Field(default=-55.0, description="dB of full scale; nothing below is voice")
    on_db: float = Field(default=20.0, gt=0, description="voice begins at this much below the recording's voice level")
    off_db: float = Field(default=30.0, gt=0, description="and goes on down to this much below it")
    bleed_db: float = Field(
        default=24.0, gt=0, description="a voice level this much below the accompaniment's is leakage"
    )
    close_seconds: float = Field(default=0.4, ge=0, description="shorter gaps are breaths and consonants")
    min_seconds: float = Field(default=0.2, ge=0, description="shorter stretches are clicks")


def clean(levels: NDArray[np.floating]) -> Levels:
    """Levels in dB as float64, with -120 for silence and NaN."""
    return np.maximum(np.nan_to_num(levels.astype(np.float64), nan=SILENCE_DB, neginf=SILENCE_DB), SILENCE_DB)


def gated_level(levels: Levels, floor_db: float = -70.0, gate_db: float = 10.0) -> float:
    """Mean power in dB of the gated frames: above the floor, and no more than `gate_db` below the mean of those.

    The gates of BS.1770, on unweighted frames; -120 when all is below the floor.
    """
    power = 10.0 ** (levels[levels > floor_db] / 10.0)
    if len(power) == 0:
        return SILENCE_DB
    return float(10.0 * np.log10(power[power >= power.mean() * 10.0 ** (-gate_db / 10.0)].mean()))


def runs(mask: Mask) -> Runs:
    """The stretches of True in `mask [frames]`: `[runs, 2]`, first frame and the frame after the last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2)


def from_runs(stretches: Runs, frames: int) -> Mask:
    """The mask `[frames]` that has these stretches; they may overlap."""
    steps = np.zeros(frames + 1, np.int64)
    np.add.at(steps, np.clip(stretches[:, 0], 0, frames), 1)
    np.add.at(steps, np.clip(stretches[:, 1], 0, frames), -1)
    return np.asarray(np.cumsum(steps[:-1]) > 0)


def close_gaps(mask: Mask, frames: int) -> Mask:
    """Fill what lies between two stretches when it is at most `frames` long; the ends of the recording stay."""
    gaps = runs(~mask)
    inner = (gaps[:, 0] > 0) & (gaps[:, 1] < len(mask)) & (gaps[:, 1] - gaps[:, 0] <= frames)
    return mask | from_runs(gaps[inner], len(mask))


def drop_short(mask: Mask, frames: int) -> Mask:
    """Keep stretches of at least `frames`."""
    stretches = runs(mask)
    return from_runs(stretches[stretches[:, 1] - stretches[:, 0] >= frames], len(mask))


def hysteresis(levels: Levels, on: float, off: float) -> Mask:
    """Stretches above `off` that reach `on` somewhere."""
    stretches = runs(levels > off)
    if len(stretches) == 0:
        return np.zeros(len(levels), bool)
    peaks = np.maximum.reduceat(levels, stretches[:, 0])  # up to the next stretch: what lies between is below `off`
    return from_runs(stretches[peaks > on], len(levels))


def smooth(levels: Levels, frames: int = SMOOTH_FRAMES) -> Levels:
    """Mean power in dB over `frames` around each frame, so that consonants are not pauses."""
    half = frames // 2
    power = np.concatenate([[0.0], np.cumsum(10.0 ** (levels / 10.0))])
    at = np.arange(len(levels))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(levels))
    mean: Levels = 10.0 * np.log10(np.maximum((power[high] - power[low]) / (high - low), 10.0 ** (SILENCE_DB / 10.0)))
    return mean


def _leaks(between: Levels, off: float) -> bool:
    """Whether a stem is hardly ever quiet outside of known words. A clean stem sometimes is, even with other singers."""
    return float(np.percentile(between, QUIET_PERCENTILE)) > off


def voice_activity(
    levels: NDArray[np.floating],
    config: ActivityConfig,
    accompaniment: NDArray[np.floating] | None = None,
    sung: Mask | None = None,
) -> Mask:
    """Where there is voice, `[frames]`.

    levels: dB of full scale of the voice stem, `[frames]`; accompaniment: the same of the rest, if there is one: a voice
    stem far below it is leakage of the separator and has no voice; sung: where words are known to be sung: their levels
    set the thresholds in a badly separated stem. The result may differ from `sung` both ways.
    """
    voice = clean(levels)
    level = gated_level(voice, config.floor_db)
    if accompaniment is not None and level < gated_level(clean(accompaniment)) - config.bleed_db:
        return np.zeros(len(voice), bool)
    voice = smooth(voice)
    on, off = level - config.on_db, level - config.off_db
    if sung is not None and min(sung.sum(), (~sung).sum()) >= CALIBRATION_FRAMES and _leaks(voice[~sung], off):
        soft, softest = np.percentile(voice[sung], SUNG_PERCENTILES)
        on, off = max(on, float(soft)), max(off, float(softest))
    mask = hysteresis(voice, max(on, config.floor_db), max(off, config.floor_db))
    mask = close_gaps(mask, round(config.close_seconds * FRAME_RATE))
    return drop_short(mask, round(config.min_seconds * FRAME_RATE))
