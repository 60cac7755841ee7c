"""A tree with an INDEX.tsv: mixed recordings of many sources, each with its use, kind, licence and attribution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import ClassVar

from duotok.corpora.base import Corpus, CorpusInfo, Option, lyrics_excerpt, read_rows, split_by_identity, whole
from duotok.records import STORED, CorpusError, Kind, Recording, Split

COLUMNS = (
    "path", "use", "kind", "start", "seconds", "channels", "has_vocals", "licence", "attribution", "source",
)  # fmt: skip
KINDS: dict[str, Kind] = {
    "song": "song", "dual_track": "song", "four_stem": "song", "dual_track_eval": "song", "music": "music",
    "instrumental": "instrumental", "instrumental_stem": "instrumental", "instrumental_version": "instrumental",
    "chant_a_cappella": "voice", "solo_vocals": "voice", "voice": "voice", "speech": "speech",
    "sound": "sound", "loop": "sound",
}  # fmt: skip
USES = ("train", "evaluation-only")
LANGUAGES = {
    "english": "en", "englisch": "en", "german": "de", "deutsch": "de", "french": "fr", "spanish": "es", "italian": "it",
    "portuguese": "pt", "dutch": "nl", "polish": "pl", "swedish": "sv", "chinese": "zh", "japanese": "ja", "korean": "ko",
}  # fmt: skip


@dataclass
class _Song:
    """The rows of one recording: one file, or the stems of one song."""

    folder: str
    name: str
    rows: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def first(self) -> dict[str, str]:
        return next(iter(self.rows.values()))

    @property
    def identity(self) -> str:
        """The song; single stems (kind instrumental_stem) and other versions of a song belong to that song."""
        if self.first["kind"].endswith("_stem") and "__" in self.name:
            return self.name.split("__")[0]
        return self.name.removesuffix(".instrumental")

    def joined(self, column: str) -> str:
        return "; ".join(dict.fromkeys(" ".join(row[column].split()) for row in self.rows.values()))


class Index(Corpus):
    """INDEX.tsv and the files it lists; `NAME.STEM.EXT` of any folder are stems of the one song NAME."""

    info = CorpusInfo(
        name="index",
        title="a tree with INDEX.tsv",
        what="recordings of any kind, listed one a line; `use` tells what may shape a published model",
        hours=None,
        gigabytes=None,
        licence="per file, in INDEX.tsv",
        url="",
        put="ROOT/INDEX.tsv with the columns " + ", ".join(COLUMNS) + "\n"
        "ROOT/FOLDER/NAME.opus, or NAME.vocals.opus + NAME.accompaniment.opus (drums, bass, other, mix)\n"
        "ROOT/metadata/lyrics/ultrastar/NAME/song.txt, jamendolyrics/..., ichbinsoftware/NAME.txt (optional)",
        stages=(1, 2, 3, 4),
        metadata=(
            "INDEX.tsv",
            "metadata/lyrics/ultrastar/*/song.txt",
            "metadata/lyrics/jamendolyrics/annotations/words/*.csv",
            "metadata/lyrics/ichbinsoftware/*.txt",
        ),
    )
    options: ClassVar[Mapping[str, Option]] = {
        "held_out": Option("Potassium", "songs, with commas, that go to validation whatever their hash says"),
        "held_out_test": Option("", "songs, with commas, that go to test; stronger than held_out"),
    }

    def recordings(self) -> Iterator[Recording]:
        """`use` train is split into train and validation by song, evaluation-only is test; a song in both is test."""
        index = self.root / "INDEX.tsv"
        songs = self._songs(index)
        held_out, tested = self.option_list("held_out"), self.option_list("held_out_test")
        evaluated = {song.identity for song in songs if any(row["use"] != "train" for row in song.rows.values())}
        if unknown := sorted({*tested} - {song.identity for song in songs}):
            raise CorpusError(
                f"{index}: held_out_test '{unknown[0]}' is no song of it; write names without folder and ending"
            )
        languages = _languages(self.root)
        for song in songs:
            kind, path = self._kind(song, index), self.root / song.first["path"]
            split: Split = "test"
            if song.identity not in evaluated:
                shares = self.number("validation"), 0.0
                split = split_by_identity(song.identity, int(self.number("seed")), *shares)
                split = "validation" if song.identity in held_out else split
                split = "test" if song.identity in tested else split
            lyrics = self._lyrics(song) if kind in ("song", "music") else ""
            stems = {stem: str(self.root / row["path"]) for stem, row in song.rows.items()}
            yield Recording(
                id=self.id(song.folder, song.name),
                corpus=self.name,
                kind=kind,
                split=split,
                identity=song.identity,
                audio=whole(kind, path) if set(stems) == {"mix"} else stems,
                seconds=min(_number(row, "seconds", index) for row in song.rows.values()),
                tags=tuple(dict.fromkeys(row["kind"] for row in song.rows.values())),
                lyrics=lyrics,
                language=languages.get(song.name.split("__")[-1], ""),
                licence=song.joined("licence"),
                attribution=song.joined("attribution"),
                source=song.joined("source"),
            )

    def _songs(self, index: Path) -> list[_Song]:
        songs: dict[str, _Song] = {}
        for row in read_rows(index, COLUMNS, delimiter="\t"):
            path = PurePosixPath(row["path"])
            if path.is_absolute() or ".." in path.parts:
                raise CorpusError(f"{index}: path '{path}' leaves the tree; paths are relative to {self.root}")
            if row["use"] not in USES:
                raise CorpusError(f"{index}: {path}: use '{row['use']}' is none of {', '.join(USES)}")
            name, _, stem = path.stem.rpartition(".")
            is_stem = bool(name) and stem in STORED
            key = name if is_stem else str(path)
            song = songs.setdefault(key, _Song(str(path.parent), name if is_stem else path.stem))
            if (stem if is_stem else "mix") in song.rows:
                raise CorpusError(f"{index}: {path} is listed twice; remove one of the lines")
            song.rows[stem if is_stem else "mix"] = row
        return list(songs.values())

    def _kind(self, song: _Song, index: Path) -> Kind:
        row = song.first
        if row["kind"] not in KINDS:
            raise CorpusError(f"{index}: {row['path']}: kind '{row['kind']}' is none of {', '.join(KINDS)}")
        kind = KINDS[row["kind"]]
        return "music" if kind == "song" and row["has_vocals"] == "unknown" else kind

    def _lyrics(self, song: _Song) -> str:
        """Its lyrics under metadata/lyrics: UltraStar, then word times of jamendolyrics, then a text without times."""
        place, name = self.root / "metadata" / "lyrics", song.name.split("__")[-1]
        timed = (
            place / "ultrastar" / name / "song.txt",
            place / "jamendolyrics" / "annotations" / "words" / f"{name}.csv",
        )
        text = place / "ichbinsoftware" / f"{name}.txt"
        start, seconds = (_number(song.first, key, self.root / "INDEX.tsv") for key in ("start", "seconds"))
        if start:  # of a text without times it is unknown which words an excerpt has
            return next((lyrics_excerpt(path, start, start + seconds) for path in timed if path.is_file()), "")
        return next((str(path) for path in (*timed, text) if path.is_file()), "")


def _number(row: Mapping[str, str], column: str, index: Path) -> float:
    try:
        return float(row[column])
    except ValueError:
        raise CorpusError(f"{index}: {row['path']}: {column} '{row[column]}' is no number") from None


def _languages(root: Path) -> dict[str, str]:
    """Song -> ISO 639-1, from `#LANGUAGE:` of the UltraStar files and the table of jamendolyrics."""
    place = root / "metadata" / "lyrics"
    names = {}
    for file in place.glob("ultrastar/*/song.txt"):
        for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines()[:40]:
            if line.upper().startswith("#LANGUAGE:"):
                names[file.parent.name] = line.partition(":")[2]
    table = place / "jamendolyrics" / "JamendoLyrics.csv"
    if table.is_file():
        names |= {Path(row["Filepath"]).stem: row["Language"] for row in read_rows(table, ("Filepath", "Language"))}
    return {song: LANGUAGES.get(name.strip().lower(), "") for song, name in names.items()}
