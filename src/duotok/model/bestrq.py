"""BEST-RQ (Chiu et al. 2202.01855; paper 3.1): a frozen random quantizer labels each frame, and the labels of masked frames are predicted.

Quantizer 8192 x 16 as in the original; targets from four stacked mel frames and span masking (0.4 s, p 0.6,
N(0, 0.1) noise) as in MusicFM. All three are defaults: the paper's own settings are not published (docs/parameters.md, stage 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from duotok.clock import FRAME_RATE, MEL_PER_FRAME
from duotok.config import Config
from duotok.distributed import mean_divisor, total
from duotok.model.draws import Random, integers, normal, uniform
from duotok.model.simvq import nearest
from duotok.nn.masks import frame_mask
from duotok.nn.precision import full_precision

Whitening = Literal["bins", "full"]


class BestRQConfig(Config):
    """Targets and masking of stage 1."""

    codebook_size: int = Field(default=8192, gt=1)
    code_dim: int = Field(default=16, gt=0)
    codebooks: int = Field(default=1, gt=0, description="independent quantizers, each with its own prediction head")
    seed: int = 142
    target_rate: Literal[25, 50, 100] = Field(
        default=25, description="targets a second, of 4, 2 or 1 mel frames; above 25 the encoder's output is upsampled"
    )
    whitening: Whitening = Field(
        default="bins", description="before the random projection: each mel bin alone, or (full) PCA of the stack"
    )
    whitening_floor: float = Field(
        default=1e-2, gt=0, le=1, description="full: least eigenvalue, as a share of the largest"
    )
    mask_rule: Literal["grid", "start"] = Field(
        default="grid", description="spans on a grid (MusicFM), or from any frame and overlapping (the original)"
    )
    span_frames: int = Field(default=10, gt=0, description="token frames in a masked span; 10 = 0.4 s")
    mask_probability: float = Field(
        default=0.6,
        gt=0,
        le=1,
        description="of each span of the grid, or of a start at each frame (the original's 0.01 a 10 ms: 0.04)",
    )
    noise_std: float = Field(default=0.1, ge=0)

    @property
    def targets_per_frame(self) -> int:
        """Targets in a token frame: 1, 2 or 4."""
        return self.target_rate // int(FRAME_RATE)


class RandomProjectionQuantizer(nn.Module):
    """Frozen: stack mel frames, standardise, project at random, nearest code by cosine; fixed by its seed."""

    projection: Tensor
    codebook: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, n_mels: int, config: BestRQConfig) -> None:
        super().__init__()
        self.config, self.size = config, config.codebook_size
        self.per_frame = config.targets_per_frame
        self.stack = MEL_PER_FRAME // self.per_frame
        projection, codebook = self._random(n_mels)
        self.register_buffer("projection", projection)
        self.register_buffer("codebook", codebook)
        self.register_buffer("mean", torch.zeros(n_mels))
        self.register_buffer("std", torch.ones(n_mels))

    def _random(self, n_mels: int) -> tuple[Tensor, Tensor]:
        """Projections `[codebooks, stack * n_mels, code_dim]` and unit codes `[codebooks, size, code_dim]`."""
        generator = torch.Generator().manual_seed(self.config.seed)
        inputs, books, dim = self.stack * n_mels, self.config.codebooks, self.config.code_dim
        bound = (6.0 / (inputs + dim)) ** 0.5  # Xavier
        projection = (torch.rand(books, inputs, dim, generator=generator, device="cpu") * 2 - 1) * bound
        codebook = torch.randn(books, self.size, dim, generator=generator, device="cpu")
        return projection, F.normalize(codebook, dim=-1)

    @torch.no_grad()
    def fit(self, mel: Tensor, whitening: Whitening | None = None, floor: float | None = None) -> None:
        """Take statistics from a sample of the corpus, `mel [..., 4 * frames, n_mels]`; None: from the config.

        "bins": each bin's mean and deviation. Without it (mean 0, deviation 1) loudness alone would decide most codes:
        every bin moves with it. "full": the principal axes of the stack as well, eigenvalues no less than `floor` times
        the largest; then loudness is one axis of many. The whitening is folded into the projection, so nothing else changes.
        """
        rows = mel.reshape(-1, mel.shape[-1]).double()
        self.mean.copy_(rows.mean(0))
        self.std.copy_(rows.std(0, correction=0).clamp_min(1e-3))
        projection, _ = self._random(rows.shape[1])
        projection = projection.to(rows)
        if (whitening or self.config.whitening) == "full":
            stacked = ((rows - self.mean) / self.std).reshape(-1, self.stack * rows.shape[1])
            values, axes = torch.linalg.eigh(stacked.T @ stacked / len(stacked))
            least = (self.config.whitening_floor if floor is None else floor) * values[-1]
            projection = axes @ ((axes / values.clamp_min(least).sqrt()).T @ projection)
        self.projection.copy_(projection)

    @torch.no_grad()
    def forward(self, mel: Tensor, chosen: Tensor) -> Tensor:
        """Targets `[n, codebooks]` at `chosen [batch, frames]` (bool) of clean `mel [batch, 4 * frames, n_mels]`.

        At a target rate above 25 the targets of a token frame (2 or 4) follow each other: `[n * targets, codebooks]`.
        """
        with full_precision(mel.device):
            rows = (
                ((mel.float() - self.mean) / self.std).reshape(*chosen.shape, self.per_frame, -1)[chosen].flatten(0, 1)
            )
            projected = F.normalize(torch.einsum("ni,bid->bnd", rows, self.projection), dim=-1)
            # Codes have unit length, so the nearest is the one of largest cosine.
            return torch.stack([nearest(z, book) for z, book in zip(projected, self.codebook, strict=True)], dim=1)


def span_mask(
    batch: int,
    frames: int,
    span: int,
    probability: float,
    lengths: Tensor | None = None,
    random: Random = None,
    device: torch.device | None = None,
    rule: Literal["grid", "start"] = "grid",
) -> Tensor:
    """`[batch, frames]` true where masked.

    "grid": spans of `span` frames on a grid of random phase, each with `probability`. "start": at every frame a span
    starts with `probability`; spans may overlap. Frames beyond an item's length are never masked; an item without a
    masked frame is masked at one random frame.
    """
    limit = torch.full((batch,), frames, device=device) if lengths is None else lengths.to(device)
    if rule == "grid":
        # As many cells as the item needs without padding, so that its draws do not depend on the batch.
        cells = -(-limit // span) + 1
        drawn = uniform(random, (batch, -(-frames // span) + 1), cells, device) < probability
        phase = integers(random, torch.full_like(limit, span))[:, None]
        mask = drawn.gather(1, (torch.arange(frames, device=device) + phase) // span)
    else:
        started = (uniform(random, (batch, frames), limit, device) < probability).cumsum(1)
        mask = started > F.pad(started, (span, 0))[:, :frames]
    valid = frame_mask(limit, frames)
    assert valid is not None
    mask = mask & valid
    fallback = integers(random, limit)[:, None]
    return torch.where(mask.any(1, keepdim=True), mask, torch.arange(frames, device=device) == fallback)


class BestRQ(nn.Module):
    """Stage 1's quantizer and prediction heads; a separate module, because nothing of it is needed afterwards."""

    def __init__(self, n_mels: int, width: int, config: BestRQConfig | None = None) -> None:
        super().__init__()
        self.config = config or BestRQConfig()
        self.quantizer = RandomProjectionQuantizer(n_mels, self.config)
        per_frame = self.config.targets_per_frame
        # The figure's "Upsampling": each token frame becomes as many vectors as it has targets.
        self.upsampling = nn.Linear(width, per_frame * width) if per_frame > 1 else None
        self.head = nn.Linear(width, self.config.codebooks * self.config.codebook_size)

    def mask(self, batch: int, frames: int, lengths: Tensor | None, random: Random, device: torch.device) -> Tensor:
        """The masked frames of a batch, `[batch, frames]`: the first that is drawn of an item's randomness."""
        config = self.config
        return span_mask(
            batch, frames, config.span_frames, config.mask_probability, lengths, random, device, config.mask_rule
        )

    def corrupt(self, mel: Tensor, lengths: Tensor | None = None, random: Random = None) -> tuple[Tensor, Tensor]:
        """Replace masked frames of `mel [batch, 4 * frames, n_mels]` by noise; also the mask `[batch, frames]`."""
        mask = self.mask(mel.shape[0], mel.shape[1] // MEL_PER_FRAME, lengths, random, mel.device)
        fine = None if lengths is None else lengths * MEL_PER_FRAME
        noise = normal(random, tuple(mel.shape), fine, mel.device).to(mel.dtype) * self.config.noise_std
        return torch.where(mask.repeat_interleave(MEL_PER_FRAME, 1)[..., None], noise, mel), mask

    def forward(
        self,
        encoder: Callable[[Tensor, Tensor | None], Tensor],
        mel: Tensor,
        lengths: Tensor | None = None,
        random: Random = None,
    ) -> dict[str, Tensor]:
        """Masked prediction through `encoder(mel, lengths) -> [batch, frames, width]` (Tokenizer.stage1).

        Returns `loss` (cross-entropy at masked frames, mean over frames and codebooks of all processes), `accuracy`,
        and `target_perplexity` (the effective number of codes of the first codebook among the batch's targets).
        """
        corrupted, mask = self.corrupt(mel, lengths, random)
        targets = self.quantizer(mel, mask)
        hidden = encoder(corrupted, lengths)[mask]
        if self.upsampling is not None:
            hidden = self.upsampling(hidden).view(-1, hidden.shape[-1])
        logits = self.head(hidden).view(-1, self.config.codebook_size)
        flat = targets.reshape(-1)
        count = mean_divisor(torch.tensor(flat.numel(), device=flat.device))
        loss = F.cross_entropy(logits.float(), flat, reduction="sum") / count
        with torch.no_grad():
            accuracy = (logits.argmax(1) == flat).sum() / count
            use = total(torch.bincount(targets[:, 0], minlength=self.config.codebook_size).float())
            perplexity = torch.special.entr(use / use.sum()).sum().exp()
        return {"loss": loss, "accuracy": accuracy, "target_perplexity": perplexity}
