"""Embeddings of tagged recordings, made once for each tokenizer and kept: what a probe reads.

The mix goes in, as a listener hears it: a dual-track tokenizer separates it itself, a single-stream tokenizer codes it whole.
What is kept are the codes and the post-quantization vectors `codec.embeddings(tokens)`, streams side by side on the channel
axis (the public evaluation code does both); nothing of the encoder's. A file is named after the sound's hash, the stretch,
the tokenizer's hash and its separator's, so that it is made anew when one of them changes.

Controls that need no other run of the tokenizer: `untrained`, the same codes with a random vector for each code of each codebook;
`shuffled`, the true vectors in a random order in time; and `mel`, mean and deviation of the log-mel of each 40 ms, no tokenizer.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from duotok.audio.features import LogMel
from duotok.audio.io import read, resample
from duotok.clock import ANALYSIS_RATE, FRAME_RATE, FRAME_SAMPLES, MEL_PER_FRAME, SAMPLE_RATE
from duotok.codec.contract import Codec
from duotok.errors import AudioError, BundleError
from duotok.files import sha256
from duotok.random import ItemRandom, item_seed
from duotok.records import Recording
from duotok.sealed_arrays import read_arrays, save_arrays
from duotok.separation import ChunkedSeparator, separator_by_name
from duotok.separation.choose import separator_stamp
from duotok.separation.identity import separator_identity
from duotok.suite.tagging.tag_sets import sources
from duotok.tokens import Tokens
from duotok.tracks import TRACKS

FORMAT = 1
Condition = Literal["tokens", "untrained", "shuffled", "mel"]
CONTROLS: tuple[Condition, ...] = ("untrained", "shuffled", "mel")
RANDOM_WIDTH = 128
"""Numbers of a random vector of `untrained`; with so many, those of different codes hardly overlap."""
MEL = "mel statistics"
"""The name under which the control that needs no tokenizer stands in tables."""


@dataclass(frozen=True)
class Embedded:
    """One recording: where its file is, frames and width of its embeddings."""

    path: Path
    frames: int
    width: int

    def vectors(self, start: int, stop: int) -> Tensor:
        """float `[stop - start, width]` of the tokenizer's vectors."""
        with safe_open(str(self.path), "pt") as file:
            found: Tensor = file.get_slice("embeddings")[start:stop]
        return found.float()

    def codes(self) -> Tensor:
        """int64 `[books of all streams, frames]`."""
        with safe_open(str(self.path), "pt") as file:
            found: Tensor = file.get_tensor("codes")
        return found.long()


def excerpt_of(item: Recording, seconds: float) -> Tensor:
    """The mix of a recording `[2, samples]` at 48 kHz: at most `seconds`, from its middle. Raises AudioError."""
    paths = sources(item)
    length = item.stop - item.start if item.stop else item.seconds
    start = item.start + (max(0.0, (length - seconds) / 2) if length else 0.0)
    parts = [read(path, SAMPLE_RATE, 2, start=start, seconds=seconds) for path in paths]
    shortest = min(part.shape[1] for part in parts)
    if not shortest:
        raise AudioError(
            f"{paths[0]}: no sound after {start:.1f} s; leave it out, or correct its length in the metadata"
        )
    return torch.stack([part[:, :shortest] for part in parts]).sum(0)


class EmbeddingCache:
    """Embeddings of one tokenizer, or of no tokenizer (`codec` None: mel statistics), in a folder.

    problems: recording id -> why it has none; such recordings are left out by name.
    """

    def __init__(self, folder: Path, codec: Codec | None, seconds: float) -> None:
        self.codec, self.seconds = codec, seconds
        self.model_hash = (
            codec.model_hash if codec is not None else hashlib.sha256(f"{MEL} {FORMAT}".encode()).hexdigest()
        )
        self.frame_rate = float(codec.frame_rate) if codec is not None else FRAME_RATE
        self.folder = folder / self.model_hash[:16]
        self.problems: dict[str, str] = {}
        self._separator: ChunkedSeparator | None = None

    @functools.cached_property
    def separator(self) -> str:
        """What takes mixes apart for a tokenizer of two tracks, whose own hash leaves it out; "" where nothing does."""
        if self.codec is None or {stream.name for stream in self.codec.streams} != {*TRACKS}:
            return ""
        own = getattr(self.codec, "separator", None)
        return separator_stamp("mini") if own is None else separator_identity(own)[1]

    def path(self, item: Recording) -> Path:
        """The file of a recording. Raises AudioError when its sound is missing."""
        files = sources(item)
        try:
            hashes = [sha256(path) for path in files]
        except OSError as error:
            raise AudioError(
                f"{files[0]}: cannot be read ({error.strerror}); put the sound there or leave it out"
            ) from None
        made_by = [FORMAT, self.model_hash, *filter(None, [self.separator])]
        key = [*made_by, self.seconds, item.start, item.stop, item.seconds, *hashes]
        return self.folder / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.safetensors"

    def missing(self, items: Sequence[Recording]) -> list[Recording]:
        """Recordings whose embeddings are not there yet."""
        return [item for item in items if item.id not in self.problems and self._found(item) is None]

    def _found(self, item: Recording) -> Embedded | None:
        try:
            path = self.path(item)
            frames, width = read_arrays(path)[0]["embeddings"].shape
            return Embedded(path, frames, width)
        except (OSError, ValueError, KeyError):
            return None
        except AudioError as error:
            self.problems[item.id] = str(error)
            return None

    def get(self, item: Recording, again: bool = False) -> Embedded | None:
        """The embeddings of a recording, made if need be (again: also if not); None when its sound cannot be used (see `problems`)."""
        found = None if again else self._found(item)
        if found is not None or item.id in self.problems:
            return found
        try:
            save_arrays(self.path(item), self._make(item))
        except (AudioError, BundleError) as error:
            self.problems[item.id] = str(error)
            return None
        return self._found(item)

    @torch.inference_mode()
    def embed(self, sound: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings `[frames, width]` and codes `[books, frames]` of a mix `[2, samples]` at 48 kHz."""
        if self.codec is None:
            return mel_statistics(sound), torch.zeros(0, 0, dtype=torch.int32)
        tokens = self._tokens(self.codec, sound)
        vectors = self.codec.embeddings(tokens)
        names = [stream.name for stream in self.codec.streams]
        embeddings = torch.cat([vectors[name].float() for name in names], dim=-1)
        return embeddings, torch.cat([tokens[name].reshape(-1, len(embeddings)) for name in names]).int()

    def _make(self, item: Recording) -> dict[str, Tensor]:
        embeddings, codes = self.embed(excerpt_of(item, self.seconds))
        if not embeddings.isfinite().all():
            raise AudioError(
                f"{item.id}: embeddings that are no numbers; check the tokenizer with `duotok codecs check`"
            )
        # Half precision has room for the largest vectors only after a look at them.
        kind = torch.float16 if float(embeddings.abs().max()) < 6e4 else torch.float32
        return {"embeddings": embeddings.to(kind), "codes": codes}

    def _tokens(self, codec: Codec, sound: Tensor) -> Tokens:
        names = {stream.name for stream in codec.streams}
        if names != {*TRACKS} or getattr(codec, "separator", None) is not None:
            return codec.encode(sound, SAMPLE_RATE)
        if (
            self._separator is None
        ):  # two tracks, and nothing to take the mix apart: the separator of the bundled model does
            self._separator = separator_by_name("mini")
        stems = self._separator.separate(sound)
        return codec.encode(None, SAMPLE_RATE, vocals=stems[TRACKS[0]], accompaniment=stems[TRACKS[1]])


def mel_statistics(sound: Tensor) -> Tensor:
    """Mean and deviation of each of 128 log-mel bins over the four steps of each 40 ms: `[channels, samples]` at 48 kHz to
    `[frames, 256]`."""
    samples = FRAME_SAMPLES * ANALYSIS_RATE // SAMPLE_RATE
    mono = resample(sound.mean(0, keepdim=True), SAMPLE_RATE, ANALYSIS_RATE)
    mono = torch.nn.functional.pad(mono, (0, -mono.shape[1] % samples))
    mel = LogMel()(mono)[0]
    steps = mel.reshape(-1, MEL_PER_FRAME, mel.shape[-1])
    return torch.cat([steps.mean(1), steps.std(1, correction=0)], dim=-1)


def reader(embedded: Sequence[Embedded], condition: Condition, seed: int) -> Callable[[int, int, int], Tensor]:
    """(song, first frame, last frame + 1) -> embeddings under a condition, `[frames, width]`; the seed is that of controls."""
    if condition == "shuffled":
        return lambda song, start, stop: _rows(embedded[song], order_of(embedded[song].frames, seed, song)[start:stop])
    if condition == "untrained":
        width = embedded[0].width
        return lambda song, start, stop: random_vectors(embedded[song].codes()[:, start:stop], width, seed)
    return lambda song, start, stop: embedded[song].vectors(start, stop)


def _rows(embedded: Embedded, rows: np.ndarray) -> Tensor:
    return embedded.vectors(0, embedded.frames)[torch.from_numpy(rows)]


def order_of(frames: int, seed: int, song: int) -> np.ndarray:
    """A random order of a song's frames, the same for all of its codebooks and streams."""
    return np.random.default_rng((seed, song, frames)).permutation(frames)


def random_vectors(codes: Tensor, width: int, seed: int) -> Tensor:
    """Sum over codebooks of a random vector for each code: `[books, frames]` to `[frames, width]`.

    A code has the same vector wherever it occurs, standard normal of RANDOM_WIDTH numbers, which a fixed random matrix
    brings to the width of the true ones, so that probes have the same size; no table is kept.
    """
    total = torch.zeros(codes.shape[1], RANDOM_WIDTH)
    for book, row in enumerate(codes):
        unique, places = row.unique(return_inverse=True)
        seeds = [item_seed(seed, book, code) for code in unique.tolist()]
        total += ItemRandom(seeds).normal(1, RANDOM_WIDTH)[:, 0][places]
    spread = torch.randn(RANDOM_WIDTH, width, generator=torch.Generator().manual_seed(seed))
    mapped: Tensor = total @ spread / (max(1, len(codes)) * RANDOM_WIDTH) ** 0.5
    return mapped
