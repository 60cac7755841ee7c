"""Packed tokens: one Parquet file of songs, with their codec in its metadata, so that tokens of two codecs cannot be mixed.

Columns: id, split, identity, recording, start_frame, n_frames, sha256, and one list<int32> for each codebook, named
STREAM.CODEBOOK. sha256 is that of all else in the row; the metadata hold that of all rows, and a seal; pages have checksums.
A row is a song, or a stretch of one where the shards leave something out (see `pack.py`). The metadata may hold the vectors of
all codes as well (`start.py`).
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from duotok.errors import DuoTokError, MissingExtraError, TokenFileError
from duotok.files import writing
from duotok.lm.song import Codes, TokenizedSong, check_song
from duotok.lm.start import Vectors
from duotok.lm.streams import CodecIdentity
from duotok.records import SPLITS, Split
from duotok.seals import is_sealed, read_json, seal

if TYPE_CHECKING:
    import pyarrow

FORMAT = 2  # since 2 with hashes
KEY = b"duotok"
SONGS = b"duotok-songs"
VECTORS = b"duotok-vectors"
ROWS = 64  # songs in a row group: what is read at a time
FRAMES = 1 << 22  # in a row group, of more than one song: 46 hours at 25 Hz


def write_tokens(
    path: str | Path,
    identity: CodecIdentity,
    songs: Iterable[TokenizedSong],
    source: str = "",
    vectors: Vectors | None = None,
) -> int:
    """Pack songs, atomically and in bounded memory; returns how many. Pass the songs of a split together if possible.

    source: what the tokens were made from, for `TokenCorpus.source`; vectors: of all codes, for `TokenCorpus.vectors`.
    Raises TokenFileError for tokens that this codec cannot have made, streams of unequal length, a duplicate id, or no songs.
    """
    pa, pq = _arrow()
    path = Path(path)
    vectors = {
        name: np.ascontiguousarray(table) for name, table in (vectors or {}).items()
    }  # safetensors writes the memory as it lies
    more = {VECTORS: safetensors.numpy.save(vectors)} if vectors else {}
    facts = {"format": FORMAT, "codec": identity.as_json(), "source": source, "vectors": _hash(more.get(VECTORS))}
    schema = _schema(identity).with_metadata({KEY: json.dumps(seal(facts)).encode(), **more})
    plain = [column.name for column in identity.columns]
    song_ids: set[str] = set()
    all_songs = hashlib.sha256()
    try:
        with writing(path) as partial:
            settings: dict[str, Any] = {
                "compression": "zstd",
                "use_dictionary": ["split"],
                "write_statistics": ["split"],
            }
            settings["write_page_checksum"] = True
            with pq.ParquetWriter(partial.absolute(), schema, **settings) as writer:
                for group in _groups(songs):
                    for song in group:
                        check_song(identity, song, str(path))
                        if song.id in song_ids:
                            raise TokenFileError(f"{path}: song '{song.id}' comes twice; give every song its own id")
                        song_ids.add(song.id)
                    columns: dict[str, Any] = {
                        "id": [s.id for s in group], "split": [s.split for s in group],
                        "identity": [s.identity for s in group], "recording": [s.recording for s in group],
                        "start_frame": [s.start_frame for s in group], "n_frames": [s.frames for s in group],
                        "sha256": [s.sha256 for s in group],
                    }  # fmt: skip
                    all_songs.update("".join(columns["sha256"]).encode())
                    ends = np.cumsum([0, *columns["n_frames"]], dtype=np.int32)
                    for name, column in zip(plain, identity.columns, strict=True):
                        codes = np.concatenate([s.tokens[column.stream][column.codebook] for s in group])
                        columns[name] = pa.ListArray.from_arrays(ends, pa.array(codes.astype(np.int32)))
                    writer.write_table(pa.table(columns, schema=schema))
                writer.add_key_value_metadata({SONGS: all_songs.hexdigest().encode()})
            if not song_ids:
                raise TokenFileError(f"{path}: no songs to pack")
    except OSError as error:
        raise DuoTokError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from None
    return len(song_ids)


def _hash(data: bytes | None) -> str:
    return hashlib.sha256(data).hexdigest() if data is not None else ""


def _groups(songs: Iterable[TokenizedSong]) -> Iterator[list[TokenizedSong]]:
    """Up to ROWS songs of one split, so that a split can be read alone; fewer of very long ones."""
    group: list[TokenizedSong] = []
    frames = 0
    for song in songs:
        if group and (len(group) == ROWS or group[0].split != song.split or frames + song.frames > FRAMES):
            yield group
            group, frames = [], 0
        group.append(song)
        frames += song.frames
    if group:
        yield group


def _schema(identity: CodecIdentity) -> pyarrow.Schema:
    pa, _ = _arrow()
    text = pa.string()
    fixed = [("id", text), ("split", text), ("identity", text), ("recording", text)]
    numbers = [("start_frame", pa.int64()), ("n_frames", pa.int64()), ("sha256", text)]
    return pa.schema([*fixed, *numbers, *((column.name, pa.list_(pa.int32())) for column in identity.columns)])


STORE_FILE = "store.json"
"""In the folder of a store of token shards (`token_store.py`)."""


class TokenCorpus:
    """A packed corpus. Opening it reads the small columns; tokens are read split by split, on first use.

    codec: the only one whose tokens are accepted. Raises TokenFileError when the file is missing, foreign, damaged, or holds
    tokens of another codec.
    """

    def __init__(self, path: str | Path, codec: CodecIdentity | None = None, data: bytes | None = None) -> None:
        """data: the bytes of the file, where they are at hand; `path` is a name then."""
        pa, pq = _arrow()
        self.path = Path(path)
        if data is None and (self.path / STORE_FILE).is_file():
            raise TokenFileError(
                f"{path}: a store of duotok tokenize, where one file of packed tokens is needed; `duotok tokens export {path} -o EXPORT` and "
                "`duotok tokens import EXPORT -o TOKENS.parquet` make one of it"
            )
        if data is None and self.path.is_dir():
            raise TokenFileError(f"{path}: a folder, and no packed tokens; name a file of duotok pack")
        try:
            source = self.path.absolute() if data is None else pa.BufferReader(data)
            self._file = pq.ParquetFile(source, page_checksum_verification=True)
            metadata = self._file.metadata.metadata or {}
            facts = read_json(metadata[KEY])
        except FileNotFoundError:
            raise TokenFileError(f"{path}: no such file; make it with: duotok pack") from None
        except PermissionError as error:
            raise TokenFileError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
        except (OSError, ValueError, KeyError):
            raise TokenFileError(f"{path}: not packed tokens, or damaged; make it with: duotok pack") from None
        file_format = facts.get("format") if isinstance(facts, dict) else None
        if file_format != FORMAT:
            raise TokenFileError(
                f"{path}: packed in format {file_format}, this DuoTok reads {FORMAT}; pack again, with --force"
            )
        if not is_sealed(facts):
            raise TokenFileError(f"{path}: damaged (its metadata); make it again with: duotok pack --force")
        self._metadata, self._vectors_hash = metadata, str(facts.get("vectors", ""))
        try:
            self.identity = CodecIdentity.from_json(facts["codec"])
            if self._file.schema_arrow.names != _schema(self.identity).names:
                raise ValueError("columns")
        except (ValueError, KeyError, TypeError) as error:
            raise TokenFileError(f"{path}: its metadata does not fit its columns ({error}); pack again") from None
        self.source = str(facts.get("source", ""))
        if codec is not None:
            codec.require(self.identity, str(path))
        small = self._read(None, ["split", "n_frames", "sha256"])
        joined = "".join(small["sha256"].to_pylist())
        if _hash(joined.encode()).encode() != metadata.get(SONGS):
            raise TokenFileError(
                f"{path}: damaged (songs are missing or changed); make it again with: duotok pack --force"
            )
        self.counts: dict[str, tuple[int, int]] = {}
        """Split -> songs, frames."""
        self._split_hashes: dict[str, str] = {}
        splits, frames = np.array(small["split"].to_pylist()), small["n_frames"].to_numpy()
        for split in SPLITS:
            chosen = splits == split
            if chosen.any():
                self.counts[split] = (int(chosen.sum()), int(frames[chosen].sum()))
                hashes = small["sha256"].filter(pa.array(chosen)).to_pylist()
                self._split_hashes[split] = _hash("".join(hashes).encode())
        self.songs = functools.cache(self._songs)

    def split_hashes(self) -> dict[str, str]:
        """Split -> a hash of its songs, in their order."""
        return dict(self._split_hashes)

    @functools.cached_property
    def hash(self) -> str:
        """sha256 of the file."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @functools.cached_property
    def vectors(self) -> Vectors | None:
        """Principal components of all code vectors, by column; None where they were not packed. Raises TokenFileError."""
        data = self._metadata.get(VECTORS)
        try:
            if _hash(data) != self._vectors_hash:
                raise ValueError("hash")
            return None if data is None else safetensors.numpy.load(data)
        except (SafetensorError, ValueError):
            raise TokenFileError(
                f"{self.path}: its code vectors are damaged; make it again with: duotok pack"
            ) from None

    @property
    def has_vectors(self) -> bool:
        """Whether the file has undamaged `vectors`."""
        try:
            return self.vectors is not None
        except TokenFileError:
            return False

    def check(self) -> None:
        """Read everything once. Raises TokenFileError when anything has changed since it was written."""
        for group in range(self._file.num_row_groups):
            for _ in self._rows(group):
                pass
        _ = self.vectors

    def seconds(self, split: Split) -> float:
        """Total duration of a split."""
        return self.counts.get(split, (0, 0))[1] / self.identity.frame_rate

    def index(self) -> list[tuple[int, int, str]]:
        """Row group, place in it, and id of each song, in order; reads no tokens."""
        groups = [self._read([group], ["id"])["id"].to_pylist() for group in range(self._file.num_row_groups)]
        return [(group, place, id) for group, ids in enumerate(groups) for place, id in enumerate(ids)]

    def identities(self) -> dict[str, str]:
        """The identity of each song by its id; reads no tokens."""
        table = self._read(None, ["id", "identity"])
        return dict(zip(table["id"].to_pylist(), table["identity"].to_pylist(), strict=True))

    def group(self, number: int) -> list[TokenizedSong]:
        """The songs of a row group. Raises TokenFileError when they are damaged."""
        return list(self._rows(number))

    def _read(self, groups: list[int] | None, columns: list[str] | None) -> pyarrow.Table:
        try:
            if groups is None:
                return self._file.read(columns=columns)
            return self._file.read_row_groups(groups, columns=columns)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise TokenFileError(f"{self.path}: damaged ({reason}); make it again with: duotok pack") from None

    def _songs(self, split: Split) -> list[TokenizedSong]:
        """All songs of a split, in the order of the file; cached (8 bytes a frame of two streams).

        Raises TokenFileError when there are none, or when tokens do not fit the codec.
        """
        groups = [
            g for g in range(self._file.num_row_groups) if split in self._read([g], ["split"])["split"].to_pylist()
        ]
        songs = [song for group in groups for song in self._rows(group) if song.split == split]
        if not songs:
            available = ", ".join(f"{count} {name}" for name, (count, _) in self.counts.items())
            raise TokenFileError(f"{self.path}: no songs of split '{split}'; it has {available or 'none at all'}")
        return songs

    def _rows(self, group: int) -> Iterator[TokenizedSong]:
        table = self._read([group], None)
        rows = table.select(["id", "split", "identity", "recording", "start_frame", "n_frames", "sha256"]).to_pylist()
        codes: dict[str, list[Codes]] = {}
        for column in self.identity.columns:
            lists = table[column.name].combine_chunks()
            if lists.null_count or lists.values.null_count:
                raise TokenFileError(f"{self.path}: damaged ({column.name}); make it again with: duotok pack --force")
            ends = lists.offsets.to_numpy()
            values = lists.values.to_numpy()
            codes[column.name] = [values[a:b] for a, b in itertools.pairwise(ends)]
        for i, row in enumerate(rows):
            frames, sha256 = row.pop("n_frames"), row.pop("sha256")
            tokens = {}
            for stream in self.identity.streams:
                parts = [codes[f"{stream.name}.{k}"][i] for k in range(len(stream.codebook_sizes))]
                if any(len(part) != frames for part in parts):
                    lengths = ", ".join(str(len(part)) for part in parts)
                    raise TokenFileError(
                        f"{self.path}: song '{row['id']}': {stream.name} has {lengths} frames, the song {frames}; pack again"
                    )
                tokens[stream.name] = np.stack(parts) if len(parts) > 1 else parts[0][None]
            song = TokenizedSong(tokens=tokens, **row)
            check_song(self.identity, song, str(self.path))
            if song.sha256 != sha256:
                raise TokenFileError(
                    f"{self.path}: song '{song.id}' is damaged; make it again with: duotok pack --force"
                )
            yield song


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("packed tokens need pyarrow: pip install 'duotok[lm]'") from None
    return pyarrow, pyarrow.parquet
