"""DISCO-10M: ten million YouTube and Spotify ids with CLAP embeddings; no audio is published.

Layout: Parquet files anywhere below the root (as `datasets` downloads them: `data/train-*.parquet`) and `audio/` with
the recordings that the user has, each named by its video's id (`dQw4w9WgXcQ.opus`), in subfolders or not. Rows without
a file, most of the ten million, are left out without notice.
The dataset (DISCOX/DISCO-10M) is no longer on the Hub; its columns are known from three public programs that read it.
Whether artist_id_spotify is a text or a list is not verified here; both are read. LAION-DISCO-12M, its successor by
other authors, is read as well, with the columns of its card.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from duotok.audio.finding import find_audio
from duotok.corpora.base import Corpus, CorpusInfo, Option
from duotok.errors import MissingExtraError
from duotok.records import CorpusError, Recording

_VIDEO = re.compile(r"(?:v=|youtu\.be/|/embed/|/shorts/|^)([A-Za-z0-9_-]{11})(?![A-Za-z0-9_-])")


@dataclass(frozen=True)
class Columns:
    """The names of the needed columns in a published version."""

    video: str
    artist: str
    title: str
    artist_name: str
    seconds: str

    @property
    def names(self) -> list[str]:
        return [self.video, self.artist, self.title, self.artist_name, self.seconds]


DISCO = Columns(
    "video_url_youtube", "artist_id_spotify", "track_name_spotify", "primary_artist_name_spotify",
    "video_duration_youtube_sec",
)  # fmt: skip
LAION = Columns("song_id", "artist_ids", "title", "artist_names", "duration")


class Disco10M(Corpus):
    """Identity is the first artist; kind is `music`, because the tables do not say whether there is singing."""

    info = CorpusInfo(
        name="disco10m",
        title="DISCO-10M",
        what="YouTube and Spotify ids of ten million songs; you bring the audio",
        hours=None,
        gigabytes=None,
        licence="all rights reserved (the songs belong to their makers)",
        url="https://arxiv.org/abs/2306.13512",
        put="ROOT/data/train-*.parquet   the published tables, or those of laion/LAION-DISCO-12M\n"
        "ROOT/audio/VIDEO_ID.opus    the recordings that you have, any audio format, subfolders allowed\n"
        "Rows without a file are left out. The tables themselves were not here: their columns are not verified here.",
        stages=(1,),
        metadata=("**/*.parquet",),
        citation="Lanzendoerfer, Groetschla, Funke, Wattenhofer: DISCO-10M: A Large-Scale Music Dataset, NeurIPS 2023",
    )
    options: ClassVar[Mapping[str, Option]] = {
        "audio": Option("audio", "folder of the recordings, below the root or absolute")
    }

    def recordings(self) -> Iterator[Recording]:
        folder = self.root / self.option("audio")
        if not folder.is_dir():
            raise CorpusError(f"{folder}: no such folder; put the recordings there, each named by its video's id")
        files = {path.stem: path for path in find_audio(folder)}
        seen: set[str] = set()
        for row, columns in self._rows():
            video = video_id(row[columns.video])
            if video not in files or video in seen:
                continue
            seen.add(video)
            artist = _first(row[columns.artist]) or _first(row[columns.artist_name]) or video
            name = f"{_first(row[columns.artist_name])}: {row[columns.title] or ''}".strip(": ")
            yield Recording(
                id=self.id(video),
                corpus=self.name,
                kind="music",
                split=self.split(artist),
                identity=artist,
                audio={"mix": str(files[video])},
                seconds=None if row[columns.seconds] is None else float(row[columns.seconds]),
                licence=self.info.licence,
                attribution=name,
                source=f"https://www.youtube.com/watch?v={video}",
            )
        if not seen:
            raise CorpusError(
                f"{folder}: none of its {len(files)} audio files is named by a video of the tables; name each by its "
                "video's id (dQw4w9WgXcQ.opus)"
            )

    def _rows(self) -> Iterator[tuple[dict[str, Any], Columns]]:
        """The needed cells of every row; the embeddings are not read."""
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError:
            raise MissingExtraError(f"{self.name} needs pyarrow: pip install 'duotok[train]'") from None
        paths = sorted(self.root.rglob("*.parquet"))
        if not paths:
            raise CorpusError(
                f"{self.root}: no *.parquet; `duotok data describe {self.info.name}` says what to put where"
            )
        for path in paths:
            try:
                with pq.ParquetFile(path) as table:
                    columns = which_columns(table.schema_arrow.names, path)
                    for batch in table.iter_batches(columns=columns.names):
                        for row in batch.to_pylist():
                            yield row, columns
            except (pa.ArrowInvalid, OSError) as error:
                raise CorpusError(f"{path}: cannot be read ({str(error).splitlines()[0]}); take it again") from None


def which_columns(names: list[str], path: Path) -> Columns:
    """The version of a table, by its columns. Raises CorpusError naming the missing column."""
    columns = LAION if LAION.video in names else DISCO
    for column in columns.names:
        if column not in names:
            raise CorpusError(
                f"{path}: no column '{column}' (it has {', '.join(names)}); another version of the metadata?"
            )
    return columns


def video_id(text: str | None) -> str:
    """The id in a YouTube URL, or the id itself; "" where there is none."""
    match = _VIDEO.search(text or "")
    return match[1] if match else ""


def _first(value: str | list[str] | None) -> str:
    """The first of a list, or the text."""
    if isinstance(value, list):
        return value[0] if value else ""
    return value or ""
