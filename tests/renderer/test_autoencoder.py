"""The spectral autoencoder: exact lengths, a true inverse STFT, finite receptive field, silence."""

import pytest
import torch

from duotok.renderer.autoencoder import Autoencoder, AutoencoderConfig

TINY = AutoencoderConfig(
    encoder_width=16, encoder_blocks=(1, 1), decoder_width=16, decoder_blocks=(1, 1), n_fft=960, hop=480
)


@pytest.fixture
def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(TINY).eval()


@pytest.mark.parametrize("samples", [1, 959, 960, 961, 5000])
def test_latent_frames_cover_the_sound(autoencoder: Autoencoder, samples: int):
    latents = autoencoder.encode(torch.randn(2, 1, samples))
    frames = -(-samples // 960)
    assert latents.shape == (2, frames, 64)
    assert autoencoder.decode(latents).shape == (2, 1, frames * 960)


def test_synthesis_inverts_the_analysis():
    autoencoder = Autoencoder(AutoencoderConfig())
    n_fft, hop = 1920, 480
    x = torch.randn(1, 48_000)
    margin = (n_fft - hop) // 2
    frames = torch.nn.functional.pad(x, (margin, margin)).unfold(-1, n_fft, hop) * autoencoder.window
    y = autoencoder.synthesise(torch.fft.rfft(frames))
    inner = slice(n_fft, -n_fft)
    torch.testing.assert_close(y[:, inner], x[:, inner], atol=1e-4, rtol=1e-4)


def test_decoding_in_windows_equals_the_whole(autoencoder: Autoencoder):
    latents = torch.randn(1, 90, 64)
    whole = autoencoder.decode(latents)
    reach = autoencoder.receptive_field
    start, stop = 30, 50
    part = autoencoder.decode(latents[:, start - reach : stop + reach])
    torch.testing.assert_close(
        part[..., reach * 960 : (reach + stop - start) * 960],
        whole[..., start * 960 : stop * 960],
        atol=1e-5,
        rtol=1e-4,
    )


def test_a_change_beyond_the_receptive_field_changes_nothing(autoencoder: Autoencoder):
    latents = torch.randn(1, 80, 64)
    changed = latents.clone()
    changed[:, 40] += 10.0
    gap = (autoencoder.decode(latents) - autoencoder.decode(changed)).abs()[0, 0].view(80, 960).amax(1)
    reach = autoencoder.receptive_field
    assert gap[40] > 0
    assert not gap[: 40 - reach].any() and not gap[40 + reach + 1 :].any()


def test_batched_equals_single(autoencoder: Autoencoder):
    x = torch.randn(3, 1, 9600)
    batched = autoencoder.encode(x)
    for i in range(3):
        torch.testing.assert_close(batched[i : i + 1], autoencoder.encode(x[i : i + 1]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_latents_are_standardised_by_what_training_measured(autoencoder: Autoencoder):
    audio = 0.1 * torch.randn(1, 1, 9600)
    raw = autoencoder.raw_latents(audio)
    autoencoder.mean.fill_(3.0)
    autoencoder.std.fill_(2.0)
    torch.testing.assert_close(autoencoder.encode(audio), (raw - 3.0) / 2.0)


@torch.no_grad()
def test_the_decoder_speaks_in_logarithms_of_magnitudes(autoencoder: Autoencoder):
    """ln 2 more in every bin is the same sound at twice the amplitude."""
    latents = torch.randn(1, 10, autoencoder.config.latent_dim)
    before = autoencoder.decode(latents)
    autoencoder.to_spectrum.bias[: autoencoder.bins].add_(0.6931472)
    torch.testing.assert_close(autoencoder.decode(latents), 2 * before, rtol=1e-3, atol=1e-5)
