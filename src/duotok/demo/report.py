"""The demo report: one song through the whole chain, with its sounds, tokens and measurements."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from duotok.audio.channels import fix_polarity
from duotok.audio.finding import AUDIO_SUFFIXES
from duotok.audio.io import probe, read
from duotok.audio.resampling import resampled_length
from duotok.clock import SAMPLE_RATE
from duotok.codec.duotok import DuoTok
from duotok.codec.spool import check_excerpt, check_stems, fit_of
from duotok.errors import AudioError, DuoTokError, MetricError, MissingExtraError
from duotok.evaluation import fidelity, music
from duotok.evaluation.codes import CodeUsage, UsageFacts
from duotok.evaluation.opus import opus
from duotok.files import PACKAGE, text_of
from duotok.separation.measures import floored_si_sdr
from duotok.tokens import DualTokens, to_bytes
from duotok.tracks import TRACKS

Progress = Callable[[str, float], None]
PIECES = (*TRACKS, "mix")
DEMO_FOLDER = PACKAGE / "songs" / "data" / "demo"
YARDSTICK_BITS = 6000
SHORTEST = SAMPLE_RATE // 10


@dataclass(frozen=True)
class DemoSong:
    """Where a song comes from. Stems may be missing (then the mix is separated); so may the mix, when both are given.

    truth: (vocals, accompaniment) that are known but not used: they tell how well the separation worked.
    """

    mix: Path | None = None
    vocals: Path | None = None
    accompaniment: Path | None = None
    truth: tuple[Path, Path] | None = None

    @property
    def name(self) -> str:
        path = self.mix or self.vocals or self.accompaniment
        assert path is not None
        return text_of(path.parent.name if path.stem == "mix" else path.stem.removesuffix(".vocals"))


def demo_song(folder: Path = DEMO_FOLDER) -> DemoSong:
    """The song that comes with the package; its stems serve to measure the separation.

    Raises DuoTokError when this installation has none.
    """
    paths = {p.stem: p for p in sorted(folder.glob("*")) if p.suffix.lower() in AUDIO_SUFFIXES}
    if "mix" not in paths:
        raise DuoTokError(f"{folder}: this installation has no demo song; name one: duotok demo SONG")
    known = "vocals" in paths and "accompaniment" in paths
    return DemoSong(paths["mix"], truth=(paths["vocals"], paths["accompaniment"]) if known else None)


@dataclass(frozen=True)
class DemoSettings:
    """How to decode (None: the bundle's defaults), and which part of the song to take (seconds None: all of it)."""

    steps: int | None = None
    sampler: str | None = None
    seed: int = 0
    seconds: float | None = None
    start: float = 0.0


@dataclass
class DemoReport:
    """One song's sounds `[channels, samples]` at 48 kHz, tokens and measurements; `true_stems` when given by the user.

    sounds: "mix", "vocals", "accompaniment" as they went in; decoded: the same from tokens alone; yardstick: the same
    through Opus at 6 kbit/s.
    """

    name: str
    model: DuoTok
    tokens: DualTokens
    sounds: dict[str, Tensor]
    decoded: dict[str, Tensor]
    yardstick: dict[str, Tensor]
    true_stems: bool
    full_seconds: float
    settings: DemoSettings
    times: dict[str, float] = field(default_factory=dict)
    distances: dict[str, dict[str, float]] = field(default_factory=dict)
    stoi: dict[str, float] = field(default_factory=dict)
    chroma: dict[str, dict[str, float]] = field(default_factory=dict)
    f0: dict[str, float | None] = field(default_factory=dict)
    usage: dict[str, UsageFacts] = field(default_factory=dict)
    yardstick_kbps: dict[str, float] = field(default_factory=dict)
    separation: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.tokens.seconds

    @property
    def bits_per_second(self) -> float:
        """The bit rate of both tracks: frames per second times bits per token (paper, equation 19)."""
        return self.model.frame_rate * sum(math.log2(size) for size in self.tokens.codebook_sizes)

    def facts(self) -> dict[str, Any]:
        """All measurements, for `--json` and for `facts.json` beside the page."""
        defaults = self.model.config.codec
        return {
            "song": self.name,
            "seconds": round(self.seconds, 3),
            "song_seconds": round(self.full_seconds, 3),
            "model": {"name": self.model.model_id, "hash": self.model.model_hash},
            "stems": "given" if self.true_stems else "separated",
            "decoding": {
                "steps": self.settings.steps or defaults.steps,
                "sampler": self.settings.sampler or defaults.sampler,
                "seed": self.settings.seed,
            },
            "tokens": {
                "frames": self.tokens.n_frames,
                "frame_rate": self.model.frame_rate,
                "codebook_sizes": list(self.tokens.codebook_sizes),
                "bits_per_second": self.bits_per_second,
                "file_bytes": len(to_bytes(self.tokens)),
                "gain_db": self.tokens.gain_db,
            },
            "mel_distance": self.distances,
            "stoi_vocals": self.stoi or None,
            "chroma_correlation": self.chroma,
            "f0_agreement_vocals": self.f0,
            "yardstick_kbps": self.yardstick_kbps,
            "separation_si_sdr": self.separation or None,
            "codes": {name: usage.as_dict() for name, usage in self.usage.items()},
            "seconds_taken": self.times,
            "real_time_factor": {name: taken / self.seconds for name, taken in self.times.items()},
        }


def separate(model: DuoTok, mix: Tensor) -> dict[str, Tensor]:
    """`mix [channels, samples]` at 48 kHz to both stems `[2, samples]`. Raises DuoTokError without a separator."""
    if model.separator is None:
        raise DuoTokError(f"bundle {model.model_id} has no separator; give --vocals and --accompaniment")
    parts = list(model.separate_blocks(mix))
    return {name: torch.cat([part[name] for part in parts], dim=1)[:, : mix.shape[1]] for name in TRACKS}


def _sounds(
    song: DemoSong, settings: DemoSettings, model: DuoTok, note: Progress
) -> tuple[dict[str, Tensor], bool, float]:
    """The sounds at 48 kHz stereo and of one length, whether the stems were given, and seconds of separation."""
    part = {"channels": 2, "start": settings.start, "seconds": settings.seconds}
    paths = {"mix": song.mix, "vocals": song.vocals, "accompaniment": song.accompaniment}
    sounds = {name: fix_polarity(read(path, **part)) for name, path in paths.items() if path is not None}  # type: ignore[arg-type]
    if len(sounds) < 2 and "mix" not in sounds:
        raise DuoTokError("one stem is not a song; give the song as well, or both --vocals and --accompaniment")
    n = min(sound.shape[1] for sound in sounds.values())
    sounds = {name: sound[:, :n] for name, sound in sounds.items()}
    if n < SHORTEST or max(float(sound.abs().max()) for sound in sounds.values()) == 0.0:
        raise AudioError(f"{song.name}: silent or under 0.1 s; a report needs something to hear (--start, --seconds)")
    stems_given = len(sounds) > 1
    separation_seconds = 0.0
    if not stems_given:
        began = time.perf_counter()
        note("separating", 0.0)
        sounds |= separate(model, sounds["mix"])
        separation_seconds = time.perf_counter() - began
    if {*TRACKS} <= {*sounds} and stems_given:
        both = sounds["vocals"] + sounds["accompaniment"]
        if "mix" in sounds:
            check_stems(text_of(paths["mix"]), fit_of(sounds["mix"], both))  # type: ignore[arg-type]
        sounds["mix"] = both  # what is encoded is what is shown
    for name, other in (TRACKS, TRACKS[::-1]):
        if name not in sounds:
            check_excerpt((sounds["mix"], sounds[other]), text_of(paths["mix"]), text_of(paths[other]))  # type: ignore[arg-type]
            sounds[name] = sounds["mix"] - sounds[other]
    return sounds, stems_given, separation_seconds


def make(song: DemoSong, model: DuoTok, settings: DemoSettings, progress: Progress | None = None) -> DemoReport:
    """Encode, decode and measure. `progress(what, fraction)` is called as it goes. Raises DuoTokError."""
    note: Progress = progress or (lambda _what, _fraction: None)
    source = song.mix or song.vocals
    assert source is not None
    model.check_renders()
    info = probe(source)
    note("reading", 0.0)
    sounds, stems_given, separation = _sounds(song, settings, model, note)
    full = resampled_length(info.n_samples, info.rate, SAMPLE_RATE) / SAMPLE_RATE
    times = {} if stems_given else {"separation": separation}
    began = time.perf_counter()
    tokens = model.encode(
        vocals=sounds["vocals"], accompaniment=sounds["accompaniment"], progress=lambda f: note("encoding", f)
    )
    times["encoding"] = time.perf_counter() - began
    tokens = replace(tokens, source=text_of(source.name))
    began = time.perf_counter()
    decoded = {
        track: model.decode(
            tokens,
            track,
            steps=settings.steps,
            sampler=settings.sampler,
            seed=settings.seed,
            progress=lambda f, track=track: note(f"decoding {track}", f),  # type: ignore[misc]
        )
        for track in TRACKS
    }
    times["decoding"] = time.perf_counter() - began
    decoded["mix"] = decoded["vocals"] + decoded["accompaniment"]
    report = DemoReport(
        song.name, model, tokens, sounds, decoded, {}, stems_given, max(full, tokens.seconds), settings, times
    )
    _measure(report, note)
    if song.truth and not stems_given:
        _measure_separation(report, song.truth)
    return report


def _measure(report: DemoReport, note: Progress) -> None:
    """Measure the distances of the decoded sound and of Opus to the input, and the use of the codes."""
    for i, name in enumerate(PIECES):
        note("measuring", i / len(PIECES))
        target = report.sounds[name]
        coded = opus(target, YARDSTICK_BITS)
        report.yardstick[name], report.yardstick_kbps[name] = coded
        report.distances[name] = {
            "duotok": fidelity.mel_distance(report.decoded[name], target, SAMPLE_RATE),
            "opus": fidelity.mel_distance(coded.audio, target, SAMPLE_RATE),
        }
        report.chroma[name] = {
            "duotok": music.chroma_correlation(report.decoded[name], target, SAMPLE_RATE),
            "opus": music.chroma_correlation(coded.audio, target, SAMPLE_RATE),
        }
    voice = report.sounds["vocals"]
    decoded = {"duotok": report.decoded["vocals"], "opus": report.yardstick["vocals"]}
    report.f0 = {codec: music.f0_agreement(sound, voice, SAMPLE_RATE) for codec, sound in decoded.items()}
    report.stoi = _intelligibility(report)
    for track, size in zip(TRACKS, report.tokens.codebook_sizes, strict=True):
        report.usage[track] = CodeUsage(size).add(report.tokens.track(track)).facts()


def _intelligibility(report: DemoReport) -> dict[str, float]:
    """STOI of the vocals; empty where it cannot be measured: without pystoi, or with under a second of voice."""
    voice = report.sounds["vocals"]
    levels = voice.mean(0).unfold(0, 480, 480).square().mean(-1)
    if float((levels > levels.max() * 1e-4).sum()) * 480 < SAMPLE_RATE or float(levels.max()) < 1e-8:
        return {}
    try:
        return {
            "duotok": fidelity.stoi(report.decoded["vocals"], voice, SAMPLE_RATE),
            "opus": fidelity.stoi(report.yardstick["vocals"], voice, SAMPLE_RATE),
        }
    except (MissingExtraError, MetricError):
        return {}


def _measure_separation(report: DemoReport, truth: tuple[Path, Path]) -> None:
    """Floored SI-SDR in dB of the separated stems, and of the untouched mix in their place, against the true ones."""
    mix = report.sounds["mix"]
    for track, path in zip(TRACKS, truth, strict=True):
        true = read(path, channels=2, start=report.settings.start, seconds=report.settings.seconds)
        n = min(true.shape[1], mix.shape[1])
        report.separation[track] = {
            "separated": float(floored_si_sdr(report.sounds[track][:, :n], true[:, :n])),
            "mix": float(floored_si_sdr(mix[:, :n], true[:, :n])),
        }
