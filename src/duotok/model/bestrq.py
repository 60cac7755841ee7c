"""BEST-RQ (Chiu et al. 2202.01855; paper 3.1): a frozen random quantizer names each frame, masked frames are guessed.

Quantizer 8192 x 16 as in the original; targets from four stacked mel frames and span masking (0.4 s, p 0.6,
N(0, 0.1) noise) as in MusicFM. All three are defaults: the paper's own settings are not published (paper-parameters 1).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from duotok.config import Config
from duotok.model.config import MEL_PER_FRAME
from duotok.model.simvq import nearest
from duotok.model.transformer import frame_mask


class BestRQConfig(Config):
    """Targets and masking of stage 1."""

    codebook_size: int = Field(default=8192, gt=1)
    code_dim: int = Field(default=16, gt=0)
    codebooks: int = Field(default=1, gt=0, description="independent quantizers, each with its own prediction head")
    seed: int = 142
    span_frames: int = Field(default=10, gt=0, description="token frames in a masked span; 10 = 0.4 s")
    mask_probability: float = Field(default=0.6, gt=0, le=1)
    noise_std: float = Field(default=0.1, ge=0)


class RandomProjectionQuantizer(nn.Module):
    """Frozen: stack four mel frames, standardise, project at random, nearest code by cosine; fixed by its seed."""

    projection: Tensor
    codebook: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, n_mels: int, config: BestRQConfig) -> None:
        super().__init__()
        self.size = config.codebook_size
        generator = torch.Generator().manual_seed(config.seed)
        inputs, books, dim = MEL_PER_FRAME * n_mels, config.codebooks, config.code_dim
        bound = (6.0 / (inputs + dim)) ** 0.5  # Xavier
        projection = (torch.rand(books, inputs, dim, generator=generator, device="cpu") * 2 - 1) * bound
        codebook = torch.randn(books, self.size, dim, generator=generator, device="cpu")
        self.register_buffer("projection", projection)
        self.register_buffer("codebook", F.normalize(codebook, dim=-1))
        self.register_buffer("mean", torch.zeros(n_mels))
        self.register_buffer("std", torch.ones(n_mels))

    @torch.no_grad()
    def fit(self, mel: Tensor) -> None:
        """Take each bin's mean and deviation from a sample of the corpus, `mel [..., n_mels]`.

        Without it (mean 0, deviation 1) loud and quiet take most codes: every bin moves with loudness.
        """
        rows = mel.reshape(-1, mel.shape[-1]).float()
        self.mean.copy_(rows.mean(0))
        self.std.copy_(rows.std(0, correction=0).clamp_min(1e-3))

    @torch.no_grad()
    def forward(self, mel: Tensor, chosen: Tensor) -> Tensor:
        """Targets `[n, codebooks]` at `chosen [batch, frames]` (bool) of clean `mel [batch, 4 * frames, n_mels]`."""
        rows = ((mel.float() - self.mean) / self.std).reshape(*chosen.shape, -1)[chosen]
        projected = F.normalize(torch.einsum("ni,bid->bnd", rows, self.projection), dim=-1)
        # Codes have unit length, so the nearest is the one of largest cosine.
        return torch.stack([nearest(z, book) for z, book in zip(projected, self.codebook, strict=True)], dim=1)


def span_mask(
    batch: int,
    frames: int,
    span: int,
    probability: float,
    lengths: Tensor | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """`[batch, frames]` true where masked: spans of `span` frames on a grid of random phase, each with `probability`.

    Frames beyond an item's length are never masked; an item of which nothing was chosen is masked at one random frame.
    """
    cells = -(-frames // span) + 1
    drawn = torch.rand(batch, cells, device=device, generator=generator) < probability
    phase = torch.randint(0, span, (batch, 1), device=device, generator=generator)
    place = (torch.arange(frames, device=device) + phase) // span
    mask = drawn.gather(1, place)
    valid = frame_mask(lengths, frames)
    if valid is not None:
        mask = mask & valid
    limit = torch.full((batch, 1), frames, device=device) if lengths is None else lengths[:, None].to(mask.device)
    lone = (torch.rand(batch, 1, device=device, generator=generator) * limit).long().clamp_max(frames - 1)
    return torch.where(mask.any(1, keepdim=True), mask, torch.arange(frames, device=device) == lone)


class BestRQ(nn.Module):
    """Stage 1's quantizer and prediction heads; a module of its own, because nothing of it is needed afterwards."""

    def __init__(self, n_mels: int, width: int, config: BestRQConfig | None = None) -> None:
        super().__init__()
        self.config = config or BestRQConfig()
        self.quantizer = RandomProjectionQuantizer(n_mels, self.config)
        self.head = nn.Linear(width, self.config.codebooks * self.config.codebook_size)

    def corrupt(
        self, mel: Tensor, lengths: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Replace masked frames of `mel [batch, 4 * frames, n_mels]` by noise; also the mask `[batch, frames]`."""
        config = self.config
        frames = mel.shape[1] // MEL_PER_FRAME
        mask = span_mask(
            mel.shape[0], frames, config.span_frames, config.mask_probability, lengths, generator, mel.device
        )
        noise = torch.randn(mel.shape, device=mel.device, generator=generator).to(mel.dtype) * config.noise_std
        return torch.where(mask.repeat_interleave(MEL_PER_FRAME, 1)[..., None], noise, mel), mask

    def forward(
        self,
        encoder: Callable[[Tensor, Tensor | None], Tensor],
        mel: Tensor,
        lengths: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Masked prediction through `encoder(mel, lengths) -> [batch, frames, width]` (Tokenizer.stage1).

        Returns `loss` (cross-entropy at masked frames, mean over frames and codebooks), `accuracy`, and
        `target_perplexity` (how many codes the targets of this batch effectively use).
        """
        corrupted, mask = self.corrupt(mel, lengths, generator)
        targets = self.quantizer(mel, mask)
        logits = self.head(encoder(corrupted, lengths)[mask]).view(-1, self.config.codebook_size)
        flat = targets.reshape(-1)
        loss = F.cross_entropy(logits.float(), flat)
        with torch.no_grad():
            accuracy = (logits.argmax(1) == flat).float().mean()
            share = torch.bincount(targets[:, 0], minlength=self.config.codebook_size).float() / len(targets)
            perplexity = torch.special.entr(share).sum().exp()
        return {"loss": loss, "accuracy": accuracy, "target_perplexity": perplexity}
