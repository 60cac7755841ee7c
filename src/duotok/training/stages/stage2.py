"""Stage 2: acoustic adaptation (paper 3.2). The stack is cut in the middle; bottleneck frames are replaced by noise (eq. 1)
while four heads learn mel, chroma, lyrics (CTC) and the stem masks of a frozen separation teacher (eqs. 2 and 3)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from duotok.distributed import total
from duotok.model.health import effective_rank, noise_detectability
from duotok.model.losses import Stage2Weights, stage2_loss
from duotok.model.tokenizer import Tokenizer
from duotok.model.transformer import Block
from duotok.nn.masks import frame_mask
from duotok.random import ItemRandom
from duotok.shards.mixture import Component
from duotok.shards.store import ShardStore
from duotok.training.checkpoint import best, load_module, read_state
from duotok.training.earlier_runs import origin_of
from duotok.training.logs import show_mels
from duotok.training.stage import START_FROM, Batch, NamedRun, means_over, to_device
from duotok.training.stages.crop_stage import ADAPTED, BOTTLENECK, ENCODER, MASK_HEAD, CropStage, CropStageConfig

HELD_OUT_BATCHES = 6


class Stage2Config(CropStageConfig):
    weights: Stage2Weights = Stage2Weights()
    mixture: dict[str, Component] = {
        # full mix : lyric-active vocals : lyric-aligned accompaniment : instrumental-only accompaniment (paper C.2)
        "mix": Component(types=("mix",), weight=4),
        "vocals": Component(types=("vocals",), weight=1),
        "accompaniment": Component(types=("accompaniment",), weight=1),
        "instrumental": Component(types=("instrumental",), weight=1),
    }
    start_from: Path = Field(
        default=Path("stage1"),
        description="run of stage 1 to start from, or one of stage 2 to go on from: in RUNS, or absolute",
    )
    new_bottleneck: bool = Field(
        default=False,
        description="with a start from stage 2: proj in and proj out begin anew, so that the noise of this run alone shapes them",
    )
    teacher: Literal["trained", "mini", "demucs", "bs-roformer"] = Field(
        default="trained", description="separator whose masks are learned; trained: that of the run `teacher_from`"
    )
    teacher_from: Path = Field(default=Path("separator"), description="run of the separator that is the teacher")
    teacher_weights: Path | None = Field(
        default=None, description="of the teacher, as `duotok data separate` wants them"
    )
    mask_seconds: float = Field(
        default=2400.0,
        ge=0,
        description="how much sound the teacher separates, of the mixes that the mixture draws; 0 = no masks",
    )

    def earlier_runs(self) -> tuple[NamedRun, ...]:
        start = NamedRun(START_FROM, self.start_from, ("stage1", "stage2"))
        if self.teacher == "trained" and self.model.mask_head and self.mask_seconds:
            return (start, NamedRun("teacher_from", self.teacher_from, ("separator",)))
        return (start,)


class Stage2(CropStage):
    name = "stage2"
    blocks = (Block,)
    of_frames = ("latent_norm",)

    def __init__(
        self, config: Stage2Config, store: ShardStore, start: Path | None, masks_made_by: str | None = None
    ) -> None:
        """start: the run of stage 1 (encoder) or 2 (and projections, unless `new_bottleneck`, and heads; a mask head that it
        lacks begins anew) to start from; None: new weights (dry runs, benchmarks).
        masks_made_by: the teacher's masks, as `compute_masks` names them; None: any that are stored."""
        self.config: Stage2Config = config
        torch.manual_seed(config.seed)
        self.tokenizer = Tokenizer(config.model)
        if start is not None:
            checkpoint = best(start)
            learned: tuple[str, ...] = ADAPTED if read_state(checkpoint)["stage"] == "stage2" else ENCODER
            if config.new_bottleneck:
                learned = tuple(part for part in learned if part not in BOTTLENECK)
            load_module(checkpoint / "tokenizer.safetensors", self.tokenizer, only=learned, new=MASK_HEAD)
            self.made_from(START_FROM, origin_of(checkpoint, "tokenizer"))
        self.tokenizer.train_only(2)
        self.modules = {"tokenizer": self.tokenizer}
        masks = config.mask_seconds > 0
        self.train_crops = config.batches(store, "train", masks, masks_made_by)
        self.held_out_crops = config.batches(store, "validation", masks, masks_made_by)
        self.check_words(config)
        self.masked: list[Tensor] = []

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        batch = self.filled(batch)
        if "masks_items" in batch:
            self.masked.append(batch["masks_items"])
        heads = self.tokenizer.stage2(batch["mel"], batch["lengths"], self.draws(batch))
        return stage2_loss(heads, batch, batch["lengths"], self.config.weights)

    def report(self) -> dict[str, float]:
        """Since the last call: `masked`, the share of the crops whose masks the teacher made; only they teach the mask head."""
        masked, self.masked = self.masked, []
        if not masked:
            return {}
        counts = total(
            torch.stack(
                [torch.cat(masked).sum().float(), torch.tensor(float(sum(map(len, masked))), device=masked[0].device)]
            )
        )
        return {"masked": float(counts[0] / counts[1])}

    def held_out(self) -> dict[str, float]:
        """Losses, and the health of the bottleneck: `effective_rank` of its features, `noise_told` from them by a linear test."""
        losses = means_over(self, self.held_out_crops.batch, HELD_OUT_BATCHES) | self._health()
        self.masked.clear()
        return losses

    def _health(self) -> dict[str, float]:
        rows, noise = [], []
        for index in range(HELD_OUT_BATCHES):
            batch = to_device(self.held_out_crops.batch(index, range(self.config.batch_size)), self.device)
            z = self.tokenizer.projection_in(self.tokenizer.lower(batch["mel"], batch["lengths"])).float()
            drawn = self.tokenizer.noise.draw(z, batch["lengths"], ItemRandom(batch["seeds"], self.device))
            mask = frame_mask(batch["lengths"], z.shape[1])
            rows.append(z[mask])
            noise.append(drawn[mask])
        return {
            "effective_rank": effective_rank(torch.cat(rows)),
            "noise_told": noise_detectability(torch.cat(rows), torch.cat(noise)),
        }

    def sample(self, folder: Path) -> None:
        """Pictures of the true mel of held-out crops and of the mel head's prediction."""
        batch = to_device(self.held_out_crops.batch(0, range(3)), self.device)
        heads = self.tokenizer.stage2(batch["mel"], batch["lengths"])
        for index in range(len(batch["mel"]) if "mel" in heads else 0):
            mels = {"true": batch["mel"][index].cpu(), "mel head": heads["mel"][index].cpu()}
            show_mels(folder / f"{index}.png", mels)
