"""stable-audio-tools' DiT: the published names and formulas, exchange both ways, objective and samplers by their definitions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.renderer.published_layouts import layer_shapes, random_state, transformer_layer
from torch import Tensor

from duotok.errors import ConfigError
from duotok.renderer.diffusion import add_noise, alpha_sigma, clean, diffusion_loss, noise_of, velocity
from duotok.renderer.dit import guided
from duotok.renderer.render import RenderPlan, RenderSettings, render_track
from duotok.renderer.samplers import Path as Times
from duotok.renderer.samplers import ddim, dpmpp_2m, dpmpp_3m_sde, sample
from duotok.renderer.stable_audio import (
    StableAudioConfig,
    StableAudioDiT,
    from_published,
    published_shapes,
    read_config,
    read_published,
    to_published,
)

SMALL: dict[str, Any] = {
    "kind": "stable-audio", "latent_dim": 6, "condition_dim": 4, "width": 96, "heads": 2, "blocks": 2
}  # fmt: skip


def shapes(width: int, blocks: int, latent_dim: int, condition_dim: int) -> dict[str, list[int]]:
    """Names and shapes of the published code with input concatenation and nothing else, written out by hand."""
    inside, head = latent_dim + condition_dim, width // 2
    found = {
        "timestep_features.weight": [128, 1],
        "to_timestep_embed.0.weight": [width, 256], "to_timestep_embed.0.bias": [width],
        "to_timestep_embed.2.weight": [width, width], "to_timestep_embed.2.bias": [width],
        "transformer.project_in.weight": [width, inside], "transformer.project_out.weight": [latent_dim, width],
        "transformer.rotary_pos_emb.inv_freq": [max(head // 2, 32) // 2],
        "preprocess_conv.weight": [inside, inside, 1], "postprocess_conv.weight": [latent_dim, latent_dim, 1],
    }  # fmt: skip
    for block in range(blocks):
        found |= {f"transformer.layers.{block}.{name}": shape for name, shape in layer_shapes(width).items()}
    return found


STATE_SHAPES = shapes(96, 2, 6, 4)


def state(seed: int = 0) -> dict[str, Tensor]:
    made = random_state(STATE_SHAPES, head_dim=48, seed=seed)
    return made | {"timestep_features.weight": made["timestep_features.weight"] / 0.2}


def opened(made: dict[str, Tensor] | None = None, **changes: Any) -> StableAudioDiT:
    return from_published(made or state(), StableAudioConfig(**{**SMALL, **changes}), Path("made.ckpt"))


def by_hand(weights: dict[str, Tensor], noisy: Tensor, t: Tensor, condition: Tensor) -> Tensor:
    """The published forward pass: `[batch, frames, latent_dim]`, condition repeated by nearest neighbour."""
    told = torch.nn.functional.interpolate(condition.transpose(1, 2), noisy.shape[1], mode="nearest").transpose(1, 2)
    x = torch.cat([noisy, told], dim=-1)
    x = x + x @ weights["preprocess_conv.weight"][..., 0].T
    angles = 2 * math.pi * t[:, None] * weights["timestep_features.weight"][:, 0]
    time = torch.cat([angles.cos(), angles.sin()], dim=-1)
    time = time @ weights["to_timestep_embed.0.weight"].T + weights["to_timestep_embed.0.bias"]
    time = (time * time.sigmoid()) @ weights["to_timestep_embed.2.weight"].T + weights["to_timestep_embed.2.bias"]
    x = torch.cat([time[:, None], x @ weights["transformer.project_in.weight"].T], dim=1)
    for block in range(2):
        x = transformer_layer(
            weights, f"transformer.layers.{block}", x, weights["transformer.rotary_pos_emb.inv_freq"], 48
        )
    v = (x @ weights["transformer.project_out.weight"].T)[:, 1:]
    return v + v @ weights["postprocess_conv.weight"][..., 0].T


# -- weights ---------------------------------------------------------------------------------------------------------


def test_the_same_weights_give_the_published_output() -> None:
    dit = opened()
    noisy, t, condition = torch.randn(2, 14, 6), torch.tensor([0.2, 0.9]), torch.randn(2, 7, 4)
    wanted = by_hand(state(), noisy, t, condition)
    assert wanted.std() > 0.1
    torch.testing.assert_close(dit(noisy, t, condition), wanted, atol=1e-5, rtol=1e-5)


def test_states_go_both_ways() -> None:
    made = state()
    dit = opened(
        {f"model.model.{name}": value for name, value in made.items()} | {"conditioner.weight": torch.zeros(3)}
    )
    back = to_published(dit, prefix="model.model.")
    assert back.keys() == {f"model.model.{name}" for name in made}
    assert all(torch.equal(back[f"model.model.{name}"], value) for name, value in made.items())


@pytest.mark.parametrize(
    ("condition_dim", "parameters"), [(16, 404_394_368), (64, 404_453_504), (512, 405_227_648), (1024, 406_603_904)]
)
def test_the_preset_has_the_paper_s_size(condition_dim: int, parameters: int) -> None:
    """1024 x 24 x 16, counted with the published code: 404 to 407M."""
    with torch.device("meta"):
        dit = StableAudioDiT(StableAudioConfig(kind="stable-audio", condition_dim=condition_dim))
    assert sum(p.numel() for p in dit.parameters()) == parameters
    wanted = shapes(1024, 24, 64, condition_dim) | {"transformer.rotary_pos_emb.inv_freq": [16]}
    assert {name: list(shape) for name, shape in published_shapes(dit).items()} == wanted


def test_files(tmp_path: Path) -> None:
    """A whole model as it is trained there: a pickle of tensors under `state_dict`, and safetensors."""
    made = {f"diffusion.model.{name}": value for name, value in state().items()}
    torch.save({"state_dict": made, "epoch": 3}, tmp_path / "model.ckpt")
    save_file(made, tmp_path / "model.safetensors")
    values = {
        "model_type": "diffusion_cond", "model": {"diffusion": {"type": "dit", "config": {
            "io_channels": 6, "embed_dim": 96, "depth": 2, "num_heads": 2, "input_concat_dim": 4, "cond_token_dim": 0,
            "transformer_type": "continuous_transformer", "diffusion_objective": "rectified_flow",
        }}},
    }  # fmt: skip
    (tmp_path / "model.json").write_text(json.dumps(values))
    config = read_config(tmp_path / "model.json")
    assert config == StableAudioConfig(**SMALL, objective="flow", source="model.json")
    given = torch.randn(1, 4, 6), torch.tensor([0.5]), torch.randn(1, 2, 4)
    first, second = (read_published(tmp_path / f"model.{end}", config)(*given) for end in ("ckpt", "safetensors"))
    assert torch.equal(first, second)
    save_file(to_published(read_published(tmp_path / "model.ckpt", config)), tmp_path / "back.safetensors")
    assert load_file(tmp_path / "back.safetensors").keys() == state().keys()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["transformer.layers.1.pre_norm.beta", None], r"1 missing: transformer\.layers\.1\.pre_norm\.beta"),
        (["transformer.project_out.weight", torch.zeros(6, 95)], r"project_out\.weight' is \[6, 95\], not \[6, 96\]"),
        (
            ["transformer.global_cond_embedder.0.bias", torch.zeros(2)],
            r"1 unexpected: transformer\.global_cond_embedder",
        ),
        (["transformer.project_in.weight", None], r"0 tensors are called transformer\.project_in\.weight"),
        (["preprocess_conv.weight", torch.full((10, 10, 1), torch.inf)], r"1 not finite: preprocess_conv\.weight"),
    ],
)
def test_weights_that_do_not_fit_are_named(change: tuple[str, Tensor | None], told: str) -> None:
    name, value = change
    made = state()
    if value is None:
        del made[name]
    else:
        made[name] = value
    with pytest.raises(ConfigError, match=told):
        opened(made)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"depth": 2**70}, "blocks"),
        ({"embed_dim": 2**70}, "width"),
        ({"num_heads": 7}, "width 96 must be a multiple of heads 7"),
        ({"cond_token_dim": 768}, "cond_token_dim = 768 is not read here"),
        ({"global_cond_type": "adaLN"}, "global_cond_type = 'adaLN' is not read here"),
        ({"patch_size": True}, "patch_size = True is not read here"),
        ({"input_concat_dim": None}, "condition_dim"),
        ({"unheard_of": 1}, "unheard_of = 1 is not read here"),
    ],
)
def test_a_json_that_asks_for_more_is_refused(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    values = {"io_channels": 6, "embed_dim": 96, "depth": 2, "num_heads": 2, "input_concat_dim": 4, **change}
    (tmp_path / "dit.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=told) as error:
        read_config(tmp_path / "dit.json")
    assert str(error.value).startswith(str(tmp_path / "dit.json"))


# -- as a renderer ---------------------------------------------------------------------------------------------------


def test_a_new_one_returns_what_its_output_makes_of_the_input_alone() -> None:
    """As the published code starts: every layer adds nothing yet, so time is not heard."""
    torch.manual_seed(0)
    dit = StableAudioDiT(StableAudioConfig(**SMALL))
    noisy, condition = torch.randn(1, 4, 6), torch.randn(1, 2, 4)
    first, second = (dit(noisy, torch.tensor([t]), condition) for t in (0.1, 0.9))
    assert first.std() > 0.01 and torch.equal(first, second)


def test_padding_is_not_heard_and_half_a_token_will_do() -> None:
    dit = opened()
    noisy, condition, t = torch.randn(2, 11, 6), torch.randn(2, 6, 4), torch.tensor([0.3, 0.6])
    lengths = torch.tensor([11, 5])
    v = dit(noisy, t, condition, lengths)
    alone = dit(noisy[1:, :5], t[1:], condition[1:, :3])
    torch.testing.assert_close(v[1:, :5], alone, atol=1e-5, rtol=1e-5)
    assert not v[1, 5:].any()
    with pytest.raises(ValueError, match="11 latent frames need 6 code vectors, not 5"):
        dit(noisy, t, condition[:, :5])


def test_a_token_may_have_one_latent_frame() -> None:
    """The same as two equal codes for each of half as many tokens."""
    dit, one = opened(), opened(latents_per_frame=1)
    noisy, condition, t = torch.randn(2, 8, 6), torch.randn(2, 4, 4), torch.tensor([0.3, 0.6])
    torch.testing.assert_close(one(noisy, t, condition.repeat_interleave(2, 1)), dit(noisy, t, condition))
    with pytest.raises(ValueError, match="8 latent frames need 8 code vectors, not 4"):
        one(noisy, t, condition)


def test_time_is_not_rounded_in_mixed_precision() -> None:
    dit, t = opened(), torch.linspace(0, 1, 50)
    with torch.autocast("cpu", torch.bfloat16):
        features = dit.timestep_features(t)
    torch.testing.assert_close(features, dit.timestep_features(t), atol=0, rtol=0)


def test_the_condition_is_standardised_and_may_be_withheld() -> None:
    dit = opened(unconditional=True, guidance=2.0)
    vectors = 3 + 5 * torch.randn(1000, 4)
    dit.standardise(vectors)
    told = (vectors - dit.mean) * dit.scale
    assert float(told.mean().abs()) < 0.01 and float(told.std()) == pytest.approx(1, abs=0.01)
    noisy, t, condition = torch.randn(1, 4, 6), torch.tensor([0.5]), vectors[None, :2]
    with_codes, without = dit(noisy, t, condition), dit(noisy, t, condition, None, torch.tensor([True]))
    torch.testing.assert_close(with_codes, by_hand(state(), noisy, t, (condition - dit.mean) * dit.scale))
    torch.testing.assert_close(without, by_hand(state(), noisy, t, torch.zeros(1, 2, 4)))
    torch.testing.assert_close(guided(dit)(noisy, t, condition), without + 2 * (with_codes - without))


def test_it_renders_and_learns() -> None:
    """Through the same renderer and the same loss as our own."""

    class Decoder:
        receptive_field, hop = 0, 960

        def decode(self, latents: Tensor) -> Tensor:
            return latents[..., :2].transpose(1, 2).repeat_interleave(960, dim=2)

    dit = opened()
    settings = RenderSettings(steps=2, plan=RenderPlan(window=24, context=4, crossfade=4))
    sound = render_track(dit, Decoder(), torch.randn(20, 4), 20 * 1920 - 7, settings)
    assert sound.shape == (2, 20 * 1920 - 7) and sound.std() > 0.01
    torch.manual_seed(0)
    dit = StableAudioDiT(StableAudioConfig(**SMALL))
    optimizer = torch.optim.Adam(dit.parameters(), 3e-3)
    latents, condition, noise, t = torch.randn(4, 8, 6), torch.randn(4, 4, 4), torch.randn(4, 8, 6), torch.rand(4)
    losses = []
    for _ in range(40):
        loss, _ = diffusion_loss(dit, latents, condition, t=t, noise=noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]


# -- objective and samplers, by the published definitions ------------------------------------------------------------


def test_the_v_objective() -> None:
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2); noised = alpha x + sigma e; target = alpha e - sigma x."""
    latents, noise, t = torch.randn(3, 5, 6), torch.randn(3, 5, 6), torch.tensor([0.1, 0.5, 0.99])
    alpha, sigma = torch.cos(t * math.pi / 2)[:, None, None], torch.sin(t * math.pi / 2)[:, None, None]
    noisy, target = alpha * latents + sigma * noise, alpha * noise - sigma * latents
    torch.testing.assert_close(add_noise(latents, noise, t), noisy)
    torch.testing.assert_close(velocity(latents, noise, t), target)
    torch.testing.assert_close(clean(noisy, target, t), alpha * noisy - sigma * target)
    torch.testing.assert_close(noise_of(noisy, target, t), sigma * noisy + alpha * target)
    dit = opened()
    loss, each = diffusion_loss(dit, latents, torch.randn(3, 3, 4, generator=seeded()), t=t, noise=noise)
    wanted = (dit(noisy, t, torch.randn(3, 3, 4, generator=seeded())) - target).square().mean()
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(each.mean(), wanted)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def test_ddim_is_stable_audio_tools_own_sampler() -> None:
    """Its `sample` with eta 0: times evenly from 1, the last prediction returned."""
    dit, condition, noise = opened(), torch.randn(1, 4, 4), torch.randn(1, 8, 6)
    times = torch.linspace(1, 0, 7)[:-1]
    alphas, sigmas = torch.cos(times * math.pi / 2), torch.sin(times * math.pi / 2)
    x = noise
    for i in range(6):
        v = dit(x, times[i : i + 1], condition)
        predicted, e = alphas[i] * x - sigmas[i] * v, sigmas[i] * x + alphas[i] * v
        if i < 5:
            x = predicted * alphas[i + 1] + e * sigmas[i + 1]
    torch.testing.assert_close(sample(dit, noise, condition, 6, "ddim"), predicted, atol=2e-5, rtol=1e-4)


def test_dpmpp_2m_is_the_published_one_for_flow() -> None:
    """stable-audio-tools' DPM-Solver++ on the straight path: log-SNR steps, the last of first order."""
    dit, condition, noise = opened(objective="flow"), torch.randn(1, 4, 4), torch.randn(1, 8, 6)
    t = torch.linspace(1, 0, 7, dtype=torch.float64)
    snr = ((1 - t) / t).log()
    x, before = noise.double(), None
    for i in range(6):
        x0 = x - t[i] * dit(x.float(), t[i : i + 1].float(), condition).double()
        h = snr[i + 1] - snr[i]
        guess = x0
        if before is not None and i < 5:
            half = h / (2 * (snr[i] - snr[i - 1]))
            guess = (1 + half) * x0 - half * before
        x = (t[i + 1] / t[i]) * x - (1 - t[i + 1]) * torch.expm1(-h) * guess
        before = x0
    found = sample(dit, noise, condition, 6, "dpmpp-2m", objective="flow")
    torch.testing.assert_close(found, x.float(), atol=2e-5, rtol=1e-4)


def karras(sigmas: Tensor) -> Times:
    """Times whose noise over signal is `sigmas`: what k-diffusion's samplers are given."""
    t = torch.atan(sigmas) * 2 / math.pi
    alpha, sigma = alpha_sigma(t)
    return Times(t, alpha, sigma, alpha.log() - sigma.log())


@pytest.mark.parametrize("name", ["dpmpp-2m", "dpmpp-3m-sde"])
def test_k_diffusion_s_samplers(name: str) -> None:
    """Its definitions on x / alpha with sigma / alpha, from sigma 80 to 0; the noise of a step is given to both."""
    dit, condition = opened(), torch.randn(1, 4, 4)
    sigmas = torch.cat(
        [torch.logspace(math.log10(80), -2, 9, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)]
    )
    way = karras(sigmas)
    start = torch.randn(1, 8, 6, dtype=torch.float64) * sigmas[0]
    fresh = torch.randn(9, 1, 8, 6, dtype=torch.float64)

    def denoised(x: Tensor, i: int) -> Tensor:
        """x scaled to unit variance, the model's v, and back to what it thinks is clean."""
        alpha, sigma = way.alpha[i], way.sigma[i]
        noisy = alpha * x
        v = dit(noisy.float(), way.t[i : i + 1].float(), condition).double()
        return alpha * noisy - sigma * v

    x, s, past = start, sigmas, []
    for i in range(9):
        x0 = denoised(x, i)
        if s[i + 1] == 0:
            x = x0
            break
        h = (s[i] / s[i + 1]).log()
        if name == "dpmpp-2m":
            guess = x0
            if past:
                r = (s[i - 1] / s[i]).log() / h
                guess = (1 + 1 / (2 * r)) * x0 - past[0] / (2 * r)
            x = s[i + 1] / s[i] * x - torch.expm1(-h) * guess
        else:  # eta 1
            x = torch.exp(-2 * h) * x - torch.expm1(-2 * h) * x0
            phi_2 = torch.expm1(-2 * h) / (2 * h) + 1
            if len(past) == 1:
                r = (s[i - 1] / s[i]).log() / h
                x = x + phi_2 * (x0 - past[0]) / r
            elif past:
                r0, r1 = (s[i - 1] / s[i]).log() / h, (s[i - 2] / s[i - 1]).log() / h
                near, far = (x0 - past[0]) / r0, (past[0] - past[1]) / r1
                first = near + (near - far) * r0 / (r0 + r1)
                second = (near - far) / (r0 + r1)
                x = x + phi_2 * first - (phi_2 / (2 * h) - 0.5) * second
            x = x + fresh[i] * s[i + 1] * torch.sqrt(-torch.expm1(-2 * h))
        past = [x0, *past[:1]]
    steps = {"dpmpp-2m": dpmpp_2m, "dpmpp-3m-sde": dpmpp_3m_sde}[name]
    ours = steps(start * way.alpha[0], way, lambda y, i: denoised(y / way.alpha[i], i), lambda i: fresh[i])
    assert x.std() > 0.05
    torch.testing.assert_close(ours, x, atol=1e-5, rtol=1e-4)
    other = ddim(start * way.alpha[0], way, lambda y, i: denoised(y / way.alpha[i], i), lambda i: fresh[i])
    assert float((other - x).abs().max()) > 1e-3  # so the comparison tells samplers apart
