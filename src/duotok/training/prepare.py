"""What later stages need from earlier ones, derived once: teacher masks for stage 2, latents and codes for stage 4."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch

from duotok.corpora.derived import derive
from duotok.corpora.store import ShardStore
from duotok.errors import ConfigError
from duotok.model.tokenizer import Tokenizer
from duotok.renderer.autoencoder import Autoencoder
from duotok.separation.separator import Separator
from duotok.separation.teacher import BINS, Grid, teacher_masks
from duotok.tokens import TRACKS
from duotok.training.sounds import Sound

MEL_PER_FRAME = 4


def device_of(module: torch.nn.Module) -> torch.device:
    return next(module.parameters()).device


@dataclass(frozen=True)
class Masks:
    """The frozen teacher's masks of a segment's mix: float16 `[4 * frames, stems * bins]`."""

    store: ShardStore
    teacher: Separator
    grid: Grid

    @torch.no_grad()
    def __call__(self, index: int, track: str) -> np.ndarray:
        masks = teacher_masks(self.teacher, Sound(self.store, index).stereo(track), self.grid)
        return masks.permute(1, 0, 2).flatten(1).numpy()


def compute_masks(store: ShardStore, teacher: Separator, bins: int, seconds: float, made_by: str) -> None:
    """Masks (of so many bins) of mixes with singing, `seconds` in all, spread over the recordings of both splits.

    Raises ConfigError for a number of bins that no grid has.
    """
    if bins not in BINS:
        raise ConfigError(f"model.mask_bins {bins}: the teacher's grids have {', '.join(map(str, BINS))} bins")
    songs = store.select("train", "validation", types=("mix",), needs=("mix",))
    chosen, left = [], seconds
    for index in sorted(songs, key=lambda i: _scatter(store, i)):
        if left <= 0:
            break
        chosen.append(index)
        left -= store.segments[index].segment.seconds
    made = Masks(store, teacher, BINS[bins])
    derive(store, "masks", made, tracks=("mix",), made_by=f"{made_by} bins {bins}", select=chosen)


def _scatter(store: ShardStore, index: int) -> tuple[int, str]:
    """An order in which the first n segments are spread over all recordings and places: by the key's hash."""
    key = store.segments[index].segment.key
    return zlib.crc32(key.encode()), key


@dataclass(frozen=True)
class Latents:
    """The autoencoder's latents of a track: float16 `[2 * frames, latent_dim]`."""

    store: ShardStore
    autoencoder: Autoencoder

    @torch.no_grad()
    def __call__(self, index: int, track: str) -> np.ndarray:
        audio = Sound(self.store, index).mono(track).to(device_of(self.autoencoder))
        return self.autoencoder.encode(audio[None, None])[0].half().cpu().numpy()


def compute_latents(store: ShardStore, autoencoder: Autoencoder, made_by: str) -> None:
    """Latents of both tracks of every segment that is music or singing."""
    made = Latents(store, autoencoder.eval())
    derive(store, "latents", made, tracks=TRACKS, made_by=made_by, select=rendered(store))


def rendered(store: ShardStore) -> list[int]:
    """Segments that renderers learn from: all that have a track of their own, sounds and test recordings apart."""
    kinds = ("song", "music", "instrumental", "voice", "speech")
    return [i for i in store.select("train", "validation", kinds=kinds) if {*TRACKS} & {*store.tracks(i)}]


@dataclass(frozen=True)
class Codes:
    """Codes of a track in plain windows of `window` frames: int32 `[frames, 1]`."""

    store: ShardStore
    tokenizer: Tokenizer
    window: int

    @torch.no_grad()
    def __call__(self, index: int, track: str) -> np.ndarray:
        mel = torch.from_numpy(np.asarray(self.store.rows(index, track, "mel"), dtype=np.float32))
        mel = mel.to(device_of(self.tokenizer))
        step = self.window * MEL_PER_FRAME
        codes = [self.tokenizer.encode(mel[None, s : s + step], track)[0] for s in range(0, len(mel), step)]
        return torch.cat(codes)[:, None].cpu().numpy().astype(np.int32)


def compute_codes(store: ShardStore, tokenizer: Tokenizer, window: int, made_by: str) -> None:
    """Codes of both tracks of every segment that `compute_latents` covers."""
    made = Codes(store, tokenizer.eval(), window)
    derive(store, "codes", made, tracks=TRACKS, made_by=f"{made_by} window {window}", select=rendered(store))
