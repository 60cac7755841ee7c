"""The training of a matched decoder as a stage of the recipe: stage 4's loss and engine, with any tokenizer's embeddings.

Nothing of a step but the condition depends on the tokenizer: crops, times, noise and the starting values of the DiT are
functions of the seed, and songs are counted in frames of 40 ms for all.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from duotok.renderer.diffusion import diffusion_loss, stratified_times
from duotok.renderer.dit import DiTConfig
from duotok.renderer.kinds import AnyDiTConfig
from duotok.suite.matched.decoder import MatchedDecoder
from duotok.suite.matched.material import Material, channel_statistics
from duotok.training.batches.sounds import torch_rng
from duotok.training.stage import Batch, Stage, StageConfig, to_device
from duotok.training.stages.stage4 import HELD_OUT_TIMES


class MatchedConfig(StageConfig):
    """The same for every tokenizer. The paper trains 276,000 steps with a global batch of 120 (B.3.1, C.4)."""

    steps: int = Field(default=2000, gt=0)
    batch_size: int = Field(default=8, gt=0)
    lr: float = Field(default=5e-4, gt=0)
    warmup: int = Field(default=100, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    best: str | None = None
    save_every: int = Field(default=200, gt=0)
    held_out_every: int = Field(default=200, gt=0)
    sample_every: int = Field(default=0, ge=0)
    dit: AnyDiTConfig = DiTConfig(condition_dim=128)
    crop_frames: int = Field(default=128, gt=0, description="token frames of a crop, 40 ms each")
    ema: float = Field(default=0.999, ge=0, lt=1, description="decay of the weights that render")
    sample_steps: int = Field(default=16, gt=0, description="denoising steps (the paper has 50)")
    sampler: str = Field(default="dpmpp-2m")


class MatchedStage(Stage):
    """One track of one tokenizer. materials: songs to learn from, and those that the loss is watched on."""

    def __init__(
        self, config: MatchedConfig, track: str, train: Sequence[Material], validation: Sequence[Material]
    ) -> None:
        self.config: MatchedConfig = config
        self.name = f"matched.{track}"
        self.train_set, self.validation = list(train), list(validation)
        width = self.train_set[0].condition.shape[1]
        decoder = MatchedDecoder(config.dit, width, config.seed)
        decoder.standardise(*channel_statistics(self.train_set))
        self.modules = {"decoder": decoder, "ema": copy.deepcopy(decoder).requires_grad_(False)}
        frames = np.array([material.frames for material in self.train_set], dtype=np.float64)
        self.chances = np.cumsum(frames / frames.sum())

    @property
    def decoder(self) -> MatchedDecoder:
        decoder = self.modules["decoder"]
        assert isinstance(decoder, MatchedDecoder)
        return decoder

    @property
    def ema(self) -> MatchedDecoder:
        """The averaged weights, which render."""
        ema = self.modules["ema"]
        assert isinstance(ema, MatchedDecoder)
        return ema

    def batch(self, step: int, items: Sequence[int]) -> Batch:
        crops, ids = [], []
        for item in items:
            rng = np.random.default_rng((self.config.seed, step, item))
            material = self.train_set[int(np.searchsorted(self.chances, rng.random(), side="right"))]
            start = int(rng.integers(0, max(1, material.frames - self.config.crop_frames + 1)))
            crops.append(self._crop(material, start))
            ids.append(f"{material.song} from frame {start}")
        times = stratified_times(self.config.batch_size, torch_rng(self.config.seed, step))
        return {**_stack(crops), "times": times[list(items)], "ids": ids}

    def _crop(self, material: Material, start: int) -> tuple[Tensor, Tensor, int]:
        per_frame = self.config.dit.latents_per_frame
        size, first = per_frame * self.config.crop_frames, per_frame * start
        latents, condition = material.latents[first : first + size], material.condition[first : first + size]
        missing = size - len(latents)
        return F.pad(latents, (0, 0, 0, missing)), F.pad(condition, (0, 0, 0, missing)), len(latents)

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        noise = self.draws(batch).normal(*batch["latents"].shape[1:])
        loss, _ = diffusion_loss(
            self.decoder, batch["latents"], batch["condition"], _lengths(batch), t=batch["times"], noise=noise,
            objective=self.config.dit.objective,
        )  # fmt: skip
        return {"loss": loss}

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        decay = min(self.config.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.decoder.parameters()), 1 - decay)

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """The loss of the averaged weights on the first crop of each validation song, at fixed times with fixed noise."""
        batch = to_device(_stack([self._crop(material, 0) for material in self.validation]), self.device)
        latents = batch["latents"]
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(self.config.seed)).to(self.device)
        losses = [
            diffusion_loss(
                self.ema, latents, batch["condition"], _lengths(batch), noise=noise, objective=self.config.dit.objective,
                t=torch.full((len(latents),), value, device=self.device),
            )[0]
            for value in HELD_OUT_TIMES
        ]  # fmt: skip
        return {"loss": float(torch.stack(losses).mean())}


def _stack(crops: Sequence[tuple[Tensor, Tensor, int]]) -> Batch:
    latents, condition, lengths = zip(*crops, strict=True)
    return {"latents": torch.stack(latents), "condition": torch.stack(condition), "lengths": torch.tensor(lengths)}


def _lengths(batch: Batch) -> Tensor | None:
    """Real frames of each item; None when nothing is padded, since attention without a mask is faster."""
    full = bool((batch["lengths"] == batch["latents"].shape[1]).all())
    return None if full else batch["lengths"]
