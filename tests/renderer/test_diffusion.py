"""The objectives against hand arithmetic, and the samplers against data whose denoiser is known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from duotok.errors import ConfigError
from duotok.renderer.diffusion import (
    Objective,
    add_noise,
    alpha_sigma,
    clean,
    diffusion_loss,
    masked_mean_square,
    min_snr_weight,
    noise_of,
    signal_to_noise,
    stratified_times,
    velocity,
)
from duotok.renderer.samplers import SAMPLERS, path, sample

OBJECTIVES: tuple[Objective, ...] = ("v", "flow")
MEAN, STD = 1.5, 0.4


class Oracle:
    """The exact velocity for latents drawn from N(MEAN, STD^2), each value on its own."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def __call__(self, noisy: Tensor, t: Tensor, condition: Tensor, lengths: Tensor | None = None) -> Tensor:
        alpha, sigma = (values[:, None, None] for values in alpha_sigma(t.double(), self.objective))
        x = noisy.double()
        x0 = MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN)
        noise = (x - alpha * x0) / sigma
        v = noise - x0 if self.objective == "flow" else alpha * noise - sigma * x0
        return v.to(noisy.dtype)


def test_v_by_hand() -> None:
    # t = 1/3: alpha = cos(30 deg) = sqrt(3)/2, sigma = 1/2; x0 = 2, e = 4.
    x0, e, t = torch.full((1, 1, 1), 2.0), torch.full((1, 1, 1), 4.0), torch.tensor([1 / 3])
    root = math.sqrt(3)
    assert float(add_noise(x0, e, t)) == pytest.approx(root + 2)
    assert float(velocity(x0, e, t)) == pytest.approx(2 * root - 1)
    # flow: x = (2/3) 2 + (1/3) 4 = 8/3, v = 2
    assert float(add_noise(x0, e, t, "flow")) == pytest.approx(8 / 3)
    assert float(velocity(x0, e, t, "flow")) == pytest.approx(2)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_x0_and_noise_are_recovered_from_v(objective: Objective) -> None:
    torch.manual_seed(0)
    x0, noise = torch.randn(5, 7, 3), torch.randn(5, 7, 3)
    t = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])
    x, v = add_noise(x0, noise, t, objective), velocity(x0, noise, t, objective)
    torch.testing.assert_close(clean(x, v, t, objective), x0, atol=1e-5, rtol=0)
    torch.testing.assert_close(noise_of(x, v, t, objective), noise, atol=1e-5, rtol=0)


def test_the_ends_are_exact() -> None:
    for objective in OBJECTIVES:
        alpha, sigma = alpha_sigma(torch.tensor([0.0, 1.0]), objective)
        assert alpha.tolist() == [1.0, 0.0]
        assert sigma.tolist() == [0.0, 1.0]


def test_v_preserves_variance() -> None:
    alpha, sigma = alpha_sigma(torch.linspace(0, 1, 11))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(11))


def test_stratified_times_fill_every_part_once() -> None:
    times = stratified_times(16, torch.Generator().manual_seed(3))
    assert (times * 16).floor().tolist() == list(range(16))
    assert float(times.min()) > 0 and float(times.max()) < 1


def test_min_snr_by_hand() -> None:
    # t = 1/2: SNR = 1, sigma^2 = 1/2. t = 1/3: SNR = 3, sigma^2 = 1/4.
    weights = min_snr_weight(torch.tensor([0.5, 1 / 3, 1 / 3]), 5.0)
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.75, 0.75]))
    torch.testing.assert_close(min_snr_weight(torch.tensor([1 / 3]), 1.0), torch.tensor([0.25]))


def test_padding_counts_nowhere() -> None:
    error = torch.zeros(2, 4, 3)
    error[0, :2] = 2.0
    error[1] = 1.0
    error[0, 2:] = 1e6
    assert masked_mean_square(error, torch.tensor([2, 4])).tolist() == [4.0, 1.0]


def test_loss_weighs_every_real_frame_alike() -> None:
    t, zero = torch.tensor([0.5, 0.5]), torch.zeros(2, 4, 3)
    noise = torch.zeros(2, 4, 3)
    noise[0, :2] = math.sqrt(2) * 2  # v = alpha e: 2 in both channels of the two real frames
    noise[0, 2:] = 100.0

    def model(noisy: Tensor, t: Tensor, condition: Tensor, lengths: Tensor | None = None) -> Tensor:
        return torch.zeros_like(noisy)

    loss, each = diffusion_loss(model, zero, zero, torch.tensor([2, 4]), t=t, noise=noise)
    torch.testing.assert_close(each, torch.tensor([4.0, 0.0]))
    assert float(loss) == pytest.approx(4.0 * 2 / 6)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_reproduce_the_data(sampler: str, objective: Objective) -> None:
    noise = torch.randn(4, 2000, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = sample(
        Oracle(objective), noise, noise[:, :1000], 128, sampler, torch.Generator().manual_seed(1), objective=objective
    )
    assert float(found.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(found.std()) == pytest.approx(STD, abs=0.012)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_step_is_the_posterior_mean(sampler: str, objective: Objective) -> None:
    noise = torch.randn(1, 50, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = sample(Oracle(objective), noise, noise, 1, sampler, objective=objective)
    torch.testing.assert_close(found, torch.full_like(found, MEAN))


def test_dpmpp_needs_fewer_steps_than_ddim() -> None:
    noise = torch.randn(1, 500, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = MEAN + STD * noise  # the deterministic path of a Gaussian ends here

    def error(sampler: str, steps: int) -> float:
        return float((sample(Oracle("v"), noise, noise, steps, sampler) - exact).square().mean().sqrt())

    assert error("dpmpp-2m", 16) < error("ddim", 64)
    assert error("ddim", 64) < 0.6 * error("ddim", 32)  # first order
    assert error("dpmpp-2m", 128) < 0.003


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp-2m"])
def test_more_steps_come_closer(sampler: str) -> None:
    noise = torch.randn(1, 200, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    errors = [
        float((sample(Oracle("v"), noise, noise, steps, sampler) - (MEAN + STD * noise)).abs().mean())
        for steps in (2, 4, 8, 16, 32)
    ]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_temperature_scales_the_spread(sampler: str) -> None:
    noise = torch.randn(1, 2000, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    half = sample(Oracle("v"), noise, noise, 64, sampler, generator, temperature=0.5)
    none = sample(Oracle("v"), noise, noise, 64, sampler, generator, temperature=0.0)
    assert float(half.std()) == pytest.approx(0.5 * STD, abs=0.02)
    torch.testing.assert_close(none, torch.full_like(none, MEAN))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_seed_decides(sampler: str) -> None:
    noise = torch.randn(1, 20, 8, generator=torch.Generator().manual_seed(0))

    def run(seed: int) -> Tensor:
        return sample(Oracle("v"), noise, noise, 5, sampler, torch.Generator().manual_seed(seed))

    assert torch.equal(run(1), run(1))
    assert torch.equal(run(1), run(2)) == (sampler != "dpmpp-3m-sde")


def test_path_runs_from_noise_to_latents() -> None:
    way = path(4)
    assert way.t.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert float(way.alpha[0]) == 0 and float(way.sigma[-1]) == 0
    assert (way.half_log_snr[1:] > way.half_log_snr[:-1]).all()


def test_mistakes_are_named() -> None:
    noise = torch.zeros(1, 2, 2)
    with pytest.raises(ConfigError, match=r"sampler 'euler': known are ddim, dpmpp-2m, dpmpp-3m-sde"):
        sample(Oracle("v"), noise, noise, 4, "euler")
    with pytest.raises(ConfigError, match="steps 0"):
        sample(Oracle("v"), noise, noise, 0)
    with pytest.raises(ConfigError, match="temperature"):
        sample(Oracle("v"), noise, noise, 4, temperature=-1.0)


def test_si_snr_by_hand() -> None:
    # Truth (1, -1) and estimate (3, -1): less its mean (2, -2), all along the truth; then with 1 across it.
    truth = torch.tensor([[[1.0], [-1.0], [0.0], [9.0]]])
    along = torch.tensor([[[3.0], [-1.0], [1.0], [-9.0]]])
    across = along + torch.tensor([[[0.5], [0.5], [-1.0], [50.0]]])
    lengths = torch.tensor([3])
    assert float(signal_to_noise(along, truth, lengths)) > 70
    # Signal 8, noise 0.25 + 0.25 + 1.
    assert float(signal_to_noise(across, truth, lengths)) == pytest.approx(10 * math.log10(8 / 1.5), abs=1e-4)
    scaled = signal_to_noise(7 * across + 2, truth, lengths)
    assert float(scaled) == pytest.approx(10 * math.log10(8 / 1.5), abs=1e-4)
    assert bool(torch.isfinite(signal_to_noise(torch.zeros(1, 4, 1), torch.zeros(1, 4, 1))).all())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_si_snr_joins_the_loss_by_its_weight(objective: Objective) -> None:
    latents, noise, t = torch.randn(2, 6, 3), torch.randn(2, 6, 3), torch.tensor([0.2, 0.7])
    v = torch.randn(2, 6, 3)
    lengths = torch.tensor([6, 4])

    def loss(weight: float) -> float:
        settings = {"t": t, "noise": noise, "objective": objective, "si_snr": weight}
        return float(diffusion_loss(lambda *_: v, latents, latents, lengths, **settings)[0])  # type: ignore[arg-type]

    estimate = clean(add_noise(latents, noise, t, objective), v, t, objective)
    term = (signal_to_noise(estimate, latents, lengths) * lengths).sum() / lengths.sum()
    assert loss(0.0) - loss(0.1) == pytest.approx(0.1 * float(term), rel=1e-4)


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_numbers_of_a_latent_before_the_first_do_not_count(weight: float) -> None:
    latents, noise, v = (torch.randn(2, 6, 5) for _ in range(3))
    wrong = v.clone()
    wrong[..., :3] = 100.0

    def loss(v: Tensor, latents: Tensor, noise: Tensor, first: int) -> float:
        settings = {"t": torch.tensor([0.2, 0.7]), "si_snr": weight, "first": first}
        return float(diffusion_loss(lambda *_: v, latents, latents, noise=noise, **settings)[0])  # type: ignore[arg-type]

    alone = loss(v[..., 3:], latents[..., 3:], noise[..., 3:], 0)
    assert loss(wrong, latents, noise, 3) == pytest.approx(alone, rel=1e-5)
    assert loss(wrong, latents, noise, 0) > 100 * abs(alone)


def test_a_batch_without_padding_weighs_like_one_that_says_so() -> None:
    """Over processes some have padding and some have none: both must count latent frames."""
    latents, noise, t = torch.randn(2, 6, 3), torch.randn(2, 6, 3), torch.tensor([0.2, 0.7])
    losses = [
        diffusion_loss(lambda *_: latents, latents, latents, lengths, t=t, noise=noise)[0]
        for lengths in (None, torch.tensor([6, 6]))
    ]
    torch.testing.assert_close(losses[0], losses[1])
