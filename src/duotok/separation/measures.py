"""How good a separation is: scale-invariant signal-to-distortion ratio."""

from __future__ import annotations

import torch
from torch import Tensor


def si_sdr(estimate: Tensor, target: Tensor, eps: float = 1e-10) -> Tensor:
    """SI-SDR in dB of `estimate [..., channels, samples]` against `target`, channels together: `[...]`.

    10 log10(|a t|^2 / |a t - e|^2) with a = <e, t> / |t|^2 (Le Roux et al. 2019, without mean removal).
    """
    e, t = estimate.flatten(-2).double(), target.flatten(-2).double()
    scale = (e * t).sum(-1, keepdim=True) / (t.square().sum(-1, keepdim=True) + eps)
    projection = scale * t
    ratio = (projection.square().sum(-1) + eps) / ((projection - e).square().sum(-1) + eps)
    return 10.0 * torch.log10(ratio)
