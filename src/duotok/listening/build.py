"""Builds a test folder: which clips, every condition of each, one loudness, names that tell nothing, the seal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from duotok.audio.io import read, write_samples
from duotok.audio.marks import MARK
from duotok.clock import SAMPLE_RATE
from duotok.errors import DuoTokError
from duotok.files import remove, sha256, short_hash, sweep, writing
from duotok.listening import stimuli
from duotok.listening.plan import FORMAT, LEVEL, REFERENCE, Clip, Sound, TestPlan, save, sound_path
from duotok.listening.scale import Method
from duotok.listening.sources import Folder, System, Unreadable, check_names, read_sound

QUIETEST_LUFS = -70.0
"""BS.1770's own gate: below it there is nothing to rate."""


@dataclass(frozen=True)
class BuildSettings:
    """How a test is made. anchors: Hz of the low-passed originals; clips: how many of each song; must_hear: seconds to be
    played before rating; clips_per_rater: 0 for all."""

    title: str = "Listening test"
    method: Method = "mos"
    seconds: float = 10.0
    clips: int = 1
    seed: int = 0
    anchors: tuple[float, ...] = (3500.0,)
    must_hear: float = 3.0
    clips_per_rater: int = 0

    def __post_init__(self) -> None:
        if not 0.5 <= self.seconds <= 60:
            raise DuoTokError(f"clips of {self.seconds:g} s: choose 0.5 to 60 s")
        if self.clips < 1 or self.clips_per_rater < 0:
            raise DuoTokError(
                f"{self.clips} clips a song, {self.clips_per_rater} a rater: at least 1 a song, and 0 or more"
            )
        for hz in self.anchors:
            if not 500 <= hz <= 16_000 or self.anchors.count(hz) > 1:
                raise DuoTokError(f"anchor at {hz:g} Hz: choose 500 to 16000 Hz, each once")
        if not 0 <= self.must_hear <= self.seconds:
            raise DuoTokError(f"{self.must_hear:g} s to be heard of clips of {self.seconds:g} s; choose fewer")
        if not self.title.strip():
            raise DuoTokError("a test without a title; give --title")

    def named_anchors(self) -> dict[str, float]:
        return {f"lowpass-{hz:g}": hz for hz in sorted(self.anchors)}


@dataclass(frozen=True)
class Built:
    """plan: of the test; lowered: the sound for which all were made softer than -23 LUFS ("" for none); left_out: song -> the file of it
    that cannot be read, and why."""

    plan: TestPlan
    lowered: str
    left_out: Mapping[str, str]


def choose_clips(reference: Folder, settings: BuildSettings) -> tuple[list[Clip], dict[str, str]]:
    """The clips of all songs, all tracks of a song at the same moments; and song -> why it cannot be read. Raises DuoTokError for songs
    that are too short, and when not one can be read."""
    clips, left_out = list[Clip](), dict[str, str]()
    for place, (song, tracks) in enumerate(reference.songs.items()):
        try:
            audio = {track: read_sound(path) for track, path in tracks.items()}
        except Unreadable as error:
            left_out[song] = str(error)
            continue
        starts = stimuli.choose_starts(
            [stimuli.levels(sound) for sound in audio.values()],
            settings.seconds,
            settings.clips,
            (settings.seed, place),
        )
        if len(starts) < settings.clips:
            shortest = min(audio, key=lambda track: audio[track].shape[1])
            seconds = audio[shortest].shape[1] / SAMPLE_RATE
            raise DuoTokError(
                f"{tracks[shortest]}: {seconds:.2f} s are too short for {settings.clips} clip(s) of {settings.seconds:g} s; take "
                "shorter ones with --seconds, or the song away"
            )
        for start in starts:
            for track in tracks:
                name = short_hash(f"{settings.seed}/{song}/{track}/{start}", 12)
                clips.append(Clip(id=name, song=song, track=track, start=start, seconds=settings.seconds))
    if not clips:
        raise DuoTokError(next(iter(left_out.values())))
    return clips, left_out


def build(
    folder: Path,
    reference: Folder,
    systems: Sequence[System],
    settings: BuildSettings,
    version: str,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Built:
    """Make the test. A song with a file that cannot be read is left out and named.

    The folder appears whole or not at all. version: of this package. Raises DuoTokError when folders do not fit each other,
    when a clip is silent in some condition or too short, or when the folder is there already.
    """
    anchors = settings.named_anchors()
    check_names([system.name for system in systems], list(anchors))
    for system in systems:
        if isinstance(system, Folder):
            system.check(reference)
    check_new(folder)
    sweep(folder)
    clips, left_out = choose_clips(reference, settings)
    try:
        with writing(folder) as partial:
            built = _fill(partial, reference, systems, settings, clips, version, progress)
            save(partial, built.plan)
    except OSError as error:
        raise DuoTokError(f"{folder}: cannot be written ({error.strerror}); name another folder with -o") from None
    return replace(built, left_out={**left_out, **built.left_out})


def check_new(folder: Path) -> None:
    """Raises DuoTokError when something is there already: ratings may lie in it."""
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise DuoTokError(f"{folder}: there already, and a test is never replaced; name a new folder with -o")


def _conditions(
    reference: Folder, systems: Sequence[System], anchors: dict[str, float], song: str, clips: list[Clip]
) -> Iterator[tuple[str, Clip, Tensor, str]]:
    """(condition, clip, sound, source) of the clips of one moment of a song."""
    originals = reference.clips(song, clips)
    sources = {clip.id: reference.source(clip) for clip in clips}
    for clip in clips:
        yield REFERENCE, clip, originals[clip.id], sources[clip.id]
        for name, hz in anchors.items():
            yield name, clip, stimuli.low_pass(originals[clip.id], hz), sources[clip.id]
    for system in systems:
        made = system.clips(song, clips)
        for clip in clips:
            yield system.name, clip, made[clip.id], system.source(clip)


def _fill(
    folder: Path,
    reference: Folder,
    systems: Sequence[System],
    settings: BuildSettings,
    clips: list[Clip],
    version: str,
    progress: Callable[[float], None],
) -> Built:
    """Write all sounds: first as they are, then, when the loudness of all is known, at one loudness."""
    anchors = settings.named_anchors()
    moments: dict[tuple[str, float], list[Clip]] = {}
    for clip in clips:
        moments.setdefault((clip.song, clip.start), []).append(clip)
    raw = folder / "raw"
    for needed in (raw, sound_path(folder, "x").parent):
        needed.mkdir(parents=True)
    measured: dict[str, tuple[float, float]] = {}
    drafts: dict[str, tuple[str, Clip, str]] = {}
    left_out: dict[str, str] = {}
    for done, ((song, _), together) in enumerate(moments.items()):
        try:
            conditions = [] if song in left_out else list(_conditions(reference, systems, anchors, song, together))
        except Unreadable as error:
            left_out[song] = str(error)
            conditions = []
        for system, clip, sound, source in conditions:
            name = short_hash(f"{settings.seed}/{clip.id}/{system}", 16)
            stereo = stimuli.faded(sound if sound.shape[0] == 2 else sound.mean(0, keepdim=True).repeat(2, 1))
            lufs = stimuli.loudness(stereo)
            if not lufs > QUIETEST_LUFS:
                raise DuoTokError(
                    f"{clip.song}, {clip.track}, {system}: silent from {clip.start:g} to {clip.start + clip.seconds:g} s; "
                    "take the song or track out of the test"
                )
            measured[name], drafts[name] = (lufs, stimuli.peak_db(stereo)), (system, clip, source)
            _write(raw / f"{name}.wav", stereo, "FLOAT")
        progress((done + 1) / len(moments) * 0.9)
    clips = [clip for clip in clips if clip.song not in left_out]
    if not clips:
        raise DuoTokError(next(iter(left_out.values())))
    # a song may be found out at its second moment only
    drafts = {name: draft for name, draft in drafts.items() if draft[1].song not in left_out}
    measured = {name: measured[name] for name in drafts}
    target, lowered = stimuli.common_loudness(measured)
    sounds = []
    # by names that tell nothing, so that neither the place in the list nor the file's date does
    for name in sorted(drafts):
        system, clip, source = drafts[name]
        gain_db = target - measured[name][0]
        _write(sound_path(folder, name), read(raw / f"{name}.wav") * 10 ** (gain_db / 20), "PCM_24")
        digest = sha256(sound_path(folder, name))
        sounds.append(
            Sound(id=name, clip=clip.id, system=system, sha256=digest, gain_db=round(gain_db, 4), source=source)
        )
    remove(raw)
    _write(folder / LEVEL, stimuli.noise(target, settings.seed), "PCM_24")
    progress(1.0)
    who = _who(drafts[lowered]) if lowered else ""
    plan = TestPlan(
        format=FORMAT,
        made_by=f"duotok {version}",
        title=settings.title,
        method=settings.method,
        seed=settings.seed,
        sample_rate=SAMPLE_RATE,
        lufs=round(target, 4),
        must_hear=settings.must_hear,
        clips_per_rater=settings.clips_per_rater,
        systems=tuple(system.name for system in systems),
        descriptions={system.name: system.description for system in systems},
        anchors=anchors,
        level=sha256(folder / LEVEL),
        clips=tuple(clips),
        sounds=tuple(sounds),
    )
    return Built(plan, who, left_out)


def _write(path: Path, stereo: Tensor, subtype: str) -> None:
    """The folder waits for the disk as a whole."""
    write_samples(path, stereo.T.numpy(), SAMPLE_RATE, "WAV", subtype, comment=f"{MARK}listen")


def _who(draft: tuple[str, Clip, str]) -> str:
    system, clip, _ = draft
    return f"{clip.song}, {clip.track}, {system}"
