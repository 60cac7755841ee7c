"""A listening test as a folder: `test.json` (sealed), `sounds/` under names that tell nothing, `level.wav`, and later `ratings.sqlite`."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from duotok.config import Config, parse
from duotok.errors import ConfigError, DuoTokError
from duotok.files import sha256, write_bytes
from duotok.listening.scale import Method
from duotok.seals import is_sealed, read_json, seal, unsealed

FORMAT = 1
TEST, SOUNDS, LEVEL = "test.json", "sounds", "level.wav"
REFERENCE = "reference"
"""The condition that is the original; hidden among the others."""


class Clip(Config):
    """A part of one track of a song, heard in every condition. start, seconds: where it lies in the song."""

    id: str
    song: str
    track: str
    start: float
    seconds: float


class Sound(Config):
    """A clip in one condition: `sounds/ID.wav`. gain_db: what was applied; source: the hash of the file that it was cut from,
    or what made it."""

    id: str
    clip: str
    system: str
    sha256: str
    gain_db: float
    source: str


class TestPlan(Config):
    """What `test.json` holds.

    systems: the conditions under test, in the order in which they are shown; anchors: name -> Hz of the low-pass; lufs: the
    loudness of every sound; must_hear: seconds of a sound that a rater must have played before rating it; clips_per_rater:
    0 for all; level: the hash of `level.wav`, noise of the same loudness to set the volume by.
    """

    __test__ = False  # not a test of pytest

    format: int
    made_by: str
    title: str
    method: Method
    seed: int
    sample_rate: int
    lufs: float
    must_hear: float
    clips_per_rater: int = Field(ge=0)
    systems: tuple[str, ...]
    descriptions: dict[str, str]
    anchors: dict[str, float]
    level: str
    clips: tuple[Clip, ...]
    sounds: tuple[Sound, ...]


class ListeningTest:
    """A test folder that was found whole. Made by `load`."""

    __test__ = False

    def __init__(self, folder: Path, plan: TestPlan, identity: str) -> None:
        """identity: the seal of `test.json`, by which ratings know their test."""
        self.folder, self.plan, self.identity = folder, plan, identity

    @cached_property
    def sounds(self) -> dict[str, Sound]:
        return {sound.id: sound for sound in self.plan.sounds}

    @cached_property
    def clips(self) -> dict[str, Clip]:
        return {clip.id: clip for clip in self.plan.clips}

    @property
    def conditions(self) -> tuple[str, ...]:
        """Hidden reference, systems, anchors."""
        return (REFERENCE, *self.plan.systems, *self.plan.anchors)

    @property
    def tracks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(clip.track for clip in self.plan.clips))

    @property
    def level(self) -> Path:
        return self.folder / LEVEL

    def path(self, sound: Sound) -> Path:
        return sound_path(self.folder, sound.id)


def sound_path(folder: Path, name: str) -> Path:
    return folder / SOUNDS / f"{name}.wav"


def save(folder: Path, plan: TestPlan) -> None:
    """Write `test.json`. Raises OSError."""
    values: dict[str, Any] = plan.model_dump(mode="json")
    write_bytes(folder / TEST, json.dumps(seal(values), indent=1).encode() + b"\n")


def load(folder: Path) -> ListeningTest:
    """The test of a folder, every sound checked against its hash.

    Raises DuoTokError when there is none, when it was changed, or made by another version of this format.
    """
    path = folder / TEST
    try:
        values = read_json(path.read_bytes())
    except FileNotFoundError:
        raise DuoTokError(f"{folder}: no listening test (no {TEST}); make one with duotok listen build") from None
    except (OSError, ValueError) as error:
        raise DuoTokError(f"{path}: cannot be read ({error}); build the test again") from None
    found = values.get("format") if isinstance(values, dict) else None
    if not isinstance(found, int):
        raise DuoTokError(f"{path}: no listening test of DuoTok; name another folder")
    if found != FORMAT:
        raise DuoTokError(
            f"{path}: format {found}, and this DuoTok reads {FORMAT}; use the one that made it ({values.get('made_by')})"
        )
    if not is_sealed(values):
        raise DuoTokError(f"{path}: changed since it was built; build the test again, or restore the file")
    try:
        plan = parse(TestPlan, unsealed(values), str(path))
    except ConfigError as error:
        raise DuoTokError(f"{error}; build the test again") from None
    test = ListeningTest(folder, plan, values["seal"])
    for file, wanted in [(test.level, plan.level), *((test.path(sound), sound.sha256) for sound in plan.sounds)]:
        _check(file, wanted)
    return test


def _check(path: Path, wanted: str) -> None:
    try:
        found = sha256(path)
    except OSError as error:
        raise DuoTokError(f"{path}: cannot be read ({error.strerror}); restore it, or build the test again") from None
    if found != wanted:
        raise DuoTokError(
            f"{path}: not the sound that was built (its hash differs); restore it, or build the test again"
        )
