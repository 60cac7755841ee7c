"""Which files are sound, and what a search through folders left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

# What libsndfile and PyAV's ffmpeg read by name, the sound of films too. Formats without a header are left out.
_ENDINGS = """
.wav .wave .bwf .flac .mp3 .mp2 .mp1 .mpga .ogg .oga .ogx .ogv .opus .spx .m4a .m4b .m4r .m4v .aac .adts .mp4 .mov .3gp .3g2 .f4a .f4v
.aif .aiff .aifc .caf .w64 .rf64 .au .snd .webm .weba .mka .mkv .wma .wmv .asf .avi .alac .wv .ape .tta .tak .shn .mpc .ac3 .eac3 .ec3
.dts .dtshd .mlp .thd .truehd .amr .awb .ra .rm .rmvb .voc .dsf .dff .flv .mpg .mpeg .vob .ts .mts .m2ts .oma .aa3 .qcp .nut .wtv .mxf
.iff .8svx .svx .sf .ircam .paf .nist .sph .avr .pvf .latm .loas
"""
AUDIO_SUFFIXES = frozenset(_ENDINGS.split())
SHOWN = 3


@dataclass
class SearchResult:
    """`files`: the matching files, sorted; `left_out`: reason -> other files and folders."""

    files: list[Path] = field(default_factory=list)
    left_out: dict[str, list[Path]] = field(default_factory=dict)

    def leave_out(self, why: str, path: Path) -> None:
        self.left_out.setdefault(why, []).append(path)

    def take(self, other: SearchResult) -> list[Path]:
        """The files of another search; what it left out is counted here as well."""
        for why, paths in other.left_out.items():
            self.left_out.setdefault(why, []).extend(paths)
        return other.files

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


def search(
    folder: str | Path, suffixes: Collection[str] = AUDIO_SUFFIXES, follow_symlinks: bool = False
) -> SearchResult:
    """All files under `folder` with one of the endings, sorted, and what was left out.

    Hidden files and folders are skipped. A linked file counts as a file; a linked folder is searched only with
    `follow_symlinks`, and never twice.
    """
    top, result = Path(folder), SearchResult()
    visited = {_identity(top)}
    waiting = [top]
    while waiting:
        current = waiting.pop()
        try:
            entries = sorted(os.scandir(current), key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            result.leave_out(f"folders that cannot be read ({error.strerror})", current)
            continue
        for entry in entries:
            path = current / entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append(path)
                visited.add(_identity(path))
            elif entry.is_dir():
                if not follow_symlinks:
                    result.leave_out(LINKED, path)
                elif (identity := _identity(path)) in visited or any(_identity(p) == identity for p in path.parents):
                    result.leave_out("links to folders that are there already", path)
                else:
                    visited.add(identity)
                    waiting.append(path)
            elif path.suffix.lower() not in suffixes:
                result.leave_out(NO_SOUND, path)
            elif entry.is_file():
                result.files.append(path)
            elif entry.is_symlink():
                result.leave_out("links to nothing", path)
            else:
                result.leave_out("no ordinary files", path)
    result.files.sort()
    return result


def _identity(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_dev, state.st_ino


def find_audio(folder: str | Path, follow_symlinks: bool = False) -> list[Path]:
    """All audio files under `folder` by their ending, sorted; hidden files and folders are left out."""
    return search(folder, AUDIO_SUFFIXES, follow_symlinks).files


def without(result: SearchResult, folders: Iterable[Path]) -> SearchResult:
    """The files that lie in none of these folders."""
    excluded = set(folders)
    return SearchResult([path for path in result.files if not excluded.intersection(path.parents)], result.left_out)
