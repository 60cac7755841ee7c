"""The modules that exist once for each track in stage 3, and (experiment) the router that mixes both."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from duotok.model.config import TokenizerConfig
from duotok.model.simvq import PlainVQ, Quantizer, SimVQ
from duotok.tracks import TRACKS


class ProjectionIn(nn.Module):
    """Norm and linear layer down to the bottleneck, always in float32: `[..., width]` to `[..., code_dim]`.

    The output is compared with 32,768 codes: half precision would change many near ties. normed: a second layer norm, without
    weights, after the linear layer.
    """

    def __init__(self, width: int, code_dim: int, normed: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, code_dim)
        self.code_norm = nn.LayerNorm(code_dim, elementwise_affine=False) if normed else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        norm, linear = self.norm, self.linear
        with torch.autocast(x.device.type, enabled=False):
            x = F.layer_norm(x.float(), norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps)
            out: Tensor = self.code_norm(F.linear(x, linear.weight.float(), linear.bias.float()))
            return out


class Branch(nn.Module):
    """Proj in, quantizer, proj out of one track."""

    def __init__(self, config: TokenizerConfig, index: int) -> None:
        super().__init__()
        size, dim, seed = config.codebook_size, config.code_dim, config.basis_seed + index
        self.projection_in = ProjectionIn(config.width, dim, config.bottleneck_norm)
        self.quantizer: Quantizer
        if config.quantizer == "simvq":
            self.quantizer = SimVQ(size, dim, bias=config.map_bias, seed=seed)
        else:
            self.quantizer = PlainVQ(size, dim, seed=seed)
        self.projection_out = nn.Linear(dim, config.width)


class Router(nn.Module):
    """Soft routing: the weight of each branch in each frame. `[..., width]` to `[..., tracks]`, summing to 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, len(TRACKS))

    def forward(self, hidden: Tensor) -> Tensor:
        weights: Tensor = torch.softmax(self.linear(self.norm(hidden)), dim=-1)
        return weights
