"""Front ends: what they cost and what they refuse. That padding does not matter is tested with the whole tokenizer."""

from __future__ import annotations

import pytest
import torch
from benchmarks.frontends import PAPER, operations

from duotok.model.config import TokenizerConfig
from duotok.model.frontend import Downsampling


@pytest.mark.parametrize("kind", [kind for kind in PAPER if kind != "conv2d"])
def test_a_tenth_of_the_old_one_at_most(kind: str) -> None:
    def cost(kind: str) -> float:
        config = TokenizerConfig.preset("paper", downsampling=kind, conv_channels=PAPER[kind])
        return operations(config)["front"]

    assert cost(kind) < 0.1 * cost("conv2d")


def test_the_papers_preset_has_a_cheap_one_and_keeps_the_old_as_a_switch() -> None:
    config = TokenizerConfig.preset("paper")
    assert config.conv_channels == PAPER[config.downsampling]
    found = operations(config)
    assert found["front"] < 0.1 * found["lower"]
    old = operations(TokenizerConfig.preset("paper", downsampling="conv2d", conv_channels=512))
    assert old["front"] > 20e9 and old["lower"] == found["lower"]


def test_operations_are_those_of_the_products() -> None:
    config = TokenizerConfig.preset("tiny", conv_channels=16)
    # a second: 50 places of the first block and 25 of the second, 2 operations a weight
    weights = {50: 16 * 16 * 3 + 16 * 16 * 3 + 16 * 16, 25: 16 * 16 * 3 + 16 * 16 * 3 + 16 * 16 + 16 * 32}
    assert operations(config)["front"] == pytest.approx(sum(2 * places * n for places, n in weights.items()))


@pytest.mark.parametrize("kind", ["conv1d", "conv2d", "pyramid", "separable"])
def test_each_hears_every_bin_and_its_neighbours_in_time(kind: str) -> None:
    torch.manual_seed(0)
    front = Downsampling(16, 32, 16, kind).eval()
    mel = torch.randn(1, 48, 16, requires_grad=True)
    front(mel)[0, 6].square().sum().backward()
    assert mel.grad is not None
    heard = mel.grad[0].abs().sum(1).nonzero()[:, 0]
    assert heard.min() < 24 <= 27 < heard.max()  # the frame's own four rows and more on both sides
    assert heard.min() > 12 and heard.max() < 40
    assert bool((mel.grad[0, 24:28].abs().sum(0) > 0).all())


def test_refuses_what_it_cannot_halve() -> None:
    for kind in ("conv2d", "pyramid", "separable"):
        with pytest.raises(ValueError, match=f"{kind} halves the mel bins twice; n_mels 18"):
            Downsampling(18, 32, 16, kind)
    with pytest.raises(ValueError, match="pyramid: conv_channels 7 leaves none"):
        Downsampling(16, 32, 7, "pyramid")
