"""Exact mixtures of segments: what stands at a position follows from (seed, position) alone.

Every cycle of sum(weights) positions holds each component exactly as often as its weight, in a shuffled order; within a
component every segment comes once before any comes again, shuffled anew each time. Shuffling is a sort by splitmix64, so
the order does not depend on a library's version.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import numpy as np
from pydantic import Field

from duotok.clock import FRAME_RATE
from duotok.config import Config
from duotok.errors import ConfigError
from duotok.random import splitmix64
from duotok.records import Kind, SampleType, Split
from duotok.shards.store import ShardStore


class Component(Config):
    """A part of a mixture: `weight` of each cycle, from the segments that the filter lets through (empty: all of them)."""

    weight: int = Field(default=1, ge=0, description="how many of each cycle; 0 = none")
    types: tuple[SampleType, ...] = ()
    kinds: tuple[Kind, ...] = ()
    corpora: tuple[str, ...] = ()
    needs: tuple[str, ...] = Field(default=(), description="tracks that a segment must be able to give")
    lyrics: bool = Field(default=False, description="only segments whose words are known")
    masks: bool = Field(
        default=False, description="only mixes whose masks the teacher made: stage 2 with `mask_seconds` of few"
    )
    seconds: float = Field(default=0.0, ge=0, description="only segments at least this long")
    optional: bool = Field(default=False, description="without segments: passed over instead of an error")

    def find(self, store: ShardStore, split: Split, name: str, masks_made_by: str | None = None) -> np.ndarray:
        """The segments `[n]` of a split that the filter lets through, with `masks` those whose masks were made by that (None: by any).

        Raises ConfigError when there is none.
        """
        indices = store.where(
            split, types=self.types, kinds=self.kinds, corpora=self.corpora, needs=self.needs, lyrics=self.lyrics
        )
        indices = indices[np.flatnonzero(store.frames[indices] >= self.seconds * FRAME_RATE)]
        if self.masks:
            indices = indices[[store.has(int(index), "mix", "masks", masks_made_by) for index in indices]]
        if len(indices) == 0 and not self.optional:
            conditions = (
                ", ".join(f"{k}={v}" for k, v in self.model_dump(exclude={"weight", "optional"}).items() if v)
                or "anything"
            )
            raise ConfigError(
                f"mixture: component '{name}' is empty: {store.ranges.url} has no {split} segment with {conditions}; "
                "give it weight 0 or add such recordings"
            )
        return indices


class Mixture:
    """Components of one split. Cheap to open at any position; keeps one or two permutations of each component.

    Raises ConfigError for a component without segments, or when all weights are 0.
    """

    def __init__(
        self,
        store: ShardStore,
        split: Split,
        components: dict[str, Component],
        seed: int,
        masks_made_by: str | None = None,
    ) -> None:
        self._arguments = (store, split, components, seed, masks_made_by)
        self.split, self.seed = split, seed
        by_component = {name: c.find(store, split, name, masks_made_by) for name, c in components.items() if c.weight}
        self.segments = {name: indices for name, indices in by_component.items() if len(indices)}
        self.components = {name: components[name] for name in self.segments}
        if not self.components:
            raise ConfigError(f"mixture: no component with a weight above 0 has {split} segments")
        self.names = tuple(self.components)
        self.cycle = sum(c.weight for c in self.components.values())
        self._slots = np.repeat(np.arange(len(self.names)), [c.weight for c in self.components.values()])
        self._orders = functools.lru_cache(maxsize=16)(self._order)
        self._permutations = functools.lru_cache(maxsize=2 * len(self.names))(self._permutation)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Mixture, self._arguments)

    def _order(self, cycle: int) -> tuple[np.ndarray, np.ndarray]:
        """For each position of a cycle: its component, and how many of that component came before it in this cycle."""
        components = self._slots[permutation(len(self._slots), self.seed, 0, cycle)]
        before = [int((components[:i] == c).sum()) for i, c in enumerate(components)]
        return components, np.array(before)

    def _permutation(self, component: int, visit: int) -> np.ndarray:
        name = self.names[component]
        return permutation(len(self.segments[name]), self.seed, text_seed(name), visit)

    def draw(self, position: int) -> tuple[str, int, int]:
        """Component, segment index and visit (how often all of the component had come before) at a position from 0."""
        cycle, place = divmod(position, self.cycle)
        components, before = self._orders(cycle)
        component = int(components[place])
        name = self.names[component]
        number = cycle * self.components[name].weight + int(before[place])
        visit, at = divmod(number, len(self.segments[name]))
        return name, int(self.segments[name][self._permutations(component, visit)[at]]), visit


def text_seed(text: str) -> int:
    """A 63-bit number for a name."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def permutation(size: int, *seeds: int) -> np.ndarray:
    """A shuffle of `range(size)` as uint32 `[size]`: the order of splitmix64(seeds, 0 ... size - 1)."""
    state = np.zeros(1, dtype=np.uint64)
    for seed in seeds:
        state = splitmix64(state ^ np.uint64(seed & 0xFFFFFFFFFFFFFFFF))
    keys = splitmix64(splitmix64(np.arange(size, dtype=np.uint64) ^ state))
    return np.argsort(keys, kind="stable").astype(np.uint32)
