"""An outside tokenizer to compare with: transformers' DAC, small, trained here on the same sound as the mini recipe.

    python -m benchmarks.dac --data WORK --runs RUNS -o FOLDER             resumable; run it again after a stop
    python -m benchmarks.dac --data WORK --runs RUNS -o FOLDER --set steps=20
    duotok pack WORK -o dac.parquet --model transformers:FOLDER

The architecture, its quantizer and its loss weights are DAC's (mel 15, codebook 1, commitment 0.25); 24 kHz to 25 frames a second,
four codebooks of 1,024 (1 kbit/s a track). No discriminators: they would cost more than two cores have. FOLDER is what
`DacModel.save_pretrained` writes, with safetensors.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from duotok.audio.features import POWER_FLOOR, mel_filters
from duotok.audio.io import resample
from duotok.config import load_config
from duotok.corpora.features import derive_samples
from duotok.corpora.store import ShardStore
from duotok.corpora.types import RATE
from duotok.errors import DuoTokError
from duotok.training.autoencoder import AUDIBLE
from duotok.training.checkpoint import best, load_module
from duotok.training.engine import train
from duotok.training.sounds import TrackComponent, TrackMixture, span, torch_rng
from duotok.training.stage import Batch, Stage, StageConfig, means_over

CONFIG = Path(__file__).parent / "dac.yaml"
SCALES = (64, 128, 256, 512, 1024, 2048)
HELD_OUT_BATCHES = 4


class DacStageConfig(StageConfig):
    """model: keys of transformers' DacConfig."""

    model: dict[str, Any]
    crop_seconds: float = Field(gt=0)
    silence: float = Field(default=0.05, ge=0, le=1, description="share of crops that may be quiet")
    scales_per_step: int = Field(default=3, ge=1, le=len(SCALES))
    mel_weight: float = Field(default=15.0, gt=0)
    mixture: dict[str, TrackComponent]


class DacStage(Stage):
    """Reconstruct crops of single tracks through the quantizer."""

    name = "dac"

    def __init__(self, config: DacStageConfig, store: ShardStore) -> None:
        from transformers import DacConfig, DacModel

        self.config: DacStageConfig = config
        torch.manual_seed(config.seed)
        self.dac = DacModel(DacConfig(**config.model))
        self.modules = {"dac": self.dac}
        self.size = int(config.crop_seconds * RATE)
        self.crops = {
            split: TrackMixture(store, split, config.mixture, config.seed)  # type: ignore[arg-type]
            for split in ("train", "validation")
        }
        rate = self.dac.config.sampling_rate
        self.filters = {n: mel_filters(rate, n, 5 * n // 32) for n in SCALES}
        self.used = torch.zeros(self.dac.config.n_codebooks, self.dac.config.codebook_size)

    def batch(self, step: int, items: Sequence[int]) -> Batch:
        return self._batch("train", step, items)

    def _batch(self, split: str, step: int, items: Sequence[int]) -> Batch:
        crops, ids = [], []
        for item in items:
            rng = np.random.default_rng((self.config.seed, step, item))
            sound, track = self.crops[split].draw(step * self.config.batch_size + item)
            start = span(rng, sound, track, self.size, 0.0 if rng.random() < self.config.silence else AUDIBLE)
            wave = resample(sound.mono(track, start, self.size), RATE, self.dac.config.sampling_rate)
            crops.append(wave / max(1.0, float(wave.abs().max())))
            ids.append(f"{sound.key} {track} from sample {start}")
        return {"audio": torch.stack(crops), "ids": ids}

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        audio = batch["audio"]
        made = self.dac(audio[:, None])
        for book, codes in zip(self.used, made.audio_codes.unbind(1), strict=True):
            book += torch.bincount(codes.flatten().cpu(), minlength=len(book))
        estimate = made.audio_values.reshape(len(audio), -1)
        shorter = min(estimate.shape[-1], audio.shape[-1])
        distance = self._distance(estimate[:, :shorter], audio[:, :shorter], step)
        quantizer = made.loss.mean()
        return {"loss": self.config.mel_weight * distance + quantizer, "mel": distance, "vq": quantizer}

    def _distance(self, estimate: Tensor, target: Tensor, step: int) -> Tensor:
        """DAC's mel loss, log10 and summed over the scales, from a few of them drawn anew each step."""
        picks = torch.randperm(len(SCALES), generator=torch_rng(self.config.seed, step))[: self.config.scales_per_step]
        chosen = [SCALES[i] for i in picks.tolist()] if self.dac.training else SCALES
        distances = [
            (self._log_mel(estimate, n) - self._log_mel(target, n)).abs().mean() * len(SCALES) / len(chosen)
            for n in chosen
        ]
        return torch.stack(distances).sum()

    def _log_mel(self, audio: Tensor, n_fft: int) -> Tensor:
        window = torch.hann_window(n_fft, device=audio.device)
        spectrum = torch.stft(audio, n_fft, n_fft // 4, window=window, return_complex=True)
        power = torch.view_as_real(spectrum).square().sum(-1).transpose(1, 2)
        return (power @ self.filters[n_fft].to(audio.device)).clamp_min(POWER_FLOOR).log10()

    def held_out(self) -> dict[str, float]:
        found = means_over(self, lambda step, items: self._batch("validation", step, items), HELD_OUT_BATCHES)
        self.used.zero_()
        return found

    def report(self) -> dict[str, float]:
        """Share of each codebook that occurred since the last call."""
        used = (self.used > 0).float().mean(1).tolist()
        self.used.zero_()
        return {f"use_{k}": share for k, share in enumerate(used)}


def main() -> int:
    assert __doc__ is not None
    options_of = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options_of.add_argument("--data", type=Path, required=True, help="WORK of `duotok data prepare`")
    options_of.add_argument("--runs", type=Path, required=True, help="it trains in RUNS/dac")
    options_of.add_argument("-o", "--out", type=Path, required=True, help="folder of the trained codec")
    options_of.add_argument("--config", type=Path, default=CONFIG)
    options_of.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = options_of.parse_args()
    try:
        store = ShardStore(options.data / "shards", options.data / "derived")
        derive_samples(store)
        stage = DacStage(load_config(DacStageConfig, options.config, options.set), store)
        print(train(stage, options.runs / stage.name))
        load_module(best(options.runs / stage.name) / "dac.safetensors", stage.dac)
    except DuoTokError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    stage.dac.eval().save_pretrained(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
