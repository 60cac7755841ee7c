"""MTG-Jamendo: 55,000 Creative Commons songs with tags; official splits without a common artist.

Layout as published (github.com/MTG/mtg-jamendo-dataset): `data/splits/split-N/SUBSET-{train,validation,test}.tsv`,
`data/SUBSET.tsv`, `audio_licenses.txt`, and the audio as the download script unpacks it: `00/` .. `99/`, files `ID.mp3`
(320 kbit/s) or `ID.low.mp3` (the small version). The tables were checked against the published ones; the form of
audio_licenses.txt is known from its users only (not verified here).
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from duotok.corpora.base import Corpus, CorpusInfo, Option
from duotok.records import SPLITS, CorpusError, Recording, Split

COLUMNS = ("TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS")
FOLDERS = tuple(f"{number:02d}" for number in range(100))


class MtgJamendo(Corpus):
    """Identity is the artist; kind is `song` where the tags name a voice and `music` elsewhere."""

    info = CorpusInfo(
        name="mtg_jamendo",
        title="MTG-Jamendo",
        what="55,000 full songs from Jamendo with genre, instrument and mood tags",
        hours=3760.0,
        gigabytes=508.0,
        licence="Creative Commons, each track its own (audio_licenses.txt); metadata CC BY-NC-SA 4.0",
        url="https://github.com/MTG/mtg-jamendo-dataset",
        put="ROOT/data/splits/split-0/*.tsv   from the repository (.tsv or .tsv.gz)\n"
        "ROOT/audio_licenses.txt          from the repository; without it every licence is unknown\n"
        "ROOT/audio/00 .. 99/ID.mp3       from its download script (raw_30s, audio or audio-low)",
        stages=(1, 2, 3, 4),
        metadata=("data/splits/split-0/autotagging_top50tags-{train,validation,test}.tsv", "audio_licenses.txt"),
        citation="Bogdanov, Won, Tovstogan, Porter, Serra: The MTG-Jamendo Dataset for Automatic Music Tagging, "
        "ML4MD workshop, ICML 2019",
    )
    options: ClassVar[Mapping[str, Option]] = {
        "subset": Option("autotagging_top50tags", "which table: autotagging, autotagging_genre, raw_30s ..."),
        "split": Option(
            "0", "an official split, or `artist`: by hash of the artist", ("0", "1", "2", "3", "4", "artist")
        ),
        "audio": Option("audio", "folder of 00 .. 99 below the root"),
    }

    def recordings(self) -> Iterator[Recording]:
        audio = self.base(self.option("audio"), *FOLDERS)
        licences = self._licences()
        artists: dict[str, Split] = {}
        for official, table in self._tables():
            for row in read_tracks(table):
                identity = row["ARTIST_ID"]
                split = official or self.split(identity)
                if artists.setdefault(identity, split) != split:
                    raise CorpusError(f"{table}: {identity} is also in {artists[identity]}; take the published tables")
                tags = tuple(row["TAGS"].split("\t"))
                licence, attribution = licences.get(row["PATH"], ("", ""))
                yield Recording(
                    id=self.id(row["TRACK_ID"]),
                    corpus=self.name,
                    kind="song" if "instrument---voice" in tags else "music",
                    split=split,
                    identity=identity,
                    audio={"mix": str(_audio_file(audio, row["PATH"]))},
                    seconds=float(row["DURATION"]),
                    tags=tags,
                    licence=licence,
                    attribution=attribution,
                    source=f"https://www.jamendo.com/track/{Path(row['PATH']).stem}",
                )

    def _tables(self) -> list[tuple[Split | None, Path]]:
        """The tables to read, each with its official split."""
        subset, split = self.option("subset"), self.option("split")
        if split == "artist":
            return [(None, self._table(f"{subset}.tsv"))]
        return [(name, self._table(f"splits/split-{split}/{subset}-{name}.tsv")) for name in SPLITS]

    def _table(self, name: str) -> Path:
        places = [self.root / "data" / name, self.root / name, self.root / name.removeprefix("splits/")]
        for place in places:
            for path in (place, place.with_name(place.name + ".gz")):
                if path.is_file():
                    return path
        raise CorpusError(f"{places[0]}: no such table (.tsv or .tsv.gz); copy `data/` of {self.info.url} there")

    def _licences(self) -> dict[str, tuple[str, str]]:
        """PATH -> (licence, attribution); empty without the file."""
        for path in (self.root / "audio_licenses.txt", self.root / "data" / "audio_licenses.txt"):
            if path.is_file():
                return read_licences(path)
        return {}


def read_tracks(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a table; the tags of a row, any number, stay joined by tabs. Raises CorpusError."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            header = file.readline().rstrip("\r\n").split("\t")
            missing = [column for column in COLUMNS if column not in header]
            if missing or header != list(COLUMNS):
                column = f"no column '{missing[0]}'" if missing else "columns in another order"
                raise CorpusError(f"{path}: {column} (it has {', '.join(header)}); another version of the metadata?")
            for number, line in enumerate(file, 2):
                row = dict(zip(COLUMNS, line.rstrip("\r\n").split("\t", len(COLUMNS) - 1), strict=False))
                if not re.fullmatch(r"\d\d/\d+\.mp3", row.get("PATH", "")) or not _is_number(row.get("DURATION", "")):
                    raise CorpusError(f"{path}: line {number}: no path like 15/215.mp3 and duration; damaged?")
                yield {"TAGS": "", **row}
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise CorpusError(f"{path}: damaged ({error}); take the published file") from None


def read_licences(path: Path) -> dict[str, tuple[str, str]]:
    """PATH -> (licence, attribution) from audio_licenses.txt: for each track its path, `TITLE by ARTIST from Jamendo: URL`, the licence."""
    licences: dict[str, tuple[str, str]] = {}
    for block in re.split(r"\n\s*\n", path.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n")):
        lines = [line.strip() for line in block.strip().splitlines()]
        if len(lines) >= 3 and re.fullmatch(r"\d\d/\d+\.mp3", lines[0]):
            licences[lines[0]] = (_short(lines[2]), lines[1])
    if not licences:
        raise CorpusError(
            f"{path}: no track like '15/215.mp3' followed by its title and licence; take the published file"
        )
    return licences


def _short(text: str) -> str:
    """`... http://creativecommons.org/licenses/by-nc/3.0/` -> `CC BY-NC 3.0`; other texts as they are."""
    url = re.search(r"creativecommons\.org/licenses/([a-z+-]+)/(\d\.\d)", text)
    return f"CC {url[1].upper()} {url[2]}" if url else text


def _audio_file(audio: Path, name: str) -> Path:
    """The large file, unless only the small one exists."""
    large = audio / name
    small = large.with_suffix(".low.mp3")
    return small if small.exists() and not large.exists() else large


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?", text) is not None
