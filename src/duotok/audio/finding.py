"""Which files are sound, and what a search through folders left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

# What libsndfile and PyAV's ffmpeg read by name, the sound of films too. Formats without a header are none of them.
_ENDINGS = """
.wav .wave .bwf .flac .mp3 .mp2 .mp1 .mpga .ogg .oga .ogx .ogv .opus .spx .m4a .m4b .m4r .m4v .aac .adts .mp4 .mov .3gp .3g2 .f4a .f4v
.aif .aiff .aifc .caf .w64 .rf64 .au .snd .webm .weba .mka .mkv .wma .wmv .asf .avi .alac .wv .ape .tta .tak .shn .mpc .ac3 .eac3 .ec3
.dts .dtshd .mlp .thd .truehd .amr .awb .ra .rm .rmvb .voc .dsf .dff .flv .mpg .mpeg .vob .ts .mts .m2ts .oma .aa3 .qcp .nut .wtv .mxf
.iff .8svx .svx .sf .ircam .paf .nist .sph .avr .pvf .latm .loas
"""
AUDIO_SUFFIXES = frozenset(_ENDINGS.split())
SHOWN = 3


@dataclass
class Found:
    """`files`: what was looked for, sorted; `left_out`: why -> what else there was."""

    files: list[Path] = field(default_factory=list)
    left_out: dict[str, list[Path]] = field(default_factory=dict)

    def leave(self, why: str, path: Path) -> None:
        self.left_out.setdefault(why, []).append(path)

    def summary(self) -> str:
        """What was left out and why, in one line; "" where nothing was."""
        return "; ".join(f"{len(paths)} {why} ({_some(why, paths)})" for why, paths in self.left_out.items())


NO_SOUND = "of other kinds"
LINKED = "linked folders, --follow-symlinks goes into them"


def _some(why: str, paths: list[Path]) -> str:
    if why == NO_SOUND:
        kinds = Counter(path.suffix.lower() or "no ending" for path in paths).most_common()
        names = [f"{kind} {count}" for kind, count in kinds]
    else:
        names = [str(path) for path in paths]
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def search(folder: str | Path, suffixes: Collection[str] = AUDIO_SUFFIXES, follow_symlinks: bool = False) -> Found:
    """All files under `folder` with one of the endings, sorted, and what was left out.

    Hidden files and folders are not looked at. A linked file counts as a file, a linked folder only when asked for, and
    never twice.
    """
    top, found = Path(folder), Found()
    been = {_identity(top)}
    waiting = [top]
    while waiting:
        here = waiting.pop()
        try:
            entries = sorted(os.scandir(here), key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            found.leave(f"folders that cannot be read ({error.strerror})", here)
            continue
        for entry in entries:
            path = here / entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append(path)
                been.add(_identity(path))
            elif entry.is_dir():
                if not follow_symlinks:
                    found.leave(LINKED, path)
                elif (identity := _identity(path)) in been or any(_identity(p) == identity for p in path.parents):
                    found.leave("links to folders that are there already", path)
                else:
                    been.add(identity)
                    waiting.append(path)
            elif path.suffix.lower() not in suffixes:
                found.leave(NO_SOUND, path)
            elif entry.is_file():
                found.files.append(path)
            elif entry.is_symlink():
                found.leave("links to nothing", path)
            else:
                found.leave("no ordinary files", path)
    found.files.sort()
    return found


def _identity(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_dev, state.st_ino


def find_audio(folder: str | Path, follow_symlinks: bool = False) -> list[Path]:
    """All audio files under `folder` by their ending, sorted; hidden files and folders are left out."""
    return search(folder, AUDIO_SUFFIXES, follow_symlinks).files


def without(found: Found, folders: Iterable[Path]) -> Found:
    """What does not lie in one of these folders."""
    left = set(folders)
    return Found([path for path in found.files if not left.intersection(path.parents)], found.left_out)
