"""An outside tokenizer to compare with: transformers' DAC, small, trained here on the same sound as the mini recipe.

    python -m benchmarks.dac --data WORK --runs RUNS -o FOLDER             resumable; run it again after a stop
    python -m benchmarks.dac --data WORK --runs RUNS -o FOLDER --set steps=20
    duotok pack WORK -o dac.parquet --model transformers:FOLDER

The architecture, its quantizer and its loss weights are DAC's (mel 15, codebook 1, commitment 0.25); 24 kHz to 25 frames a
second, four codebooks of 1,024 (1 kbit/s a track). Three things are not: no discriminators, which would cost more than two cores
have; convolutions start scaled towards outputs of unit deviation, one after the other (with DAC's 0.02 next to nothing passes the
quantizer's projections, and the decoder learns to do without); and the first steps leave the codebooks out, which then start from
features, as EnCodec's do (with DAC's random start one or two codes of 1,024 were in use). FOLDER is what
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

from benchmarks.calling import mistakes_in_one_line
from duotok.audio.features import POWER_FLOOR, mel_filters
from duotok.audio.io import resample
from duotok.clock import SAMPLE_RATE
from duotok.config import load_config
from duotok.errors import DuoTokError
from duotok.shards.features import derive_samples
from duotok.shards.store import ShardStore
from duotok.training.batches.sounds import TrackComponent, TrackMixture, span, torch_rng
from duotok.training.checkpoint import best, check_run, load_module
from duotok.training.engine import train
from duotok.training.stage import Batch, Stage, StageConfig, to_device
from duotok.training.stages.autoencoder import AUDIBLE

CONFIG = Path(__file__).parent / "dac.yaml"
SCALES = (64, 128, 256, 512, 1024, 2048)
HELD_OUT_BATCHES = 4
SOUND = 0.1
"""Deviation of samples at the loudness of the shards, about."""


class DacStageConfig(StageConfig):
    """model: keys of transformers' DacConfig."""

    model: dict[str, Any]
    crop_seconds: float = Field(gt=0)
    silence: float = Field(default=0.05, ge=0, le=1, description="share of crops that may be quiet")
    scales_per_step: int = Field(default=3, ge=1, le=len(SCALES))
    mel_weight: float = Field(default=15.0, gt=0)
    continuous_steps: int = Field(default=300, ge=0, description="before these the codebooks are left out")
    codebook_lr_scale: float = Field(default=20.0, gt=0, description="learning rate of the codes over that of the rest")
    fit_batches: int = Field(default=40, gt=0, description="whose features the codebooks start from")
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
        self.size = int(config.crop_seconds * SAMPLE_RATE)
        self.crops = {
            split: TrackMixture(store, split, config.mixture, config.seed, config.crop_seconds)  # type: ignore[arg-type]
            for split in ("train", "validation")
        }
        rate = self.dac.config.sampling_rate
        self.filters = {n: mel_filters(rate, n, 5 * n // 32) for n in SCALES}
        self.used = torch.zeros(self.dac.config.n_codebooks, self.dac.config.codebook_size)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Codes have to follow features that all weights of the encoder move at once: at one rate they fall behind, the commitment
        loss grows, and after a few hundred steps training diverges."""
        codes = [quantizer.codebook.weight for quantizer in self.dac.quantizer.quantizers]
        chosen = {id(p) for p in codes}
        others = [p for p in self.dac.parameters() if id(p) not in chosen]
        return [{"params": codes, "scale": self.config.codebook_lr_scale, "weight_decay": 0.0}, {"params": others}]

    def batch(self, step: int, items: Sequence[int]) -> Batch:
        return self._batch("train", step, items)

    def _batch(self, split: str, step: int, items: Sequence[int]) -> Batch:
        crops, ids = [], []
        for item in items:
            rng = np.random.default_rng((self.config.seed, step, item))
            sound, track = self.crops[split].draw(step * self.config.batch_size + item)
            start = span(rng, sound, track, self.size, 0.0 if rng.random() < self.config.silence else AUDIBLE)
            wave = resample(sound.mono(track, start, self.size), SAMPLE_RATE, self.dac.config.sampling_rate)
            crops.append(wave / max(1.0, float(wave.abs().max())))
            ids.append(f"{sound.key} {track} from sample {start}")
        return {"audio": torch.stack(crops), "ids": ids}

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        return self._losses(batch, step, step >= self.config.continuous_steps)

    def _losses(self, batch: Batch, step: int, quantized: bool) -> dict[str, Tensor]:
        audio = batch["audio"]
        hidden = self.dac.encoder(audio[:, None])
        if quantized:
            hidden, codes, _, commitment, codebook = self.dac.quantizer(hidden)
            quantizer = (self.dac.config.commitment_loss_weight * commitment + codebook).mean()
            for book, of_book in zip(self.used, codes.unbind(1), strict=True):
                book += torch.bincount(of_book.flatten().cpu(), minlength=len(book))
        else:
            hidden, quantizer = self._without_codebooks(hidden), hidden.new_zeros(())
        estimate = self.dac.decoder(hidden)[:, 0]
        shorter = min(estimate.shape[-1], audio.shape[-1])
        distance = self._distance(estimate[:, :shorter], audio[:, :shorter], step)
        return {"loss": self.config.mel_weight * distance + quantizer, "mel": distance, "vq": quantizer}

    def _without_codebooks(self, hidden: Tensor) -> Tensor:
        """What the quantizer would make if each of its codebooks had every vector."""
        residual, made = hidden, torch.zeros_like(hidden)
        for quantizer in self.dac.quantizer.quantizers:
            part = quantizer.out_proj(quantizer.in_proj(residual))
            residual, made = residual - part, made + part
        return made

    def start(self) -> None:
        self.even_out()
        if not self.config.continuous_steps:
            self.fit()

    def after_step(self, step: int) -> None:
        if step + 1 == self.config.continuous_steps:
            self.fit()

    @torch.no_grad()
    def even_out(self) -> None:
        """Scale each convolution, in the order of the signal, towards an output of deviation 1, the last one to that of sound."""
        last = self.dac.decoder.conv2

        def scale(module: torch.nn.Module, _: Any, output: Tensor) -> Tensor:
            factor = (SOUND if module is last else 1.0) / output.std().clamp_min(1e-6)
            module.weight *= factor
            module.bias.zero_()
            return (output - output.mean((0, 2), keepdim=True)) * factor

        convolutions = (torch.nn.Conv1d, torch.nn.ConvTranspose1d)
        hooks = [m.register_forward_hook(scale) for m in self.dac.modules() if isinstance(m, convolutions)]
        audio = self._batch("train", self.config.steps, range(self.config.batch_size))["audio"].to(self.device)
        self.dac.decoder(self._without_codebooks(self.dac.encoder(audio[:, None])))
        for hook in hooks:
            hook.remove()

    @torch.no_grad()
    def fit(self) -> None:
        """Start each codebook at frames of what it will have to code, drawn without replacement."""
        self.dac.eval()
        items = range(self.config.batch_size)
        batches = [
            self._batch("train", self.config.steps + 1 + index, items)["audio"]
            for index in range(self.config.fit_batches)
        ]
        residual = torch.cat([self.dac.encoder(audio[:, None].to(self.device)) for audio in batches])
        drawn = torch.Generator().manual_seed(self.config.seed)
        for quantizer in self.dac.quantizer.quantizers:
            frames = quantizer.in_proj(residual).transpose(1, 2).flatten(0, 1)
            chosen = torch.randperm(len(frames), generator=drawn)[: len(quantizer.codebook.weight)]
            quantizer.codebook.weight[: len(chosen)] = frames[chosen.to(frames.device)]
            residual = residual - quantizer(residual)[0]
        self.dac.train()

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
        """With the codebooks, also while training leaves them out."""
        found: dict[str, float] = {}
        for index in range(HELD_OUT_BATCHES):
            batch = to_device(self._batch("validation", index, range(self.config.batch_size)), self.device)
            for name, value in self._losses(batch, 0, quantized=True).items():
                found[name] = found.get(name, 0.0) + float(value) / HELD_OUT_BATCHES
        self.used.zero_()
        return found

    def report(self) -> dict[str, float]:
        """Share of each codebook that occurred since the last call."""
        used = (self.used > 0).float().mean(1).tolist()
        self.used.zero_()
        return {f"use_{k}": share for k, share in enumerate(used)}


def check_out(folder: Path) -> None:
    """Raises DuoTokError where the codec would replace something, before hours of training."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DuoTokError(f"{folder}: is already there; name a new folder, or an empty one")


@mistakes_in_one_line
def main() -> None:
    assert __doc__ is not None
    options_of = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options_of.add_argument("--data", type=Path, required=True, help="WORK of `duotok data prepare`")
    options_of.add_argument("--runs", type=Path, required=True, help="it trains in RUNS/dac")
    options_of.add_argument("-o", "--out", type=Path, required=True, help="folder of the trained codec")
    options_of.add_argument("--config", type=Path, default=CONFIG)
    options_of.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = options_of.parse_args()
    check_out(options.out)
    check_run(options.runs / DacStage.name)
    store = ShardStore(options.data / "shards", options.data / "derived")
    derive_samples(store)
    stage = DacStage(load_config(DacStageConfig, options.config, options.set), store)
    print(train(stage, options.runs / stage.name))
    load_module(best(options.runs / stage.name) / "dac.safetensors", stage.dac)
    stage.dac.eval().save_pretrained(options.out)


if __name__ == "__main__":
    main()
