"""Any folder of audio: songs as they lie on a disk, with or without separate tracks and lyrics beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from duotok.corpora.base import Corpus, CorpusInfo, Option, whole
from duotok.corpora.types import KINDS, STEMS, CorpusError, Kind, Recording

LYRICS = (".lrc", ".json", ".txt")
# Other names of the same track, as MUSDB18 and separators write them.
TRACKS = {**{stem: stem for stem in STEMS}, "mixture": "mix", "no_vocals": "accompaniment"}


class Folder(Corpus):
    """A tree of audio files. `NAME.vocals.EXT`, or `NAME/vocals.EXT`, with its fellows is one song; all else is a mix."""

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
    }

    def recordings(self) -> Iterator[Recording]:
        """All songs, sorted by name. Raises CorpusError when there is no audio, or a song has a track twice."""
        from duotok.audio.finding import AUDIO_SUFFIXES

        songs = self._songs()
        if not songs:
            raise CorpusError(f"{self.root}: no audio (looked for {', '.join(sorted(AUDIO_SUFFIXES))})")
        for song in sorted(songs):
            tracks = songs[song]
            name, _, suffix = song.partition(
                "\0"
            )  # the same name in several formats: the later ones carry their suffix
            kind = self._kind(tracks)
            audio = whole(kind, tracks["mix"]) if set(tracks) == {"mix"} else {s: str(p) for s, p in tracks.items()}
            yield Recording(
                id=self.id(name) + suffix.replace(".", "-"),
                corpus=self.name,
                kind=kind,
                split=self.split(identity := self._identity(name)),
                identity=identity,
                audio=audio,
                lyrics=self._lyrics(name, next(iter(tracks.values()))),
                language=self.option("language"),
                licence=self.option("licence"),
                attribution=self.option("attribution") or Path(name).name,
                source=str(next(iter(tracks.values()))),
            )

    def _songs(self) -> dict[str, dict[str, Path]]:
        """Relative name of the song -> track -> file."""
        from duotok.audio.finding import find_audio  # it brings torch, and `duotok data list` shall answer at once

        files = find_audio(self.root)
        works = {table.parent for table in self.root.rglob("recordings.parquet")}  # a WORK inside the root is no corpus
        files = [path for path in files if not works.intersection(path.parents)]
        in_folder: dict[Path, set[str]] = {}
        for path in files:
            if path.stem in TRACKS:
                in_folder.setdefault(path.parent, set()).add(TRACKS[path.stem])
        songs: dict[str, dict[str, Path]] = {}
        for path in files:
            name, _, track = path.stem.rpartition(".")
            if name and track in TRACKS:
                self._add(songs, path.with_name(name), TRACKS[track], path)
            elif path.stem in TRACKS and len(in_folder[path.parent]) > 1 and path.parent != self.root:
                self._add(songs, path.parent, TRACKS[path.stem], path)
            else:
                key = str(path.with_suffix("").relative_to(self.root))
                songs[key if key not in songs else f"{key}\0{path.suffix.lower()}"] = {"mix": path}
        return songs

    def _add(self, songs: dict[str, dict[str, Path]], song: Path, track: str, path: Path) -> None:
        tracks = songs.setdefault(str(song.relative_to(self.root)), {})
        if track in tracks:
            raise CorpusError(f"{path}: the song has {tracks[track].name} as {track} already; keep one of the two")
        tracks[track] = path

    def _kind(self, tracks: Mapping[str, Path]) -> Kind:
        if set(tracks) == {"mix"}:
            return next(kind for kind in KINDS if kind == self.option("kind"))
        if "vocals" not in tracks:
            return "music" if "mix" in tracks else "instrumental"
        return "voice" if set(tracks) == {"vocals"} else "song"

    def _identity(self, name: str) -> str:
        return str(Path(name).parent) if self.option("identity") == "folder" else name

    def _lyrics(self, name: str, file: Path) -> str:
        base = self.root / name
        places = [base.with_name(base.name + suffix) for suffix in LYRICS]
        if file.parent == base:
            places += [base / f"{stem}{suffix}" for stem in (base.name, "lyrics") for suffix in LYRICS]
        return next((str(place) for place in places if place.is_file()), "")
