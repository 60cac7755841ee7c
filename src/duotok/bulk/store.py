"""The writing side of a token store (`duotok.lm.token_store` reads it): who holds it, which song has which place, the shards.

STORE/lock             held by the run at work
STORE/plan.parquet     id -> split, shard and place of every song ever listed; a place is for ever
STORE/ledger/          what is known of each song (`ledger.py`)
STORE/scratch/         prepared sounds, gone after the run
STORE/failures.jsonl   the songs that could not be done, and why
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from duotok.bulk.encoding import codes_of
from duotok.bulk.ledger import WAS, Ledger
from duotok.clock import n_frames
from duotok.errors import DuoTokError, TokenFileError
from duotok.files import PARTIAL, hold, remove, sha256, write_bytes, writing
from duotok.lm.corpus import TokenCorpus, write_tokens
from duotok.lm.song import TokenizedSong
from duotok.lm.start import Vectors
from duotok.lm.streams import CodecIdentity
from duotok.lm.token_store import FORMAT, LENGTHS, MANIFEST, STORE, VECTORS
from duotok.records import DIGEST, SPLITS, Split
from duotok.seals import is_sealed, read_json, seal

if TYPE_CHECKING:
    import pyarrow

LOCK, PLAN, LEDGERS, SCRATCH, FAILURES = "lock", "plan.parquet", "ledger", "scratch", "failures.jsonl"
UNREAD = "unread.jsonl"
"""In the scratch folder: songs that are done, and could not be read in this run."""
SHARD_FRAMES = 1 << 25
"""Frames after which a shard goes on in another file: 373 hours, at most 256 MiB."""


def key_of(id: str) -> int:
    """64 bits of a song's id."""
    return int.from_bytes(hashlib.blake2b(id.encode("utf-8", "surrogateescape"), digest_size=8).digest())


COLUMNS = ("key", "split", "shard", "place")


def sealed(table: pyarrow.Table) -> pyarrow.Table:
    """The table of a plan with a hash of its columns among its metadata."""
    return table.replace_schema_metadata({DIGEST: _digest(table)})


def _digest(table: pyarrow.Table) -> str:
    digest = hashlib.sha256()
    for name in COLUMNS:
        digest.update(np.ascontiguousarray(table[name].to_numpy()).data)
    return digest.hexdigest()


class Plan:
    """The place of every song: numbers only in memory, 20 bytes a song. New songs get the next places of their split, in new
    shards of `shard_songs`, so that no shard that is complete ever changes for the sake of others."""

    def __init__(self, path: Path, shard_songs: int) -> None:
        self.path, self.shard_songs = path, shard_songs
        self._keys: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._shards: NDArray[np.int64] = np.zeros(0, np.int64)
        self._places: NDArray[np.int64] = np.zeros(0, np.int64)
        self.next = dict.fromkeys(SPLITS, 0)
        """Split -> number of the first shard that is not in use."""
        self.sizes: dict[tuple[str, int], int] = {}
        if path.exists():
            self._load()

    def _load(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(self.path.absolute(), page_checksum_verification=True)
            written = (table.schema.metadata or {}).get(DIGEST.encode())  # none in a store of an earlier DuoTok
            if table.column_names != [*COLUMNS] or (written is not None and written != _digest(table).encode()):
                raise ValueError("not as it was written")
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise TokenFileError(f"{self.path}: damaged ({str(error).splitlines()[0]}); start another store") from None
        order = np.argsort(table["key"].to_numpy(), kind="stable")
        self._keys = table["key"].to_numpy()[order]
        splits = table["split"].to_numpy()
        numbers = splits.astype(np.int64) << 32 | table["shard"].to_numpy()
        self._shards, self._places = numbers[order], table["place"].to_numpy()[order]
        for number, count in zip(*np.unique(numbers, return_counts=True), strict=True):
            split, shard = SPLITS[int(number) >> 32], int(number) & 0xFFFFFFFF
            self.sizes[split, shard] = int(count)
            self.next[split] = max(self.next[split], shard + 1)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
        """Which are known, and their shards (split << 32 | number) and places; places of the others mean nothing."""
        if not len(self._keys):
            return np.zeros(len(keys), bool), np.zeros(len(keys), np.int64), np.zeros(len(keys), np.int64)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return self._keys[at] == keys, self._shards[at], self._places[at]


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """The store is this run's for the block. Raises DuoTokError when another run has it, or when it cannot be written."""
    check_place(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "a+b")  # noqa: SIM115
    except OSError as error:
        raise DuoTokError(f"{folder}: cannot be written ({error.strerror}); choose another place with -o") from None
    with file:
        if not hold(file):
            raise DuoTokError(f"{folder}: another run is at work on this store; wait for it, or end it")
        for place in (folder, folder / LEDGERS):
            for partial in _partials(place):
                remove(partial)
        scratch = folder / SCRATCH
        remove(scratch)
        try:
            yield
        finally:
            remove(scratch)


def _partials(folder: Path) -> list[Path]:
    """What killed writers left."""
    return [path for path in folder.glob(f".*{PARTIAL}") if re.fullmatch(r"\.[0-9a-f]{16}\.[0-9a-f]{8}", path.stem)]


def check_place(folder: Path) -> None:
    """Raises DuoTokError for a place that is neither a store nor free for one; touches nothing."""
    if (
        len(folder.parts) > 1
        and re.fullmatch(r"[a-z][a-z0-9+.-]+:", folder.parts[0])
        and not Path(folder.parts[0]).exists()
    ):
        raise DuoTokError(
            f"{folder}: a store is written into a folder; choose one with -o, and copy it to the URL afterwards"
        )
    if folder.exists() and not folder.is_dir():
        raise DuoTokError(f"{folder}: is a file; choose another place with -o")
    if not folder.exists() or (folder / STORE).exists():
        return
    ours = {LOCK, VECTORS, *(path.name for path in _partials(folder))}  # of a first run that was killed
    strangers = sorted(entry.name for entry in folder.iterdir() if entry.name not in ours)
    if strangers:
        raise DuoTokError(f"{folder}: holds {strangers[0]}, and is no store of tokens; choose another place with -o")


def begin(folder: Path, identity: CodecIdentity, options: dict[str, Any], vectors: Vectors) -> None:
    """Make a store, or check that the one there has the same codec and options. Raises DuoTokError for another one."""
    facts = {"format": FORMAT, "codec": identity.as_json(), "options": options}
    if (folder / STORE).exists():
        check_same(folder, identity, options)
        if not _has_vectors(folder):
            _write_vectors(folder, vectors)
        return
    _write_vectors(folder, vectors)
    write_bytes(folder / STORE, (json.dumps(seal(facts), indent=1) + "\n").encode())


def check_same(folder: Path, identity: CodecIdentity, options: dict[str, Any]) -> None:
    """Raises DuoTokError for a store of another codec or other options, and for a part of one."""
    path = folder / STORE
    try:
        before = read_json(path.read_bytes())
        if not is_sealed(before) or before.get("format") != FORMAT:
            raise ValueError
        theirs = CodecIdentity.from_json(before["codec"])
    except OSError as error:
        raise DuoTokError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DuoTokError(f"{path}: damaged, or of another version; choose another place with -o") from None
    if theirs != identity:
        raise DuoTokError(
            f"{folder}: a store of tokens of {theirs}, this is {identity}; choose another place with -o, or --model"
        )
    for name, value in options.items():
        if before["options"].get(name) != value:
            raise DuoTokError(
                f"{folder}: made with {name} {_short(before['options'].get(name))}, now it is {_short(value)}; choose another place with -o"
            )
    _check_whole(folder)


def _check_whole(folder: Path) -> None:
    """Without its plan or a ledger a run would take songs that are done for new ones, and remove their shards."""
    needed = {f"{LEDGERS}/{path.name.split('.')[0]}.jsonl" for path in _shard_files(folder)}
    if needed or any((folder / LEDGERS).glob("*.jsonl")):
        needed.add(PLAN)
    gone = sorted(name for name in needed if not (folder / name).exists())
    if gone:
        raise DuoTokError(
            f"{folder}: {gone[0]} is missing, so this is a part of a store; copy all of it, or choose another place with -o"
        )


def _shard_files(folder: Path) -> list[Path]:
    name = re.compile(rf"({'|'.join(SPLITS)})-\d{{6}}(\.\d+)?\.parquet")
    return [path for path in folder.glob("*.parquet") if name.fullmatch(path.name)]


def _write_vectors(folder: Path, vectors: Vectors) -> None:
    tables = {name: np.ascontiguousarray(table) for name, table in sorted(vectors.items())}
    write_bytes(folder / VECTORS, safetensors.numpy.save(tables))


def _has_vectors(folder: Path) -> bool:
    """Whether the vectors are there, and those of the manifest if there is one: the next manifest takes their hash as it is."""
    with contextlib.suppress(ValueError, KeyError, TypeError, FileNotFoundError):
        now = sha256(folder / VECTORS)
        return not (folder / MANIFEST).exists() or bool(read_json((folder / MANIFEST).read_bytes())["vectors"] == now)
    return False


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:16] if len(text) == 64 else text


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:06d}"


def write_shard(folder: Path, name: str, ledger: Ledger, identity: CodecIdentity, most: int = SHARD_FRAMES) -> int:
    """Write the files of a shard from the journal and from its files as they were, then settle its ledger.

    The songs that are done, in the order of their places; a new file begins where one would get more than `most` frames. A song whose codes
    are damaged is taken out of the ledger, so that it is done again; returns how many. Raises OSError, TokenFileError.
    """
    known = len(ledger.rows)
    before = _Before(folder, ledger)
    songs: dict[int, str] = {}
    files: dict[str, dict[str, Any]] = {}
    for number, part in enumerate(_parts(_songs(ledger, before, songs), most)):
        file = f"{name}.parquet" if not number else f"{name}.{number}.parquet"
        counted = _Counted(part)
        write_tokens(folder / file, identity, counted, name)
        files[file] = {
            "bytes": (folder / file).stat().st_size, "sha256": sha256(folder / file), "songs": counted.songs, "frames": counted.frames,
            "groups": _groups(folder / file),
        }  # fmt: skip
    stale = [file for file in ledger.files if file not in files]
    ledger.settle(files, songs)
    for file in stale:
        remove(folder / file)
    return known - len(ledger.rows)


def _groups(path: Path) -> list[int]:
    """Songs of each row group."""
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(path.absolute())
    return [metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)]


class _Counted:
    def __init__(self, songs: Iterable[TokenizedSong]) -> None:
        self._iterable, self.songs, self.frames = songs, 0, 0

    def __iter__(self) -> Iterator[TokenizedSong]:
        for song in self._iterable:
            self.songs, self.frames = self.songs + 1, self.frames + song.frames
            yield song


def _parts(songs: Iterator[TokenizedSong], most: int) -> Iterator[Iterator[TokenizedSong]]:
    """The songs in runs of at most `most` frames; each run is to be used up before the next is asked for."""
    waiting = [song for song in [next(songs, None)] if song is not None]

    def run() -> Iterator[TokenizedSong]:
        frames = 0
        while waiting and (not frames or frames + waiting[0].frames <= most):
            song = waiting.pop()
            frames += song.frames
            following = next(songs, None)
            if following is not None:
                waiting.append(following)
            yield song

    while waiting:
        yield run()


def _songs(ledger: Ledger, before: _Before, songs: dict[int, str]) -> Iterator[TokenizedSong]:
    """The songs of a shard in order; notes the hash of each in `songs`."""
    for place in sorted(ledger.rows):
        row = ledger.rows[place]
        if "error" in row:
            continue
        texts = ledger.codes(place)
        if texts is not None:
            song = _checked(TokenizedSong(row["id"], row["split"], codes_of(texts)), row)
        else:
            song = before.song(row)
        if song is None:
            del ledger.rows[place]
            continue
        songs[place] = song.sha256
        yield song


class _Before:
    """The songs of a shard as its files have them; they are opened at once, because files of the same names are written next."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self._rows: dict[str, tuple[TokenCorpus, int, int]] = {}
        self._group: tuple[TokenCorpus, int, list[TokenizedSong]] | None = None
        if all(ledger.has_codes(place) or "error" in row for place, row in ledger.rows.items()):
            return
        for name in ledger.files:
            with contextlib.suppress(TokenFileError):
                corpus = TokenCorpus(folder / name)
                self._rows |= {id: (corpus, group, place) for group, place, id in corpus.index()}

    def song(self, row: dict[str, Any]) -> TokenizedSong | None:
        if row["id"] not in self._rows:
            return None
        corpus, group, place = self._rows[row["id"]]
        if self._group is None or self._group[:2] != (corpus, group):
            try:
                self._group = corpus, group, corpus.group(group)
            except TokenFileError:
                return None
        return _checked(self._group[2][place], row)


def _checked(song: TokenizedSong, row: dict[str, Any]) -> TokenizedSong | None:
    """The song with the identity of its row, if it is the one that the row was written for."""
    if dataclasses.replace(song, identity=row.get(WAS, row["identity"])).sha256 != row.get("song"):
        return None
    return dataclasses.replace(song, identity=row["identity"])


def song_of(folder: Path, ledger: Ledger, place: int) -> TokenizedSong | None:
    """A song of a settled shard; None where its file is damaged."""
    return _Before(folder, ledger).song(ledger.rows[place])


def places_of(folder: Path, ledger: Ledger) -> set[int]:
    """Places whose songs the files of a shard have, as after a kill between the files and the ledger."""
    before = _Before(folder, ledger)
    return {
        place
        for place, row in sorted(ledger.rows.items())
        if "error" not in row and not ledger.has_codes(place) and before.song(row) is not None
    }


def write_failure(path: Path, id: str, error: str) -> None:
    """Add a line to a file of failures. Raises OSError."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"id": id, "error": error}) + "\n")


def write_manifest(
    folder: Path, identity: CodecIdentity, ledgers: Iterable[tuple[Split, Ledger]], unread: Path | None = None
) -> dict[str, int]:
    """Write manifest and failures from the ledgers of all shards, in order. Returns how many songs, failed ones and frames.

    unread: a file of more failures, if it is there.
    """
    shards: list[dict[str, Any]] = []
    totals = {"songs": 0, "failed": 0, "frames": 0, "bytes": 0}
    lengths: list[NDArray[np.int32]] = []
    with writing(folder / FAILURES) as partial, partial.open("w", encoding="utf-8") as file:
        for split, ledger in ledgers:
            for name, facts in ledger.files.items():
                shards.append({"name": name, "split": split, **facts})
                for key in ("songs", "frames", "bytes"):
                    totals[key] += facts[key]
            rows = [ledger.rows[place] for place in sorted(ledger.rows)]
            lengths.append(np.array([n_frames(row["n_samples"]) for row in rows if "error" not in row], np.int32))
            for row in rows:
                if "error" in row:
                    totals["failed"] += 1
                    file.write(json.dumps({"id": row["id"], "error": row["error"]}) + "\n")
        if unread is not None and unread.exists():
            with unread.open(encoding="utf-8") as more:
                shutil.copyfileobj(more, file)
    names = {shard["name"] for shard in shards}
    for path in _shard_files(folder):
        if path.name not in names:  # what a kill between two steps left
            remove(path)
    array = io.BytesIO()
    np.save(array, np.concatenate(lengths), allow_pickle=False)
    write_bytes(folder / LENGTHS, array.getvalue())
    facts = {
        "format": FORMAT, "codec": identity.as_json(), "vectors": sha256(folder / VECTORS), "lengths": sha256(folder / LENGTHS),
        "totals": totals, "shards": shards,
    }  # fmt: skip
    write_bytes(folder / MANIFEST, (json.dumps(seal(facts), indent=1) + "\n").encode())
    return totals
