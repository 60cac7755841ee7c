"""Arrays that later stages need from earlier ones, derived once: teacher masks for stage 2, latents and codes for stage 4."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from duotok.errors import ConfigError
from duotok.model.tokenizer import Tokenizer
from duotok.renderer.contract import LatentAutoencoder
from duotok.separation.chunked import ChunkedSeparator
from duotok.separation.teacher import BINS, Grid, teacher_masks
from duotok.shards.deriving import Context, derive
from duotok.shards.store import ShardStore
from duotok.tracks import TRACKS
from duotok.training.batches.latent_data import Stretch, places, sound_hashes
from duotok.training.batches.sounds import SegmentSound


@dataclass(frozen=True)
class Masks:
    """The frozen teacher's masks of a segment's mix: float16 `[4 * frames, stems * bins]`."""

    store: ShardStore
    teacher: ChunkedSeparator
    grid: Grid
    device: torch.device

    @torch.no_grad()
    def __call__(self, index: int, track: str) -> np.ndarray:
        # moved here, as this may be another process than the one that was asked
        masks = teacher_masks(self.teacher.to(self.device), SegmentSound(self.store, index).stereo(track), self.grid)
        return masks.permute(1, 0, 2).flatten(1).numpy()


def grid_of(bins: int) -> Grid:
    """The teacher's grid of so many bins. Raises ConfigError when there is none."""
    if bins not in BINS:
        raise ConfigError(f"model.mask_bins {bins}: the teacher's grids have {', '.join(map(str, BINS))} bins")
    return BINS[bins]


def compute_masks(
    store: ShardStore, teacher: ChunkedSeparator, bins: int, seconds: float, made_by: str,
    device: torch.device | None = None, workers: int = 1, among: Sequence[int] | None = None,
) -> str:  # fmt: skip
    """Masks (of so many bins) of the mixes `among` these segments (None: of all), `seconds` in all, spread over the recordings of both
    splits. They are made by `workers` processes that share the device.

    Returns the `made_by` by which batches tell them from those of another teacher, which other shards may hold. Raises
    ConfigError for a number of bins that no grid has.
    """
    grid = grid_of(bins)
    songs = store.select("train", "validation", types=("mix",), needs=("mix",))
    if among is not None:
        songs = sorted({*songs} & {*among})
    chosen, remaining = [], seconds
    for index in sorted(songs, key=lambda i: _hash_order(store, i)):
        if remaining <= 0:
            break
        chosen.append(index)
        remaining -= store.segments[index].segment.seconds
    masks = Masks(store, teacher, grid, device or torch.device("cpu"))
    stamp = f"{made_by} bins {bins}"
    derive(store, "masks", masks, tracks=("mix",), made_by=stamp, select=chosen, workers=workers)
    return stamp


def _hash_order(store: ShardStore, index: int) -> tuple[int, str]:
    """Sort key by the hash of the segment's key, so that the first n segments are spread over all recordings."""
    key = store.segments[index].segment.key
    return zlib.crc32(key.encode()), key


CONTEXT = 25
"""Token frames of neighbouring sound on each side of a segment, where there are any: more than a latent depends on."""


@dataclass(frozen=True)
class Latents:
    """The autoencoder's latents of a track: float16 `[latents_per_frame * frames, latent_dim]`.

    A segment is encoded with its neighbours, so that the latents at its ends do not depend on the cut.
    """

    autoencoder: LatentAutoencoder
    device: torch.device
    places: dict[str, dict[int, tuple[Stretch, int]]]

    def heard(self, index: int, track: str) -> tuple[int, int]:
        """The frames of the stretch from which the latents of a segment follow: the first one, and the one after the last."""
        stretch, start = self.places[track][index]
        return max(0, start - CONTEXT), min(stretch.frames, start + int(stretch.store.frames[index]) + CONTEXT)

    @torch.no_grad()
    def __call__(self, index: int, track: str) -> np.ndarray:
        stretch, start = self.places[track][index]
        frames = int(stretch.store.frames[index])
        first, stop = self.heard(index, track)
        audio = stretch.sound(first, stop - first, self.autoencoder.channels).to(self.device)
        # moved here, as this may be another process than the one that was asked
        latents = self.autoencoder.to(self.device).encode(audio[None])[0]
        per_frame = self.autoencoder.latents_per_frame
        skip = per_frame * (start - first)
        return latents[skip : skip + per_frame * frames].half().cpu().numpy()


def _places(store: ShardStore) -> dict[str, dict[int, tuple[Stretch, int]]]:
    """For each track, the stretch of every segment that renderers learn from."""
    return {track: places(store, track, "train", "validation") for track in TRACKS}


def _context(store: ShardStore, function: Latents | Codes) -> Context:
    """What tells whether the sound from which latents or codes follow has changed, that of neighbours in other shards as well."""
    sounds = sound_hashes(store, TRACKS)

    def context(index: int, track: str) -> str:
        (stretch, start), (first, stop) = function.places[track][index], function.heard(index, track)
        return stretch.sound_hash(sounds[track], first, stop - first, start)

    return context


def compute_latents(
    store: ShardStore,
    autoencoder: LatentAutoencoder,
    made_by: str,
    device: torch.device | None = None,
    workers: int = 1,
) -> str:
    """Latents of both tracks of every segment that renderers learn from, by `workers` processes that share the device.

    Returns the `made_by` by which they are told from those of another autoencoder.
    """
    covered = _places(store)
    latents = Latents(autoencoder.eval(), device or torch.device("cpu"), covered)
    stamp, context = f"{made_by} joined", _context(store, latents)
    for track in TRACKS:
        derive(
            store, "latents", latents, tracks=(track,), made_by=stamp, select=sorted(covered[track]), workers=workers,
            context=context,
        )  # fmt: skip
    return stamp


@dataclass(frozen=True)
class Codes:
    """Codes of a track in plain windows of `window` frames over its stretch: int32 `[frames, 1]`.

    A window goes over the joints between segments; it is encoded once for each segment that it touches.
    """

    tokenizer: Tokenizer
    device: torch.device
    window: int
    places: dict[str, dict[int, tuple[Stretch, int]]]

    def heard(self, index: int, track: str) -> tuple[int, int]:
        """As of `Latents`: whole windows."""
        stretch, start = self.places[track][index]
        first, stop = start - start % self.window, start + int(stretch.store.frames[index])
        return first, min(stretch.frames, first + -(-(stop - first) // self.window) * self.window)

    @torch.no_grad()
    def __call__(self, index: int, track: str) -> np.ndarray:
        stretch, start = self.places[track][index]
        frames = int(stretch.store.frames[index])
        tokenizer = self.tokenizer.to(self.device)
        codes = []
        for low in range(start - start % self.window, start + frames, self.window):
            count = min(self.window, stretch.frames - low)
            mel = torch.from_numpy(np.asarray(stretch.rows("mel", low, count), dtype=np.float32))
            codes.append(tokenizer.encode(mel[None].to(self.device), track)[0])
        skip = start % self.window
        return torch.cat(codes)[skip : skip + frames, None].cpu().numpy().astype(np.int32)


def compute_codes(
    store: ShardStore, tokenizer: Tokenizer, window: int, made_by: str, device: torch.device | None = None,
    workers: int = 1, tracks: Sequence[str] | None = None,
) -> str:  # fmt: skip
    """Codes of both tracks (or of these) of every segment that `compute_latents` covers, by `workers` processes that share the device.

    Returns the `made_by` by which they are told from those of another tokenizer, or of other windows.
    """
    covered = _places(store)
    codes = Codes(tokenizer.eval(), device or torch.device("cpu"), window, covered)
    stamp, context = f"{made_by} window {window} joined", _context(store, codes)
    for track in tracks or TRACKS:
        derive(
            store, "codes", codes, tracks=(track,), made_by=stamp, select=sorted(covered[track]), workers=workers,
            context=context,
        )  # fmt: skip
    return stamp
