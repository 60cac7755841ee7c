"""Cut a recording into segments of 5-30 s, between sentences where lyrics are known, at quiet places otherwise.

Paper, section 4.1 and C.2: lyric-aware segmentation on sentence boundaries, and the four kinds of training samples. Pure
functions of what the scan measured and of the lyrics: nothing is decoded here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from duotok.clock import FRAME_RATE, FRAME_SAMPLES
from duotok.config import Config
from duotok.data.activity import (
    SILENCE_DB,
    ActivityConfig,
    Levels,
    Mask,
    clean,
    drop_short,
    from_runs,
    gated_level,
    runs,
    smooth,
    voice_activity,
)
from duotok.data.cutting import Costs, Material, best_cuts
from duotok.data.sentences import Sentence, sentences_of, text_between
from duotok.lyrics.types import Lyrics
from duotok.records import STORED, Activity, CorpusError, Kind, Recording, SampleType, Segment, segment_key
from duotok.tracks import ACCOMPANIMENT_STEMS

# Costs of a boundary: a loud place and the lack of a pause cost at most 1 each; these are for cutting voice, a line, a word.
CUTS_VOICE, CUTS_LINE, CUTS_WORD = 2.0, 10.0, 60.0
QUIET_RANGE_DB, MIX_SHARE = 40.0, 0.5
NEVER_SKIP, SKIP_SOUND = 50.0, 0.2  # for each frame that is in no segment
PAUSE_SECONDS = 2.0  # silence, and pauses of a voice alone, may be left out from this length on
LYRICS_LOST = "lyrics left out: "
"""How a note begins that says why no segment of a recording has the words that were known of it."""
LEAST_AGREEMENT = 0.3
QUIETEST_LOUDNESS = -70.0
# A mono recording is heard, tokenized and trained on in two channels, which together are this much louder than the one.
DUAL_MONO = 10 * math.log10(2)


class SegmentConfig(Config):
    """How recordings are cut. The paper gives 5-30 s and sentence boundaries; the rest is ours."""

    min_seconds: float = Field(default=5.0, ge=1)
    max_seconds: float = Field(default=30.0, ge=2)
    target_seconds: float = Field(
        default=15.0, ge=1, description="the length that is taken where nothing speaks against it"
    )
    whole_seconds: float = Field(
        default=5.0, ge=0.04, description="shorter recordings are left out; from here on they stay whole"
    )
    voice_share: float = Field(default=0.4, ge=0, le=1, description="least share of voice in a vocal sample")
    silence_db: float = Field(default=-65.0, description="dB of full scale; a quieter mix is silence")
    loudness: float = Field(default=-18.0, description="LUFS that gain_db brings a recording to")
    max_gain_db: float = Field(default=30.0, ge=0)
    activity: ActivityConfig = ActivityConfig()

    def model_post_init(self, context: Any) -> None:
        if 2 * self.min_seconds > self.max_seconds:
            raise ValueError("max_seconds must be at least twice min_seconds, or some lengths cannot be cut")


@dataclass(frozen=True)
class Cut:
    """The segments of one recording; notes: what was lost; reason: why there are none."""

    segments: tuple[Segment, ...]
    notes: tuple[str, ...] = ()
    reason: str = ""


def stem_sources(kind: Kind, audio: Collection[str]) -> dict[str, str]:
    """The stems that a shard stores of a recording -> the key of `Recording.audio` that each comes from.

    A mix that is the sum of stored stems is not stored; an instrumental is all accompaniment, a voice alone all vocals.
    """
    whole = next(stem for stem in STORED if stem in audio)
    if kind == "instrumental":
        return {"accompaniment": "accompaniment" if "accompaniment" in audio else whole}
    if kind in ("voice", "speech"):
        return {"vocals": "vocals" if "vocals" in audio else whole}
    parts = tuple(stem for stem in ACCOMPANIMENT_STEMS if stem in audio)
    complete = "vocals" in audio and ("accompaniment" in audio or parts == ACCOMPANIMENT_STEMS)
    chosen = ("vocals", "accompaniment", *parts) if complete else ("mix", "vocals", "accompaniment")
    return {stem: stem for stem in STORED if stem in chosen and stem in audio} or {"mix": whole}


def tracks(stems: Collection[str]) -> frozenset[str]:
    """Which of mix, vocals and accompaniment can be had from stored stems, directly or as a sum."""
    available = {"mix", "vocals", "accompaniment"} & set(stems)
    if set(ACCOMPANIMENT_STEMS) <= set(stems):
        available.add("accompaniment")
    if {"vocals", "accompaniment"} <= available:
        available.add("mix")
    return frozenset(available)


@dataclass(frozen=True)
class _Sound:
    """Levels in dB `[frames]`; voice and band are None where they were not separated."""

    mix: Levels
    voice: Levels | None
    band: Levels | None

    @classmethod
    def from_levels(cls, kind: Kind, levels: Mapping[str, Levels]) -> _Sound:
        voice, band = levels.get("vocals"), levels.get("accompaniment")
        if band is None and all(stem in levels for stem in ACCOMPANIMENT_STEMS):
            band = _power_sum([levels[stem] for stem in ACCOMPANIMENT_STEMS])
        mix = levels.get("mix")
        if mix is None:
            mix = _power_sum([row for row in (voice, band) if row is not None] or list(levels.values()))
        if kind in ("voice", "speech"):
            return cls(mix, mix if voice is None else voice, None)
        return cls(mix, None, None) if kind in ("instrumental", "sound") else cls(mix, voice, band)


def _power_sum(levels: Sequence[Levels]) -> Levels:
    total: Levels = 10.0 * np.log10(np.sum([10.0 ** (row / 10.0) for row in levels], axis=0))
    return total


@dataclass(frozen=True)
class _Analysis:
    """A recording's sound, its level in dB, the frames with voice (all of a line counts as voice), and its lines."""

    sound: _Sound
    level: float
    voiced: Mask
    sentences: tuple[Sentence, ...]


def _stretches(pairs: Sequence[tuple[int, int]], frames: int) -> Mask:
    return from_runs(np.array(pairs, np.int64).reshape(-1, 2), frames)


def _analyse(sound: _Sound, lines: Sequence[Sentence], config: SegmentConfig, notes: list[str]) -> _Analysis:
    """Detect the voice, with the times of the lyrics. Lyrics whose times do not fit the voice are left out, with a note."""
    frames, level = len(sound.mix), gated_level(sound.mix, config.silence_db)
    voiced = np.zeros(frames, bool)
    if sound.voice is not None:
        voiced = voice_activity(sound.voice, config.activity, sound.band)
    if not lines:
        return _Analysis(sound, level, voiced, ())
    spans = [(line.first, line.stop) for line in lines]
    if sound.voice is not None:
        sung = _stretches([(word.first, word.stop) for line in lines for word in line.words] or spans, frames)
        agreement = float(voiced[sung].mean()) if sung.any() else 0.0
        if agreement < LEAST_AGREEMENT:
            notes.append(f"{LYRICS_LOST}only {agreement:.0%} of their time has voice; are they of this recording?")
            return _Analysis(sound, level, voiced, ())
        voiced = voice_activity(sound.voice, config.activity, sound.band, sung)
    return _Analysis(sound, level, voiced | _stretches(spans, frames), tuple(lines))


def _within(pairs: Sequence[tuple[int, int]], frames: int) -> Mask:
    """Boundaries `[frames + 1]` that lie within a stretch, not at its ends."""
    return _stretches([(first + 1, stop) for first, stop in pairs if stop > first + 1], frames + 1)


def _material(analysis: _Analysis, alone: bool, config: SegmentConfig) -> Material:
    """Costs and masks for the cutter. alone: a voice without a band, whose pauses may be left out."""
    sound, voiced = analysis.sound, analysis.voiced
    frames = len(voiced)
    cut = _loudness_of_cut(sound.mix)
    if sound.voice is not None:
        cut = MIX_SHARE * cut + _loudness_of_cut(sound.voice)
    cut[1:-1] += CUTS_VOICE * (voiced[:-1] & voiced[1:])
    cut += CUTS_LINE * _within([(line.first, line.stop) for line in analysis.sentences], frames)
    cut += CUTS_WORD * _within([(word.first, word.stop) for line in analysis.sentences for word in line.words], frames)
    cut += 1.0
    for first, stop in runs(~voiced).tolist():  # the longer a pause, the better the cut, because a phrase ends there
        cut[first : stop + 1] -= 1.0 - math.exp((first - stop) / FRAME_RATE)
    cut[0] = cut[-1] = 0.0
    pause = round(PAUSE_SECONDS * FRAME_RATE)
    silent = drop_short(sound.mix < config.silence_db, pause)
    if alone:
        silent |= drop_short(~voiced, pause)
    skip = np.where(voiced, NEVER_SKIP, np.where(silent, 0.0, SKIP_SOUND))
    free = drop_short(~voiced, round(config.min_seconds * FRAME_RATE))
    return Material(cut, skip, voiced, free, silent & ~voiced)


def _loudness_of_cut(levels: Levels) -> Costs:
    """0 at quiet boundaries to 1 at loud ones, `[frames + 1]`, relative to the recording."""
    soft = smooth(levels)
    beside = np.concatenate([soft[:1], np.maximum(soft[:-1], soft[1:]), soft[-1:]])
    quiet: Costs = np.clip((beside - gated_level(levels)) / QUIET_RANGE_DB + 1.0, 0.0, 1.0)
    return quiet


def _types(
    kind: Kind, activity: Activity, share: float, can: Collection[str], config: SegmentConfig
) -> tuple[SampleType, ...]:
    """The types of sample that a segment gives: the paper's four (C.2), or "other" for what only stage 1 uses.

    share: of voice in the segment; can: the tracks that its stems give. A sample needs the track of its name, an
    instrumental the accompaniment.
    """
    enough = share >= config.voice_share
    types: tuple[SampleType, ...] = ()
    if kind == "instrumental":
        return ("instrumental",)
    if kind == "voice":
        types = ("vocals",) if enough else ()
    elif kind in ("song", "music"):
        if activity == "unknown":
            types = ("mix",) if kind == "song" else ()
        elif activity == "instrumental":
            types = ("mix", "instrumental")
        else:
            types = ("mix", "vocals", "accompaniment") if enough else ("mix",)
    return tuple(t for t in types if ("accompaniment" if t == "instrumental" else t) in can) or ("other",)


def cut_recording(
    recording: Recording,
    scan: Mapping[str, Any],
    levels: NDArray[np.floating],
    lyrics: Lyrics | None = None,
    config: SegmentConfig = SegmentConfig(),
) -> Cut:
    """The segments of a recording in order, without overlaps, and what was lost.

    scan: the facts of the scan step; levels: `[stems, frames]` dB of full scale, stems in the order of `scan["stems"]`;
    lyrics: times in seconds of the recording. Raises CorpusError when levels and scan do not fit together.
    """
    stems, samples, loudness = scan["stems"], scan["samples"], scan["loudness"]
    frames = -(-samples // FRAME_SAMPLES)
    if levels.shape != (len(stems), frames):
        raise CorpusError(
            f"{recording.id}: levels {list(levels.shape)} do not fit a scan of {len(stems)} stems and {samples} samples; "
            "scan it again"
        )
    if loudness is None:
        return Cut((), reason="silent")
    loudness += DUAL_MONO if scan.get("channels") == 1 else 0.0
    if frames < round(config.whole_seconds * FRAME_RATE):
        return Cut((), reason=f"shorter than {config.whole_seconds:g} s")
    sound = _Sound.from_levels(recording.kind, dict(zip(stems, clean(levels), strict=True)))
    wordless = recording.kind in ("instrumental", "sound")
    lines, notes = sentences_of(None if wordless else lyrics, frames)
    analysis = _analyse(sound, lines, config, notes)
    places = [[0, frames]]
    shortest, longest = math.ceil(config.min_seconds * FRAME_RATE), math.floor(config.max_seconds * FRAME_RATE)
    if frames >= shortest:
        material = _material(analysis, recording.kind in ("voice", "speech"), config)
        places = best_cuts(material, shortest, longest, round(config.target_seconds * FRAME_RATE)).tolist()
        if not places and frames <= longest:  # e.g. a bark in five seconds of silence
            places = [[0, frames]]
    # Lyrics without times can be used when the recording is a single segment.
    untimed = lyrics.text if lyrics is not None and not wordless and not lines else ""
    text = untimed if len(places) == 1 else ""
    if untimed.strip() and len(places) > 1:
        notes.append(f"{LYRICS_LOST}nobody knows which of several segments sings what; times tell, as in LRC")
    language = (lyrics.language if lyrics is not None else None) or recording.language
    candidates = [
        _segment(recording, analysis, low, high, loudness, stems, language, text, config) for low, high in places
    ]
    segments = tuple(segment for segment in candidates if segment is not None)
    lost = sum(len(line.words) for line in analysis.sentences) - sum(len(segment.words) for segment in segments)
    if lost:
        notes.append(f"{lost} words cut by a boundary or in silence")
    return Cut(segments, tuple(notes), "" if segments else "nothing in it is worth a segment")


def _segment(
    recording: Recording,
    analysis: _Analysis,
    low: int,
    high: int,
    recording_loudness: float,
    scanned: Sequence[str],
    language: str,
    untimed: str,
    config: SegmentConfig,
) -> Segment | None:
    """The segment of these frames; None when they are silent."""
    kind, sound = recording.kind, analysis.sound
    share = float(analysis.voiced[low:high].mean())
    level = gated_level(sound.mix[low:high], config.silence_db)
    if level == SILENCE_DB or (kind in ("voice", "speech") and share == 0.0):
        return None
    text, words = text_between(analysis.sentences, low, high, language)
    text = text or untimed
    activity: Activity = "voice" if share else "instrumental"
    if text:
        activity = "lyrics"
    elif kind == "sound" or (kind in ("song", "music") and sound.voice is None):
        activity = "unknown"
    # The difference is not K-weighted: exact for the whole recording, close enough for a part.
    loudness = recording_loudness + level - analysis.level
    stems = tuple(stem_sources(kind, scanned))
    return Segment(
        key=segment_key(recording.id, low),
        recording=recording.id,
        corpus=recording.corpus,
        kind=kind,
        split=recording.split,
        identity=recording.identity,
        start_frame=low,
        frames=high - low,
        activity=activity,
        types=_types(kind, activity, share, tracks(stems), config),
        stems=stems,
        gain_db=round(min(config.loudness - recording_loudness, config.max_gain_db), 2),
        loudness=round(max(loudness, QUIETEST_LOUDNESS), 2),
        language=language,
        text=text,
        words=words,
        tags=recording.tags,
        licence=recording.licence,
        attribution=recording.attribution,
        source=recording.source,
    )


def segment_recording(
    recording: Recording,
    scan: Mapping[str, Any],
    levels: NDArray[np.floating],
    lyrics: Lyrics | None = None,
    config: SegmentConfig = SegmentConfig(),
) -> list[Segment]:
    """The segments of `cut_recording` alone."""
    return list(cut_recording(recording, scan, levels, lyrics, config).segments)
