"""mel -> downsampling -> lower blocks -> bottleneck [noise | SimVQ of the track] -> upper blocks -> heads.

One network, three uses (paper 3.1-3.3, figures of stages 1-3): stage 1 runs all blocks without a bottleneck; stage 2
puts proj in, replacement noise, proj out in the middle; stage 3 freezes the layers below it and gives each track its
own proj in, SimVQ, proj out, with hard routing by the known track.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from duotok.clock import MEL_PER_FRAME
from duotok.distributed import mean_divisor
from duotok.model.branches import Branch, ProjectionIn, Router
from duotok.model.config import TokenizerConfig
from duotok.model.draws import Random
from duotok.model.frontend import Downsampling
from duotok.model.heads import Heads
from duotok.model.noise import FrameNoise
from duotok.model.simvq import FIT_SCALE, vq_loss
from duotok.model.transformer import Blocks
from duotok.nn.masks import frame_mask
from duotok.nn.precision import full_precision
from duotok.tracks import TRACKS

Track = str | Tensor
"""A track's name for the whole batch, or int64 `[batch]` with 0 = vocals, 1 = accompaniment."""

PADDING_CODE = -1
Basis = Literal["random", "features", "means"]
"""How a codebook is initialized: see Tokenizer.fit_quantizer."""


class Quantized(NamedTuple):
    """`codes [batch, frames]`, features `z` before and `z_q` after (gradient to the map), `embedding` straight-through.

    The last three are `[batch, frames, code_dim]`; `embedding` equals z_q in value and passes its gradient to z.
    """

    codes: Tensor
    z: Tensor
    z_q: Tensor
    embedding: Tensor


class Tokenizer(nn.Module):
    """Everywhere: `mel` normalised log-mel `[batch, 4 * frames, n_mels]`, `lengths [batch]` in frames (None = full)."""

    def __init__(self, config: TokenizerConfig | None = None) -> None:
        super().__init__()
        config = config or TokenizerConfig()
        self.config = config
        self.downsampling = Downsampling(config.n_mels, config.width, config.conv_channels, config.downsampling)
        depth = config.lower_blocks + config.upper_blocks

        def blocks(n: int) -> Blocks:
            return Blocks(
                n,
                config.width,
                config.heads,
                config.ffn,
                activation=config.activation,
                dropout=config.dropout,
                rope_base=config.rope_base,
                depth=depth,
            )

        self.lower_blocks = blocks(config.lower_blocks)
        self.projection_in = ProjectionIn(config.width, config.code_dim, config.bottleneck_norm)
        self.noise = FrameNoise(
            config.noise,
            config.noise_probability,
            config.noise_scale,
            config.noise_sigma,
            config.noise_covariance,
            config.noise_mean,
        )
        self.projection_out = nn.Linear(config.code_dim, config.width)
        self.branches = nn.ModuleList(Branch(config, i) for i in range(1 if config.shared_codebook else len(TRACKS)))
        self.router = Router(config.width) if config.routing == "soft" else None
        self.upper_blocks = blocks(config.upper_blocks)
        self.upper_norm = nn.LayerNorm(config.width)
        self.output = Heads(config)
        self._lower_frozen = False

    # -- the parts ---------------------------------------------------------------------------------------------------

    def lower(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Downsampling and lower blocks, what stage 3 freezes: to hidden `[batch, frames, width]`, zero beyond lengths.

        Raises ValueError for a mel of another shape or lengths outside 1..frames.
        """
        if lengths is not None:
            frames = mel.shape[1] // MEL_PER_FRAME
            # values on a GPU are not checked: reading them would wait for all queued work
            if lengths.shape != mel.shape[:1] or not (
                lengths.is_cuda or bool(((lengths > 0) & (lengths <= frames)).all())
            ):
                raise ValueError(f"lengths {lengths.tolist()} must be {mel.shape[0]} numbers in 1..{frames}")
        hidden: Tensor = self.lower_blocks(self.downsampling(mel, lengths), lengths)
        return hidden

    def upper(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Upper blocks and final norm: `[batch, frames, width]` to the same."""
        out: Tensor = self.upper_norm(self.upper_blocks(x, lengths))
        return out

    def heads(
        self, x: Tensor, lengths: Tensor | None = None, names: tuple[str, ...] | None = None
    ) -> dict[str, Tensor]:
        """Heads on `x [batch, frames, width]` from `upper`; `names` selects some of the existing ones.

        mel `[batch, 4 * frames, n_mels]`, chroma `[batch, 4 * frames, 12]`, text `[batch, frames, vocabulary + 1]`
        logits (blank last), masks `[batch, 4 * frames, stems, mask_bins]` in [0, 1]. Values beyond the lengths are meaningless.
        """
        out: dict[str, Tensor] = self.output(x, lengths, names)
        return out

    @property
    def blank(self) -> int:
        """The CTC blank's class."""
        return self.config.vocabulary

    def branch(self, track: str) -> Branch:
        """The stage-3 branch of a track by name. Raises ValueError for another name."""
        return self._branch(self._index(track))

    def _branch(self, index: int) -> Branch:
        branch = self.branches[index]
        assert isinstance(branch, Branch)
        return branch

    def _index(self, track: str) -> int:
        if track not in TRACKS:
            raise ValueError(f"track {track!r} is unknown; there are {' and '.join(TRACKS)}")
        return 0 if self.config.shared_codebook else TRACKS.index(track)

    def _routes(self, track: Track, batch: int) -> list[tuple[Branch, Tensor | None]]:
        """Branches in use and the items of each (None = all)."""
        if isinstance(track, str):
            return [(self._branch(self._index(track)), None)]
        if track.shape != (batch,) or track.is_floating_point():
            raise ValueError(f"track is {tuple(track.shape)} {track.dtype}; it must be integers [{batch}]")
        if not (track.is_cuda or bool(((track >= 0) & (track < len(TRACKS))).all())):
            raise ValueError(f"track {track.tolist()}: 0 is vocals, 1 is accompaniment")
        if self.config.shared_codebook:
            return [(self._branch(0), None)]
        routes: list[tuple[Branch, Tensor | None]] = []
        for index in range(len(TRACKS)):
            items = (track == index).nonzero()[:, 0]
            if len(items) == batch and not self.training:
                return [(self._branch(index), None)]
            # While training, a branch without items gets a gradient of zero rather than none: another process may have
            # items for it, and DDP waits for every parameter on every process.
            if len(items) or self.training:
                routes.append((self._branch(index), items))
        return routes

    # -- training ----------------------------------------------------------------------------------------------------

    def train_only(self, stage: Literal[1, 2, 3], freeze: bool = True) -> None:
        """Require gradients for exactly the parameters that a stage's loss reaches (DDP waits for each that requires one).

        `freeze`: in stage 3, keep downsampling and lower blocks fixed, without dropout (paper 3.3).
        """
        used: list[nn.Module] = [self.upper_blocks, self.upper_norm]
        if stage < 3 or not freeze:
            used += [self.downsampling, self.lower_blocks]
        if stage == 2:
            used += [self.projection_in, self.projection_out, self.output]
        if stage == 3:
            used += [self.branches, *self.output.without("masks")]
            used += [] if self.router is None else [self.router]
        self.requires_grad_(False)
        for module in used:
            module.requires_grad_(True)
        self._lower_frozen = stage == 3 and freeze
        self.train(self.training)

    # -- stage 1 -----------------------------------------------------------------------------------------------------

    def stage1(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """All blocks, no bottleneck: `[batch, frames, width]`. BestRQ calls it on corrupted mel (paper 3.1)."""
        return self.upper(self.lower(mel, lengths), lengths)

    # -- stage 2 -----------------------------------------------------------------------------------------------------

    def stage2(self, mel: Tensor, lengths: Tensor | None = None, random: Random = None) -> dict[str, Tensor]:
        """Through the shared bottleneck with noise (only while training) to all heads (paper 3.2, equation 1).

        Beside the heads `z [batch, frames, code_dim]`, the bottleneck's features before the noise.
        """
        if self.config.noise_at == "input":
            grouped = mel.reshape(mel.shape[0], -1, MEL_PER_FRAME * mel.shape[2])
            mel = self.noise(grouped, lengths, random).view_as(mel)
        z = self.projection_in(self.lower(mel, lengths))
        noisy = self.noise(z, lengths, random) if self.config.noise_at == "bottleneck" else z
        return self.heads(self.upper(self.projection_out(noisy), lengths), lengths) | {"z": z}

    # -- stage 3 -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def start_stage3(self, freeze: bool = True) -> None:
        """Duplicate the stage-2 projections into every branch; freeze the lower part, or (ablation) keep training it."""
        for index in range(len(self.branches)):
            branch = self._branch(index)
            branch.projection_in.load_state_dict(self.projection_in.state_dict())
            branch.projection_out.load_state_dict(self.projection_out.state_dict())
        self.train_only(3, freeze)

    def _frozen(self) -> tuple[nn.Module, ...]:
        return self.downsampling, self.lower_blocks, self.projection_in, self.projection_out

    def train(self, mode: bool = True) -> Tokenizer:
        super().train(mode)
        if self._lower_frozen:
            for module in self._frozen():
                module.eval()
        return self

    def fit_quantizer(
        self,
        hidden: Tensor,
        track: str,
        lengths: Tensor | None = None,
        scale: float | None = None,
        basis: Basis = "random",
        generator: torch.Generator | None = None,
        noise: float = 0.0,
    ) -> None:
        """Initialize a track's codes from its bottleneck features; `hidden [batch, frames, width]` from `lower`.

        "random" keeps the random basis and sets the map to the features' mean and `scale`^2 (default 0.85) times their
        covariance; "features" draws the basis itself from them, "means" from their k-means: at least codebook_size
        frames (Quantizer.fit_features, fit_means). noise: see fit_means, for "means" only.
        """
        branch = self.branch(track)
        with torch.no_grad():
            z = branch.projection_in(hidden)
        mask = frame_mask(lengths, hidden.shape[1])
        rows = z.flatten(0, 1) if mask is None else z[mask]
        if basis == "random":
            branch.quantizer.fit(rows, FIT_SCALE if scale is None else scale)
            return
        spread = 1.0 if scale is None else scale
        if basis == "features":
            branch.quantizer.fit_features(rows, spread, generator=generator)
        else:
            branch.quantizer.fit_means(rows, spread, generator=generator, noise=noise)

    def quantize(self, hidden: Tensor, track: Track) -> Quantized:
        """Each item through its own track's proj in and quantizer: `hidden [batch, frames, width]`.

        No computation of one track's items touches the other track's parameters. Codes at padded frames are meaningless.
        """
        batch = hidden.shape[0]
        parts: list[tuple[Tensor | None, Quantized]] = []
        for branch, items in self._routes(track, batch):
            z = branch.projection_in(hidden if items is None else hidden[items])
            codes, z_q, straight = branch.quantizer(z.flatten(0, 1))
            parts.append((items, Quantized(codes.view(z.shape[:2]), z, z_q.view_as(z), straight.view_as(z))))
        return Quantized(*(_merge([(items, part[k]) for items, part in parts], batch) for k in range(4)))

    def project_out(self, embedding: Tensor, track: Track) -> Tensor:
        """Each item through its own track's proj out: `[batch, frames, code_dim]` to `[batch, frames, width]`."""
        routes = self._routes(track, embedding.shape[0])
        return _merge(
            [
                (items, branch.projection_out(embedding if items is None else embedding[items]))
                for branch, items in routes
            ],
            embedding.shape[0],
        )

    def stage3(
        self, hidden: Tensor, track: Track, lengths: Tensor | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """Quantize `hidden [batch, frames, width]` (from `lower`), then upper blocks and all heads but masks.

        Returns heads, the losses of equation 4 over valid frames (`vq`, `codebook`, `commitment`) and the codes
        `[batch, frames]` (-1 beyond lengths). With soft routing (experiment) both branches work on every frame, their
        outputs are mixed by the router, a branch's losses count by its weight in a frame, the codes are those of the
        heavier branch, and `routing` is the mean weight of an item's own track.
        """
        mask = frame_mask(lengths, hidden.shape[1])
        if self.router is None:
            quantized = self.quantize(hidden, track)
            x, codes = self.project_out(quantized.embedding, track), quantized.codes
            losses = self._vq(quantized, mask, None)
        else:
            x, codes, losses = self._mixed(self.router(hidden), hidden, track, mask)
        if mask is not None:
            codes = codes.masked_fill(~mask, PADDING_CODE)
        return self.heads(self.upper(x, lengths), lengths, ("mel", "chroma", "text")), losses, codes

    def _vq(self, quantized: Quantized, mask: Tensor | None, weight: Tensor | None) -> dict[str, Tensor]:
        """Equation 4 over valid frames; `weight [batch, frames]`."""
        config, z, z_q = self.config, quantized.z, quantized.z_q
        if mask is None:
            z, z_q, weight = z.flatten(0, 1), z_q.flatten(0, 1), None if weight is None else weight.flatten()
        else:
            z, z_q, weight = z[mask], z_q[mask], None if weight is None else weight[mask]
        return vq_loss(z, z_q, config.commitment, config.vq_convention, config.vq_norm, weight)

    def _mixed(
        self, weights: Tensor, hidden: Tensor, track: Track, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Both branches, `weights [batch, frames, 2]`: output, codes of the heavier one, losses."""
        quantized = [self.quantize(hidden, name) for name in TRACKS]
        outs = [self.project_out(q.embedding, name) for q, name in zip(quantized, TRACKS, strict=True)]
        x = (torch.stack(outs, dim=-1) * weights[..., None, :]).sum(-1)
        # Detached: the router learns which branch helps the heads, not which one is easier to quantize.
        parts = [self._vq(q, mask, w) for q, w in zip(quantized, weights.detach().unbind(-1), strict=True)]
        losses = {name: torch.stack([part[name] for part in parts]).sum() for name in parts[0]}
        codes = torch.stack([q.codes for q in quantized], dim=-1).gather(-1, weights.argmax(-1, keepdim=True))[..., 0]
        track_index = torch.full_like(codes[:, 0], self._index(track)) if isinstance(track, str) else track
        chosen = weights.detach().gather(-1, track_index[:, None, None].expand(-1, codes.shape[1], 1))[..., 0]
        real = torch.ones_like(chosen) if mask is None else mask.to(chosen.dtype)
        return x, codes, losses | {"routing": (chosen * real).sum() / mean_divisor(real.sum())}

    # -- use ---------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, mel: Tensor, track: Track, lengths: Tensor | None = None) -> Tensor:
        """Codes `[batch, frames]`, int64; -1 beyond an item's length. Call in eval mode.

        Under autocast the blocks run in half precision; the sum over them, proj in and the search stay in float32.
        """
        hidden = self.lower(mel, lengths)
        with full_precision(hidden.device):
            codes = self.quantize(hidden, track).codes
        mask = frame_mask(lengths, codes.shape[1])
        return codes if mask is None else codes.masked_fill(~mask, PADDING_CODE)

    def code_vectors(self, codes: Tensor, track: Track) -> Tensor:
        """Code vectors C W + b: `codes [batch, frames]` to `[..., code_dim]`. ValueError if out of range."""
        parts = [
            (items, branch.quantizer.code_vectors(codes if items is None else codes[items]))
            for branch, items in self._routes(track, codes.shape[0])
        ]
        return _merge(parts, codes.shape[0])

    def embeddings(self, codes: Tensor, track: Track) -> Tensor:
        """Proj-out vectors: `codes [batch, frames]` to `[batch, frames, width]`."""
        return self.project_out(self.code_vectors(codes, track), track)

    def condition(self, codes: Tensor, track: Track, kind: Literal["code", "proj_out"] = "code") -> Tensor:
        """A renderer's conditioning: `code_vectors` or `embeddings` of `codes [batch, frames]`."""
        return self.code_vectors(codes, track) if kind == "code" else self.embeddings(codes, track)

    def reconstruct(self, codes: Tensor, track: Track, lengths: Tensor | None = None) -> dict[str, Tensor]:
        """The output of the heads for `codes [batch, frames]`: see `heads`."""
        return self.heads(self.upper(self.embeddings(codes, track), lengths), lengths)


def _merge(parts: list[tuple[Tensor | None, Tensor]], batch: int) -> Tensor:
    """Put each track's items back in their places along the batch."""
    if len(parts) == 1 and parts[0][0] is None:
        return parts[0][1]
    order = torch.cat([items for items, _ in parts if items is not None])
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(batch, device=order.device)
    return torch.cat([values for _, values in parts])[inverse]
