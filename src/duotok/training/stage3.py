"""Stage 3: dual-track discretisation (paper 3.3). Downsampling and lower blocks are frozen; each track gets its own proj in,
SimVQ and proj out, routed hard by the known track; upper blocks and heads train on (eqs. 4 and 5), without the mask head."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from duotok.model.config import TokenizerConfig
from duotok.model.losses import Stage3Weights, stage3_loss
from duotok.model.tokenizer import Tokenizer
from duotok.tokens import TRACKS
from duotok.training.corpus import Corpus
from duotok.training.crops import CropBatches
from duotok.training.engine import Stage, StageConfig, latest, load_module
from duotok.training.pictures import show_mels


class Stage3Config(StageConfig):
    model: TokenizerConfig = TokenizerConfig()
    weights: Stage3Weights = Stage3Weights()
    crop_frames: int = Field(default=256, ge=25)
    # The paper's 5:4:1 (vocals : lyric-aligned : instrumental-only accompaniment). The mini corpus has 20 minutes of the
    # second and hours of the third, so its share of accompaniment is turned round.
    shares: dict[str, float] = {"vocals": 2.5, "solo": 2.5, "accompaniment": 1.5, "instrumental": 3.5}
    upper_lr_scale: float = Field(
        default=0.3, gt=0, description="upper blocks and heads, relative to the quantizer's rate"
    )
    fit_batches: int = Field(
        default=24, ge=0, description="batches whose features the codebooks start from; 0 = random map"
    )
    fit_basis: Literal["random", "features"] = Field(
        default="random",
        description="keep the random basis and fit the map, or draw the frozen basis from feature frames",
    )
    refit_steps: tuple[int, ...] = Field(
        default=(),
        description="fit again after these steps: codes that the moving features left behind come back into use",
    )
    fit_scale: float | None = Field(
        default=None, gt=0, description="spread of the codes; null = the quantizer's default"
    )


class Stage3(Stage):
    name = "stage3"

    def __init__(self, config: Stage3Config, corpus: Corpus, stage2: Path) -> None:
        self.config: Stage3Config = config
        torch.manual_seed(config.seed)
        self.tokenizer = Tokenizer(config.model)
        load_module(latest(stage2) / "tokenizer.safetensors", self.tokenizer)
        self.tokenizer.start_stage3()
        self.modules = {"tokenizer": self.tokenizer}
        self.train_crops = CropBatches(corpus, "train", config.shares, config.crop_frames)
        self.held_out_crops = CropBatches(corpus, "held_out", config.shares, config.crop_frames)

    def start(self) -> None:
        if self.config.fit_batches:
            self.fit(0)

    def after_step(self, step: int) -> None:
        if step + 1 in self.config.refit_steps:
            self.fit(step + 1)

    @torch.no_grad()
    def fit(self, step: int) -> None:
        """Start each codebook from its track's features: at their mean and covariance, or (`features`) at drawn frames."""
        self.tokenizer.eval()
        hidden: dict[str, list[Tensor]] = {name: [] for name in TRACKS}
        for index in range(self.config.fit_batches):
            batch = self.train_crops.batch((self.config.seed, 9, step, index), self.config.batch_size)
            found = self.tokenizer.lower(batch["mel"], batch["lengths"])
            for item, length, track in zip(found, batch["lengths"].tolist(), batch["track"].tolist(), strict=True):
                hidden[TRACKS[track]].append(item[:length])
        for name, rows in hidden.items():
            if rows:
                self.tokenizer.fit_quantizer(
                    torch.cat(rows)[None], name, scale=self.config.fit_scale, basis=self.config.fit_basis
                )

    def parameter_groups(self) -> list[dict[str, Any]]:
        new = [p for p in self.tokenizer.branches.parameters() if p.requires_grad]
        chosen = {id(p) for p in new}
        rest = [p for p in self.tokenizer.parameters() if p.requires_grad and id(p) not in chosen]
        # The map is a linear change of a frozen basis: decaying it would shrink the codebook away from the features.
        return [{"params": new, "weight_decay": 0.0}, {"params": rest, "scale": self.config.upper_lr_scale}]

    def batch(self, step: int) -> dict[str, Tensor]:
        return self.train_crops.batch((self.config.seed, step), self.config.batch_size)

    def losses(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        with torch.no_grad():
            hidden = self.tokenizer.lower(batch["mel"], batch["lengths"])
        heads, vq, codes = self.tokenizer.stage3(hidden, batch["track"], batch["lengths"])
        losses = stage3_loss(heads, vq, batch, batch["lengths"], self.config.weights)
        valid = codes[codes >= 0].tolist()
        return losses | {"distinct": torch.tensor(len(set(valid)) / max(1, len(valid)))}

    def held_out(self) -> dict[str, float]:
        totals: dict[str, float] = {}
        codes: dict[str, set[int]] = {name: set() for name in TRACKS}
        frames: dict[str, int] = dict.fromkeys(TRACKS, 0)
        for index in range(12):
            batch = self.held_out_crops.batch((13, index), self.config.batch_size)
            hidden = self.tokenizer.lower(batch["mel"], batch["lengths"])
            heads, vq, found = self.tokenizer.stage3(hidden, batch["track"], batch["lengths"])
            for name, value in stage3_loss(heads, vq, batch, batch["lengths"], self.config.weights).items():
                totals[name] = totals.get(name, 0.0) + float(value) / 12
            for item, track in zip(found, batch["track"].tolist(), strict=True):
                valid = item[item >= 0].tolist()
                codes[TRACKS[track]].update(valid)
                frames[TRACKS[track]] += len(valid)
        return totals | {f"distinct_{name}": len(codes[name]) / max(1, frames[name]) for name in TRACKS}

    def sample(self, folder: Path) -> None:
        """Mel of held-out crops as it is and as the mel head tells it from tokens."""
        batch = self.held_out_crops.batch((13, 0), 4)
        hidden = self.tokenizer.lower(batch["mel"], batch["lengths"])
        heads, _, _ = self.tokenizer.stage3(hidden, batch["track"], batch["lengths"])
        for index, track in enumerate(batch["track"].tolist()):
            mels = {f"true ({TRACKS[track]})": batch["mel"][index], "from tokens": heads["mel"][index]}
            show_mels(folder / f"{index}.png", mels)
