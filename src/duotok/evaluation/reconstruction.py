"""How much of a song survives a tokenizer: encoded, decoded, and compared track by track.

The sound, its spectra, what listeners would say, and whether the music is the same. Every measure is one entry of `MEASURES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from duotok.audio.loudness import integrated_loudness
from duotok.clock import ANALYSIS_RATE, SAMPLE_RATE
from duotok.errors import ConfigError, MetricError, MissingExtraError, one_line
from duotok.evaluation.fidelity import LOUDNESS, level_of, mel_distance, stoi, to_distance_rate
from duotok.evaluation.instrument import MIX, Cost, Song, SongInstrument, System, why_silent
from duotok.evaluation.music import chroma_correlation, f0_agreement
from duotok.evaluation.onsets import onset_f1
from duotok.evaluation.perceptual import PESQ_RATE, pesq, visqol
from duotok.evaluation.results import Measure, Row, row_of, versions_of
from duotok.evaluation.spectra import stft_distance
from duotok.separation.measures import SiSdr
from duotok.tracks import TRACKS

SHORTEST_SHARE = 0.95
"""A decoded sound that is shorter than this share of the original is a failure, not a short comparison."""


class Pair:
    """Original and decoded sound of one track in mono, brought to the level of comparison by one factor, at any rate.

    Each is resampled at most once from what it is: the original from 48 kHz, the decoded sound from the codec's own rate.
    """

    def __init__(self, original: Tensor, decoded: Tensor, own_rate: int, lufs: float) -> None:
        """original, decoded: `[channels, samples]` at 48 kHz and at `own_rate`."""
        target = original.mean(0)
        factor = level_of(target, SAMPLE_RATE, lufs)
        self.own_rate = own_rate
        self._sounds = (factor * decoded.float().mean(0), own_rate), (factor * target, SAMPLE_RATE)
        self._at: dict[int, tuple[Tensor, Tensor]] = {}

    def at(self, rate: int) -> tuple[Tensor, Tensor]:
        """Decoded and original sound at `rate`, `[samples]` of the original's length; silence fills what was not decoded."""
        if rate not in self._at:
            estimate, target = (to_distance_rate(sound, own, rate) for sound, own in self._sounds)
            n = len(target)
            self._at[rate] = F.pad(estimate, (0, max(0, n - len(estimate))))[:n], target
        return self._at[rate]


@dataclass(frozen=True)
class _Entry:
    """One measure: its definition, its function, its cost in core seconds a second of sound, why it may have no value, and on which
    tracks it is taken."""

    measure: Measure
    function: Callable[[Pair], float | None]
    cost: float
    none: str = "not a finite number"
    tracks: tuple[str, ...] = (*TRACKS, MIX)
    package: str = ""


def _separation_ratio(pair: Pair) -> float:
    meter = SiSdr()
    meter.add(*pair.at(SAMPLE_RATE))
    return meter.decibels()


def _loudness_error(pair: Pair) -> float:
    """In LU; not finite where one of them is below the gate of the meter."""
    estimate, target = (integrated_loudness([sound[None]], SAMPLE_RATE) for sound in pair.at(SAMPLE_RATE))
    return estimate - target


def _at(rate: int, function: Callable[..., float | None], **settings: Any) -> Callable[[Pair], float | None]:
    """`function(estimate, target, rate)` at one rate."""
    return lambda pair: function(*pair.at(rate), rate, **settings)


MEASURES: dict[str, _Entry] = {
    entry.measure.name: entry
    for entry in (
        _Entry(
            Measure(
                "mel", "seven-scale mel distance at 24 kHz: mean over windows of 32 to 2048 samples of mean |ln max(M, 1e-5) - "
                "ln max(M', 1e-5)|, power mels, HTK, 5 to 320 bands", "", "lower", "Codec-Evaluation; paper, table 1",
            ),
            _at(ANALYSIS_RATE, mel_distance, lufs=None), 0.025,
        ),
        _Entry(
            Measure(
                "mel_own_rate", "the same distance at the codec's own rate, as the public evaluation code takes it: of codecs of unequal "
                "rates it cannot be compared", "", "lower", "Codec-Evaluation",
            ),
            lambda pair: mel_distance(*pair.at(pair.own_rate), pair.own_rate, lufs=None, at=pair.own_rate), 0.03,
        ),
        _Entry(
            Measure("stft", "multi-resolution STFT distance at 24 kHz: spectral convergence + log magnitude", "", "lower", "auraloss"),
            _at(ANALYSIS_RATE, stft_distance, lufs=None), 0.03,
        ),
        _Entry(
            Measure("si_sdr", "scale-invariant SDR of the whole, without removal of the mean", "dB", "higher", "Le Roux et al. 2019"),
            _separation_ratio, 0.002, "a silent or constant sound has no SI-SDR",
        ),
        _Entry(
            Measure("loudness_error", "integrated loudness of the decoded sound minus the original's", "LU", "", "ITU-R BS.1770-4"),
            _loudness_error, 0.01, "softer than the gate of the loudness meter (-70 LUFS)",
        ),
        _Entry(
            Measure("pesq", "PESQ wide band at 16 kHz, MOS-LQO", "", "higher", "ITU-T P.862.2; paper, table 4"),
            _at(PESQ_RATE, pesq), 0.06, package="pesq",
        ),
        _Entry(
            Measure("stoi", "short-time objective intelligibility, not extended", "", "higher", "Taal et al. 2011; paper, table 4"),
            lambda pair: stoi(*pair.at(pair.own_rate), pair.own_rate), 0.015, package="pystoi",
        ),
        _Entry(
            Measure("visqol", "ViSQOL v3, audio mode at 48 kHz, MOS-LQO", "", "higher", "Chinen et al. 2020"),
            _at(SAMPLE_RATE, visqol), 0.15, package="visqol-python",
        ),
        _Entry(
            Measure("chroma", "correlation of the 12 chroma bins, mean over 10 ms frames that sound", "", "higher", "docs/evaluation.md"),
            _at(ANALYSIS_RATE, chroma_correlation), 0.015,
        ),
        _Entry(
            Measure("f0", "share of the voiced 10 ms frames whose pitch is within 50 cents", "", "higher", "docs/evaluation.md"),
            _at(ANALYSIS_RATE, f0_agreement), 0.015, "less than half a second of it is voiced", ("vocals",),
        ),
        _Entry(
            Measure("onset_f1", "F1 of onsets within 50 ms", "", "higher", "MIREX; docs/evaluation.md"),
            _at(ANALYSIS_RATE, onset_f1), 0.01, "fewer than four onsets in it",
        ),
    )
}  # fmt: skip
"""By name, in the order of tables."""

Keep = Callable[[str, Tensor, Tensor], None]
"""Called with a track, and its decoded and original sound `[samples]` at 48 kHz, at the level of comparison."""


@dataclass(frozen=True)
class Reconstruction(SongInstrument):
    """names: measures to take, all by default; lufs: level at which sounds are compared."""

    name: ClassVar[str] = "reconstruction"
    packages: ClassVar[tuple[str, ...]] = ("torch", "numpy", "scipy", "soxr", "pesq", "pystoi", "visqol-python")

    names: tuple[str, ...] = tuple(MEASURES)
    lufs: float = LOUDNESS

    def __post_init__(self) -> None:
        unknown = [name for name in self.names if name not in MEASURES]
        if unknown or not self.names:
            raise ConfigError(
                f"measure '{(unknown or ['none'])[0]}' does not exist; choose among {', '.join(MEASURES)}"
            )
        if isinstance(self.lufs, bool) or not isinstance(self.lufs, int | float) or not -70 < self.lufs <= 0:
            # softer ones lie below the floor of the spectra, where all sounds are alike
            raise ConfigError(f"lufs {self.lufs}: give a loudness over -70 and at most 0, as in {LOUDNESS:g}")

    @property
    def measures(self) -> tuple[Measure, ...]:
        return tuple(MEASURES[name].measure for name in self.names)

    @property
    def settings(self) -> dict[str, Any]:
        """With the versions of the packages that define a measure: another version is another definition."""
        packages = [MEASURES[name].package for name in self.names if MEASURES[name].package]
        return {
            "names": list(self.names),
            "lufs": self.lufs,
            "packages": {name: versions_of(name)[name] for name in packages},
        }

    def tracks_of(self, measure: Measure) -> tuple[str, ...]:
        return MEASURES[measure.name].tracks

    @property
    def cost(self) -> Cost:
        entries = [MEASURES[name] for name in self.names]
        return Cost(1, 1, sum(len(entry.tracks) * entry.cost for entry in entries))

    def measure(self, system: System, song: Song, keep: Keep | None = None) -> Iterator[Row]:
        decoded = system.reconstruct(song)
        for entry in (MEASURES[name] for name in self.names):
            if not {*entry.tracks} & {*song.tracks}:
                why = f"taken of {' and '.join(entry.tracks)} alone, and of this song only the mix is known"
                yield Row(entry.measure.name, entry.tracks[0], song.name, None, why, song.part)
        for track in song.tracks:
            why = _unusable(song.sounds[track], decoded.get(track), system, track)
            entries = [MEASURES[name] for name in self.names if track in MEASURES[name].tracks]
            if why or track not in decoded:
                yield from (Row(entry.measure.name, track, song.name, None, why, song.part) for entry in entries)
                continue
            pair = Pair(song.sounds[track], decoded[track], system.sample_rate, self.lufs)
            if keep is not None:
                keep(track, *pair.at(SAMPLE_RATE))
            for entry in entries:
                yield _row(entry, pair, song, track)


def _unusable(original: Tensor, decoded: Tensor | None, system: System, track: str) -> str:
    """Why a track cannot be judged, "" where it can."""
    seconds = original.shape[-1] / SAMPLE_RATE
    if silent := why_silent(original):
        return silent
    if decoded is None:
        return f"{system.name} gives no {track}"
    if not bool(torch.isfinite(decoded).all()):
        return "the decoded sound has NaN or infinite samples"
    length = decoded.shape[-1] / system.sample_rate
    if length < SHORTEST_SHARE * seconds:
        return f"{length:.2f} s decoded of {seconds:.2f} s"
    return ""


def _row(entry: _Entry, pair: Pair, song: Song, track: str) -> Row:
    try:
        value = entry.function(pair)
    except (MetricError, MissingExtraError) as error:
        return Row(entry.measure.name, track, song.name, None, str(error), song.part)
    except Exception as error:  # a measure that breaks is a gap of that measure alone
        why = f"{entry.measure.name} failed: {type(error).__name__}: {one_line(error)}"
        return Row(entry.measure.name, track, song.name, None, why, song.part)
    finite = value is not None and math.isfinite(value)
    return row_of(entry.measure.name, track, song.name, value if finite else None, entry.none, song.part)
