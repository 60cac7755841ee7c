"""What matched decoders learn from: latents of each track (the same for all tokenizers) and each tokenizer's embeddings.

Made once for each song and kept as half precision: `latents` under the autoencoder's name, embeddings under the tokenizer's.
Sounds are brought to the loudness of the recipe by the mix, as in stage 4; a tokenizer gets the song as it is.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from duotok.audio.features import LogMel
from duotok.audio.io import resample
from duotok.audio.loudness import integrated_loudness
from duotok.clock import ANALYSIS_RATE, FRAME_RATE, FRAME_SAMPLES, MEL_RATE, SAMPLE_RATE, n_frames
from duotok.codec.contract import Codec
from duotok.errors import AudioError
from duotok.renderer.contract import LatentAutoencoder
from duotok.renderer.encoding import encode_blocks
from duotok.sealed_arrays import read_arrays, save_arrays
from duotok.suite.matched.rate import at_latent_rate
from duotok.suite.true_stems import TrueSong
from duotok.tracks import TRACKS

FORMAT = 1
LOUDNESS = -18.0
"""LUFS of the mix, as in the recipe's shards."""
Embed = Callable[[Mapping[str, Tensor]], tuple[dict[str, Tensor], float]]
"""True stems `[2, samples]` at 48 kHz -> track -> vectors `[frames, width]`, and their frame rate."""


def level(sounds: Mapping[str, Tensor]) -> float:
    """The factor that brings the mix of both tracks to LOUDNESS; 1 for silence."""
    loudness = integrated_loudness([torch.stack([sounds[track] for track in TRACKS]).sum(0)], SAMPLE_RATE)
    return 10 ** ((LOUDNESS - loudness) / 20) if math.isfinite(loudness) else 1.0


def embeddings_of(codec: Codec) -> Embed:
    """The post-quantization vectors of a tokenizer, by track. Raises AudioError for one whose streams are not the tracks."""

    @torch.inference_mode()
    def embed(sounds: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], float]:
        tokens = codec.encode(rate=SAMPLE_RATE, vocals=sounds[TRACKS[0]], accompaniment=sounds[TRACKS[1]])
        vectors = codec.embeddings(tokens)
        missing = [track for track in TRACKS if track not in vectors]
        if missing:
            raise AudioError(f"{codec.model_id}: no stream {missing[0]}; open it with both tracks")
        return {track: vectors[track].float() for track in TRACKS}, float(codec.frame_rate)

    return embed


@torch.inference_mode()
def ideal(sounds: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], float]:
    """Log-mel of each track at 100 Hz, which no tokenizer can beat by much: the upper control."""
    factor, found = level(sounds), {}
    for track in TRACKS:
        mono = resample(factor * sounds[track].mean(0, keepdim=True), SAMPLE_RATE, ANALYSIS_RATE)
        mono = torch.nn.functional.pad(mono, (0, -mono.shape[1] % (ANALYSIS_RATE // MEL_RATE)))
        found[track] = LogMel()(mono)[0]
    return found, float(MEL_RATE)


def shuffled(embed: Embed, seed: int = 0) -> Embed:
    """Vectors in a random order in time, the same order on both tracks and another in each song: the lower control."""

    def embed_shuffled(sounds: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], float]:
        vectors, rate = embed(sounds)
        first = vectors[TRACKS[0]]
        # One order for all songs of a length could be learned where crops are whole songs.
        digest = hashlib.sha256(f"{seed}\0".encode() + first.cpu().contiguous().numpy().tobytes()).digest()
        order = torch.randperm(len(first), generator=torch.Generator().manual_seed(int.from_bytes(digest[:8])))
        return {track: each[order] for track, each in vectors.items()}, rate

    return embed_shuffled


@dataclass(frozen=True)
class Material:
    """A song's arrays of one track: latents `[latent_frames, dim]`, condition `[latent_frames, width]`, float32 in memory.

    per_frame: latent frames of a token frame.
    """

    song: str
    latents: Tensor
    condition: Tensor
    per_frame: int = 2

    @property
    def frames(self) -> int:
        """Token frames of 40 ms."""
        return len(self.latents) // self.per_frame


class MaterialCache:
    """Arrays of songs in a folder. name: says whose they are, with its hash."""

    def __init__(self, folder: Path, stretch: tuple[float, float]) -> None:
        """stretch: (start, seconds) of every song."""
        self.folder, self.stretch = folder, stretch

    def _path(self, song: TrueSong, content: str, owner: str) -> Path:
        key = json.dumps([FORMAT, song.id, content, self.stretch, owner])
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"

    def tracks(
        self, song: TrueSong, content: str, owner: str, make: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Track -> array of a song, made if need be. content: of all songs; owner: whose array, with its hash."""
        path = self._path(song, content, owner)
        try:
            arrays, _ = read_arrays(path)
            return {track: arrays[track].float() for track in TRACKS}
        except (OSError, ValueError, KeyError):
            pass
        made = make(song.sound(*self.stretch))
        for track, array in made.items():
            if not array.isfinite().all():
                raise AudioError(
                    f"{song.id}: {owner.split()[0]} of {track} has values that are no numbers; leave it out"
                )
        small = all(float(array.abs().max()) < 6e4 for array in made.values())  # what half precision has room for
        stored = {track: array.half() if small else array.float() for track, array in made.items()}
        save_arrays(path, stored)
        return {track: array.float() for track, array in stored.items()}


@torch.no_grad()
def latents_of(autoencoder: LatentAutoencoder, sounds: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Track -> latents `[latent_frames, dim]` of both tracks at the recipe's loudness, a whole number of token frames."""
    factor, found = level(sounds), {}
    for track in TRACKS:
        sound = factor * sounds[track]
        if autoencoder.channels == 1:
            sound = sound.mean(0, keepdim=True)
        frames = n_frames(sound.shape[1])
        sound = torch.nn.functional.pad(sound, (0, frames * FRAME_SAMPLES - sound.shape[1]))
        found[track] = torch.cat(list(encode_blocks(autoencoder, [sound])))
    return found


def conditions_of(embed: Embed, sounds: Mapping[str, Tensor], per_frame: int) -> dict[str, Tensor]:
    """Track -> embeddings at the rate of the latents, of which a token frame has `per_frame`: `[latent_frames, width]`."""
    vectors, rate = embed(sounds)
    count = per_frame * n_frames(next(iter(sounds.values())).shape[1])
    return {track: at_latent_rate(each, rate, count, per_frame * FRAME_RATE) for track, each in vectors.items()}


def channel_statistics(materials: Sequence[Material]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel of the conditions over all songs, `[width]` each."""
    every = torch.cat([material.condition for material in materials]).double()
    return every.mean(0).float(), every.std(0, correction=0).float()
