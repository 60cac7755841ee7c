"""Losses of stages 2 and 3 (equations 2, 3 and 5). Frames beyond an item's length never count.

Every mean is over the batch of all processes (`mean_divisor`), so all of them must have the same kinds of targets; an item without
one is marked (`mel_items`, `text_lengths` 0), not left out.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from duotok.audio.features import octave_widths
from duotok.clock import ANALYSIS_RATE, MEL_PER_FRAME
from duotok.config import Config
from duotok.distributed import mean_divisor, total, world
from duotok.nn.masks import frame_mask


class MelWeights(Config):
    """What stages 2 and 3 have in common."""

    mel_octaves: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="0 counts the bands of the mel alike, as the paper does; 1 the octaves above 50 Hz, so that tokens tell "
        "basses; between them a mean of both",
    )


class Stage2Weights(MelWeights):
    """Equation 2. The paper's weights are not published: ones, text loss per target token (docs/parameters.md, stage 2)."""

    mel: float = Field(default=1.0, ge=0)
    chroma: float = Field(default=1.0, ge=0)
    masks: float = Field(default=1.0, ge=0)
    text: float = Field(default=1.0, ge=0)
    latent_norm: float = Field(
        default=0.0,
        ge=0,
        description="pull of the bottleneck towards 0 (MagiCodec's |z|^2), so that sigma stays meaningful",
    )

    decorrelation: float = Field(
        default=0.0,
        ge=0,
        description="pull of the bottleneck's covariance towards the identity, so that all its dimensions are used",
    )


class Stage3Weights(MelWeights):
    """Equation 5; no mask head in stage 3."""

    vq: float = Field(default=1.0, ge=0)
    mel: float = Field(default=1.0, ge=0)
    chroma: float = Field(default=1.0, ge=0)
    text: float = Field(default=0.5, ge=0)


def masked_l1(
    prediction: Tensor,
    target: Tensor,
    lengths: Tensor | None = None,
    items: Tensor | None = None,
    bands: Tensor | None = None,
) -> Tensor:
    """Mean absolute error over valid frames: `[batch, 4 * frames, ...]` both, `lengths [batch]` in token frames.

    `items [batch]` bool leaves out items without a target; `bands` weighs the last dimension. With nothing to compare the
    result is 0, still in the graph.
    """
    gap = (prediction.float() - target.float()).abs()
    gap = (gap if bands is None else gap * bands).flatten(2).mean(2)
    weight = torch.ones_like(gap)
    if lengths is not None:
        mask = frame_mask(lengths * MEL_PER_FRAME, gap.shape[1])
        assert mask is not None
        weight = weight * mask
    if items is not None:
        weight = weight * items[:, None]
    return (gap * weight).sum() / mean_divisor(weight.sum())


def mean_square(features: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Mean of |z|^2 / dim over valid frames: `features [batch, frames, dim]`, `lengths [batch]` in token frames."""
    square = features.float().square().mean(2)
    mask = frame_mask(lengths, square.shape[1])
    weight = torch.ones_like(square) if mask is None else mask.to(square.dtype)
    return (square * weight).sum() / mean_divisor(weight.sum())


def covariance_gap(features: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Sum of squares of (covariance - identity), divided by the channels: `features [batch, frames, dim]`, `lengths [batch]`.

    After VICReg's variance and covariance terms (arXiv 2105.04906), as one. The moments are those of all processes.
    """
    with torch.autocast(features.device.type, enabled=False):
        x = features.float()
        mask = frame_mask(lengths, x.shape[1])
        weight = torch.ones_like(x[..., 0]) if mask is None else mask.to(x.dtype)
        count = total(weight.sum()).clamp_min(1.0)
        mean = _sum_over_processes((x * weight[..., None]).sum((0, 1))) / count
        centred = ((x - mean) * weight[..., None]).flatten(0, 1)
        covariance = _sum_over_processes(centred.T @ centred) / count
        gap = (covariance - torch.eye(x.shape[2], device=x.device)).square().sum() / x.shape[2]
        # DDP averages the gradients of the processes, each of which has only the part of its own frames
        return gap + (world() - 1) * (gap - gap.detach())


def _sum_over_processes(value: Tensor) -> Tensor:
    """The sum over processes; its gradient reaches this process's part only."""
    return value + (total(value.detach()) - value.detach())


def ctc(logits: Tensor, targets: Tensor, target_lengths: Tensor, lengths: Tensor | None = None) -> Tensor:
    """CTC on `logits [batch, frames, vocabulary + 1]` (blank last), each item's loss divided by its number of targets.

    `targets [batch, longest]` padded with anything, `target_lengths [batch]`. Items without targets, and those whose
    targets do not fit into their frames, are left out; without any item the result is 0, still in the graph.
    """
    batch, frames, classes = logits.shape
    if lengths is None:
        lengths = torch.full((batch,), frames, device=logits.device, dtype=torch.long)
    real = frame_mask(target_lengths, targets.shape[1])
    chosen = ctc_items(targets, target_lengths, lengths)
    count = mean_divisor(chosen.sum())
    if not bool(chosen.any()):
        return logits.float().sum() * 0.0
    losses = F.ctc_loss(
        logits[chosen].float().log_softmax(-1).transpose(0, 1),
        torch.where(real, targets, 0)[chosen],
        lengths[chosen],
        target_lengths[chosen],
        blank=classes - 1,
        reduction="none",
    )
    return (losses / target_lengths[chosen]).sum() / count


def ctc_items(targets: Tensor, target_lengths: Tensor, lengths: Tensor) -> Tensor:
    """Which items have targets that fit into their frames: bool `[batch]`."""
    real = frame_mask(target_lengths, targets.shape[1])
    # Between two equal targets CTC needs a blank, hence one frame more.
    doubles = ((targets[:, 1:] == targets[:, :-1]) & real[:, 1:]).sum(1)
    return (target_lengths > 0) & (target_lengths + doubles <= lengths)


def _head_losses(
    heads: dict[str, Tensor],
    targets: dict[str, Tensor],
    lengths: Tensor | None,
    names: tuple[str, ...],
    mel_octaves: float,
) -> dict[str, Tensor]:
    losses: dict[str, Tensor] = {}
    bands = {}
    if mel_octaves and "mel" in heads:
        octaves = octave_widths(ANALYSIS_RATE, heads["mel"].shape[2]).to(heads["mel"].device)
        bands["mel"] = 1 + mel_octaves * (octaves - 1)
    for name in names:
        if name not in heads or name not in targets:
            continue
        if name == "text":
            losses[name] = ctc(heads[name], targets["text"], targets["text_lengths"], lengths)
        else:
            losses[name] = masked_l1(heads[name], targets[name], lengths, targets.get(f"{name}_items"), bands.get(name))
    return _in_shares(losses, targets)


def _in_shares(losses: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses of a batch that is a part of one (`Stage.counts`), each times its share; as they are where the batch is whole."""
    shares: Mapping[str, float] = targets.get("shares", {})  # type: ignore[assignment]
    return {name: value * shares.get(name, 1.0) for name, value in losses.items()}


def _weighted(losses: dict[str, Tensor], weights: Config) -> dict[str, Tensor]:
    if not losses:
        raise ValueError("no head that is switched on has a target in this batch")
    return {"loss": torch.stack([getattr(weights, name) * value for name, value in losses.items()]).sum(), **losses}


def stage2_loss(
    heads: dict[str, Tensor],
    targets: dict[str, Tensor],
    lengths: Tensor | None = None,
    weights: Stage2Weights | None = None,
) -> dict[str, Tensor]:
    """Equation 2: `loss` and its parts, of the heads that are switched on; `latent_norm` if it has a weight.

    `targets`: `mel`, `chroma`, `masks` shaped like the heads, `text [batch, longest]` with `text_lengths [batch]`. Any
    may be missing; bool `mel_items`, `chroma_items`, `masks_items [batch]` mark the items that have a target. `shares`: what
    the loss of a head is multiplied by, for a batch that is a part of one (`Stage.counts`).
    """
    weights = weights or Stage2Weights()
    losses = _head_losses(heads, targets, lengths, ("mel", "chroma", "masks", "text"), weights.mel_octaves)
    if weights.latent_norm:
        losses |= _in_shares({"latent_norm": mean_square(heads["z"], lengths)}, targets)
    if weights.decorrelation:
        losses["decorrelation"] = covariance_gap(heads["z"], lengths)
    return _weighted(losses, weights)


def stage3_loss(
    heads: dict[str, Tensor],
    vq: dict[str, Tensor],
    targets: dict[str, Tensor],
    lengths: Tensor | None = None,
    weights: Stage3Weights | None = None,
) -> dict[str, Tensor]:
    """Equation 5: `loss` and its parts; `vq` as Tokenizer.stage3 returns it, targets as in stage2_loss."""
    weights = weights or Stage3Weights()
    vq = _in_shares(vq, targets)
    losses = {"vq": vq["vq"], **_head_losses(heads, targets, lengths, ("mel", "chroma", "text"), weights.mel_octaves)}
    # The quantizer's other values (codebook, commitment, routing) are reported, not minimised.
    return _weighted(losses, weights) | {name: value for name, value in vq.items() if name != "vq"}
