"""The network: exact transforms, masks that sum to one, silence, lengths, levels, and the published layout."""

from __future__ import annotations

import pytest
import torch

from duotok.config import parse
from duotok.errors import ConfigError
from duotok.separation.bs_roformer import BSRoFormer, BSRoFormerConfig, istft, stft

TINY = {
    "n_fft": 288,
    "hop": 96,
    "bands": (6, 6, 13, 40, 80),
    "groups": (1, 1, 2, 8, 32),
    "dim": 8,
    "depth": 1,
    "heads": 2,
    "head_dim": 4,
    "feedforward": 8,
    "mask_hidden": 4,
}


def tiny(**changes: object) -> BSRoFormer:
    """A network of a few thousand parameters with weights away from their start."""
    torch.manual_seed(0)
    model = BSRoFormer(BSRoFormerConfig.model_validate(TINY | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize(("n_fft", "hop"), [(288, 96), (256, 96), (200, 100), (2048, 441)])
def test_istft_inverts_stft(n_fft: int, hop: int) -> None:
    audio = torch.randn(2, 7 * hop)
    window = torch.hann_window(n_fft)
    spectra = stft(audio, window, hop)
    assert spectra.shape == (2, 7, n_fft // 2 + 1)
    torch.testing.assert_close(istft(spectra, window, hop), audio, atol=1e-4, rtol=0)


def test_frames_are_centred_on_half_hops() -> None:
    window, hop = torch.hann_window(288), 96
    audio = torch.zeros(1, 10 * hop)
    audio[0, 4 * hop + hop // 2] = 1.0
    energy = stft(audio, window, hop).abs().square().sum(-1)[0]
    assert int(energy.argmax()) == 4
    torch.testing.assert_close(energy[3], energy[5], rtol=1e-4, atol=0)


def test_mini_is_small_and_two_mask_frames_make_a_token_frame() -> None:
    config = BSRoFormerConfig()
    assert sum(p.numel() for p in BSRoFormer(config).parameters()) <= 1_000_000
    assert 1920 % config.hop == 0 and 1920 // config.hop == 2


def test_published_layout_has_the_published_size() -> None:
    with torch.device("meta"):
        model = BSRoFormer(BSRoFormerConfig.published())
    assert len(model.config.bands) == 62
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == 131.70


@pytest.mark.parametrize("samples", [1, 95, 96, 97, 1000])
def test_stems_have_the_length_and_sum_to_the_mix(samples: int) -> None:
    audio = torch.randn(2, 2, samples)
    stems = tiny()(audio)
    assert stems.shape == (2, 4, 2, samples)
    torch.testing.assert_close(stems.sum(1), audio, atol=1e-4, rtol=0)


def test_without_the_constraint_stems_need_not_sum_to_the_mix() -> None:
    audio = torch.randn(1, 2, 960)
    assert (tiny(sum_to_mix=False)(audio).sum(1) - audio).abs().max() > 1e-2


def test_silence_stays_silence() -> None:
    assert tiny()(torch.zeros(1, 2, 960)).abs().max() == 0.0


def test_level_of_the_mix_scales_the_stems() -> None:
    model, audio = tiny(), torch.randn(1, 2, 2000)
    torch.testing.assert_close(model(audio * 0.01) * 100, model(audio), atol=1e-3, rtol=1e-3)


def test_batched_equals_single() -> None:
    model, audio = tiny(), torch.randn(3, 2, 1000)
    singles = torch.cat([model(item[None]) for item in audio])
    torch.testing.assert_close(model(audio), singles, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shared", [True, False])
def test_every_parameter_learns(shared: bool) -> None:
    model = tiny(share_mask_hidden=shared, band_norm=not shared).train()
    model(torch.randn(1, 2, 2000))[:, :3].square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_named_stems_only() -> None:
    model, audio = tiny(), torch.randn(1, 2, 1000)
    some = model.separate_stems(audio, ("bass", "vocals"))
    torch.testing.assert_close(some, model(audio)[:, [2, 0]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bands": (6, 6, 13, 40, 81)}, "add up to 146"),
        ({"groups": (1, 1)}, "groups"),
        ({"head_dim": 5}, "even"),
        ({"hop": 200}, "hop"),
        ({"depht": 2}, "did you mean 'depth'"),
    ],
)
def test_inconsistent_configs_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(BSRoFormerConfig, TINY | changes, "tiny.yaml")
