"""Which track of which song a file is, from the file names that people and separators use."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from pathlib import Path
from typing import NamedTuple

from duotok import tracks
from duotok.audio.finding import AUDIO_SUFFIXES
from duotok.audio.marks import SEPARATED, mark_of

_WORDS = {
    "mix": "mix mixture",
    "vocals": "vocals vocal voice vox acapella acappella",
    "accompaniment": "accompaniment instrumental instrumentals instr inst no_vocals novocals minus_vocals karaoke backing_track",
    "drums": "drums drum",
    "bass": "bass",
    "other": "other others",
}
TRACKS = {word: track for track, words in _WORDS.items() for word in words.split()}
"""Word -> track; the parts of a word may be separated by a space, - or _."""
_TRACK = "|".join(sorted((word.replace("_", "[ _-]?") for word in TRACKS), key=len, reverse=True))
# SONG_(Vocals)_MODEL of Ultimate Vocal Remover and audio-separator.
_BRACKETED = re.compile(rf"(?P<song>.+?)[ _]\((?P<track>{_TRACK})\)(?:[ _-].*)?", re.IGNORECASE)
_DOTTED = re.compile(rf"(?P<song>.+)\.(?P<track>{_TRACK})", re.IGNORECASE)
_LOOSE = re.compile(rf"(?P<song>.+?)(?: - |[ _-])[\[(]?(?P<track>{_TRACK})[\])]?", re.IGNORECASE)


class StemName(NamedTuple):
    """song: path without the track; certain: whether the name alone identifies a track, without others beside it."""

    song: Path
    track: str
    certain: bool


def parse_stem_name(path: Path) -> StemName | None:
    """Song and track from `SONG.vocals.EXT`, `SONG_(Vocals)_MODEL.EXT`, `SONG_no_vocals.EXT` or `SONG/vocals.EXT`; or None."""
    whole = TRACKS.get(re.sub(r"[ -]", "_", path.stem.lower()))
    if whole is not None:
        return StemName(path.parent, whole, False)
    for pattern, certain in ((_DOTTED, True), (_BRACKETED, "_(" in path.stem), (_LOOSE, False)):
        match = pattern.fullmatch(path.stem)
        if match and match["song"].strip(" _-"):
            return StemName(path.with_name(match["song"].rstrip(" ")), _track(match["track"]), certain)
    return None


class Stems:
    """Of the sounds that DuoTok wrote below `root`: which are vocals or accompaniment that `duotok separate` took out of a song, a part of
    it like any other stem, where all else that DuoTok writes is part of no song.

    Where the song itself lies below `root` too, in another folder, its stems are no second song: `duotok separate ROOT -o ROOT/stems`
    makes ROOT/stems/a/b.vocals.wav of ROOT/a/b.mp3.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        # A folder is listed once for all of its stems, and not every folder is kept in memory.
        self._sounds = functools.lru_cache(64)(_sounds)
        self._is_song = functools.lru_cache(1024)(self._has_song)

    def __call__(self, path: Path, mark: str) -> bool:
        """mark: the comment of the sound."""
        name = parse_stem_name(path) if mark.startswith(SEPARATED) else None
        if name is None or name.track not in tracks.TRACKS:
            return False
        below = name.song.relative_to(self.root).parts
        elsewhere = (self.root.joinpath(*below[first:]) for first in range(1, len(below)))
        return self._is_song(name.song) or not any(map(self._is_song, elsewhere))

    def _has_song(self, place: Path) -> bool:
        """Whether there is a sound of this path and any ending, which DuoTok did not write."""
        return any(not mark_of(path) for path in self._sounds(place.parent).get(place.name, ()))


def _sounds(folder: Path) -> dict[str, list[Path]]:
    """The sound files in a folder by their names without ending; none where it cannot be read."""
    found: dict[str, list[Path]] = {}
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            name, ending = os.path.splitext(entry.name)
            if ending.lower() in AUDIO_SUFFIXES and entry.is_file():
                found.setdefault(name, []).append(folder / entry.name)
    return found


def _track(word: str) -> str:
    plain = re.sub(r"[ _-]", "", word.lower())
    return next(track for name, track in TRACKS.items() if name.replace("_", "") == plain)
