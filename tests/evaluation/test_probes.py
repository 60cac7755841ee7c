"""Probes: the shapes of the public one, and that each hears what it must."""

from __future__ import annotations

import pytest
import torch

from duotok.errors import ConfigError
from duotok.evaluation.probes import PROBES, ProbeConfig, make_probe

SMALL = {"width": 8, "heads": 2, "blocks": 1, "kernel": 3}


@pytest.mark.parametrize("kind", PROBES)
def test_logits_of_every_probe_do_not_depend_on_company(kind: str) -> None:
    probe = make_probe(ProbeConfig(kind=kind, **SMALL), 32, 20, 5).eval()
    pieces = torch.randn(3, 20, 32)
    logits = probe(pieces)
    assert logits.shape == (3, 5)
    assert torch.allclose(logits[1:2], probe(pieces[1:2]), atol=1e-5)
    logits.sum().backward()
    assert all(p.grad is not None for p in probe.parameters()), "every weight is used"


def test_the_public_probe_has_the_published_size() -> None:
    """AudioCodecBench's MultilabelProber(codec_dim=2048, target_T=125, num_outputs=50)."""
    probe = make_probe(ProbeConfig(kind="se"), 2048, 125, 50)
    gates = sum(3 * 2 * frames * (frames // 16) for frames in (125, 62))
    convolutions = sum(3 * frames + frames * (frames // 2) for frames in (125, 62))
    heads = 2048 * 128 + 128 + (125 // 4) * 128 * 50 + 50
    assert sum(p.numel() for p in probe.parameters()) == gates + convolutions + heads


def test_the_linear_probe_cannot_hear_the_order_and_the_conformer_can() -> None:
    pieces = torch.randn(2, 20, 32)
    turned = pieces.flip(1)
    linear = make_probe(ProbeConfig(kind="linear"), 32, 20, 5).eval()
    conformer = make_probe(ProbeConfig(**SMALL), 32, 20, 5).eval()
    assert torch.allclose(linear(pieces), linear(turned), atol=1e-5)
    assert not torch.allclose(conformer(pieces), conformer(turned), atol=1e-4)


def test_pieces_that_the_public_probe_cannot_read_are_refused() -> None:
    with pytest.raises(ConfigError, match="take the conformer"):
        make_probe(ProbeConfig(kind="se"), 8, 20, 5)
