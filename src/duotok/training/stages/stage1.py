"""Stage 1: semantic pre-training (paper 3.1). All blocks learn to predict, at masked frames, the codes that a frozen
random-projection quantizer gives the clean mel (BEST-RQ), on speech, sounds and music alike."""

from __future__ import annotations

import torch
from torch import Tensor

from duotok.model.bestrq import BestRQ, BestRQConfig
from duotok.model.tokenizer import Tokenizer
from duotok.model.transformer import Block
from duotok.shards.mixture import Component
from duotok.shards.store import ShardStore
from duotok.training.stage import Batch, means_over
from duotok.training.stages.crop_stage import CropStage, CropStageConfig

FIT_BATCHES = 8
HELD_OUT_BATCHES = 4


class Stage1Config(CropStageConfig):
    bestrq: BestRQConfig = BestRQConfig()
    mixture: dict[str, Component] = {"all": Component()}


class Stage1(CropStage):
    name = "stage1"
    blocks = (Block,)

    def __init__(self, config: Stage1Config, store: ShardStore) -> None:
        self.config: Stage1Config = config
        torch.manual_seed(config.seed)
        self.tokenizer = Tokenizer(config.model)
        self.tokenizer.train_only(1)
        self.bestrq = BestRQ(config.model.n_mels, config.model.width, config.bestrq)
        self.modules = {"tokenizer": self.tokenizer, "bestrq": self.bestrq}
        self.train_crops, self.held_out_crops = config.batches(store, "train"), config.batches(store, "validation")

    def start(self) -> None:
        """The quantizer's statistics, from some batches of the corpus."""
        drawn = [self.drawn(-1 - index) for index in range(FIT_BATCHES)]
        rows = [mel[: 4 * n] for batch in drawn for mel, n in zip(batch["mel"], batch["lengths"].tolist(), strict=True)]
        self.bestrq.quantizer.fit(torch.cat(rows))

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        batch = self.filled(batch)
        result: dict[str, Tensor] = self.bestrq(
            self.tokenizer.stage1, batch["mel"], batch["lengths"], self.draws(batch)
        )
        shares = batch.get("shares", {})
        return {name: value * shares.get(name, 1.0) for name, value in result.items()}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Masked frames."""
        lengths = batch["lengths"].to(self.device)
        masked = self.bestrq.mask(len(lengths), int(lengths.max()), lengths, self.draws(batch), self.device).sum()
        return {"loss": masked, "accuracy": masked}

    def held_out(self) -> dict[str, float]:
        return means_over(self, self.held_out_crops.batch, HELD_OUT_BATCHES)
