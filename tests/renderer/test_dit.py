"""The DiT: size, start, independence of items, receptive field, and that it can learn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from duotok.config import load_config, parse
from duotok.errors import ConfigError
from duotok.nn.attention import attend
from duotok.nn.masks import attention_mask
from duotok.renderer.diffusion import diffusion_loss, stratified_times
from duotok.renderer.dit import PAPER, DiT, DiTConfig, depthwise, guided

TINY = DiTConfig(
    latent_dim=6,
    condition_dim=4,
    condition_width=8,
    condition_kernel=3,
    width=16,
    heads=2,
    blocks=2,
    ffn_ratio=2.0,
    conv_kernel=3,
    time_dim=16,
    attention_window=4,
)


def tiny(seed: int = 0, **changes: object) -> DiT:
    """A DiT that is past its zero start."""
    torch.manual_seed(seed)
    dit = DiT(TINY.model_copy(update=changes))
    with torch.no_grad():
        for parameter in dit.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return dit.eval()


def parameters(dit: DiT) -> int:
    return sum(parameter.numel() for parameter in dit.parameters())


def test_presets_have_their_size() -> None:
    with torch.device("meta"):
        assert 404e6 <= parameters(DiT(PAPER)) <= 407e6
        assert 2.2e6 <= parameters(DiT(DiTConfig())) <= 2.8e6


@pytest.mark.parametrize("gated", [False, True])
def test_a_new_dit_returns_zero(gated: bool) -> None:
    torch.manual_seed(0)
    dit = DiT(TINY.model_copy(update={"gated": gated}))
    v = dit(torch.randn(2, 10, 6), torch.tensor([0.3, 0.9]), torch.randn(2, 5, 4))
    assert v.shape == (2, 10, 6)
    assert not v.any()


@pytest.mark.parametrize("window", [4, None])
@pytest.mark.parametrize("gated", [False, True])
def test_batched_equals_single(window: int | None, gated: bool) -> None:
    dit = tiny(attention_window=window, gated=gated)
    lengths = [18, 7, 30]  # 7: the last token is half there
    items = [(torch.randn(n, 6), torch.randn(-(-n // 2), 4)) for n in lengths]
    noisy, condition = torch.randn(3, 30, 6), torch.randn(3, 15, 4)  # padding is not zero: it must not matter
    for i, (x, c) in enumerate(items):
        noisy[i, : len(x)], condition[i, : len(c)] = x, c
    t = torch.tensor([0.2, 0.5, 1.0])
    together = dit(noisy, t, condition, torch.tensor(lengths))
    for i, (x, c) in enumerate(items):
        alone = dit(x[None], t[i : i + 1], c[None])[0]
        torch.testing.assert_close(together[i, : len(x)], alone, atol=1e-5, rtol=1e-5)
        assert not together[i, len(x) :].any()


def test_a_length_that_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="12 latent frames need 6 code vectors, not 5"):
        tiny()(torch.randn(1, 12, 6), torch.ones(1), torch.randn(1, 5, 4))


def test_a_token_may_have_one_latent_frame() -> None:
    dit = tiny(latents_per_frame=1)
    noisy, condition, t = torch.randn(2, 9, 6), torch.randn(2, 9, 4), torch.tensor([0.3, 0.8])
    v = dit(noisy, t, condition, torch.tensor([9, 5]))
    alone = dit(noisy[1:, :5], t[1:], condition[1:, :5])
    torch.testing.assert_close(v[1:, :5], alone, atol=1e-5, rtol=1e-5)
    assert v.shape == (2, 9, 6) and not v[1, 5:].any()
    with pytest.raises(ValueError, match="9 latent frames need 9 code vectors, not 5"):
        dit(noisy, t, condition[:, :5])


@pytest.mark.parametrize("per_frame", [1, 2])
def test_receptive_field_is_what_it_says(per_frame: int) -> None:
    dit = tiny(latents_per_frame=per_frame)
    reach = dit.receptive_field
    assert reach is not None
    frames, middle = 80, 40
    noisy = torch.randn(1, frames, 6, requires_grad=True)
    condition = torch.randn(1, frames // per_frame, 4, requires_grad=True)
    dit(noisy, torch.tensor([0.5]), condition)[0, middle].sum().backward()
    assert noisy.grad is not None and condition.grad is not None
    seen = noisy.grad[0].abs().sum(1).nonzero()[:, 0]
    seen_tokens = condition.grad[0].abs().sum(1).nonzero()[:, 0]
    assert middle - reach <= int(seen.min()) < middle and middle < int(seen.max()) <= middle + reach
    first, last = per_frame * int(seen_tokens.min()), per_frame * int(seen_tokens.max())
    assert first >= middle - reach - 1 and last <= middle + reach
    assert tiny(attention_window=None).receptive_field is None


def test_chunked_attention_equals_dense() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, 37, 8) for _ in range(3))
    lengths = torch.tensor([37, 21])
    valid = torch.arange(37)[None] < lengths[:, None]
    mask = attention_mask(37, 5, valid, q.device)
    dense = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(attend(q, k, v, mask, 5), dense)


def test_depthwise_is_a_convolution_over_time() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 9, 4), torch.randn(4, 1, 1, 3), torch.randn(4)
    expected = torch.nn.functional.conv1d(x.transpose(1, 2), weight[:, :, 0], bias, padding=1, groups=4).transpose(1, 2)
    torch.testing.assert_close(depthwise(x, weight, bias), expected)


def test_it_tells_the_two_halves_of_a_token_apart() -> None:
    dit = tiny()
    one = dit.condition(torch.randn(1, 1, 4).expand(1, 9, 4), None)[0]
    assert not torch.allclose(one[8], one[9])  # both halves of token 4, amid equal tokens


def test_standardise() -> None:
    dit = tiny()
    vectors = 5 + 3 * torch.randn(5000, 4)
    dit.standardise(vectors)
    x = (vectors - dit.condition.mean) * dit.condition.scale
    torch.testing.assert_close(x.std(0), torch.ones(4))
    torch.testing.assert_close(x.mean(0), torch.zeros(4), atol=1e-4, rtol=0)


@pytest.mark.parametrize("objective", ["v", "flow"])
def test_it_overfits_one_batch(objective: str) -> None:
    torch.manual_seed(0)
    config = TINY.model_copy(update={"objective": objective, "width": 32, "heads": 2})
    dit = DiT(config)
    vectors, weights = torch.randn(4, 8, 4), torch.randn(4, 6)
    latents = (vectors @ weights / 2).repeat_interleave(2, dim=1)
    optimizer = torch.optim.AdamW(dit.parameters(), lr=5e-3)
    losses = []
    for _ in range(200):
        loss, _ = diffusion_loss(
            dit, latents, vectors, t=stratified_times(4), noise=torch.randn_like(latents), objective=config.objective
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-20:]) / 20 < 0.2 * losses[0]


def test_config_and_weights_round_trip(tmp_path: Path) -> None:
    dit = tiny()
    dit.standardise(torch.randn(50, 4))
    again = DiT(parse(DiTConfig, DiTConfig.model_validate(TINY.model_dump()).model_dump(mode="json")))
    save_file(dit.state_dict(), tmp_path / "dit.safetensors")
    again.load_state_dict(load_file(tmp_path / "dit.safetensors"))
    x, t, c = torch.randn(1, 8, 6), torch.tensor([0.4]), torch.randn(1, 4, 4)
    assert torch.equal(dit(x, t, c), again.eval()(x, t, c))


@pytest.mark.parametrize(
    ("change", "words"),
    [({"heads": 5}, "multiple of heads"), ({"conv_kernel": 4}, "must be odd"), ({"widht": 3}, "did you mean 'width'")],
)
def test_mistakes_in_the_config_are_named(change: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse(DiTConfig, change)


def test_the_shipped_config_can_be_guided_and_holds_eleven_million_weights() -> None:
    from duotok.training.stages.stage4 import Stage4Config

    config = load_config(Stage4Config, "mini/stage4")
    with torch.device("meta"):
        assert 10.8e6 < parameters(DiT(config.dit)) < 11.0e6
    assert config.dit.unconditional and config.condition_dropout == 0.1


def test_a_condition_of_any_width_is_standardised_and_heard() -> None:
    """Proj-out vectors (1024 wide, of rank 16) instead of code vectors: the same network behind `condition_width`."""
    codes = torch.randn(300, 16) @ torch.randn(16, 1024) * 5 + 3
    config = TINY.model_copy(update={"condition": "proj_out", "condition_dim": 1024})
    torch.manual_seed(0)
    dit = DiT(config)
    dit.standardise(codes)
    seen = (codes - dit.condition.mean) * dit.condition.scale
    torch.testing.assert_close(seen.std(0), torch.ones(1024), atol=1e-3, rtol=0)
    assert dit.enter.weight.shape == DiT(TINY).enter.weight.shape
    torch.nn.init.normal_(dit.leave.weight)
    noisy, t, condition = torch.randn(2, 10, 6), torch.tensor([0.3, 0.9]), codes[:10].view(2, 5, 1024)
    dit(noisy, t, condition).square().mean().backward()
    for parameter in dit.condition.parameters():
        assert parameter.grad is not None and bool(parameter.grad.any())
    assert parse(DiTConfig, config.model_dump(mode="json")) == config
    with torch.device("meta"):
        paper = DiT(PAPER.model_copy(update={"condition": "proj_out", "condition_dim": 1024}))
    assert abs(parameters(paper) / 1e6 - 409.2) < 0.1


def test_an_item_that_is_told_nothing_does_not_hear_its_codes() -> None:
    dit = tiny(unconditional=True)
    noisy, t, codes = torch.randn(3, 8, 6), torch.rand(3), torch.randn(3, 4, 4)
    dropped = torch.tensor([False, True, False])
    one, other = dit(noisy, t, codes, dropped=dropped), dit(noisy, t, codes + 1.0, dropped=dropped)
    assert torch.equal(one[1], other[1])
    assert not torch.allclose(one[0], other[0]) and not torch.allclose(one[2], other[2])
    torch.testing.assert_close(one[0], dit(noisy, t, codes)[0])


def test_guidance_goes_from_nothing_through_the_condition() -> None:
    dit = tiny(unconditional=True)
    noisy, t, codes = torch.randn(2, 8, 6), torch.rand(2), torch.randn(2, 4, 4)
    told, nothing = dit(noisy, t, codes), dit(noisy, t, codes, dropped=torch.ones(2, dtype=torch.bool))
    assert guided(dit) is dit, "a guidance of 1 costs nothing"
    for scale in (0.0, 0.5, 2.5):
        strong = tiny(unconditional=True, guidance=scale)
        strong.load_state_dict(dit.state_dict())
        torch.testing.assert_close(
            guided(strong)(noisy, t, codes), nothing + scale * (told - nothing), rtol=1e-4, atol=1e-5
        )


def test_guidance_needs_a_model_that_learned_without_its_condition() -> None:
    with pytest.raises(ConfigError, match=r"guidance 2.0 needs a model"):
        parse(DiTConfig, {"guidance": 2.0}, "here")


@torch.no_grad()
def test_time_condition_and_noise_are_all_heard() -> None:
    dit = tiny()
    noisy, vectors, t = torch.randn(2, 12, 6), torch.randn(2, 6, 4), torch.tensor([0.3, 0.3])
    plain = dit(noisy, t, vectors)
    for changed in (dit(noisy + 0.5, t, vectors), dit(noisy, t + 0.4, vectors), dit(noisy, t, vectors + 0.5)):
        assert not torch.allclose(changed, plain, atol=1e-3)
    one = dit(noisy, torch.tensor([0.3, 0.9]), vectors)
    torch.testing.assert_close(one[0], plain[0])  # each item its own time
    assert not torch.allclose(one[1], plain[1], atol=1e-3)


@torch.no_grad()
def test_the_scale_of_code_vectors_does_not_matter_once_standardised() -> None:
    used, scale, shift = (
        torch.randn(500, 4),
        torch.tensor([0.01, 1.0, 30.0, 5.0]),
        torch.tensor([3.0, -1.0, 0.0, 100.0]),
    )
    noisy, t = torch.randn(1, 12, 6), torch.tensor([0.5])
    found = []
    for vectors in (used, used * scale + shift):
        dit = tiny()
        dit.standardise(vectors)
        found.append(dit(noisy, t, vectors[None, :6]))
    torch.testing.assert_close(found[0], found[1], atol=1e-3, rtol=1e-3)
    assert not torch.allclose(tiny()(noisy, t, (used * scale + shift)[None, :6]), found[0], atol=1e-2)


def with_basses(plain: DiT, latents: int = 3) -> DiT:
    """The same weights, and new ones that tell `latents` more."""
    shape = {"latent_dim": plain.config.latent_dim + latents, "bass_latents": latents}
    whole = DiT(plain.config.model_copy(update=shape))
    found = whole.load_state_dict(plain.state_dict(), strict=False)
    assert not found.unexpected_keys and all(key.startswith("basses.") for key in found.missing_keys)
    for parameter in whole.basses.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return whole


@torch.no_grad()
def test_latents_for_basses_leave_the_others_as_they_were() -> None:
    small = tiny()
    wide = with_basses(small)
    noisy, t, codes = torch.randn(2, 12, 9), torch.rand(2), torch.randn(2, 6, 4)
    found = wide(noisy, t, codes)
    torch.testing.assert_close(found[..., :6], small(noisy[..., :6], t, codes))
    assert bool((found[..., 6:].abs() > 1e-3).any())
    assert not DiT(wide.config)(noisy, t, codes)[..., 6:].any(), "nothing, before it has learned"


@torch.no_grad()
def test_basses_hear_the_other_latents_codes_time_and_themselves() -> None:
    wide = with_basses(tiny())
    noisy, codes, t = torch.randn(1, 12, 9), torch.randn(1, 6, 4), torch.tensor([0.4])
    plain = wide(noisy, t, codes)[..., 6:]
    own, others = noisy.clone(), noisy.clone()
    own[..., 6:] += 0.5
    others[..., :6] += 0.5
    for changed in (
        wide(own, t, codes),
        wide(others, t, codes),
        wide(noisy, t + 0.4, codes),
        wide(noisy, t, codes + 0.5),
    ):
        assert not torch.allclose(changed[..., 6:], plain, atol=1e-3)


@torch.no_grad()
def test_basses_of_an_item_depend_on_no_padding_and_on_nothing_beyond_the_field() -> None:
    wide = with_basses(tiny(attention_window=2, blocks=1, bass_blocks=2))
    noisy, t, codes = torch.randn(1, 60, 9), torch.rand(1), torch.randn(1, 30, 4)
    whole = wide(noisy, t, codes)
    padded = wide(
        torch.cat([noisy, torch.randn(1, 8, 9)], 1), t, torch.cat([codes, torch.randn(1, 4, 4)], 1), torch.tensor([60])
    )
    torch.testing.assert_close(padded[:, :60], whole, atol=1e-5, rtol=1e-4)
    assert not padded[:, 60:].any()
    changed = noisy.clone()
    changed[:, 30] += 5.0
    gap = (wide(changed, t, codes) - whole).abs()[0].amax(1)
    reach = wide.receptive_field
    assert not (gap > 1e-5).nonzero().sub(30).abs().gt(reach).any()
    assert bool((gap > 1e-6).nonzero().sub(30).abs().max() > tiny(attention_window=2, blocks=1).receptive_field)


def test_basses_that_cannot_be_are_named() -> None:
    with pytest.raises(ConfigError, match="bass_latents 64 must be fewer than latent_dim 64"):
        parse(DiTConfig, {"bass_latents": 64}, "here")
