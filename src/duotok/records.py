"""The records of the data path: recordings, then segments. Both are stored as Parquet tables."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from duotok.clock import FRAME_SAMPLES, SAMPLE_RATE
from duotok.errors import DuoTokError
from duotok.files import writing
from duotok.tracks import ACCOMPANIMENT_STEMS, TRACKS

if TYPE_CHECKING:
    import pyarrow

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

Kind = Literal["song", "music", "instrumental", "voice", "speech", "sound"]
"""song: singing and instruments; music: not known whether there is singing; instrumental: no singing; voice: solo
singing; speech; sound: anything else."""
DIGEST = "duotok.sha256"
"""Entry of a table's metadata: hash of its rows."""
STORED = ("mix", *TRACKS, *ACCOMPANIMENT_STEMS)
"""What a shard may hold of a segment."""

KINDS: tuple[Kind, ...] = ("song", "music", "instrumental", "voice", "speech", "sound")


Activity = Literal["lyrics", "voice", "instrumental", "unknown"]
"""lyrics: words with times are sung here; voice: singing or speech without known words; instrumental: none;
unknown: a mix that nobody has separated or labelled."""

SampleType = Literal["mix", "vocals", "accompaniment", "instrumental", "other"]
"""The paper's four (C.2): full mix, lyric-active vocal, lyric-aligned accompaniment, instrumental-only accompaniment;
and `other`, which only stage 1 uses (speech, sounds, unlabelled music)."""
SAMPLE_TYPES: tuple[SampleType, ...] = ("mix", "vocals", "accompaniment", "instrumental", "other")


class CorpusError(DuoTokError):
    """A corpus that is missing, moved, or of another version than its metadata."""


SONG_GENERATOR = "duotok songs"
"""The attribution of generated songs."""


@dataclass(frozen=True)
class Recording:
    """One recording of a corpus as its metadata describes it; the sound itself has not been read.

    id: `CORPUS/NAME`, unique, only [A-Za-z0-9._/-]; audio: stem -> path or fsspec URL; seconds: by the metadata, None
    where it does not say; identity: what may not be cut by a split (artist, speaker, song); lyrics: file with lyrics,
    "" if none; language: ISO 639-1 or ""; start, stop: the part of the file in seconds that is meant, stop 0 = to the end.
    """

    id: str
    corpus: str
    kind: Kind
    split: Split
    identity: str
    audio: dict[str, str]
    seconds: float | None = None
    tags: tuple[str, ...] = ()
    lyrics: str = ""
    language: str = ""
    licence: str = ""
    attribution: str = ""
    source: str = ""
    start: float = 0.0
    stop: float = 0.0


@dataclass(frozen=True)
class Segment:
    """A stretch of one recording, on the token frames of the recording: start_frame x 1920 samples at 48 kHz.

    words: (text, start, end) in seconds from the segment's start; gain_db: brings the recording to -18 LUFS; loudness:
    LUFS of the segment's mix as it is; stems: what the shard holds for it; types: which samples it can give.
    """

    key: str
    recording: str
    corpus: str
    kind: Kind
    split: Split
    identity: str
    start_frame: int
    frames: int
    activity: Activity
    types: tuple[SampleType, ...]
    stems: tuple[str, ...]
    gain_db: float
    loudness: float
    language: str = ""
    text: str = ""
    words: tuple[tuple[str, float, float], ...] = ()
    tags: tuple[str, ...] = ()
    licence: str = ""
    attribution: str = ""
    source: str = ""

    @property
    def seconds(self) -> float:
        return self.frames * FRAME_SAMPLES / SAMPLE_RATE

    @property
    def generated(self) -> bool:
        """Whether it is of a song of `duotok songs`, whatever its corpus is called."""
        return self.attribution == SONG_GENERATOR


def segment_key(recording: str, start_frame: int) -> str:
    """The key of a segment: the recording's id with `/` as `__`, and the first frame. No dots: WebDataset splits there."""
    return f"{recording.replace('/', '__').replace('.', '_')}__{start_frame:07d}"


R = TypeVar("R", Recording, Segment)


def table_schema(cls: type[Any]) -> pyarrow.Schema:
    """Parquet columns of Recording or Segment."""
    import pyarrow as pa

    text, texts = pa.string(), pa.list_(pa.string())
    special = {
        "audio": pa.map_(text, text), "seconds": pa.float64(), "start": pa.float64(), "stop": pa.float64(),
        "start_frame": pa.int64(), "frames": pa.int64(), "gain_db": pa.float64(), "loudness": pa.float64(),
        "tags": texts, "types": texts, "stems": texts,
        "words": pa.list_(pa.struct([("text", text), ("start", pa.float64()), ("end", pa.float64())])),
    }  # fmt: skip
    return pa.schema([(f.name, special.get(f.name, text)) for f in dataclasses.fields(cls)])


_BYTES = 0x10FF00


def _as_text(name: str) -> str:
    """A name of a file as text that Parquet takes: bytes that are no UTF-8 as characters of the last private plane."""
    return "".join(chr(_BYTES + ord(c) - 0xDC00) if "\udc80" <= c <= "\udcff" else c for c in name)


def _as_name(text: str) -> str:
    """The inverse of `_as_text`."""
    return "".join(chr(ord(c) - _BYTES + 0xDC00) if ord(c) >= _BYTES + 0x80 else c for c in text)


def table_row(item: Recording | Segment) -> dict[str, Any]:
    """One row of such a table."""
    row = {f.name: getattr(item, f.name) for f in dataclasses.fields(item)}
    row = {name: _as_text(value) if isinstance(value, str) else value for name, value in row.items()}
    if "audio" in row:
        row["audio"] = sorted((stem, _as_text(path)) for stem, path in row["audio"].items())
    if "words" in row:
        row["words"] = [{"text": t, "start": s, "end": e} for t, s, e in row["words"]]
    return row


def _item(cls: type[R], row: dict[str, Any]) -> R:
    for name in ("tags", "types", "stems"):
        if name in row:
            row[name] = tuple(row[name])
    if "audio" in row:
        row["audio"] = {stem: _as_name(path) for stem, path in dict(row["audio"]).items()}
    for name in ("lyrics", "source", "identity"):
        if isinstance(row.get(name), str):
            row[name] = _as_name(row[name])
    if "words" in row:
        row["words"] = tuple((w["text"], w["start"], w["end"]) for w in row["words"])
    return cls(**row)


def write_table(path: Path, items: Sequence[R], cls: type[R]) -> None:
    """Write recordings or segments as Parquet, atomically; the same items give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist([table_row(item) for item in items], schema=table_schema(cls))
    digest = _digest(table.to_pylist(maps_as_pydicts="strict"))
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), DIGEST: digest})
    with writing(path) as partial:
        pq.write_table(table, partial, compression="zstd", write_page_checksum=True)


def read_table(path: Path, cls: type[R]) -> list[R]:
    """Read what `write_table` wrote. Raises CorpusError when it is missing or of another shape."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, page_checksum_verification=True)
        schema = table_schema(cls)
        if table.schema.names != schema.names:
            raise CorpusError(f"{path}: columns {table.schema.names}; a table of {cls.__name__} has {schema.names}")
        rows = table.to_pylist(maps_as_pydicts="strict")
        written = (table.schema.metadata or {}).get(DIGEST.encode())  # none in those of an earlier DuoTok
        if written is not None and written.decode() != _digest(rows):
            raise ValueError("not as it was written")
        return [_item(cls, row) for row in rows]
    except FileNotFoundError:
        raise CorpusError(f"{path}: no such table; run the step that makes it first") from None
    except PermissionError:
        raise CorpusError(f"{path}: cannot be read (Permission denied); check its permissions") from None
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise CorpusError(f"{path}: cannot be read ({str(error).splitlines()[0]}); make it again") from None


def _digest(rows: Sequence[dict[str, Any]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()


def by_identity(items: Iterable[Recording]) -> dict[tuple[str, str], list[Recording]]:
    """Recordings by (corpus, identity)."""
    groups: dict[tuple[str, str], list[Recording]] = {}
    for item in items:
        groups.setdefault((item.corpus, item.identity), []).append(item)
    return groups
