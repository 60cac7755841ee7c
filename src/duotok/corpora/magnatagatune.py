"""MagnaTagATune: 25,863 clips of 29 s with 188 tags; with the split on which taggers are compared.

Layout as published (mirg.city.ac.uk): `annotations_final.csv` and `clip_info_final.csv` (tabs), and the three joined
parts of mp3.zip unpacked: folders `0` .. `f` of 16 kHz mono MP3. Without the first table the adapter reads the clip index
of the musicnn project (`index_mtt.tsv`; tags from `*_gt_mtt.tsv` if present), against which it was tested; the two
published tables were not available (their columns: not verified here).
The split is that of MARBLE: folders 0-b train, c validation, d-f test. No album is in two of them, but 56 of 230 artists
are: identity is the album. `split=artist` makes a split of artists instead.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from duotok.corpora.base import Corpus, CorpusInfo, Option, read_rows, whole
from duotok.records import CorpusError, Kind, Recording, Split

FOLDERS = "0123456789abcdef"
NO_SINGING = {"no vocal", "no vocals", "no voice", "no voices", "no singing", "no singer", "instrumental"}
SINGING = {
    "vocal", "vocals", "voice", "voices", "singing", "singer", "male vocal", "male vocals", "male voice", "male singer",
    "female vocal", "female vocals", "female voice", "female singer", "woman singing", "man singing", "choir", "choral",
    "opera", "male opera", "female opera", "duet",
}  # fmt: skip


class MagnaTagATune(Corpus):
    """Identity is the album (or the artist with `split=artist`); kind comes from the tags about voices."""

    info = CorpusInfo(
        name="magnatagatune",
        title="MagnaTagATune",
        what="25,863 clips of 29 s with 188 tags: the tagging benchmark",
        hours=209.0,
        gigabytes=3.0,
        licence="CC BY-NC-SA 1.0 (Magnatune); for research",
        url="https://mirg.city.ac.uk/codeapps/the-magnatagatune-dataset",
        put="ROOT/annotations_final.csv, ROOT/clip_info_final.csv\n"
        "ROOT/mp3/0 .. f/*.mp3        cat mp3.zip.00? > mp3.zip; unzip mp3.zip -d ROOT/mp3",
        stages=(),
        metadata=("annotations_final.csv", "clip_info_final.csv"),
        citation="Law, West, Mandel, Bay, Downie: Evaluation of Algorithms Using Games: the Case of Music Tagging, "
        "ISMIR 2009",
    )
    options: ClassVar[Mapping[str, Option]] = {
        "split": Option("marble", "marble: by folder; artist: by hash of the artist", ("marble", "artist")),
        "audio": Option("mp3", "folder of 0 .. f below the root"),
    }

    def recordings(self) -> Iterator[Recording]:
        audio = self.base(self.option("audio"), *FOLDERS)
        by_artist = self.option("split") == "artist"
        titles = self._titles()
        for clip, path, tags in self._clips():
            artist, album, start, stop = clip_of(path)
            kind = kind_of(set(tags))
            yield Recording(
                id=self.id(clip),
                corpus=self.name,
                kind=kind,
                split=self.split(artist) if by_artist else marble_split(path),
                identity=artist if by_artist else f"{artist}/{album}",
                audio=whole(kind, audio / path),
                seconds=float(stop - start),
                tags=tags,
                licence=self.info.licence,
                attribution=titles.get(clip, f"{artist.replace('_', ' ')} (Magnatune)"),
                source=self.info.url,
            )

    def _clips(self) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        """(clip id, path, tags) of every clip."""
        table, index = self.root / "annotations_final.csv", self.root / "index_mtt.tsv"
        if table.is_file() or not index.is_file():
            yield from read_annotations(table)
        else:
            tags = read_ground_truth(self.root)
            for clip, path in read_pairs(index):
                yield clip, path, tags.get(clip, ())

    def _titles(self) -> dict[str, str]:
        path = self.root / "clip_info_final.csv"
        if not path.is_file():
            return {}
        columns = ("clip_id", "title", "artist", "album")
        return {
            row["clip_id"]: f"{row['artist']}: {row['title']} ({row['album']}, Magnatune)"
            for row in read_rows(path, columns, "\t")
        }


def read_annotations(path: Path) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(clip id, path, tags) from annotations_final.csv: a column of 0 and 1 for each tag between clip_id and mp3_path."""
    for row in read_rows(path, ("clip_id", "no voice", "singing", "mp3_path"), "\t"):
        tags = tuple(tag for tag, mark in row.items() if mark == "1" and tag not in ("clip_id", "mp3_path"))
        yield row["clip_id"], row["mp3_path"], tags


def read_ground_truth(folder: Path) -> dict[str, tuple[str, ...]]:
    """Clip id -> tags from the musicnn tables `{train,val,test}_gt_mtt.tsv` and `output_labels_mtt.txt`, as far as they exist."""
    tables = [path for path in (folder / f"{name}_gt_mtt.tsv" for name in ("train", "val", "test")) if path.is_file()]
    if not tables:
        return {}
    names = folder / "output_labels_mtt.txt"
    if not names.is_file():
        raise CorpusError(f"{names}: no such file; it names the columns of {tables[0].name}")
    try:
        labels = ast.literal_eval(names.read_text(encoding="utf-8").split("=", 1)[1].strip())
        return {
            clip: tuple(tag for tag, mark in zip(labels, json.loads(marks), strict=True) if mark)
            for table in tables
            for clip, marks in read_pairs(table)
        }
    except (ValueError, SyntaxError, IndexError) as error:
        raise CorpusError(
            f"{tables[0]}: its rows do not fit {names.name} ({error}); take both from one place"
        ) from None


def read_pairs(path: Path) -> Iterator[tuple[str, str]]:
    """The rows of a table of two columns without a header."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        first, tab, second = line.partition("\t")
        if not tab or not first.isdigit():
            raise CorpusError(f"{path}: line {number}: not a clip's number, a tab and a value; another version?")
        yield first, second


def clip_of(path: str) -> tuple[str, str, int, int]:
    """artist, album, first and last second of `f/ARTIST-ALBUM-01-TITLE-30-59.mp3`. Raises CorpusError."""
    parts = re.fullmatch(r"[0-9a-f]/([^/-]+)-([^/-]*)-\d+-[^/-]*-(\d+)-(\d+)\.mp3", path)
    if parts is None:
        raise CorpusError(
            f"clip '{path}': not F/ARTIST-ALBUM-NUMBER-TITLE-START-STOP.mp3; another version of the metadata?"
        )
    return parts[1], parts[2], int(parts[3]), int(parts[4])


def marble_split(path: str) -> Split:
    """The split of the folder that a clip is in."""
    return "train" if path[0] < "c" else "validation" if path[0] == "c" else "test"


def kind_of(tags: set[str]) -> Kind:
    """song or instrumental where the tags about voices agree, music where they disagree or there are none."""
    sings, silent = bool(tags & SINGING), bool(tags & NO_SINGING)
    return "music" if sings == silent else "song" if sings else "instrumental"
