"""Batches for stages 1 to 3: crops of segments with mel, chroma, track, lyrics and teacher masks.

The mixture decides which segment is at which place of a batch; all else about an item (crop, gain, pseudo-mix) is drawn
from the seed of the item, so a batch may be split over processes, drawn in advance or drawn again. The drawn crop
(`CropPlan`) is cut out of the arrays of a store here, or on the device that holds all of them (`resident`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from duotok.audio.features import HIGHPASS_HZ, MEL_MEAN, MEL_STD, POWER_FLOOR
from duotok.clock import MEL_PER_FRAME
from duotok.config import Config
from duotok.lyrics.text import BertVocabulary, CharacterVocabulary, TextVocabulary
from duotok.random import item_seed
from duotok.records import SampleType, Split
from duotok.shards.features import Features, made_by
from duotok.shards.index import Stored
from duotok.shards.mixture import Component, Mixture
from duotok.shards.store import ShardStore
from duotok.tracks import STEMS, TRACKS

Batch = dict[str, Any]

FRAME_SECONDS = 0.04
LYRIC_TYPES: tuple[SampleType, ...] = ("mix", "vocals", "accompaniment")
ROUNDING = 1e-6  # of word times given in decimal fractions of a second
MEL_A_DB = math.log(10) / 10 / MEL_STD
FLOOR = (math.log(POWER_FLOOR) - MEL_MEAN) / MEL_STD


class PseudoMix(Config):
    """Mixes of an unrelated voice and band: `share` of all mixes. Not in the paper."""

    share: float = Field(default=0.0, ge=0, le=1)
    voices: Component = Component(kinds=("voice", "speech"), needs=("vocals",), optional=True)
    bands: Component = Component(types=("instrumental",), optional=True)
    level_db: float = Field(default=-3.0, description="mean level of the voice against the band")
    level_std_db: float = Field(default=4.0, ge=0)


class CropConfig(Config):
    """A stage's settings for its crops."""

    frames: int = Field(default=256, ge=5, description="token frames of a crop; a shorter segment is taken whole")
    highpass_hz: float = Field(
        default=HIGHPASS_HZ,
        ge=0,
        le=100,
        description="of the front end: before mel and chroma; the bundle's encoder does the same",
    )
    gain_std_db: float = Field(default=3.0, ge=0)
    pseudo_mix: PseudoMix = PseudoMix()
    vocabulary: str = Field(
        default="characters", description="or a vocab.txt of BERT, its folder, or its name on the hub"
    )
    asr_coverage: Literal["vocals", "mix+vocals"] = Field(
        default="vocals", description="which samples have text; the paper: lyric-active vocals only (C.3)"
    )
    mask_bins: int = Field(default=0, ge=0, description="bins of a stem's mask; 0 = no masks in the batch")


@dataclass(frozen=True)
class CropPart:
    """The part of a crop that comes from one segment: frames of one track from `start` on, `gain_db` louder."""

    index: int
    track: str
    start: int
    gain_db: float


@dataclass(frozen=True)
class CropPlan:
    """A crop as it was drawn: `count` token frames of one part, or of two that are mixed. `chroma`: the part whose chroma is used."""

    key: str
    type: SampleType
    track: str
    count: int
    parts: tuple[CropPart, ...]
    chroma: int = 0
    text: str = ""


@dataclass(frozen=True)
class CropItem:
    """One crop. mel `[4 frames, 128]`, chroma `[4 frames, 12]`, masks `[4 frames, stems x bins]` or None; `text` as words."""

    key: str
    type: SampleType
    track: str
    mel: Tensor
    chroma: Tensor
    text: str = ""
    masks: Tensor | None = None

    @property
    def frames(self) -> int:
        return len(self.mel) // MEL_PER_FRAME


class DeviceArrays(Protocol):
    """All arrays on one device (`resident.Resident`): a batch then holds places in them, and no array is copied to the device."""

    def places(self, plans: Sequence[CropPlan]) -> Batch: ...

    def cut(self, batch: Batch, device: torch.device) -> Batch: ...


class CropBatches:
    """Draws batches of `batch_size` items (of all processes together) from a mixture of one split.

    Mel, chroma and masks are read where they were derived; otherwise mel and chroma are computed from the sound.
    masks_made_by: only masks that were made by that, None for any. Raises ConfigError for a component without segments.
    """

    def __init__(
        self, store: ShardStore, split: Split, mixture: dict[str, Component], *, seed: int, batch_size: int,
        config: CropConfig = CropConfig(), masks_made_by: str | None = None,
    ) -> None:  # fmt: skip
        self.store, self.seed, self.batch_size, self.config = store, seed, batch_size, config
        self.mixture = Mixture(store, split, mixture, seed, masks_made_by)
        self.features = Features(store, config.highpass_hz)
        self.made_by, self.masks_made_by = made_by(config.highpass_hz), masks_made_by
        self.vocabulary = vocabulary(config.vocabulary)
        pseudo = config.pseudo_mix
        self.pools: dict[str, np.ndarray] = {}
        if pseudo.share:
            for name, component in (("pseudo_mix.voices", pseudo.voices), ("pseudo_mix.bands", pseudo.bands)):
                self.pools[name] = component.find(store, split, name, masks_made_by)
        if not all(len(pool) for pool in self.pools.values()):
            self.pools = {}  # nothing to mix: real mixes only
        self.resident: DeviceArrays | None = None

    def batch(self, step: int, items: Sequence[int]) -> Batch:
        """Items of the batch of a step; an item does not depend on which others are requested.

        mel `[items, 4 frames, 128]`, chroma `[items, 4 frames, 12]` (zeros behind an item's end), lengths `[items]` in token
        frames, track `[items]` (index into TRACKS; a mix counts as accompaniment), text `[items, longest]` with
        text_lengths `[items]` (0 where lyrics must not count), masks `[items, 4 frames, 4, bins]` with masks_items
        `[items]`; lyrics `[items]`: whether words are sung in it; types and ids: lists; seeds `[items]`. With `resident`
        the arrays come later, from `filled`.
        """
        plans = [self.plan(step, item) for item in items]
        batch = self._text_fields(plans)
        batch["seeds"] = torch.tensor([item_seed(self.seed, step, item) for item in items])
        if self.resident is not None:
            return batch | self.resident.places(plans)
        crops = [self.cut(plan) for plan in plans]
        rows = MEL_PER_FRAME * max(plan.count for plan in plans)
        batch["mel"] = pad_stack([item.mel for item in crops], rows)
        batch["chroma"] = pad_stack([item.chroma for item in crops], rows)
        if bins := self.config.mask_bins:
            empty = torch.zeros(0, len(STEMS) * bins)
            masks = pad_stack([empty if item.masks is None else item.masks for item in crops], rows)
            batch["masks"] = masks.view(len(crops), rows, len(STEMS), bins)
            batch["masks_items"] = torch.tensor([item.masks is not None for item in crops])
        return batch

    def _text_fields(self, plans: Sequence[CropPlan]) -> Batch:
        """Everything in a batch but the arrays of features."""
        covered = self.config.asr_coverage.split("+")
        texts = [self.vocabulary.encode(plan.text) if plan.type in covered else [] for plan in plans]
        return {
            "lengths": torch.tensor([plan.count for plan in plans]),
            "track": torch.tensor([0 if plan.track == TRACKS[0] else 1 for plan in plans]),
            "text": torch.nn.utils.rnn.pad_sequence(
                [torch.tensor(text, dtype=torch.long) for text in texts], batch_first=True
            ),
            "text_lengths": torch.tensor([len(text) for text in texts]),
            "lyrics": torch.tensor([bool(plan.text) for plan in plans]),
            "types": [plan.type for plan in plans],
            "ids": [plan.key for plan in plans],
        }

    def filled(self, batch: Batch, device: torch.device) -> Batch:
        """A batch on `device` with its mel, chroma and masks: itself, or what `resident` cuts for it."""
        if self.resident is None or "mel" in batch:
            return batch
        return {**batch, **self.resident.cut(batch, device)}

    def cut_from(self) -> list[tuple[int, str]]:
        """Every (segment, track) that a crop may be cut from."""
        places: dict[tuple[int, str], None] = {}
        for name, indices in self.mixture.segments.items():
            allowed_types = self.mixture.components[name].types
            for index in indices.tolist():
                stored = self.store.segments[index]
                for kind in stored.segment.types:
                    if not allowed_types or kind in allowed_types:
                        places[index, track_of(kind, stored)] = None
        for pool, track in zip(self.pools.values(), TRACKS, strict=False):
            places.update({(index, track): None for index in pool.tolist()})
        return sorted(places)

    def plan(self, step: int, item: int) -> CropPlan:
        """The crop at an index of the batch of a step: a pure function of (seed, step, item)."""
        rng = np.random.default_rng(item_seed(self.seed, step, item))
        name, index, _ = self.mixture.draw(step * self.batch_size + item)
        stored = self.store.segments[index]
        allowed_types = self.mixture.components[name].types
        types = [t for t in stored.segment.types if not allowed_types or t in allowed_types]
        kind = types[int(rng.integers(len(types)))]
        gain = float(rng.normal(0, self.config.gain_std_db))
        if kind == "mix" and self.pools and rng.random() < self.config.pseudo_mix.share:
            return self._pseudo_mix(rng, gain)
        track = track_of(kind, stored)
        start, count = crop(rng, stored, self.config.frames, lyric_active=kind in LYRIC_TYPES)
        text = text_inside(stored, start, count) if kind in ("mix", "vocals") else ""
        return CropPlan(stored.segment.key, kind, track, count, (CropPart(index, track, start, gain),), text=text)

    def _pseudo_mix(self, rng: np.random.Generator, gain: float) -> CropPlan:
        voice, band = (int(pool[int(rng.integers(len(pool)))]) for pool in self.pools.values())
        voice_segment, band_segment = self.store.segments[voice], self.store.segments[band]
        longest = min(self.config.frames, voice_segment.segment.frames, band_segment.segment.frames)
        start, count = crop(rng, voice_segment, longest, lyric_active=True)
        band_start, _ = crop(rng, band_segment, longest, lyric_active=False)
        level = float(rng.normal(self.config.pseudo_mix.level_db, self.config.pseudo_mix.level_std_db))
        parts = (CropPart(voice, "vocals", start, gain + level), CropPart(band, "accompaniment", band_start, gain))
        key = f"{voice_segment.segment.key}+{band_segment.segment.key}"
        return CropPlan(
            key, "mix", "mix", count, parts, 0 if level > 0 else 1, text_inside(voice_segment, start, count)
        )

    def item(self, step: int, item: int) -> CropItem:
        """The item at an index of the batch of a step: a pure function of (seed, step, item)."""
        return self.cut(self.plan(step, item))

    def cut(self, plan: CropPlan) -> CropItem:
        """A drawn crop, cut out of the arrays of the store."""
        features = [self._features(part.index, part.track, part.start, plan.count) for part in plan.parts]
        mels = [gain_mel(mel, part.gain_db) for (mel, _), part in zip(features, plan.parts, strict=True)]
        mel = mels[0] if len(mels) == 1 else mix_mels(*mels)
        first = plan.parts[0]
        masks = (
            self._masks(first.index, first.start, plan.count) if plan.type == "mix" and len(plan.parts) == 1 else None
        )
        return CropItem(plan.key, plan.type, plan.track, mel, features[plan.chroma][1], plan.text, masks)

    def _features(self, index: int, track: str, start: int, count: int) -> tuple[Tensor, Tensor]:
        names = ("mel", "chroma")
        if all(self.store.has(index, track, name, self.made_by) for name in names):
            first, rows = MEL_PER_FRAME * start, MEL_PER_FRAME * count
            arrays = {name: self.store.rows(index, track, name, first, rows) for name in names}
        else:
            arrays = self.features.rows(index, track, names, start, count)
        mel, chroma = (torch.from_numpy(arrays[name].astype(np.float32)) for name in names)
        return mel, chroma

    def _masks(self, index: int, start: int, count: int) -> Tensor | None:
        if not self.config.mask_bins or not self.store.has(index, "mix", "masks", self.masks_made_by):
            return None
        rows = self.store.rows(index, "mix", "masks", MEL_PER_FRAME * start, MEL_PER_FRAME * count)
        return torch.from_numpy(rows.astype(np.float32))


def vocabulary(name: str) -> TextVocabulary:
    """`characters`, or BERT's word pieces from the path or hub name `name`."""
    return CharacterVocabulary() if name == "characters" else BertVocabulary(name)


def track_of(kind: SampleType, stored: Stored) -> str:
    """The track of a sample of this type; for `other` the mix where there is one, else the track that the segment has."""
    if kind == "instrumental":
        return "accompaniment"
    if kind == "other":
        return next(track for track in ("mix", *TRACKS) if track in stored.parts)
    return kind


def crop(rng: np.random.Generator, stored: Stored, longest: int, lyric_active: bool) -> tuple[int, int]:
    """First token frame and number of frames; with `lyric_active` at least one whole word is inside, where possible."""
    segment = stored.segment
    count = min(longest, segment.frames)
    low, high = 0, segment.frames - count
    if lyric_active and segment.words and high:
        _, begin, end = segment.words[int(rng.integers(len(segment.words)))]
        first = math.ceil(end / FRAME_SECONDS - ROUNDING) - count
        last = math.floor(begin / FRAME_SECONDS + ROUNDING)
        if max(first, 0) <= min(last, high):
            low, high = max(first, 0), min(last, high)
    return int(rng.integers(low, high + 1)), count


def text_inside(stored: Stored, start: int, count: int) -> str:
    """The words that are sung entirely within these frames; the whole text when the frames are the whole segment."""
    segment = stored.segment
    if count == segment.frames:
        return segment.text
    first, last = start * FRAME_SECONDS - ROUNDING, (start + count) * FRAME_SECONDS + ROUNDING
    return " ".join(word for word, begin, end in segment.words if begin >= first and end <= last)


def gain_mel(mel: Tensor, gain_db: float) -> Tensor:
    """Normalised log-mel as if the sound were `gain_db` louder; values at the floor stay there when the gain is negative."""
    louder: Tensor = mel + gain_db * MEL_A_DB
    return louder.clamp_min(FLOOR)


def mix_mels(first: Tensor, second: Tensor) -> Tensor:
    """Normalised log-mel of two unrelated sounds at once: their powers add.

    What is at the floor in both stays there. Chroma of a sum is not the sum of chromas; that of the louder part is close enough.
    """
    both = torch.logaddexp(first * MEL_STD, second * MEL_STD)
    return (both + torch.log1p(-torch.exp(FLOOR * MEL_STD - both))) / MEL_STD  # less one floor: each stands for 0 to 1 of it


def pad_stack(items: list[Tensor], rows: int) -> Tensor:
    """Stack `[rows_i, bins]` with zeros behind to `[items, rows, bins]`."""
    return torch.stack([torch.nn.functional.pad(item, (0, 0, 0, rows - len(item))) for item in items])
