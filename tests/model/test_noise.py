"""Replacement noise, equation 1: its rate, its deviation, whole frames, none in eval."""

from __future__ import annotations

import pytest
import torch

from duotok.model.config import TokenizerConfig
from duotok.model.health import effective_rank, noise_detectability
from duotok.model.noise import FrameNoise, channel_std, covariance_root
from duotok.model.tokenizer import Tokenizer
from duotok.random import ItemRandom


def test_rate_and_deviation() -> None:
    x = torch.randn(40, 200, 4) * torch.tensor([0.1, 1.0, 3.0, 10.0]) + 5.0
    out = FrameNoise(probability=0.2, scale=1.5).train()(x)
    changed = (out != x).any(-1)
    assert abs(float(changed.float().mean()) - 0.2) < 0.02
    assert torch.equal(out[~changed], x[~changed]), "frames are replaced whole or not at all"
    noise = out[changed]
    torch.testing.assert_close(noise.std(0), 1.5 * x.flatten(0, 1).std(0), rtol=0.1, atol=0)
    assert float((noise.mean(0) / noise.std(0)).abs().max()) < 0.15, "replaced, not added: the mean of 5 is gone"


def test_fixed_sigma_and_additive() -> None:
    x = torch.randn(40, 200, 4) + 5.0
    out = FrameNoise(probability=1.0, sigma=0.5).train()(x)
    assert abs(float(out.std()) - 0.5) < 0.02 and abs(float(out.mean())) < 0.02
    added = FrameNoise("additive", probability=1.0, sigma=0.5).train()(x)
    assert abs(float((added - x).std()) - 0.5) < 0.02 and abs(float(added.mean()) - 5.0) < 0.05


@pytest.mark.parametrize(
    "noise", [FrameNoise().eval(), FrameNoise("none").train(), FrameNoise(probability=0.0).train()]
)
def test_no_noise(noise: FrameNoise) -> None:
    x = torch.randn(2, 30, 4)
    assert noise(x) is x


def test_generator_repeats_and_gradient_stops_at_replaced_frames() -> None:
    x = torch.randn(3, 50, 4, requires_grad=True)
    noise = FrameNoise(probability=0.5).train()
    out = noise(x, random=torch.Generator().manual_seed(3))
    assert torch.equal(out, noise(x, random=torch.Generator().manual_seed(3)))
    out.sum().backward()
    assert x.grad is not None
    kept = (out == x).all(-1)
    assert torch.equal(x.grad, kept[..., None].float().expand_as(x)), "sigma is detached"


def test_padding_does_not_enter_the_statistics() -> None:
    x = torch.randn(2, 40, 3)
    lengths = torch.tensor([40, 11])
    padded = x.clone()
    padded[1, 11:] = 1e6
    want = torch.cat([x[0], x[1, :11]]).std(0, correction=0)
    torch.testing.assert_close(channel_std(padded, lengths), want)
    torch.testing.assert_close(channel_std(x[:1], None), x[0].std(0, correction=0))


def test_an_items_noise_is_its_own() -> None:
    """Whatever the item is padded to, whichever items stand beside it."""
    x, lengths = torch.randn(3, 50, 4), torch.tensor([50, 20, 33])
    noise = FrameNoise(probability=0.5, sigma=1.0).train()
    together = noise(x, lengths, ItemRandom([11, 12, 13]))
    for item, n in enumerate(lengths.tolist()):
        alone = noise(x[item : item + 1, :n], None, ItemRandom([11 + item]))
        assert torch.equal(together[item, :n], alone[0])
    assert torch.equal(together, noise(x, lengths, ItemRandom([11, 12, 13])))
    assert not torch.equal(together, noise(x, lengths, ItemRandom([21, 12, 13])))


def test_full_covariance_is_that_of_the_features_whatever_the_padding() -> None:
    torch.manual_seed(0)
    mixing = torch.randn(4, 4)
    x = torch.randn(20, 400, 4) @ mixing.T + 3.0
    noise = FrameNoise(probability=1.0, covariance="full").train()(x)
    torch.testing.assert_close(torch.cov(noise.flatten(0, 1).T), mixing @ mixing.T, rtol=0.1, atol=0.1)
    diagonal = FrameNoise(probability=1.0).train()(x)
    off = torch.cov(diagonal.flatten(0, 1).T) - torch.diag((mixing @ mixing.T).diagonal())
    assert float(off.abs().max()) < 0.1 * float((mixing @ mixing.T).diagonal().max())
    lengths = torch.full((20,), 400)
    padded = torch.cat([x, torch.full((20, 7, 4), 1e3)], dim=1)
    torch.testing.assert_close(covariance_root(padded, lengths), covariance_root(x, None), rtol=1e-3, atol=1e-3)


def test_the_linear_test_tells_diagonal_noise_from_flat_features_and_no_other() -> None:
    torch.manual_seed(0)
    flat = torch.randn(1, 4000, 3) @ torch.randn(3, 8) + 0.01 * torch.randn(1, 4000, 8)
    drawn = {c: FrameNoise(covariance=c).draw(flat)[0] for c in ("diagonal", "full")}  # type: ignore[arg-type]
    assert noise_detectability(flat[0], drawn["diagonal"]) > 0.99
    assert noise_detectability(flat[0], drawn["full"]) < 0.53


def test_noise_with_the_moments_of_the_features_hides_among_them_and_without_their_mean_it_does_not() -> None:
    """Features of a trained bottleneck lie one to five deviations from 0: noise about 0 is told whatever its covariance."""
    torch.manual_seed(0)
    lengths = torch.tensor([3000, 1000])
    x = torch.randn(2, 3000, 8) @ torch.randn(8, 8) + 9.0
    x[1, 1000:] = 1e4  # padding, which must not move the mean
    real = torch.cat([x[0], x[1, :1000]])
    drawn = {}
    for mean in ("zero", "features"):
        noise = FrameNoise(probability=1.0, covariance="full", mean=mean).train()(x, lengths)  # type: ignore[arg-type]
        drawn[mean] = torch.cat([noise[0], noise[1, :1000]])
    assert noise_detectability(real, drawn["zero"]) > 0.99
    assert noise_detectability(real, drawn["features"]) < 0.53
    torch.testing.assert_close(drawn["features"].mean(0), real.mean(0), rtol=0.05, atol=0.2)
    fixed = FrameNoise(probability=1.0, sigma=0.5, mean="features").train()(x[:1])
    torch.testing.assert_close(fixed.mean((0, 1)), x[0].mean(0), rtol=0, atol=0.1)


def test_the_config_decides_about_the_mean_of_the_noise() -> None:
    config = TokenizerConfig.preset("tiny", noise_mean="features", noise_probability=1.0)
    assert Tokenizer(config).noise.mean == "features" and Tokenizer(TokenizerConfig.preset("tiny")).noise.mean == "zero"
    with pytest.raises(ValueError, match="what is added has mean 0"):
        TokenizerConfig.preset("tiny", noise="additive", noise_mean="features")


def test_effective_rank_counts_dimensions() -> None:
    torch.manual_seed(0)
    assert effective_rank(torch.randn(20_000, 8)) == pytest.approx(8, abs=0.02)
    assert effective_rank(torch.randn(20_000, 3) @ torch.linalg.qr(torch.randn(8, 3))[0].T) == pytest.approx(
        3, abs=0.02
    )
    assert effective_rank(torch.randn(100, 1)) == pytest.approx(1)
    with pytest.raises(ValueError, match="two rows"):
        effective_rank(torch.randn(1, 8))
