"""Stage 1: semantic pre-training (paper 3.1). All blocks learn to predict, at masked frames, the codes that a frozen
random-projection quantizer gives the clean mel (BEST-RQ), on speech, sounds and music alike."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from duotok.model.bestrq import BestRQ, BestRQConfig
from duotok.model.config import TokenizerConfig
from duotok.model.tokenizer import Tokenizer
from duotok.training.corpus import Corpus
from duotok.training.crops import CropBatches
from duotok.training.engine import Stage, StageConfig


class Stage1Config(StageConfig):
    model: TokenizerConfig = TokenizerConfig()
    bestrq: BestRQConfig = BestRQConfig()
    crop_frames: int = Field(default=256, ge=25)
    shares: dict[str, float] = {
        "mix": 0.2, "vocals": 0.15, "solo": 0.2, "accompaniment": 0.1, "instrumental": 0.3, "sound": 0.05,
    }  # fmt: skip


class Stage1(Stage):
    name = "stage1"

    def __init__(self, config: Stage1Config, corpus: Corpus) -> None:
        self.config: Stage1Config = config
        torch.manual_seed(config.seed)
        self.tokenizer = Tokenizer(config.model)
        self.bestrq = BestRQ(config.model.n_mels, config.model.width, config.bestrq)
        self.modules = {"tokenizer": self.tokenizer, "bestrq": self.bestrq}
        self.train_crops = CropBatches(corpus, "train", config.shares, config.crop_frames, pseudo_mix=0.3)
        self.held_out_crops = CropBatches(corpus, "held_out", config.shares, config.crop_frames)
        sample = [self.train_crops.batch((config.seed, 7, i), config.batch_size)["mel"] for i in range(8)]
        self.bestrq.quantizer.fit(torch.cat([mel.flatten(0, 1) for mel in sample]))

    def batch(self, step: int) -> dict[str, Tensor]:
        return self.train_crops.batch((self.config.seed, step), self.config.batch_size)

    def losses(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        result: dict[str, Tensor] = self.bestrq(self.tokenizer.stage1, batch["mel"], batch["lengths"])
        return result

    def held_out(self) -> dict[str, float]:
        generator = torch.Generator().manual_seed(1)
        totals: dict[str, float] = {}
        for index in range(4):
            batch = self.held_out_crops.batch((11, index), self.config.batch_size)
            losses = self.bestrq(self.tokenizer.stage1, batch["mel"], batch["lengths"], generator)
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + float(value) / 4
        return totals
