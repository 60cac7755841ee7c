"""A store of token shards, as `duotok tokenize` makes it: many packed corpora of one codec, with one sealed manifest.

STORE/store.json      which codec, with which windows and options; sealed, written first
STORE/manifest.json   all shards with songs, frames, bytes and hashes; sealed, written last
STORE/vectors.safetensors   the vectors of all codes
STORE/train-000000.parquet ...   shards: packed tokens (`corpus.py`)
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, overload

import safetensors.numpy
from safetensors import SafetensorError

from duotok.errors import TokenFileError
from duotok.lm.corpus import TokenCorpus
from duotok.lm.song import Codes, TokenizedSong
from duotok.lm.start import Vectors
from duotok.lm.streams import CodecIdentity
from duotok.records import CorpusError, Split
from duotok.seals import is_sealed, read_json
from duotok.shards.ranges import Ranges

FORMAT = 1
STORE, MANIFEST, VECTORS = "store.json", "manifest.json", "vectors.safetensors"
REMEDY = "run duotok tokenize again, or copy the store again"
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


class TokenStore:
    """A store in a folder or behind an fsspec URL, with what `TokenCorpus` has; tokens are read when they are asked for.

    cache: a folder where shards of a URL are kept. Raises TokenFileError when there is none, or when it is damaged.
    """

    def __init__(self, url: str | Path, codec: CodecIdentity | None = None, cache: Path | None = None) -> None:
        self.ranges = Ranges(url, cache)
        self.path = self.ranges.url
        facts = self._json(MANIFEST)
        try:
            self.identity = CodecIdentity.from_json(facts["codec"])
            self.shards = [Shard(**shard) for shard in facts["shards"]]
            self._vectors_hash = str(facts["vectors"])
            self.hash = str(facts["seal"])
        except (ValueError, KeyError, TypeError) as error:
            raise TokenFileError(f"{self.path}/{MANIFEST}: is not of this format ({error}); {REMEDY}") from None
        if codec is not None:
            codec.require(self.identity, str(self.path))
        self.counts: dict[Split, tuple[int, int]] = {}
        for split in sorted({shard.split for shard in self.shards}):
            chosen = self.of(split)
            self.counts[split] = (sum(s.songs for s in chosen), sum(s.frames for s in chosen))
        self.songs = functools.cache(self._songs)
        self._open: OrderedDict[str, TokenCorpus] = OrderedDict()
        self._groups: OrderedDict[tuple[str, int], list[TokenizedSong]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """For workers of a loader: what was read is read again there."""
        return {"url": self.ranges.url, "cache": self.ranges.cache}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["url"], cache=state["cache"])  # type: ignore[misc]

    def _json(self, name: str) -> dict[str, Any]:
        try:
            facts = read_json(self.ranges.read(name))
        except CorpusError as error:
            raise TokenFileError(f"{error}; is it a store of duotok tokenize?") from None
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
        data = self.ranges.read(VECTORS)
        if hashlib.sha256(data).hexdigest() != self._vectors_hash:
            raise TokenFileError(f"{self.path}/{VECTORS}: was changed since it was written; {REMEDY}")
        try:
            return safetensors.numpy.load(data)
        except SafetensorError:
            raise TokenFileError(f"{self.path}/{VECTORS}: damaged; {REMEDY}") from None

    def shard(self, shard: Shard) -> TokenCorpus:
        """A shard, opened. One of a URL is read whole, and checked by its hash. Raises TokenFileError, CorpusError."""
        if shard.name not in self._open:
            if self.ranges.local is not None:
                corpus = TokenCorpus(self.ranges.local / shard.name, self.identity)
            else:
                data = self.ranges.read(shard.name, 0, shard.bytes, shard.sha256)
                if hashlib.sha256(data).hexdigest() != shard.sha256:
                    raise TokenFileError(f"{self.path}/{shard.name}: was changed since it was written; {REMEDY}")
                corpus = TokenCorpus(f"{self.path}/{shard.name}", self.identity, data)
            self._open[shard.name] = corpus
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(shard.name)
        return self._open[shard.name]

    def group(self, shard: Shard, number: int) -> list[TokenizedSong]:
        """The songs of a row group of a shard."""
        key = (shard.name, number)
        if key not in self._groups:
            self._groups[key] = self.shard(shard).group(number)
            if len(self._groups) > OPEN_GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]

    def seconds(self, split: Split) -> float:
        """Total duration of a split."""
        return self.counts.get(split, (0, 0))[1] / self.identity.frame_rate

    def _songs(self, split: Split) -> LazySongs:
        return LazySongs(self, split)

    def check(self) -> None:
        """Read every shard once. Raises TokenFileError for what is not as it was written."""
        for shard in self.shards:
            data = self.ranges.read(shard.name, 0, shard.bytes)
            if hashlib.sha256(data).hexdigest() != shard.sha256:
                raise TokenFileError(f"{self.path}/{shard.name}: was changed since it was written; {REMEDY}")
        _ = self.vectors


class LazySong:
    """A song whose small columns are known, with what `TokenizedSong` has; its tokens are read when they are asked for."""

    def __init__(self, store: TokenStore, shard: Shard, group: int, place: int, id: str, frames: int) -> None:
        self._store, self._shard, self._group, self._place = store, shard, group, place
        self.id, self.frames = id, frames

    @property
    def tokens(self) -> dict[str, Codes]:
        """Stream -> int32 `[codebooks, frames]`."""
        return cast(dict[str, Codes], self.song.tokens)

    @property
    def song(self) -> TokenizedSong:
        """The whole row."""
        return self._store.group(self._shard, self._group)[self._place]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.song, name)


class LazySongs(Sequence[Any]):
    """All songs of a split, in the order of the store. Ids and lengths of a shard are read when one of its songs is asked for."""

    def __init__(self, store: TokenStore, split: Split) -> None:
        self.store, self.shards = store, store.of(split)
        if not self.shards:
            available = ", ".join(f"{count} {name}" for name, (count, _) in store.counts.items())
            raise TokenFileError(f"{store.path}: no songs of split '{split}'; it has {available or 'none at all'}")
        self.ends = list(itertools.accumulate(shard.songs for shard in self.shards))
        self._read = functools.lru_cache(maxsize=None)(self._index)

    def __len__(self) -> int:
        return self.ends[-1]

    def _index(self, number: int) -> list[tuple[int, int, str, int]]:
        """Row group, place in it, id and frames of each song of a shard."""
        return self.store.shard(self.shards[number]).index()

    @overload
    def __getitem__(self, index: int) -> LazySong: ...
    @overload
    def __getitem__(self, index: slice) -> list[LazySong]: ...
    def __getitem__(self, index: int | slice) -> LazySong | list[LazySong]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        number = bisect.bisect_right(self.ends, index)
        place = index - (self.ends[number - 1] if number else 0)
        return LazySong(self.store, self.shards[number], *self._read(number)[place])

    def __iter__(self) -> Iterator[LazySong]:
        for number, shard in enumerate(self.shards):
            for row in self._read(number):
                yield LazySong(self.store, shard, *row)


def open_tokens(url: str | Path, codec: CodecIdentity | None = None) -> TokenCorpus | TokenStore:
    """A packed corpus (a file), or a store of token shards (a folder or URL). Raises TokenFileError."""
    if (not str(url).endswith(".parquet")) if "://" in str(url) else Path(url).is_dir():
        return TokenStore(url, codec)
    return TokenCorpus(url, codec)
