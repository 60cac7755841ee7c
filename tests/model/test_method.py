"""What the method consists of, shown where it works: the noise on its place, targets of the clean sound, routes, gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from duotok.model import Tokenizer
from duotok.model.bestrq import BestRQ, BestRQConfig
from duotok.model.losses import Stage3Weights, stage3_loss

Build = Callable[..., Tokenizer]


def seen(module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """(input, output) of every call of a module from now on."""
    calls: list[tuple[Tensor, Tensor]] = []
    module.register_forward_hook(lambda _, given, made: calls.append((given[0].detach(), made.detach())))
    return calls


def mel(seed: int, items: int = 3, frames: int = 40) -> Tensor:
    return torch.randn(items, 4 * frames, 16, generator=torch.Generator().manual_seed(seed))


def test_all_that_stage_2_hears_passes_the_noise(build: Build) -> None:
    """With every frame replaced by noise of a fixed sigma, nothing of the sound is left: no way leads round the bottleneck."""
    tokenizer = build(noise_probability=1.0, noise_sigma=1.0).train()

    def heads(seed: int) -> dict[str, Tensor]:
        return tokenizer.stage2(mel(seed), random=torch.Generator().manual_seed(7))

    one, other = heads(1), heads(2)
    for name in ("mel", "chroma", "text", "masks"):
        assert torch.equal(one[name], other[name]), name
    assert not torch.equal(one["z"], other["z"])
    tokenizer.eval()
    assert not torch.allclose(heads(1)["mel"], heads(2)["mel"])


def test_noise_replaces_features_between_proj_in_and_proj_out(build: Build) -> None:
    tokenizer = build(noise_probability=0.3).train()
    into, out, upper = seen(tokenizer.projection_in), seen(tokenizer.projection_out), seen(tokenizer.upper_blocks)
    tokenizer.stage2(mel(1))
    z, noisy = into[0][1], out[0][0]
    changed = (noisy != z).any(-1)
    assert 0.15 < float(changed.float().mean()) < 0.45
    assert torch.equal(noisy[~changed], z[~changed])
    assert torch.equal(upper[0][0], out[0][1])  # what proj out says goes on as it is
    spread, wanted = noisy[changed].std(0), z.flatten(0, 1).std(0)
    assert ((spread / wanted).log().abs() < 0.7).all()
    assert (noisy[changed] - z[changed]).std() > 0.8 * z.std()  # replaced, not added to what was there
    correlation = torch.corrcoef(torch.stack([noisy[changed].flatten(), z[changed].flatten()]))[0, 1]
    assert abs(float(correlation)) < 0.4


def test_noise_at_the_input_is_on_the_mel(build: Build) -> None:
    tokenizer = build(noise_probability=0.4, noise_at="input").train()
    into, out, heard = seen(tokenizer.projection_in), seen(tokenizer.projection_out), seen(tokenizer.downsampling)
    sound = mel(1)
    tokenizer.stage2(sound)
    assert torch.equal(into[0][1], out[0][0])
    changed = (heard[0][0] != sound).any(-1).view(3, -1, 4)
    assert 0.2 < float(changed.float().mean()) < 0.6 and torch.equal(
        changed.all(-1), changed.any(-1)
    )  # whole token frames


def test_targets_are_of_the_clean_sound_and_the_input_is_not() -> None:
    torch.manual_seed(0)
    bestrq = BestRQ(16, 32, BestRQConfig(codebook_size=32, code_dim=4, span_frames=4))
    targets = seen(bestrq.quantizer)
    heard: list[Tensor] = []

    def encoder(given: Tensor, lengths: Tensor | None) -> Tensor:
        heard.append(given)
        return given.reshape(given.shape[0], -1, 4, 16).mean(2).repeat(1, 1, 2)

    sound = mel(3)
    bestrq(encoder, sound)
    assert torch.equal(targets[0][0], sound)
    changed = (heard[0] != sound).any(-1)
    assert 0.2 < float(changed.float().mean()) < 0.95
    assert float(heard[0][changed].std()) == pytest.approx(0.1, rel=0.1)  # noise of the paper's deviation, not silence


def test_stage_1_runs_every_block(build: Build) -> None:
    tokenizer = build().train()
    tokenizer.train_only(1)
    tokenizer.stage1(mel(1)).square().mean().backward()
    for name in ("downsampling", "lower_blocks", "upper_blocks", "upper_norm"):
        gradients = [p.grad for p in getattr(tokenizer, name).parameters()]
        assert gradients and all(g is not None and g.abs().max() > 0 for g in gradients), name


@pytest.mark.parametrize("track", ["vocals", "accompaniment"])
def test_what_is_decoded_comes_from_the_code_of_its_own_track(track: str, build: Build) -> None:
    """Upper blocks hear proj out of the code's vector, of the track's own branch, and not the features themselves."""
    tokenizer = build().eval()
    tokenizer.start_stage3()
    with torch.no_grad():
        for number, branch in enumerate(tokenizer.branches):
            branch.projection_out.bias.add_(number + 1.0)  # type: ignore[operator,union-attr]
    upper = seen(tokenizer.upper_blocks)
    heads, _, codes = tokenizer.stage3(tokenizer.lower(mel(1)), track)
    branch = tokenizer.branch(track)
    torch.testing.assert_close(upper[0][0], branch.projection_out(branch.quantizer.code_vectors(codes)).detach())
    assert {"mel", "chroma", "text"} <= heads.keys()
    batch = torch.tensor([0, 1, 0] if track == "vocals" else [1, 0, 1])
    both = tokenizer.encode(mel(1), batch)
    assert torch.equal(both[[0, 2]], codes[[0, 2]])


def test_quantized_features_pass_their_gradient_on_and_train_the_map(build: Build) -> None:
    tokenizer = build().train()
    tokenizer.start_stage3(freeze=False)
    hidden = tokenizer.lower(mel(1))
    hidden.retain_grad()
    heads, vq, _ = tokenizer.stage3(hidden, "vocals")
    heads["mel"].square().mean().backward(retain_graph=True)
    assert hidden.grad is not None and hidden.grad.abs().max() > 0

    def learns(track: str) -> bool:
        gradient = tokenizer.branch(track).quantizer.map.weight.grad  # type: ignore[union-attr]
        return gradient is not None and bool(gradient.any())

    assert not learns("vocals")  # the heads move the features, not the map
    vq["vq"].backward()
    assert learns("vocals") and not learns("accompaniment")


@pytest.mark.parametrize("name", ["vq", "mel", "chroma", "text"])
def test_each_term_of_equation_5_counts_by_its_weight(
    name: str, build: Build, targets: Callable[[int, int], dict[str, Tensor]]
) -> None:
    tokenizer = build().eval()
    tokenizer.start_stage3()
    heads, vq, _ = tokenizer.stage3(tokenizer.lower(mel(1)), "vocals")
    wanted: dict[str, Any] = targets(3, 40)
    plain = Stage3Weights(vq=0, mel=0, chroma=0, text=0)
    losses = stage3_loss(heads, vq, wanted, weights=plain.model_copy(update={name: 3.0}))
    torch.testing.assert_close(losses["loss"], 3.0 * losses[name])
    assert float(losses[name].detach()) > 0


def test_beyond_an_item_s_end_there_are_no_codes(build: Build) -> None:
    """In stage 3 as in encoding: padding must count neither as use of the codebook nor as tokens."""
    tokenizer = build().eval()
    tokenizer.start_stage3()
    lengths = torch.tensor([40, 7, 23])
    hidden = tokenizer.lower(mel(1), lengths)
    for codes in (tokenizer.stage3(hidden, "vocals", lengths)[2], tokenizer.encode(mel(1), "vocals", lengths)):
        for row, length in zip(codes, lengths.tolist(), strict=True):
            assert (row[:length] >= 0).all() and (row[length:] == -1).all()
