"""Effective rank of the bottleneck, and how well replacement noise resembles its features."""

from __future__ import annotations

import torch
from torch import Tensor


def effective_rank(features: Tensor) -> float:
    """Exponential of the entropy of the covariance's eigenvalues: `features [rows, dim]` to 1 .. dim.

    O. Roy and M. Vetterli, "The effective rank" (EUSIPCO 2007), on the covariance. Raises ValueError for under two rows.
    """
    if features.dim() != 2 or len(features) < 2:
        raise ValueError(f"features are {list(features.shape)}; at least two rows [rows, dim] are needed")
    covariance = torch.cov(features.detach().double().T).reshape(features.shape[1], features.shape[1])
    values = torch.linalg.eigvalsh(covariance).clamp_min(0)
    shares = values / values.sum().clamp_min(1e-300)
    shares = shares[shares > 0]
    return float(torch.exp(-(shares * shares.log()).sum()))


def noise_detectability(features: Tensor, noise: Tensor) -> float:
    """How well the Mahalanobis distance separates noise from features: area under the ROC curve, 0.5 (not at all) to 1.

    Both `[rows, dim]`; distance under the features' own mean and covariance. A value a below 0.5 (noise closer to the mean
    than the data) is returned as 1 - a.
    """
    x, y = features.detach().double(), noise.detach().double()
    covariance = torch.cov(x.T).reshape(x.shape[1], x.shape[1])
    floor = (
        1e-9
        * covariance.diagonal().mean().clamp_min(1e-12)
        * torch.eye(len(covariance), dtype=x.dtype, device=x.device)
    )
    root = torch.linalg.cholesky(covariance + floor)

    def distance(rows: Tensor) -> Tensor:
        white: Tensor = torch.linalg.solve_triangular(root, (rows - x.mean(0)).T, upper=False)
        return white.square().sum(0)

    true, false = distance(x), distance(y)
    ranks = torch.searchsorted(true.sort().values, false, right=True).double() + torch.searchsorted(
        true.sort().values, false, right=False
    )
    area = float(ranks.mean() / (2 * len(true)))
    return max(area, 1 - area)
