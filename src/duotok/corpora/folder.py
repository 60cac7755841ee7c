"""Any folder of audio: songs in any layout, with or without separate tracks and lyrics beside them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from duotok.corpora.base import Corpus, CorpusInfo, Option, whole
from duotok.corpora.stem_names import Stems, parse_stem_name
from duotok.files import text_of
from duotok.records import KINDS, CorpusError, Kind, Recording

LRC = ".lrc"
LYRICS = (LRC, ".json", ".txt")
SHOWN = 3
TITLE_WORDS = frozenset(["voice", "vocal", "vox", "bass", "drum", "drums", "other", "others"])
"""Words for tracks that titles end with as well: `All.About.That.Bass.mp3`."""
log = logging.getLogger(__name__)


class Folder(Corpus):
    """A tree of audio files. Files that `duotok.corpora.stem_names` recognizes as tracks of a song are joined; others are mixes."""

    info = CorpusInfo(
        name="folder",
        title="any folder of audio",
        what="every audio file under a folder, whatever its format, depth and names",
        hours=None,
        gigabytes=None,
        licence="as `licence=` says; unknown otherwise",
        url="",
        put="ROOT/anything/SONG.mp3                      a mix\n"
        "ROOT/anything/SONG.vocals.flac, SONG.accompaniment.flac (and drums, bass, other, mix)   tracks of one song\n"
        "ROOT/anything/SONG/vocals.flac, accompaniment.flac ...                                  the same\n"
        "ROOT/anything/SONG_(Vocals)_MODEL.wav, SONG_(Instrumental)_MODEL.wav; SONG_vocals.wav, SONG_no_vocals.wav   the same\n"
        "ROOT/anything/SONG.lrc, .json or .txt                                                   its lyrics",
        stages=(1, 2, 3, 4),
    )
    options: ClassVar[Mapping[str, Option]] = {
        "kind": Option("music", "what the files without separate tracks are", KINDS),
        "identity": Option(
            "song", "what a split may not cut: each song, or all that lies in one folder", ("song", "folder")
        ),
        "licence": Option("", "the licence of all of it"),
        "attribution": Option("", "whom to name for all of it; the song's name if empty"),
        "language": Option("", "ISO 639-1 code of what is sung or said"),
        "symlinks": Option("leave", "whether linked folders are gone into", ("leave", "follow")),
    }

    def __init__(self, root: Path | str, **options: Any) -> None:
        super().__init__(root, **options)
        self._belongs: dict[str, str] = {}
        self._left_out: set[Path] = set()  # sounds, without their endings

    def recordings(self) -> Iterator[Recording]:
        """All songs, sorted by name; songs with a duplicate track go into `problems`. Raises CorpusError when there is no audio."""
        from duotok.audio.finding import AUDIO_SUFFIXES

        songs = self._songs()
        if not songs and not self.problems:
            raise CorpusError(
                f"{self.root}: no audio (looked for {', '.join(sorted(AUDIO_SUFFIXES))}); name another folder"
            )
        places = {
            song: self._lyrics(song.partition("\0")[0], next(iter(songs[song].values()))) for song in sorted(songs)
        }
        self._tell_unused({place.casefold() for place in places.values()})  # disks may not know case
        for song, place in places.items():
            tracks = songs[song]
            name, _, suffix = song.partition(
                "\0"
            )  # of files of the same name in several formats, all but the first have the suffix in their key
            kind = self._kind(tracks)
            audio = whole(kind, tracks["mix"]) if set(tracks) == {"mix"} else {s: str(p) for s, p in tracks.items()}
            yield Recording(
                id=self.id(name) + suffix.replace(".", "-"),
                corpus=self.name,
                kind=kind,
                split=self.split(identity := self._identity(name)),
                identity=identity,
                audio=audio,
                lyrics=place,
                language=self.option("language"),
                licence=self.option("licence"),
                attribution=self.option("attribution") or text_of(Path(name).name),
                source=str(next(iter(tracks.values()))),
            )

    def _songs(self) -> dict[str, dict[str, Path]]:
        """Relative name of the song -> track -> file. Songs with a duplicate track go into `problems`."""
        from duotok.audio.finding import (  # imports torch, which `duotok data list` does not need
            NO_SOUND,
            search,
            without,
        )
        from duotok.audio.marks import without_marked

        everything = search(self.root, follow_symlinks=self.option("symlinks") == "follow")
        tables = search(self.root, (".parquet",)).files  # a WORK inside the root is not part of the corpus
        audio = without(everything, [table.parent for table in tables if table.name == "recordings.parquet"])
        audio = without_marked(audio, Stems(self.root))
        self._left_out = {path.with_suffix("") for path in {*everything.files}.difference(audio.files)}
        audio.left_out = {why: paths for why, paths in audio.left_out.items() if why != NO_SOUND}
        if audio.left_out:
            log.warning("%s: left out: %s", self.root, audio.summary().replace("--follow-symlinks", "symlinks=follow"))
        tracks: dict[Path, dict[str, list[tuple[Path, bool]]]] = {}
        bare: dict[Path, list[Path]] = {}
        for path in audio.files:
            name = parse_stem_name(path)
            if name is None or name.song == self.root:
                bare.setdefault(path.with_suffix(""), []).append(path)
            else:
                tracks.setdefault(name.song, {}).setdefault(name.track, []).append((path, name.certain))
        songs: dict[str, dict[str, Path]] = {}
        for song, parts in tracks.items():
            # An uncertain name counts as a track only beside another: vocals beside a band, or beside the song itself.
            fellows = {*parts} | ({"mix"} if song in bare else set())
            if not ("vocals" in fellows and len(fellows) > 1) and not len(fellows - {"mix"}) > 1:
                for track in list(parts):
                    if len(fellows) == 1:
                        parts[track] = [
                            (path, certain and not _may_end_a_title(path)) for path, certain in parts[track]
                        ]
                    for path, certain in parts[track]:
                        if not certain:
                            bare.setdefault(path.with_suffix(""), []).append(path)
                            if (
                                len(fellows) > 1
                            ):  # an instrumental version of a song is not a track, but has the song's identity
                                self._belongs[self._below(path.with_suffix(""))] = self._below(song)
                    parts[track] = [(path, certain) for path, certain in parts[track] if certain]
            parts = {track: files for track, files in parts.items() if files}
            if not parts:
                continue
            if song in bare and "mix" not in parts:
                parts["mix"] = [(bare[song].pop(0), True)]
            key = self._below(song)
            twice = next(((track, files) for track, files in parts.items() if len(files) > 1), None)
            if twice is not None:
                names = " and ".join(str(path) for path, _ in twice[1])
                self.problems[self.id(key)] = f"{twice[0]} is there {len(twice[1])} times: {names}; keep one of them"
                continue
            songs[key] = {track: files[0][0] for track, files in parts.items()}
        for song, paths in bare.items():
            key = self._below(song)
            for path in paths:
                songs[key if key not in songs else f"{key}\0{path.suffix.lower()}"] = {"mix": path}
        return songs

    def _below(self, path: Path) -> str:
        return str(path.relative_to(self.root))

    def _kind(self, tracks: Mapping[str, Path]) -> Kind:
        if set(tracks) == {"mix"}:
            return next(kind for kind in KINDS if kind == self.option("kind"))
        if "vocals" not in tracks:
            return "music" if "mix" in tracks else "instrumental"
        return "voice" if set(tracks) == {"vocals"} else "song"

    def _identity(self, name: str) -> str:
        return str(Path(name).parent) if self.option("identity") == "folder" else self._belongs.get(name, name)

    def _lyrics(self, name: str, file: Path) -> str:
        base, endings = self.root / name, (*LYRICS, *map(str.upper, LYRICS))
        places = [base.with_name(base.name + ending) for ending in endings]
        if file.parent == base:
            places += [base / f"{stem}{ending}" for stem in (base.name, "lyrics") for ending in endings]
        return next((str(place) for place in places if place.is_file()), "")

    def _tell_unused(self, used: set[str]) -> None:
        """A line on the .lrc files that are no song's: those are lyrics for certain, and a misspelt name would lose them silently. Not on
        those of a song that is itself left out, which is told already."""
        from duotok.audio.finding import search

        found = search(self.root, (LRC,), follow_symlinks=self.option("symlinks") == "follow").files
        unused = []
        for path in found:
            song = path.with_suffix("")
            left_out = song in self._left_out or self.id(self._below(song)) in self.problems
            if str(path).casefold() not in used and not left_out:
                unused.append(path)
        if unused:
            names = ", ".join(text_of(path.relative_to(self.root)) for path in unused[:SHOWN])
            more = f" and {len(unused) - SHOWN} more" if len(unused) > SHOWN else ""
            log.warning("%s: lyrics of no song: %s%s; the lyrics of SONG.mp3 are SONG.lrc", self.root, names, more)


def _may_end_a_title(path: Path) -> bool:
    return path.stem.rpartition(".")[2].lower() in TITLE_WORDS
