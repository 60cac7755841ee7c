"""SimVQ (Zhu et al. 2411.02038; paper 3.3, equation 4): codes are a frozen random basis times a learned linear map.

All codes move together when the map moves, so none dies. `PlainVQ` (each code its own parameter) is the ablation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from duotok.distributed import mean_divisor

CHUNK = 128
GROUP = 128

FIT_SCALE = 0.85
"""A Gaussian cloud of codes works best a little narrower than the features: 32768 codes in 16 dimensions for 100,000
frames are then used to 0.93 (0.83 at scale 1; even use would give 0.95) at less distortion (docs/experiments/codebook-start.md).
"""


@torch.no_grad()
def scoring(codes: Tensor) -> Tensor:
    """Codes `[size, dim]` with minus half their squares beside them, `[size, dim + 1]`: (z, 1) times it is what `nearest` maximises."""
    return torch.cat([codes, -0.5 * codes.square().sum(1, keepdim=True)], dim=1)


@torch.no_grad()
def nearest(z: Tensor, codes: Tensor, table: Tensor | None = None) -> Tensor:
    """Index of the code nearest to each row (L2, exact, lowest on ties): `z [n, dim]`, `codes [size, dim]` to `[n]`.

    Maximises z.c - |c|^2 / 2 by matmul, `CHUNK` rows at a time so that scores stay in the cache. Both sides should be
    roughly centred (see Quantizer.search): products of large means would lose float precision. table: `scoring(codes)`, where it
    is kept.
    """
    size = codes.shape[0]
    columns = (scoring(codes) if table is None else table).T
    rows_and_one = F.pad(z, (0, 1), value=1.0)
    group = GROUP if size % GROUP == 0 else size
    chunk = CHUNK if z.device.type == "cpu" else 8192
    # Written into one tensor: small results allocated between large scores would fragment gigabytes of the heap.
    indices = torch.zeros(len(z), dtype=torch.int64, device=z.device)
    space = z.new_empty(min(chunk, len(z)), size)
    for start in range(0, len(z), chunk):
        rows = rows_and_one[start : start + chunk]
        scores = torch.mm(rows, columns, out=space[: len(rows)])
        # The best of each group, then the best group, then the index in it: max vectorises, argmax over all codes does not.
        grouped = scores.view(len(rows), size // group, group)
        best = grouped.amax(2).argmax(1)
        inside = grouped[torch.arange(len(rows), device=z.device), best].argmax(1)
        indices[start : start + chunk] = best * group + inside
    return indices


class VQOutput(NamedTuple):
    """`codes [n]`; `z_q [n, dim]` their vectors, gradient to the map; `straight [n, dim]` z_q with z's gradient."""

    codes: Tensor
    z_q: Tensor
    straight: Tensor


def vq_loss(
    z: Tensor,
    z_q: Tensor,
    commitment: float = 0.25,
    convention: Literal["paper", "legacy"] = "paper",
    norm: Literal["l2", "l1"] = "l2",
    weight: Tensor | None = None,
) -> dict[str, Tensor]:
    """Equation 4 over valid frames `z, z_q [n, dim]`: `vq` = codebook + commitment; mean over frames and dimensions.

    "paper" (SimVQ's `legacy: false`): |sg(z) - z_q|^2 + beta |z - sg(z_q)|^2. "legacy" (VQGAN's mistake): beta on the
    other term. `norm` "l1" is MagiCodec's. `codebook` and `commitment` are returned without their weights. Frames are
    those of all processes; `weight [n]` weighs each (the mean stays over their number).
    """
    count = mean_divisor(torch.tensor(len(z), device=z.device))

    def gap(a: Tensor, b: Tensor) -> Tensor:
        rows = ((a - b).square() if norm == "l2" else (a - b).abs()).mean(-1)
        return (rows if weight is None else rows * weight).sum() / count

    codebook = gap(z.detach(), z_q)
    pull = gap(z, z_q.detach())
    total = codebook + commitment * pull if convention == "paper" else commitment * codebook + pull
    return {"vq": total, "codebook": codebook, "commitment": pull}


def _moments(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and lower Cholesky factor of the covariance of `z [n, dim]`, in float64."""
    z = z.detach().double()
    if z.dim() != 2 or len(z) < 2:
        raise ValueError(f"features are {tuple(z.shape)}; at least two rows [n, dim] are needed")
    mean = z.mean(0)
    centred = z - mean
    covariance = centred.T @ centred / len(z)
    # A dead channel must not stop the factorisation; the floor is far below what float32 resolves.
    floor = 1e-8 * covariance.diagonal().mean().clamp_min(1e-12)
    return mean, torch.linalg.cholesky(covariance + floor * torch.eye(len(mean), dtype=z.dtype, device=z.device))


@torch.no_grad()
def codes_from_features(z: Tensor, size: int, rounds: int, generator: torch.Generator | None) -> Tensor:
    """`size` rows of `z [n, dim]` as codes: drawn at random, then the idle ones are drawn again, `rounds` times.

    A code is idle when no row is nearest to it; rows are drawn in proportion to their distance from the present codes,
    so a stretch of silence does not take thousands of codes. Raises ValueError for fewer rows than codes.
    """
    z = z.detach().float()
    if len(z) < size:
        raise ValueError(f"{len(z)} feature frames are too few to draw {size} codes from")
    chosen = torch.randperm(len(z), generator=generator, device=z.device)[:size]
    for _ in range(rounds):
        codes = z[chosen]
        mean = codes.mean(0)
        assigned = nearest(z - mean, codes - mean)
        idle = torch.bincount(assigned, minlength=size) == 0
        gap = (z - codes[assigned]).norm(dim=1).double()
        missing = int(idle.sum())
        if missing == 0 or int((gap > 0).sum()) < missing:
            break
        # Keys u^(1/w) draw without replacement in proportion to w, without multinomial's limit on categories.
        keys = torch.rand(len(z), generator=generator, device=z.device, dtype=torch.float64).log() / gap
        chosen[idle] = keys.topk(missing).indices
    return z[chosen]


@torch.no_grad()
def codes_from_means(z: Tensor, size: int, rounds: int, generator: torch.Generator | None) -> Tensor:
    """`size` codes as the means of the rows of `z [n, dim]` that are nearest to them: k-means, `rounds` times.

    Frames of one song resemble each other, so codes that are frames themselves fit the songs they come from; means of
    several frames fit songs that were never seen (docs/experiments/codebook-noise.md). Raises ValueError for fewer rows than codes.
    """
    codes = codes_from_features(z, size, 1, generator)
    z = z.detach().float()
    for _ in range(rounds):
        mean = codes.mean(0)
        assigned = nearest(z - mean, codes - mean)
        count = torch.bincount(assigned, minlength=size)
        sums = torch.zeros_like(codes).index_add_(0, assigned, z)
        codes = torch.where(count[:, None] > 0, sums / count[:, None].clamp_min(1), codes)
    return codes


class Quantizer(nn.Module, ABC):
    """Common base of both quantizers: nearest code, straight-through, the table of code vectors cached in eval mode."""

    size: int
    dim: int

    def __init__(self) -> None:
        super().__init__()
        self._cache: tuple[tuple[object, ...], Tensor, Tensor, Tensor] | None = None

    # A subclass defines its code vectors as `linear part [size, dim] + offset [dim]`.
    @abstractmethod
    def _linear_part(self) -> Tensor: ...

    @abstractmethod
    def _offset(self) -> Tensor: ...

    @abstractmethod
    def _lookup(self, codes: Tensor) -> Tensor: ...

    def _state(self) -> tuple[object, ...]:
        tensors = [*self.parameters(), *self.buffers()]
        return tuple((id(t), t.data_ptr(), t._version, t.device, t.dtype) for t in tensors if not t.is_inference())

    def train(self, mode: bool = True) -> Quantizer:
        self._cache = None
        super().train(mode)
        return self

    @torch.no_grad()
    def _tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """Code vectors less the offset, their `scoring`, the offset. Cached in eval mode until a parameter changes."""
        version = self._state()
        if self._cache is not None and self._cache[0] == version:
            return self._cache[1:]
        linear = self._linear_part().float()
        tables = (linear, scoring(linear), self._offset().float())
        self._cache = None if self.training else (version, *tables)
        return tables

    @torch.no_grad()
    def search(self, z: Tensor) -> Tensor:
        """Nearest codes: `z [n, dim]` to int64 `[n]`."""
        with torch.autocast(z.device.type, enabled=False):
            linear, table, offset = self._tables()
            return nearest(z.float() - offset, linear, table)

    def table(self) -> Tensor:
        """All code vectors `[size, dim]`, detached."""
        linear, _, offset = self._tables()
        return linear + offset

    def code_vectors(self, codes: Tensor) -> Tensor:
        """Vectors of `codes [...]`: `[..., dim]`. Raises ValueError for a code outside the codebook."""
        if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= self.size):
            raise ValueError(f"code {int(codes.min())}..{int(codes.max())} outside the codebook of {self.size}")
        return self._lookup(codes)

    def forward(self, z: Tensor) -> VQOutput:
        """`z [n, dim]`: nearest codes, their vectors, and z + sg(z_q - z); always in float32."""
        with torch.autocast(z.device.type, enabled=False):
            z = z.float()
            codes = self.search(z)
            z_q = self._lookup(codes)
        return VQOutput(codes, z_q, z + (z_q - z).detach())

    @abstractmethod
    def fit(self, z: Tensor, scale: float = FIT_SCALE) -> None:
        """Start the codes at the mean and `scale`^2 times the covariance of features `z [n, dim]`."""

    @abstractmethod
    def set_codes(self, codes: Tensor) -> None:
        """Start from given code vectors `[size, dim]`."""

    @torch.no_grad()
    def fit_features(
        self, z: Tensor, scale: float = 1.0, rounds: int = 2, generator: torch.Generator | None = None
    ) -> None:
        """Start the codes at features drawn from `z [n, dim]`, n >= size, spread about their mean by `scale`.

        The fall-back where a Gaussian cloud of codes fits the features badly (they come in clusters).
        """
        self._spread(codes_from_features(z, self.size, rounds, generator), z, scale)

    @torch.no_grad()
    def fit_means(
        self,
        z: Tensor,
        scale: float = 1.0,
        rounds: int = 5,
        generator: torch.Generator | None = None,
        noise: float = 0.0,
    ) -> None:
        """Start the codes at k-means of features `z [n, dim]`, n >= size, spread about their mean by `scale`.

        noise: variance of white noise on the features, relative to theirs. Codes then fill the room between the frames instead of
        lying on them, and fit songs that were never seen almost as well as their own (docs/experiments/codebook-noise.md); as the noise spreads
        them too, they are drawn together by 1 / (1 + noise).
        """
        z = z.detach().float()
        blurred = z
        if noise:
            drawn = torch.randn(z.shape, generator=generator, device=z.device)
            blurred = z + drawn * (noise * z.var(0).mean()).sqrt()
        self._spread(codes_from_means(blurred, self.size, rounds, generator), z, scale / (1 + noise))

    def _spread(self, codes: Tensor, z: Tensor, scale: float) -> None:
        mean = z.detach().float().mean(0)
        self.set_codes(mean + scale * (codes - mean))


class SimVQ(Quantizer):
    """Codes C W + b: C frozen `[size, dim]` ~ N(0, 1 / dim), W and b learned."""

    basis: Tensor

    def __init__(self, size: int = 32_768, dim: int = 16, bias: bool = True, seed: int = 0) -> None:
        super().__init__()
        self.size, self.dim = size, dim
        generator = torch.Generator().manual_seed(seed)
        basis = torch.randn(size, dim, generator=generator, device="cpu") * dim**-0.5
        # Rounded once, so that a bundle in half precision holds exactly the same basis.
        self.register_buffer("basis", basis.half().float())
        self.map = nn.Linear(dim, dim, bias=bias)

    def _linear_part(self) -> Tensor:
        return F.linear(self.basis, self.map.weight)

    def _offset(self) -> Tensor:
        bias = self.map.bias
        return torch.zeros(self.dim, device=self.basis.device) if bias is None else bias.detach()

    def _lookup(self, codes: Tensor) -> Tensor:
        vectors: Tensor = self.map(self.basis[codes])
        return vectors

    @torch.no_grad()
    def set_codes(self, codes: Tensor) -> None:
        """Make `codes [size, dim]`, whitened, the basis (frozen from here on) and set the map to give them back."""
        # Without a bias only the basis can hold their mean: second moments are then about 0.
        mean, factor = _moments(codes if self.map.bias is not None else torch.cat([codes, -codes]))
        white = torch.linalg.solve_triangular(factor, (codes.double() - mean).T, upper=False).T
        self.basis.copy_((white * self.dim**-0.5).half())
        self.map.weight.copy_(factor * self.dim**0.5)
        if self.map.bias is not None:
            self.map.bias.copy_(mean)

    @torch.no_grad()
    def fit(self, z: Tensor, scale: float = FIT_SCALE) -> None:
        """Set the map so that the codes have the mean and `scale`^2 times the covariance of features `z [n, dim]`.

        With cov(C) = A A^T and cov(z) = B B^T: W = A^-T B^T (scale), b = mean(z) - mean(C) W; without bias only the
        covariance is matched. Raises ValueError for fewer than two rows.
        """
        mean, factor = _moments(z)
        basis_mean, basis_factor = _moments(self.basis)
        matrix = scale * torch.linalg.solve_triangular(basis_factor.T, factor.T, upper=True)
        self.map.weight.copy_(matrix.T)
        if self.map.bias is not None:
            self.map.bias.copy_(mean - basis_mean @ matrix)


class PlainVQ(Quantizer):
    """Each code vector its own parameter (van den Oord et al. 1711.00937): the ablation of SimVQ."""

    def __init__(self, size: int = 32_768, dim: int = 16, seed: int = 0) -> None:
        super().__init__()
        self.size, self.dim = size, dim
        generator = torch.Generator().manual_seed(seed)
        self.codebook = nn.Parameter(torch.randn(size, dim, generator=generator, device="cpu") * dim**-0.5)

    def _linear_part(self) -> Tensor:
        return self.codebook - self._offset()

    def _offset(self) -> Tensor:
        return self.codebook.detach().mean(0)

    def _lookup(self, codes: Tensor) -> Tensor:
        return F.embedding(codes, self.codebook)

    @torch.no_grad()
    def set_codes(self, codes: Tensor) -> None:
        """Start from given code vectors `[size, dim]`."""
        self.codebook.copy_(codes)

    @torch.no_grad()
    def fit(self, z: Tensor, scale: float = FIT_SCALE) -> None:
        """Whiten the present codes and give them the mean and `scale`^2 times the covariance of `z [n, dim]`."""
        mean, factor = _moments(z)
        code_mean, code_factor = _moments(self.codebook)
        white = torch.linalg.solve_triangular(code_factor, (self.codebook.double() - code_mean).T, upper=False)
        self.codebook.copy_(mean + scale * (factor @ white).T)
