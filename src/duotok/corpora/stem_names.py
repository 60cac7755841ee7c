"""Which track of which song a file is, by its name, as people and separators write it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

_WORDS = {
    "mix": "mix mixture",
    "vocals": "vocals vocal voice vox acapella acappella",
    "accompaniment": "accompaniment instrumental instrumentals instr inst no_vocals novocals minus_vocals karaoke backing_track",
    "drums": "drums drum",
    "bass": "bass",
    "other": "other others",
}
TRACKS = {word: track for track, words in _WORDS.items() for word in words.split()}
"""Word -> track; between the parts of a word may stand a space, - or _."""
_TRACK = "|".join(sorted((word.replace("_", "[ _-]?") for word in TRACKS), key=len, reverse=True))
# SONG_(Vocals)_MODEL of Ultimate Vocal Remover and audio-separator.
_BRACKETED = re.compile(rf"(?P<song>.+?)[ _]\((?P<track>{_TRACK})\)(?:[ _-].*)?", re.IGNORECASE)
_DOTTED = re.compile(rf"(?P<song>.+)\.(?P<track>{_TRACK})", re.IGNORECASE)
_LOOSE = re.compile(rf"(?P<song>.+?)(?: - |[ _-])[\[(]?(?P<track>{_TRACK})[\])]?", re.IGNORECASE)


class Named(NamedTuple):
    """song: without the track; certain: whether the name says so even where it stands alone."""

    song: Path
    track: str
    certain: bool


def named(path: Path) -> Named | None:
    """What the name of a file says: `SONG.vocals.EXT`, `SONG_(Vocals)_MODEL.EXT`, `SONG_no_vocals.EXT`, `SONG/vocals.EXT`."""
    whole = TRACKS.get(re.sub(r"[ -]", "_", path.stem.lower()))
    if whole is not None:
        return Named(path.parent, whole, False)
    for pattern, certain in ((_DOTTED, True), (_BRACKETED, "_(" in path.stem), (_LOOSE, False)):
        found = pattern.fullmatch(path.stem)
        if found and found["song"].strip(" _-"):
            return Named(path.with_name(found["song"].rstrip(" ")), _track(found["track"]), certain)
    return None


def _track(word: str) -> str:
    plain = re.sub(r"[ _-]", "", word.lower())
    return next(track for known, track in TRACKS.items() if known.replace("_", "") == plain)
