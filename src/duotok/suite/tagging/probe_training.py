"""Training a probe on frozen embeddings, and scoring songs with it. The codec is not touched: it is not even loaded.

A song is cut into pieces of equal length, each with the song's tags (as in the public evaluation code); a song's score is the
mean of its pieces' probabilities. Embeddings are standardised by channel with the training pieces' statistics, so that no
tokenizer gains from its scale. Training stops early on the tuning set, which no artist shares with another set.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from duotok.config import Config
from duotok.errors import MetricError
from duotok.evaluation.probes import ProbeConfig, make_probe
from duotok.training.budget import learning_rate

STATISTICS = 1000
"""Training pieces, evenly spread, from which means and deviations are taken."""

Read = Callable[[int, int, int], Tensor]
"""(song, first frame, last frame + 1) -> its embeddings, float `[frames, width]`."""


class ProbeTraining(Config):
    """How probes are trained: the same for all tokenizers. betas, eps, weight decay, batch, epochs are the public code's."""

    probe: ProbeConfig = ProbeConfig()
    seconds: float = Field(default=5.0, gt=0, description="of a piece")
    batch_size: int = Field(default=64, gt=0)
    epochs: int = Field(default=50, gt=0, description="at most")
    patience: int = Field(default=8, gt=0, description="epochs without a lower tuning loss until it stops")
    lr: float = Field(default=1e-3, gt=0, description="the public code has 1e-4, for 18,000 clips")
    warmup: int = Field(default=10, ge=0)
    floor: float = Field(default=0.2, ge=0, le=1, description="share of the rate that is left at the last epoch")
    weight_decay: float = Field(default=0.08, ge=0)
    betas: tuple[float, float] = (0.8, 0.99)
    eps: float = Field(default=1e-5, gt=0)
    clip: float = Field(default=1.0, gt=0)


@dataclass(frozen=True)
class TaggedSongs:
    """Songs of one split: `lengths` in frames, `labels` bool `[songs, tags]`, and `read`, which gives embeddings."""

    read: Read
    lengths: tuple[int, ...]
    labels: NDArray[np.bool_]

    def pieces(self, frames: int) -> list[tuple[int, int]]:
        """(song, first frame) of every whole piece; what is left at the end of a song is not used."""
        return [
            (song, start) for song, count in enumerate(self.lengths) for start in range(0, count - frames + 1, frames)
        ]


@dataclass(frozen=True)
class Fitted:
    """A trained probe, its standardisation, and how it went: tuning losses by epoch, and the epoch that was kept."""

    probe: nn.Module
    mean: Tensor
    scale: Tensor
    losses: tuple[float, ...]
    epoch: int
    frames: int

    @torch.no_grad()
    def scores(self, songs: TaggedSongs, batch_size: int = 64) -> NDArray[np.float64]:
        """Probabilities of each tag, mean over a song's pieces: `[songs, tags]`."""
        self.probe.eval()
        pieces = songs.pieces(self.frames)
        sums = np.zeros(songs.labels.shape)
        counts = np.zeros(len(songs.labels))
        for batch in batches(pieces, batch_size):
            logits = self.probe(standardised(songs, batch, self.frames, self.mean, self.scale))
            for (song, _), row in zip(batch, logits.double().sigmoid().cpu().numpy(), strict=True):
                sums[song] += row
                counts[song] += 1
        if not counts.all():
            raise MetricError(f"{int((counts == 0).sum())} songs are shorter than a piece; leave them out, by name")
        return sums / counts[:, None]


def batches(pieces: Sequence[tuple[int, int]], size: int) -> list[Sequence[tuple[int, int]]]:
    return [pieces[first : first + size] for first in range(0, len(pieces), size)]


def standardised(
    songs: TaggedSongs, batch: Sequence[tuple[int, int]], frames: int, mean: Tensor, scale: Tensor
) -> Tensor:
    """A batch of pieces `[pieces, frames, width]` on the device of `mean`."""
    read = torch.stack([songs.read(song, start, start + frames).float() for song, start in batch])
    return (read.to(mean.device) - mean) * scale


def statistics(songs: TaggedSongs, frames: int) -> tuple[Tensor, Tensor]:
    """Mean of each channel and one over its deviation, `[width]` each; a channel that never changes gets the factor 0."""
    pieces = songs.pieces(frames)
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for song, start in pieces[:: max(1, len(pieces) // STATISTICS)]:
        read = songs.read(song, start, start + frames).double()
        count, total, squares = count + len(read), total + read.sum(0), squares + read.square().sum(0)
    mean = total / count
    deviation = (squares / count - mean.square()).clamp_min(0).sqrt()
    scale = torch.where(
        deviation > 1e-6 * (1 + mean.abs()), 1 / deviation.clamp_min(1e-12), torch.zeros_like(deviation)
    )
    return mean.float(), scale.float()


def fit(
    config: ProbeTraining, train: TaggedSongs, tuning: TaggedSongs, frame_rate: float, seed: int, device: str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> Fitted:  # fmt: skip
    """Train a probe on `train`, keep the epoch of the lowest loss on `tuning`. The same seed gives the same probe.

    frame_rate: of the embeddings, Hz. Raises MetricError when a split has no song as long as a piece, or the loss is no number.
    """
    frames = max(1, round(config.seconds * frame_rate))
    for name, songs in (("training", train), ("tuning", tuning)):
        if not songs.pieces(frames):
            raise MetricError(f"no {name} song has {config.seconds:g} s; shorten `seconds`, or give longer songs")
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    mean, scale = (each.to(device) for each in statistics(train, frames))
    probe = make_probe(config.probe, len(mean), frames, train.labels.shape[1]).to(device)
    optimizer = torch.optim.AdamW(
        probe.parameters(), lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay
    )
    pieces = train.pieces(frames)
    steps = config.epochs * -(-len(pieces) // config.batch_size)
    losses: list[float] = []
    best, step = copy.deepcopy(probe.state_dict()), 0
    while len(losses) < config.epochs and len(losses) - _lowest(losses) < config.patience:
        probe.train()
        order = [pieces[at] for at in torch.randperm(len(pieces), generator=generator).tolist()]
        for batch in batches(order, config.batch_size):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, peak=config.lr, warmup=config.warmup, steps=steps, floor=config.floor)
            loss = _loss(probe, train, batch, frames, mean, scale)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(probe.parameters(), config.clip)
            optimizer.step()
            step += 1
        losses.append(_tuning_loss(probe, tuning, frames, config.batch_size, mean, scale))
        if not math.isfinite(losses[-1]):
            raise MetricError(
                f"probe {config.probe.kind}: the loss is no number in epoch {len(losses)}; lower lr ({config.lr:g})"
            )
        if _lowest(losses) == len(losses):
            best = copy.deepcopy(probe.state_dict())
        if progress is not None:
            progress(len(losses) / config.epochs)
    probe.load_state_dict(best)
    return Fitted(probe.eval(), mean, scale, tuple(losses), _lowest(losses), frames)


def step_seconds(config: ProbeTraining, width: int, frame_rate: float, tags: int, batch: int) -> float:
    """Seconds of a core that a training step takes here, from the second of two on noise."""
    frames = max(1, round(config.seconds * frame_rate))
    noise = torch.randn(batch, frames, width, generator=torch.Generator().manual_seed(0))
    probe = make_probe(config.probe, width, frames, tags)
    took = 0.0
    for _ in range(2):
        start = time.process_time()
        probe(noise).square().mean().backward()
        took = time.process_time() - start
    return took


def _lowest(losses: Sequence[float]) -> int:
    """The epoch, from 1, of the lowest loss; 0 before the first."""
    return 1 + int(np.argmin(losses)) if losses else 0


def _loss(
    probe: nn.Module, songs: TaggedSongs, batch: Sequence[tuple[int, int]], frames: int, mean: Tensor, scale: Tensor
) -> Tensor:
    labels = torch.from_numpy(songs.labels[[song for song, _ in batch]]).float().to(mean.device)
    return F.binary_cross_entropy_with_logits(probe(standardised(songs, batch, frames, mean, scale)), labels)


@torch.no_grad()
def _tuning_loss(
    probe: nn.Module, songs: TaggedSongs, frames: int, batch_size: int, mean: Tensor, scale: Tensor
) -> float:
    probe.eval()
    pieces = songs.pieces(frames)
    parts = [
        float(_loss(probe, songs, batch, frames, mean, scale)) * len(batch) for batch in batches(pieces, batch_size)
    ]
    return sum(parts) / len(pieces)
