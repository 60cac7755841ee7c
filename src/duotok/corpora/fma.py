"""FMA: the Free Music Archive, in its four published sizes."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from duotok.corpora.base import Corpus, CorpusInfo, Option, official_split, read_rows, whole
from duotok.records import CorpusError, Recording

# Each size holds the sizes before it; `full` has the same tracks as `large`, untrimmed.
SIZES: dict[str, tuple[str, ...]] = {
    "small": ("small",),
    "medium": ("small", "medium"),
    "large": ("small", "medium", "large"),
    "full": ("small", "medium", "large"),
}
CLIP_SECONDS = 30.0
COLUMNS = (
    "set.split", "set.subset", "track.title", "track.duration", "track.license", "track.genres_all",
    "track.language_code", "artist.id", "artist.name",
)  # fmt: skip


class FMA(Corpus):
    """fma_metadata/tracks.csv (two header rows) and fma_SIZE/000/000002.mp3."""

    info = CorpusInfo(
        name="fma",
        title="FMA: A Dataset For Music Analysis",
        what="106,574 tracks of 16,341 artists in 161 genres; clips of 30 s (small, medium, large) or whole (full)",
        hours=8232.0,
        gigabytes=944.0,
        licence="per track, by its artist: mostly CC BY-NC-SA and CC BY-NC-ND",
        url="https://github.com/mdeff/fma",
        put="Unpack fma_metadata.zip and at least one of fma_small.zip (7.2 GiB), fma_medium.zip (22 GiB),\n"
        "fma_large.zip (93 GiB), fma_full.zip (879 GiB) into one folder, ROOT:\n"
        "ROOT/fma_metadata/tracks.csv, genres.csv\n"
        "ROOT/fma_medium/000/000002.mp3",
        stages=(1, 2, 3, 4),
        metadata=("fma_metadata/tracks.csv", "fma_metadata/genres.csv"),
        citation="Defferrard et al.: FMA: A Dataset For Music Analysis, ISMIR 2017, arXiv:1612.01840",
    )
    options: ClassVar[Mapping[str, Option]] = {
        "size": Option("auto", "which fma_SIZE folder; auto: the largest that is there", ("auto", *SIZES))
    }

    def recordings(self) -> Iterator[Recording]:
        """The tracks of the size with the official split, which has each artist in one part only."""
        base = self.base("fma", "fma_metadata")
        size = self._size(base)
        genres = {
            row["genre_id"]: row["title"]
            for row in read_rows(base / "fma_metadata" / "genres.csv", ("genre_id", "title"))
        }
        table = base / "fma_metadata" / "tracks.csv"
        for track, row in read_tracks(table):
            if row["set.subset"] not in SIZES["full"]:
                raise CorpusError(f"{table}: track {track} is of subset '{row['set.subset']}'; another version of it?")
            if row["set.subset"] not in SIZES[size]:
                continue
            number = f"{track:06d}"
            seconds = _seconds(row["track.duration"])
            language = row["track.language_code"]
            yield Recording(
                id=self.id(number),
                corpus=self.name,
                kind="music",
                split=official_split(row["set.split"], table),
                identity=row["artist.id"],
                audio=whole("music", base / f"fma_{size}" / number[:3] / f"{number}.mp3"),
                seconds=seconds if size == "full" or seconds is None else min(seconds, CLIP_SECONDS),
                tags=tuple(genres.get(genre, genre) for genre in _list(row["track.genres_all"])),
                language=language if len(language) == 2 else "",
                licence=row["track.license"],
                attribution=f"{row['artist.name']} - {row['track.title']}",
                source=f"https://freemusicarchive.org track {track}",
            )

    def _size(self, base: Path) -> str:
        available = [size for size in SIZES if (base / f"fma_{size}").is_dir()]
        size = self.option("size")
        if not available:
            raise CorpusError(f"{base}: none of the folders {', '.join(f'fma_{s}' for s in SIZES)}; unpack one here")
        if size != "auto" and size not in available:
            raise CorpusError(
                f"{base / f'fma_{size}'}: no such folder; there is {', '.join(f'fma_{s}' for s in available)}"
            )
        return available[-1] if size == "auto" else size


def read_tracks(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """tracks.csv: two header rows (group, column), a third `track_id,,,`, then tracks. Columns come as `group.column`.

    Raises CorpusError: missing, the beta's or another layout (names the missing column), damaged rows.
    """
    csv.field_size_limit(1 << 26)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            groups, names = next(reader, []), next(reader, [])
            columns = [f"{group}.{name}" for group, name in zip(groups, names, strict=False)]
            missing = [column for column in COLUMNS if column not in columns]
            if missing or next(reader, [""])[0] != "track_id":
                raise CorpusError(
                    f"{path}: no column '{missing[0] if missing else 'track_id'}' under two header rows; "
                    "take tracks.csv from fma_metadata.zip of 2017 or later"
                )
            for cells in reader:
                if len(cells) != len(columns) or not cells[0].isdigit():
                    raise CorpusError(f"{path}: line {reader.line_num} is no track; unpack fma_metadata.zip again")
                yield int(cells[0]), dict(zip(columns, cells, strict=True))
    except FileNotFoundError:
        raise CorpusError(f"{path}: no such file; unpack fma_metadata.zip beside the audio") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"{path}: damaged ({error}); unpack fma_metadata.zip again") from None


def _seconds(text: str) -> float | None:
    try:
        return float(text) or None
    except ValueError:
        return None


def _list(text: str) -> list[str]:
    try:
        return [str(item) for item in json.loads(text)]
    except ValueError:
        return []
