"""A store of token shards, as `duotok tokenize` makes it: many packed corpora of one codec, with one sealed manifest.

STORE/store.json      which codec, with which windows and options; sealed, written first
STORE/manifest.json   all shards with songs, frames, bytes and hashes; sealed, written last
STORE/vectors.safetensors   the vectors of all codes
STORE/lengths.npy     frames of every song, shard by shard: all that a loader must know in advance
STORE/train-000000.parquet ...   shards: packed tokens (`corpus.py`)
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import hashlib
import io
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from duotok.errors import TokenFileError
from duotok.lm.corpus import STORE_FILE, TokenCorpus
from duotok.lm.song import TokenizedSong
from duotok.lm.start import Vectors
from duotok.lm.streams import CodecIdentity
from duotok.records import CorpusError, Split
from duotok.seals import is_sealed, read_json
from duotok.shards.ranges import Ranges

FORMAT = 1
STORE, MANIFEST, VECTORS, LENGTHS = STORE_FILE, "manifest.json", "vectors.safetensors", "lengths.npy"
REMEDY = "run duotok tokenize again, or copy the store again"
MISSING = "run duotok tokenize again, copy it again, or open the store again if a run has replaced it"
SHARD_REMEDY = "remove the file and run duotok tokenize again, or copy it again"
"""A run does not read the shards that are done."""
REOPEN = "open the store again once duotok tokenize has run, or copy it again"
OPEN_SHARDS = 4
"""Shards of which what was read stays in memory."""
OPEN_GROUPS = 64
"""Row groups (64 songs each) that stay decoded in memory."""


@dataclass(frozen=True)
class Shard:
    """One file of a store."""

    name: str
    split: Split
    songs: int
    frames: int
    bytes: int
    sha256: str
    groups: tuple[int, ...]
    """Songs of each row group."""

    @functools.cached_property
    def ends(self) -> list[int]:
        """Where each row group ends, in songs."""
        return list(itertools.accumulate(self.groups))


class TokenStore:
    """A store in a folder or behind an fsspec URL, with what `TokenCorpus` has; tokens are read when they are asked for.

    cache: a folder where shards of a URL are kept. Lengths are read here too, so that a run that only adds songs disturbs nobody who
    has the store open. Raises TokenFileError when there is none, or when it is damaged.
    """

    def __init__(self, url: str | Path, codec: CodecIdentity | None = None, cache: Path | None = None) -> None:
        self.ranges = Ranges(url, cache)
        self.path = self.ranges.url
        facts = self._json(MANIFEST)
        try:
            self.identity = CodecIdentity.from_json(facts["codec"])
            self.shards = [Shard(**{**shard, "groups": tuple(shard["groups"])}) for shard in facts["shards"]]
            self._vectors_hash, self._lengths_hash = str(facts["vectors"]), str(facts["lengths"])
            self.hash = str(facts["seal"])
        except (ValueError, KeyError, TypeError) as error:
            raise TokenFileError(f"{self.path}/{MANIFEST}: is not of this format ({error}); {REMEDY}") from None
        if codec is not None:
            codec.require(self.identity, str(self.path))
        self.counts: dict[Split, tuple[int, int]] = {}
        for split in sorted({shard.split for shard in self.shards}):
            chosen = self.of(split)
            self.counts[split] = (sum(s.songs for s in chosen), sum(s.frames for s in chosen))
        self.lengths: NDArray[np.int32] = self._lengths()
        """Frames of every song, shard by shard."""
        self._start()

    def split_hashes(self) -> dict[str, str]:
        """Split -> a hash of its songs, in their order."""
        return {
            split: hashlib.sha256("".join(s.sha256 for s in self.of(split)).encode()).hexdigest()
            for split in self.counts
        }

    def _start(self) -> None:
        self.songs = functools.cache(self._songs)
        self._open: OrderedDict[str, TokenCorpus] = OrderedDict()
        self._groups: OrderedDict[tuple[str, int], list[TokenizedSong]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """For workers of a loader: the same store, also where a run has changed the manifest meanwhile; songs are read again there."""
        return {name: value for name, value in self.__dict__.items() if name not in ("songs", "_open", "_groups")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def _read(self, name: str, missing: str, damaged: str, size: int | None = None, sha256: str = "") -> bytes:
        """A file. Raises TokenFileError with a remedy; missing, damaged: those of a file that is not there, or too short."""
        try:
            return self.ranges.read(name, 0, size, sha256)
        except CorpusError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError | IsADirectoryError):
                remedy = missing
            elif error.__cause__ is None:
                remedy = damaged
            else:
                raise TokenFileError(str(error)) from None
            raise TokenFileError(f"{str(error).split(';')[0]}; {remedy}") from None

    def _json(self, name: str) -> dict[str, Any]:
        try:
            facts = read_json(self._read(name, "is it a store of duotok tokenize?", REMEDY))
        except ValueError:
            raise TokenFileError(f"{self.path}/{name}: damaged, no JSON; {REMEDY}") from None
        if not isinstance(facts, dict) or facts.get("format") != FORMAT:
            raise TokenFileError(
                f"{self.path}/{name}: of another format than {FORMAT}; update DuoTok, or tokenize again"
            )
        if not is_sealed(facts):
            raise TokenFileError(f"{self.path}/{name}: was changed since it was written; {REMEDY}")
        return facts

    def of(self, split: Split) -> list[Shard]:
        """The shards of a split, in order."""
        return [shard for shard in self.shards if shard.split == split]

    @functools.cached_property
    def vectors(self) -> Vectors | None:
        """As `TokenCorpus.vectors`."""
        if not self._vectors_hash:
            return None
        data = self._read(VECTORS, REMEDY, REMEDY)
        if hashlib.sha256(data).hexdigest() != self._vectors_hash:
            raise TokenFileError(f"{self.path}/{VECTORS}: was changed since it was written; {REMEDY}")
        try:
            return safetensors.numpy.load(data)
        except SafetensorError:
            raise TokenFileError(f"{self.path}/{VECTORS}: damaged; {REMEDY}") from None

    def shard(self, shard: Shard) -> TokenCorpus:
        """A shard, opened. One of a URL is read whole, and checked by its hash. Raises TokenFileError."""
        if shard.name not in self._open:
            if self.ranges.local is not None:
                file = self.ranges.local / shard.name
                if not file.exists():
                    raise TokenFileError(f"{file}: no such file; {MISSING}")
                if file.stat().st_size != shard.bytes:  # songs would stand in other places
                    raise TokenFileError(f"{file}: is not as large as in the manifest; {REOPEN}")
                with _of_a_store():
                    corpus = TokenCorpus(file, self.identity)
            else:
                corpus = TokenCorpus(f"{self.path}/{shard.name}", self.identity, self._whole(shard))
            self._open[shard.name] = corpus
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(shard.name)
        return self._open[shard.name]

    def _whole(self, shard: Shard, cached: bool = True) -> bytes:
        """The bytes of a shard, checked by its hash; cached: a copy in the cache will do. Raises TokenFileError."""
        data = self._read(shard.name, MISSING, SHARD_REMEDY, shard.bytes, shard.sha256 if cached else "")
        if hashlib.sha256(data).hexdigest() != shard.sha256:
            if cached and self.ranges.forget(shard.sha256):  # only the copy was damaged
                return self._whole(shard)
            raise TokenFileError(f"{self.path}/{shard.name}: was changed since it was written; {SHARD_REMEDY}")
        return data

    def group(self, shard: Shard, number: int) -> list[TokenizedSong]:
        """The songs of a row group of a shard."""
        key = (shard.name, number)
        if key not in self._groups:
            corpus = self.shard(shard)
            with _of_a_store():
                self._groups[key] = corpus.group(number)
            if len(self._groups) > OPEN_GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]

    def seconds(self, split: Split) -> float:
        """Total duration of a split."""
        return self.counts.get(split, (0, 0))[1] / self.identity.frame_rate

    def _songs(self, split: Split) -> LazySongs:
        return LazySongs(self, split)

    def _lengths(self) -> NDArray[np.int32]:
        data = self._read(LENGTHS, REMEDY, REMEDY)
        if hashlib.sha256(data).hexdigest() != self._lengths_hash:
            raise TokenFileError(f"{self.path}/{LENGTHS}: is not that of {MANIFEST}; {REOPEN}")
        return cast("NDArray[np.int32]", np.load(io.BytesIO(data), allow_pickle=False))

    def check(self) -> None:
        """Read every shard once. Raises TokenFileError for what is not as it was written."""
        for shard in self.shards:
            self._whole(shard, cached=False)
        _ = self.vectors


@contextlib.contextmanager
def _of_a_store() -> Iterator[None]:
    """What is damaged in a shard, with the remedy of a store: `TokenCorpus` knows that of a packed file."""
    try:
        yield
    except TokenFileError as error:
        if isinstance(error.__cause__, PermissionError):
            raise
        raise TokenFileError(f"{str(error).split(';')[0]}; {SHARD_REMEDY}") from None


class LazySong:
    """A song of which the length is known, with what `TokenizedSong` has; all else is read when it is asked for."""

    def __init__(self, store: TokenStore, shard: Shard, place: int, frames: int) -> None:
        self._store, self._shard, self._place, self.frames = store, shard, place, frames

    @property
    def song(self) -> TokenizedSong:
        """The whole row. Raises TokenFileError."""
        group = bisect.bisect_right(self._shard.ends, self._place)
        songs = self._store.group(self._shard, group)
        place = self._place - (self._shard.ends[group - 1] if group else 0)
        if place >= len(songs) or songs[place].frames != self.frames:
            raise TokenFileError(f"{self._store.path}/{self._shard.name}: has other songs than the manifest; {REOPEN}")
        return songs[place]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.song, name)


class LazySongs(Sequence[Any]):
    """Songs of a split, in the order of the store; 12 bytes each in memory. frames: their lengths."""

    def __init__(
        self, store: TokenStore, split: Split, shortest: int = 0, only: Callable[[str], bool] | None = None
    ) -> None:
        """shortest: frames; shorter songs are left out. only: whether a song of this id is taken; the ids of all shards are read for it."""
        self.store, self.split, self.shards = store, split, store.of(split)
        if not self.shards:
            available = ", ".join(f"{count} {name}" for name, (count, _) in store.counts.items())
            raise TokenFileError(f"{store.path}: no songs of split '{split}'; it has {available or 'none at all'}")
        every = np.array([shard.split == split for shard in store.shards])
        frames = store.lengths[np.repeat(every, [shard.songs for shard in store.shards])]
        self._ends = np.cumsum([shard.songs for shard in self.shards])
        taken = frames >= shortest
        if only is not None:
            ids = (id for shard in self.shards for _, _, id in store.shard(shard).index())
            taken &= np.fromiter(map(only, ids), bool, len(frames))
        self._numbers = np.flatnonzero(taken)
        self.frames: NDArray[np.int32] = frames[self._numbers]

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> LazySong: ...
    @overload
    def __getitem__(self, index: slice) -> list[LazySong]: ...
    def __getitem__(self, index: int | slice) -> LazySong | list[LazySong]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = int(self._numbers[index])
        shard = int(np.searchsorted(self._ends, number, side="right"))
        place = number - (int(self._ends[shard - 1]) if shard else 0)
        return LazySong(self.store, self.shards[shard], place, int(self.frames[index]))

    def shard_of(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of the shard, among those of the split, that has each song."""
        return np.searchsorted(self._ends, self._numbers[indices], side="right").astype(np.int64)

    def __iter__(self) -> Iterator[LazySong]:
        return (self[index] for index in range(len(self)))


def frames_of(songs: Sequence[Any]) -> NDArray[np.int64]:
    """Lengths of songs; of those of a store without reading any."""
    return np.asarray(songs.frames if isinstance(songs, LazySongs) else [song.frames for song in songs], np.int64)


def open_tokens(
    url: str | Path, codec: CodecIdentity | None = None, cache: Path | None = None
) -> TokenCorpus | TokenStore:
    """A packed corpus (a file), or a store of token shards (a folder or URL; cache: as of `TokenStore`). Raises TokenFileError."""
    remote = "://" in str(url)
    if remote and str(url).endswith(".parquet"):
        raise TokenFileError(
            f"{url}: packed tokens are read from a disk; copy the file here, or name the folder of a store"
        )
    if remote or Path(url).is_dir():
        return TokenStore(url, codec, cache)
    return TokenCorpus(url, codec)
