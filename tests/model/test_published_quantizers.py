"""SimVQ and BEST-RQ against their published definitions, written out by hand, and against vector-quantize-pytorch where it is.

`pip install vector-quantize-pytorch` (MIT) makes the second half run; the project does not need it.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from duotok.model.bestrq import BestRQConfig, RandomProjectionQuantizer
from duotok.model.simvq import SimVQ, vq_loss

SIZE, DIM, ROWS = 512, 16, 400


def features() -> Tensor:
    return 0.3 * torch.randn(ROWS, DIM)


def ours(bias: bool = True) -> SimVQ:
    torch.manual_seed(3)
    quantizer = SimVQ(SIZE, DIM, bias=bias, seed=1)
    if quantizer.map.bias is not None:
        torch.nn.init.normal_(quantizer.map.bias, std=0.2)
    return quantizer


# -- SimVQ: the reference (github youngsheen/SimVQ, MIT) ---------------------------------------------------------------


def reference(z: Tensor, basis: Tensor, weight: Tensor, bias: Tensor, beta: float, legacy: bool) -> dict[str, Tensor]:
    """Codes are the frozen basis through one linear layer; nearest by squared distance; the two terms of the loss.

    `legacy` (its default) has beta at the term that moves the codes, else it is at the one that moves the features.
    """
    codes = basis @ weight.T + bias
    distances = (z**2).sum(1, keepdim=True) + (codes**2).sum(1) - 2 * z @ codes.T
    indices = distances.argmin(1)
    z_q = codes[indices]
    moves_features, moves_codes = ((z_q.detach() - z) ** 2).mean(), ((z_q - z.detach()) ** 2).mean()
    loss = moves_features + beta * moves_codes if legacy else beta * moves_features + moves_codes
    return {"indices": indices, "straight": z + (z_q - z).detach(), "loss": loss}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("beta", [0.25, 1.0])
def test_simvq_is_the_reference(legacy: bool, beta: float) -> None:
    """Indices, output, loss, and the gradients of features, map and offset."""
    quantizer = ours()
    bias = quantizer.map.bias
    assert bias is not None
    z = features().requires_grad_()
    weights = [quantizer.map.weight, bias]
    found = quantizer(z)
    loss = vq_loss(z, found.z_q, beta, "legacy" if legacy else "paper")["vq"]
    gradients = torch.autograd.grad(loss + found.straight.square().sum(), [z, *weights])
    copies = [value.detach().clone().requires_grad_() for value in (z, *weights)]
    other = reference(copies[0], quantizer.basis, copies[1], copies[2], beta, legacy)
    wanted = torch.autograd.grad(other["loss"] + other["straight"].square().sum(), copies)
    assert torch.equal(found.codes, other["indices"]) and len(found.codes.unique()) > 50
    torch.testing.assert_close(found.straight, other["straight"])
    torch.testing.assert_close(loss, other["loss"])
    for gradient, right in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, right, atol=1e-6, rtol=1e-4)


def test_the_conventions_differ_in_what_they_move() -> None:
    """So that the comparison above can tell them apart."""
    quantizer = ours()
    z = features().requires_grad_()
    moved = [torch.autograd.grad(vq_loss(z, quantizer(z).z_q, 0.25, kind)["vq"], z)[0] for kind in ("paper", "legacy")]
    torch.testing.assert_close(4 * moved[0], moved[1])


# -- SimVQ: the package ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def package() -> Any:
    return pytest.importorskip(
        "vector_quantize_pytorch", reason="pip install vector-quantize-pytorch to compare with it"
    )


def test_simvq_is_the_package_s(package: Any) -> None:
    """Its straight-through form (rotation off), which has no offset: indices, output, loss, gradients, code vectors."""
    quantizer = ours(bias=False)
    theirs = package.SimVQ(dim=DIM, codebook_size=SIZE, rotation_trick=False)
    theirs.frozen_codebook.copy_(quantizer.basis)
    theirs.code_transform.weight.data.copy_(quantizer.map.weight)
    z = features().requires_grad_()
    found = quantizer(z)
    loss = vq_loss(z, found.z_q, 0.25, "paper")["vq"]
    other = z.detach()[None].clone().requires_grad_()
    quantized, indices, commit = theirs(other)
    assert torch.equal(found.codes, indices[0])
    torch.testing.assert_close(found.straight, quantized[0])
    torch.testing.assert_close(loss, commit)
    torch.testing.assert_close(quantizer.code_vectors(found.codes), theirs.indices_to_codes(indices)[0])
    mine = torch.autograd.grad(loss + found.straight.square().sum(), [z, quantizer.map.weight])
    right = torch.autograd.grad(commit + quantized.square().sum(), [other, theirs.code_transform.weight])
    torch.testing.assert_close(mine[0], right[0][0], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(mine[1], right[1], atol=1e-6, rtol=1e-4)


# -- BEST-RQ -----------------------------------------------------------------------------------------------------------


def targets_of(codebooks: int) -> tuple[RandomProjectionQuantizer, Tensor]:
    torch.manual_seed(5)
    quantizer = RandomProjectionQuantizer(20, BestRQConfig(codebook_size=64, code_dim=8, codebooks=codebooks))
    return quantizer, torch.randn(2, 4 * 30, 20)


@pytest.mark.parametrize("codebooks", [1, 3])
def test_bestrq_targets_are_the_paper_s(codebooks: int) -> None:
    """arXiv 2202.01855, equation 1: argmin over i of | norm(c_i) - norm(A x) |, x four stacked frames."""
    quantizer, mel = targets_of(codebooks)
    found = quantizer(mel, torch.ones(2, 30, dtype=torch.bool)).view(2, 30, codebooks)
    for item in range(2):
        for frame in range(30):
            x = mel[item, 4 * frame : 4 * frame + 4].reshape(-1)
            for book in range(codebooks):
                projected = F.normalize(x @ quantizer.projection[book], dim=0)
                gaps = (F.normalize(quantizer.codebook[book], dim=1) - projected).norm(dim=1)
                assert int(found[item, frame, book]) == int(gaps.argmin())
    assert len(found.unique()) > 30


def test_bestrq_targets_are_the_package_s(package: Any) -> None:
    """The same projection and codebook; its layer norm of each input off, as ours takes statistics of the corpus.

    One codebook: with several its version 1.32 puts a projection of its own behind the random one.
    """
    quantizer, mel = targets_of(1)
    theirs = package.RandomProjectionQuantizer(dim=80, codebook_size=64, codebook_dim=8, norm=False)
    theirs.rand_projs.copy_(quantizer.projection)
    theirs.vq._codebook.embed.data.copy_(quantizer.codebook)
    found = quantizer(mel, torch.ones(2, 30, dtype=torch.bool)).view(2, 30)
    indices = theirs(mel.reshape(2, 30, 80)).view(2, 30)
    assert torch.equal(found, indices) and len(found.unique()) > 30
