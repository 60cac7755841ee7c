"""Batches for stages 1 to 3: crops of precomputed features with their track, lyrics and teacher masks.

The paper's four sample types (4.1, C.2) are pools here: full mix, lyric-active vocals, lyric-aligned accompaniment,
instrumental-only accompaniment; their shares are the stage's config.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from duotok.audio.features import MEL_STD
from duotok.lyrics.text import CharacterVocabulary
from duotok.tokens import TRACKS
from duotok.training.corpus import Corpus
from duotok.training.features import (
    MEL_PER_FRAME,
    Crops,
    Source,
    feature_path,
    find_sources,
    gain_mel,
    load_array,
    pad_stack,
    read_features,
)

FRAME_SECONDS = 0.04
POOLS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # pool: (kinds, tracks)
    "mix": (("dual", "generated", "song"), ("mix",)),
    "vocals": (("dual", "generated"), ("vocals",)),
    "solo": (("chant", "speech"), ("vocals",)),
    "accompaniment": (("dual", "generated"), ("accompaniment",)),
    "instrumental": (("instrumental",), ("accompaniment",)),
    "sound": (("sound", "loop"), ("mix",)),
}


def mel_power_sum(a: Tensor, b: Tensor) -> Tensor:
    """Normalised log-mel of the sum of two unrelated sounds: powers add."""
    return torch.logaddexp(a * MEL_STD, b * MEL_STD) / MEL_STD


class CropBatches:
    """Draws batches from pools with given shares; `pseudo_mix` is the share of mixes that are made of unrelated vocals and accompaniment."""

    def __init__(
        self,
        corpus: Corpus,
        split: str,
        shares: dict[str, float],
        frames: int,
        gain_std_db: float = 3.0,
        pseudo_mix: float = 0.0,
        mask_bins: int = 0,
    ) -> None:
        self.frames, self.gain_std_db, self.pseudo_mix, self.mask_bins = frames, gain_std_db, pseudo_mix, mask_bins
        self.vocabulary = CharacterVocabulary()
        self.cache = corpus.cache
        self.words: dict[str, list[tuple[str, float, float]]] = {}
        self.pools: dict[str, Crops] = {}
        shares = {name: share for name, share in shares.items() if share > 0}
        for name in {*shares, *(("solo", "instrumental") if pseudo_mix else ())}:
            kinds, tracks = POOLS[name]
            by_kind = [find_sources(corpus, split, [kind], tracks) for kind in kinds]
            # Kinds of a pool count by the square root of their length, so that the largest does not drown the others.
            weighted = [(float(np.sqrt(sum(s.frames for s in found))), found) for found in by_kind]
            if any(found for _, found in weighted):
                self.pools[name] = Crops(weighted, frames)
        self.names = [name for name in shares if name in self.pools]
        weights = np.array([shares[name] for name in self.names])
        self.weights = weights / weights.sum()

    def _words(self, source: Source) -> list[tuple[str, float, float]]:
        """Words with times in seconds; empty where the recording has none."""
        key = source.recording.id
        if key not in self.words:
            path = Path(source.recording.source)
            entries: list[Any] = []
            if path.name == "song.json" and path.is_file():
                entries = json.loads(path.read_text(encoding="utf-8"))["words"]
            self.words[key] = [(str(w["text"]), float(w["start"]), float(w["end"])) for w in entries]
        return self.words[key]

    def lyrics(self, source: Source, start: int, count: int) -> list[int]:
        """Character classes of the words that are sung wholly inside the crop; none where the track carries no voice."""
        if source.track == "accompaniment":
            return []
        first, last = start * FRAME_SECONDS, (start + count) * FRAME_SECONDS
        inside = [text for text, begin, end in self._words(source) if begin >= first and end <= last]
        return self.vocabulary.encode(" ".join(inside))

    def batch(self, seed: tuple[int, ...], size: int) -> dict[str, Tensor]:
        """A pure function of `seed`: mel, chroma, lengths, track (0 vocals, 1 accompaniment), text, masks with `masks_items`."""
        rng = np.random.default_rng(seed)
        mels, chromas, masks, texts, lengths, tracks, has_masks = [], [], [], [], [], [], []
        for _ in range(size):
            name = self.names[int(rng.choice(len(self.names), p=self.weights))]
            gain = float(rng.normal(0, self.gain_std_db))
            mask = None
            if name == "mix" and rng.random() < self.pseudo_mix:
                mel, chroma, count = self._unrelated_mix(rng, gain)
                text: list[int] = []
            else:
                source, start, count = self.pools[name].draw(rng)
                mel = gain_mel(read_features(source, "mel", start, count), gain)
                chroma = read_features(source, "chroma", start, count)
                text = self.lyrics(source, start, count)
                mask = self._masks(source, start, count) if name == "mix" else None
            tracks.append(0 if name in ("vocals", "solo") else 1)
            mels.append(mel)
            chromas.append(chroma)
            texts.append(torch.tensor(text, dtype=torch.long))
            lengths.append(count)
            has_masks.append(mask is not None)
            masks.append(mask if mask is not None else torch.zeros(0, 4 * self.mask_bins))
        rows = MEL_PER_FRAME * max(lengths)
        result = {
            "mel": pad_stack(mels, rows),
            "chroma": pad_stack(chromas, rows),
            "lengths": torch.tensor(lengths),
            "track": torch.tensor(tracks),
            "text": torch.nn.utils.rnn.pad_sequence(texts, batch_first=True),
            "text_lengths": torch.tensor([len(t) for t in texts]),
        }
        if self.mask_bins:
            result["masks"] = pad_stack(masks, rows).view(size, rows, 4, self.mask_bins)
            result["masks_items"] = torch.tensor(has_masks)
        return result

    def _unrelated_mix(self, rng: np.random.Generator, gain: float) -> tuple[Tensor, Tensor, int]:
        voice, start, count = self.pools["solo"].draw(rng)
        band, band_start, band_count = self.pools["instrumental"].draw(rng)
        count = min(count, band_count)
        level = float(rng.normal(-3, 4))
        mel = mel_power_sum(
            gain_mel(read_features(voice, "mel", start, count), gain + level),
            gain_mel(read_features(band, "mel", band_start, count), gain),
        )
        # Chroma of a sum is not the sum of chromas; the louder part's is close enough to learn from.
        louder = (voice, start) if level > 0 else (band, band_start)
        return mel, read_features(louder[0], "chroma", louder[1], count), count

    def _masks(self, source: Source, start: int, count: int) -> Tensor | None:
        path = feature_path(self.cache, source.recording, source.track, "masks")
        if not self.mask_bins or not path.is_file():
            return None
        array = load_array(path)[:, MEL_PER_FRAME * start : MEL_PER_FRAME * (start + count)]
        return torch.from_numpy(array.astype(np.float32)).permute(1, 0, 2).flatten(1)


def split_by_track(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Boolean items of each track of a batch."""
    return {name: batch["track"] == index for index, name in enumerate(TRACKS)}
