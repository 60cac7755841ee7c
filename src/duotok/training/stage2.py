"""Stage 2: acoustic adaptation (paper 3.2). The stack is cut in the middle; bottleneck frames are replaced by noise (eq. 1)
while four heads learn mel, chroma, lyrics (CTC) and the stem masks of a frozen separation teacher (eqs. 2 and 3)."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from duotok.model.config import TokenizerConfig
from duotok.model.losses import Stage2Weights, stage2_loss
from duotok.model.tokenizer import Tokenizer
from duotok.training.corpus import Corpus
from duotok.training.crops import CropBatches
from duotok.training.engine import Stage, StageConfig, latest, load_module
from duotok.training.pictures import show_mels


class Stage2Config(StageConfig):
    model: TokenizerConfig = TokenizerConfig()
    weights: Stage2Weights = Stage2Weights()
    crop_frames: int = Field(default=256, ge=25)
    # The paper's 4:1:1:1; solo voices without lyrics share the vocal part.
    shares: dict[str, float] = {"mix": 4.0, "vocals": 0.5, "solo": 0.5, "accompaniment": 1.0, "instrumental": 1.0}
    pseudo_mix: float = Field(default=0.3, ge=0, le=1)
    mask_seconds: float = Field(default=2400.0, ge=0, description="how much sound the teacher separates; 0 = no masks")


class Stage2(Stage):
    name = "stage2"

    def __init__(self, config: Stage2Config, corpus: Corpus, stage1: Path) -> None:
        self.config: Stage2Config = config
        torch.manual_seed(config.seed)
        self.tokenizer = Tokenizer(config.model)
        load_module(latest(stage1) / "tokenizer.safetensors", self.tokenizer)
        self.modules = {"tokenizer": self.tokenizer}
        bins = config.model.mask_bins if config.model.mask_head else 0
        self.train_crops = CropBatches(
            corpus, "train", config.shares, config.crop_frames, pseudo_mix=config.pseudo_mix, mask_bins=bins
        )
        self.held_out_crops = CropBatches(corpus, "held_out", config.shares, config.crop_frames, mask_bins=bins)

    def batch(self, step: int) -> dict[str, Tensor]:
        return self.train_crops.batch((self.config.seed, step), self.config.batch_size)

    def losses(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        heads = self.tokenizer.stage2(batch["mel"], batch["lengths"])
        return stage2_loss(heads, batch, batch["lengths"], self.config.weights)

    def held_out(self) -> dict[str, float]:
        totals: dict[str, float] = {}
        for index in range(6):
            batch = self.held_out_crops.batch((12, index), self.config.batch_size)
            for name, value in self.losses(batch, 0).items():
                totals[name] = totals.get(name, 0.0) + float(value) / 6
        return totals

    def sample(self, folder: Path) -> None:
        """Mel of held-out crops as it is and as the mel head tells it."""
        batch = self.held_out_crops.batch((12, 0), 3)
        heads = self.tokenizer.stage2(batch["mel"], batch["lengths"])
        for index in range(len(batch["mel"])):
            show_mels(folder / f"{index}.png", {"true": batch["mel"][index], "mel head": heads["mel"][index]})
