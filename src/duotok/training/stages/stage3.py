"""Stage 3: dual-track discretisation (paper 3.3). Downsampling and lower blocks are frozen; each track gets its own proj in,
SimVQ and proj out, routed hard by the known track; upper blocks and heads train on (eqs. 4 and 5), without the mask head."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from duotok.clock import MEL_PER_FRAME
from duotok.config import Config
from duotok.distributed import alone, rank, total
from duotok.errors import ConfigError
from duotok.model.losses import Stage3Weights, stage3_loss
from duotok.model.tokenizer import Basis, Tokenizer
from duotok.model.transformer import Block
from duotok.random import item_seed
from duotok.shards.mixture import Component
from duotok.shards.store import ShardStore
from duotok.tracks import TRACKS
from duotok.training.checkpoint import best, load_module, read_state
from duotok.training.earlier_runs import opened, origin_of
from duotok.training.logs import show_mels
from duotok.training.stage import START_FROM, Batch, NamedRun, means_over, to_device
from duotok.training.stages.crop_stage import ADAPTED, BRANCHES, CropStage, CropStageConfig
from duotok.training.stages.loading import load_tokenizer

HELD_OUT_BATCHES = 12
FROZEN = ("downsampling.", "lower_blocks.")
"""What makes the features that codes are made of."""
COLLAPSE = 0.5
"""Share of the codes in use at the first report below which a codebook is told to collapse."""
log = logging.getLogger(__name__)


class BranchRuns(Config):
    """The run of stage 3 that a track's codes are from, where it is another than `start_from`: in RUNS, or absolute."""

    vocals: Path | None = None
    accompaniment: Path | None = None

    def named(self) -> dict[str, NamedRun]:
        """By track, those that are given."""
        runs = {track: getattr(self, track) for track in TRACKS}
        return {t: NamedRun(f"branch_from.{t}", run, ("stage3",)) for t, run in runs.items() if run is not None}


class Stage3Config(CropStageConfig):
    weights: Stage3Weights = Stage3Weights()
    mixture: dict[str, Component] = {
        # lyric-active vocals : lyric-aligned accompaniment : instrumental-only accompaniment (paper C.2)
        "vocals": Component(types=("vocals",), weight=5),
        "accompaniment": Component(types=("accompaniment",), weight=4),
        "instrumental": Component(types=("instrumental",), weight=1),
    }
    start_from: Path = Field(
        default=Path("stage2"),
        description="run of stage 2 to start from, or one of stage 3 whose codes to go on from: in RUNS, or absolute",
    )
    branch_from: BranchRuns = Field(
        default=BranchRuns(),
        description="with a start_from of stage 3: the run whose codes a track takes, trained beside that one from the same stage 2",
    )
    freeze: bool = Field(default=True, description="keep downsampling and lower blocks as they are; false: ablation")
    upper_lr_scale: float = Field(
        default=0.3, gt=0, description="upper blocks, heads (and what is not frozen), relative to the quantizer's rate"
    )
    fit_batches: int = Field(
        default=24,
        ge=0,
        description="batches whose features the codebooks start from; 0 = random map. A run that goes on from stage 3 keeps its "
        "codes at first, and those of a track that its mixture leaves out for ever",
    )
    fit_basis: Basis = Field(
        default="random",
        description="keep the random basis and fit the map, or draw the frozen basis from feature frames, or make it "
        "their k-means (slow on a CPU)",
    )
    refit_steps: tuple[int, ...] = Field(
        default=(),
        description="fit again after these steps: codes that the moving features left behind come back into use",
    )
    refit_at: tuple[float, ...] = Field(
        default=(), description="the same by shares of the run, for one that lasts so many minutes"
    )
    fit_noise: float = Field(
        default=0.0,
        ge=0,
        description="means only: noise on the features of a fit, as a share of their variance; without it codes lie on the "
        "training songs and are far from others (docs/experiments/codebook-noise.md)",
    )
    fit_scale: float | None = Field(
        default=None, gt=0, description="spread of the codes; null = the quantizer's default"
    )

    @model_validator(mode="after")
    def _noise_is_used(self) -> Stage3Config:
        if self.fit_noise and self.fit_basis != "means":
            raise ValueError(f"fit_noise {self.fit_noise:g} is for fit_basis means; fit_basis is {self.fit_basis}")
        return self

    def earlier_runs(self) -> tuple[NamedRun, ...]:
        return (NamedRun(START_FROM, self.start_from, ("stage2", "stage3")), *self.branch_from.named().values())


class Stage3(CropStage):
    name = "stage3"
    blocks = (Block,)
    of_frames = ("vq", "codebook", "commitment", "routing")

    def __init__(
        self, config: Stage3Config, store: ShardStore, start: Path | None, branches: Mapping[str, Path] | None = None
    ) -> None:
        """start: the run of stage 2 or 3 to start from; None: new weights (dry runs, benchmarks). branches: by track, the runs that
        `config.branch_from` names.
        """
        self.config: Stage3Config = config
        torch.manual_seed(config.seed)
        self.tokenizer = Tokenizer(config.model)
        self.goes_on = False  # from a run of stage 3
        if start is not None:
            checkpoint = best(start)
            self.goes_on = read_state(checkpoint)["stage"] == "stage3"
            learned = (*ADAPTED, *BRANCHES) if self.goes_on else ADAPTED
            load_module(checkpoint / "tokenizer.safetensors", self.tokenizer, only=learned)
            self.made_from(START_FROM, origin_of(checkpoint, "tokenizer"))
        for track, run in (branches or {}).items():
            self._take_branch(track, run)
        if self.goes_on:
            self.tokenizer.train_only(3, config.freeze)
        else:
            self.tokenizer.start_stage3(config.freeze)
        self.modules = {"tokenizer": self.tokenizer}
        self.train_crops, self.held_out_crops = config.batches(store, "train"), config.batches(store, "validation")
        self.check_words(config)
        self.refitted: int | None = 0  # how many entries of refit_at are done; None: not known
        self.used = {name: torch.zeros(config.model.codebook_size) for name in TRACKS}
        self.errors: dict[str, list[Tensor]] = {name: [] for name in TRACKS}  # of the mel head, of each held-out crop
        self.first_use: dict[str, tuple[float, float]] = {}  # track -> frames, codes in use as a share
        self.collapsed: set[str] = set()

    def _take_branch(self, track: str, run: Path) -> None:
        """Projections and quantizer of a track from another run of stage 3, which must have the same frozen encoder."""
        if not self.goes_on:
            raise ConfigError(f"branch_from.{track}: needs a start_from of stage 3, which the other codes are from")
        if self.config.model.shared_codebook:
            raise ConfigError(f"branch_from.{track}: with model.shared_codebook both tracks have one codebook")
        other, _, origin = opened(best(run), "tokenizer", load_tokenizer)
        mine, theirs = self.tokenizer.state_dict(), other.state_dict()
        if any(not torch.equal(mine[name], theirs[name]) for name in mine if name.startswith(FROZEN)):
            raise ConfigError(
                f"branch_from.{track}: {run} has another encoder than start_from, so its codes mean nothing here; train both from one run of stage 2"
            )
        index = TRACKS.index(track)
        self.tokenizer.branches[index].load_state_dict(other.branches[index].state_dict())
        self.made_from(f"branch_from.{track}", origin)

    def check(self, processes: int) -> None:
        fits = (self.config.fit_batches and not self.goes_on) or self.config.refit_at or self.config.refit_steps
        if fits and self.config.sharding == "fsdp" and processes > 1:
            raise ConfigError(
                "sharding: fsdp: codebooks are fitted to whole weights; train stage 3 with --set sharding=none (most of it is frozen), or with "
                "--set fit_batches=0 --set refit_at=[] --set refit_steps=[]"
            )

    def start(self) -> None:
        if self.config.fit_batches and not self.goes_on:
            self.fit(0)

    def go_on(self, share: float | None) -> None:
        self.refitted = None if share is None else self._passed(share)

    def _passed(self, share: float) -> int:
        """How many refits are due once so much of the run is done."""
        return sum(share >= one for one in self.config.refit_at)

    def after_step(self, step: int) -> None:
        passed = self._passed(self.share)
        if step + 1 in self.config.refit_steps or passed > (passed if self.refitted is None else self.refitted):
            self.fit(step + 1)
        self.refitted = passed

    @torch.no_grad()
    def fit(self, step: int) -> None:
        """Start each codebook from its track's features: at their mean and covariance, at drawn frames or at k-means."""
        self.tokenizer.eval()
        hidden: dict[str, list[Tensor]] = {name: [] for name in TRACKS}
        for index in range(self.config.fit_batches):
            batch = self.drawn(-1 - step * self.config.fit_batches - index)
            features = self.tokenizer.lower(batch["mel"], batch["lengths"])
            for item, length, track in zip(features, batch["lengths"].tolist(), batch["track"].tolist(), strict=True):
                hidden[TRACKS[track]].append(item[:length])
        if self.config.model.shared_codebook:
            hidden = {TRACKS[0]: [row for rows in hidden.values() for row in rows]}
        for name, rows in hidden.items():
            frames = sum(len(row) for row in rows)
            if self.config.fit_basis != "random" and 0 < frames < self.config.model.codebook_size:
                raise ConfigError(
                    f"fit_batches {self.config.fit_batches}: {frames} frames of {name} cannot start a codebook of "
                    f"{self.config.model.codebook_size}; draw more batches, or --set fit_basis=random"
                )
            if rows:
                self.tokenizer.fit_quantizer(
                    torch.cat(rows)[None], name, scale=self.config.fit_scale, basis=self.config.fit_basis,
                    generator=torch.Generator(self.device).manual_seed(item_seed(self.config.seed, step, 0)),
                    noise=self.config.fit_noise,
                )  # fmt: skip

    def parameter_groups(self) -> list[dict[str, Any]]:
        new = [p for p in self.tokenizer.branches.parameters() if p.requires_grad]
        chosen = {id(p) for p in new}
        others = [p for p in self.tokenizer.parameters() if p.requires_grad and id(p) not in chosen]
        # The map is a linear change of a frozen basis: decaying it would shrink the codebook away from the features.
        return [{"params": new, "weight_decay": 0.0}, {"params": others, "scale": self.config.upper_lr_scale}]

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        batch = self.filled(batch)
        heads, vq, codes = self._forward(batch)
        for index, name in enumerate(TRACKS):
            of_track = codes[batch["track"] == index].flatten()
            counts = torch.bincount(of_track[of_track >= 0], minlength=self.config.model.codebook_size)
            self.used[name] = self.used[name].to(counts.device) + counts
        if not self.tokenizer.training and "mel" in heads:
            self._note_mel_errors(heads["mel"], batch)
        return stage3_loss(heads, vq, batch, batch["lengths"], self.config.weights)

    def _note_mel_errors(self, drawn: Tensor, batch: Batch) -> None:
        """Note each crop's mean error of the mel, by track."""
        gaps = (drawn.float() - batch["mel"].float()).abs().mean(2)
        for gap, length, track in zip(gaps, batch["lengths"].tolist(), batch["track"].tolist(), strict=True):
            self.errors[TRACKS[track]].append(gap[: MEL_PER_FRAME * length].mean())

    def _forward(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        with torch.set_grad_enabled(not self.config.freeze and torch.is_grad_enabled()):
            hidden = self.tokenizer.lower(batch["mel"], batch["lengths"])
        return self.tokenizer.stage3(hidden, batch["track"], batch["lengths"])

    def report(self) -> dict[str, float]:
        """What `uses` tells, with a warning where the codes in use have fallen by half since the first report."""
        frames = {name: float(total(counts).sum()) for name, counts in self.used.items()}
        figures = self.uses()
        for name in TRACKS:
            use, (before, first) = (
                figures[f"use_{name}"],
                self.first_use.setdefault(name, (frames[name], figures[f"use_{name}"])),
            )
            fell = frames[name] > 0.8 * before and use < COLLAPSE * first
            if fell and name not in self.collapsed and not rank():
                log.warning(
                    "%s: codes in use fell from %.0f %% of the codebook to %.0f %%: the quantizer's loss draws the features together; "
                    "lower it, as with --set weights.vq=%g (docs/experiments/bottleneck.md)",
                    name, 100 * first, 100 * use, self.config.weights.vq / 10,
                )  # fmt: skip
                self.collapsed.add(name)
        return figures

    def uses(self) -> dict[str, float]:
        """Since the last call: codes in use as a share of the frames (1 = no code twice) and of the codebook."""
        figures = {}
        for name in TRACKS:
            counts = total(self.used[name])
            distinct, frames = float((counts > 0).sum()), float(counts.sum())
            figures[f"distinct_{name}"] = distinct / max(1.0, frames)
            figures[f"use_{name}"] = distinct / len(counts)
            self.used[name].zero_()
        return figures

    def held_out(self) -> dict[str, float]:
        """Losses, distinct codes, and of each track the error of the mel head: `mel_TRACK` and `mel_TRACK_deviation`, mean and deviation
        over crops, which is what the paper's Table 9 most likely has."""
        for counts in self.used.values():
            counts.zero_()
        for errors in self.errors.values():
            errors.clear()
        losses = means_over(self, self.held_out_crops.batch, HELD_OUT_BATCHES)
        with alone():  # every process counted the same whole batches
            figures = self.uses()
        losses |= {name: value for name, value in figures.items() if name.startswith("distinct")}
        for name, errors in self.errors.items():
            if errors:
                of_crops = torch.stack(errors).double()
                losses[f"mel_{name}"] = float(of_crops.mean())
                losses[f"mel_{name}_deviation"] = float(of_crops.std(correction=0))
        return losses

    def sample(self, folder: Path) -> None:
        """Pictures of the true mel of held-out crops and of the mel head's prediction from tokens."""
        batch = to_device(self.held_out_crops.batch(0, range(4)), self.device)
        heads, _, _ = self._forward(batch)
        for index, track in enumerate(batch["track"].tolist() if "mel" in heads else []):
            mels = {f"true ({TRACKS[track]})": batch["mel"][index].cpu(), "from tokens": heads["mel"][index].cpu()}
            show_mels(folder / f"{index}.png", mels)
