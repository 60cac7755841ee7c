"""Token stores for a training loop of torch: songs by number, or as a shuffled stream that goes on at the exact song.

Which song comes when follows from (seed, epoch, number) and the store alone, so the state of a stream is two numbers that the
training loop keeps; a stream has none of its own. The same songs in the same order come out of any number of loader workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from duotok.errors import ConfigError
from duotok.lm.song import TokenizedSong
from duotok.lm.token_store import LazySong, LazySongs, TokenStore
from duotok.records import Split

Sample = dict[str, Any]
"""`id`; `tokens`, stream -> int64 `[codebooks, frames]`; `start`, the first frame of the piece in its song; of a stream also `epoch`
and `number`."""
SHARDS_AT_ONCE = 4


@dataclass(frozen=True)
class StreamState:
    """epoch, and how many songs of it each rank has used: what a training loop saves with its weights."""

    epoch: int = 0
    taken: int = 0

    def advanced(self, songs: int, of: int) -> StreamState:
        """After so many songs more; `of`: songs of a rank in an epoch (`len` of the stream)."""
        epochs, taken = divmod(self.taken + songs, of)
        return StreamState(self.epoch + epochs, taken)

    def state_dict(self) -> dict[str, int]:
        """For a checkpoint; `StreamState(**values)` undoes it."""
        return asdict(self)


def _sample(song: TokenizedSong | LazySong, start: int, frames: int | None) -> Sample:
    stop = None if frames is None else start + frames
    tokens = {name: torch.from_numpy(codes[:, start:stop].astype(np.int64)) for name, codes in song.tokens.items()}
    return {"id": song.id, "tokens": tokens, "start": start}


class TokenSongs(Dataset[Sample]):
    """Songs of a split by number, in the order of the store. shortest: frames; shorter songs are left out; only: whether a song of this id is
    taken."""

    def __init__(
        self, store: TokenStore, split: Split = "train", shortest: int = 0, only: Callable[[str], bool] | None = None
    ) -> None:
        self.songs = LazySongs(store, split, shortest, only)

    def __len__(self) -> int:
        return len(self.songs)

    def __getitem__(self, index: int) -> Sample:
        """Raises IndexError, and TokenFileError for a damaged song."""
        return _sample(self.songs[index], 0, None)


class TokenStream(IterableDataset[Sample]):
    """One epoch of a split from `state` on, shuffled: shards in random order, and the songs of a few shards among each other.

    frames: pieces of so many, from a random place of each song (None: whole songs); shortest: shorter songs are left out; only:
    whether a song of this id is taken. rank, world:
    this process and how many there are; each gets every `world`-th song, all equally many. batch_size: that of the loader, on which
    the order depends when it has workers: `loader` makes one that has it. Iterating does not change a stream: `at` gives it another
    state.
    """

    def __init__(
        self,
        store: TokenStore,
        split: Split = "train",
        *,
        frames: int | None = None,
        shortest: int = 1,
        only: Callable[[str], bool] | None = None,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        batch_size: int = 1,
        shards_at_once: int = SHARDS_AT_ONCE,
        state: StreamState | None = None,
    ) -> None:
        """Raises ConfigError when there are fewer songs than processes, and for a state that has taken more songs than an epoch has."""
        if not 0 <= rank < world or min(batch_size, shards_at_once) < 1:
            raise ConfigError(
                f"rank {rank} of {world}, batch_size {batch_size}, shards_at_once {shards_at_once}: give a rank below world"
            )
        if seed < 0 or (frames is not None and frames < 1):
            raise ConfigError(f"seed {seed}, frames {frames}: give a seed of 0 or more, and pieces of a frame or more")
        self.store, self.split, self.frames, self.seed, self.rank, self.world = store, split, frames, seed, rank, world
        self.batch_size, self.shards_at_once = batch_size, shards_at_once
        # Shared: workers that outlive an epoch see `at` too.
        self._numbers: torch.Tensor = torch.zeros(2, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self.songs = LazySongs(store, split, shortest, only)
        if len(self.songs) < world:
            raise ConfigError(
                f"{store.path}: {len(self.songs)} {split} songs for {world} processes, of at least {shortest} frames"
                f"{' that `only` takes' if only else ''}; tokenize more, or lower shortest"
            )
        self.state = state or StreamState()
        self._shards = self.songs.shard_of(np.arange(len(self.songs)))

    @property
    def state(self) -> StreamState:
        """Where iterating begins."""
        return StreamState(*self._numbers.tolist())

    @state.setter
    def state(self, state: StreamState) -> None:
        if state.epoch < 0 or not 0 <= state.taken < len(self):  # nothing would come, and the epoch never end
            raise ConfigError(
                f"{state}: this stream has {len(self)} songs an epoch; a state is of one store, as many processes, one shortest and only; begin "
                f"with StreamState({max(0, state.epoch)})"
            )
        self._numbers[:] = torch.tensor([state.epoch, state.taken])

    def __len__(self) -> int:
        """Songs of this rank in an epoch; the few that do not go round are left out, others in each epoch."""
        return len(self.songs) // self.world

    def at(self, state: StreamState) -> TokenStream:
        """The same stream from another state on."""
        self.state = state
        return self

    def loader(self, workers: int = 0, **options: Any) -> DataLoader[Sample]:
        """Lists of `batch_size` samples; options: further ones of torch's `DataLoader`.

        Raises ConfigError for a `batch_size` of its own among them (the order of the songs would depend on the number of workers) and for
        `drop_last` (songs that never come are never taken, and the state would stay in the epoch for ever).
        """
        if options.get("batch_size", self.batch_size) != self.batch_size:
            raise ConfigError(
                f"batch_size {options['batch_size']} of the loader, {self.batch_size} of the stream: give it to the stream"
            )
        if options.get("drop_last"):
            raise ConfigError(
                "drop_last: the epoch would never end, as the last songs are not counted; in the loop, skip a batch with fewer than "
                f"{self.batch_size} samples once `state.advanced(len(batch), len(stream))` has counted it"
            )
        return DataLoader(
            self, **{"collate_fn": list, "num_workers": workers, **options, "batch_size": self.batch_size}
        )

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The songs of an epoch in the order of all ranks together; 8 bytes a song."""
        draw = np.random.default_rng([self.seed, epoch])
        shards = draw.permutation(len(self.songs.shards))
        place = np.empty(len(shards), np.int64)
        place[shards] = np.arange(len(shards))
        window = place[self._shards] // self.shards_at_once
        return np.lexsort((draw.random(len(self.songs)), window)).astype(np.int64)

    def __iter__(self) -> Iterator[Sample]:
        state, worker = self.state, get_worker_info()
        order = self.order(state.epoch)
        for number in range(state.taken, len(self)):
            batch = (number - state.taken) // self.batch_size
            if worker is not None and batch % worker.num_workers != worker.id:
                continue
            song = self.songs[int(order[number * self.world + self.rank])]
            room = 0 if self.frames is None else max(0, song.frames - self.frames)
            start = int(np.random.default_rng([self.seed, state.epoch, number, self.rank]).integers(room + 1))
            yield _sample(song, start, self.frames) | {"epoch": state.epoch, "number": number}
