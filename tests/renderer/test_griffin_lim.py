"""Fitted phases: a steady tone from its magnitudes alone, silence, what they leave as it is."""

import math

import pytest
import torch
from torch import Tensor

from duotok.random import ItemRandom
from duotok.renderer.autoencoder import Autoencoder, AutoencoderConfig
from duotok.renderer.griffin_lim import FAINT, phases_that_fit, random_phases, without_faint

LONG = AutoencoderConfig(
    encoder_width=16, encoder_blocks=(1, 1), decoder_width=16, decoder_blocks=(1, 1), n_fft=3840, griffin_lim=8
)


@pytest.fixture(scope="module")
def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(LONG).eval()


def tone(hertz: float, seconds: float = 1.0) -> Tensor:
    return 0.3 * torch.sin(2 * math.pi * hertz * torch.arange(int(48_000 * seconds)) / 48_000)[None]


def share_near(audio: Tensor, hertz: float, width: float = 15.0) -> float:
    """Share of the power within `width` Hz of a frequency, ends of the sound left out."""
    inside = audio[0, 7_680:-7_680]
    power = torch.fft.rfft(inside * torch.hann_window(len(inside))).abs().square()
    frequencies = torch.fft.rfftfreq(len(inside), 1 / 48_000)
    return float(power[(frequencies - hertz).abs() < width].sum() / power.sum())


def test_the_analysis_is_what_synthesis_inverts(autoencoder: Autoencoder) -> None:
    x = torch.randn(2, 48_000)
    back = autoencoder.synthesise(autoencoder.analyse(x))
    inner = slice(3840, -3840)
    torch.testing.assert_close(back[:, inner], x[:, inner], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("hertz", [131.0, 233.0, 441.3])
def test_a_steady_tone_comes_from_magnitudes_alone(autoencoder: Autoencoder, hertz: float) -> None:
    """With the same phases at every frame, as a decoder predicts them, it is a comb of 100 Hz; fitted, it is the tone."""
    spectrum = autoencoder.analyse(tone(hertz))
    same = spectrum.abs() * torch.polar(torch.ones(1921), torch.randn(1921))
    comb, fitted = autoencoder.sound(same, 0), autoencoder.sound(same, 8)
    assert share_near(comb, hertz) < 0.6
    assert share_near(fitted, hertz) > 0.95


def test_magnitudes_stay_and_nothing_changes_without_iterations(autoencoder: Autoencoder) -> None:
    spectrum = random_phases(autoencoder.analyse(torch.randn(1, 9_600)), ItemRandom([0]))
    fitted = phases_that_fit(spectrum, 4, lambda x: autoencoder.analyse(autoencoder.synthesise(x)))
    torch.testing.assert_close(fitted.abs(), spectrum.abs(), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(fitted, spectrum, atol=1e-2)
    assert phases_that_fit(spectrum, 0, lambda x: x) is spectrum


def test_random_phases_keep_magnitudes_and_follow_the_seed(autoencoder: Autoencoder) -> None:
    spectrum = autoencoder.analyse(torch.randn(1, 4_800))
    first = random_phases(spectrum, ItemRandom([3]))
    assert torch.equal(random_phases(spectrum, ItemRandom([3])), first)
    assert not torch.allclose(random_phases(spectrum, ItemRandom([4])), first, atol=1e-1)
    torch.testing.assert_close(first.abs(), spectrum.abs(), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(first, spectrum, atol=1e-1)


def test_what_is_too_faint_to_be_heard_is_silent(autoencoder: Autoencoder) -> None:
    faint = 0.45 * FAINT * torch.polar(torch.ones(1, 20, 1921), torch.randn(1, 20, 1921))
    assert autoencoder.sound(faint).abs().max() == 0
    loud = 5 * FAINT * torch.polar(torch.ones(1, 20, 1921), torch.randn(1, 20, 1921))
    torch.testing.assert_close(without_faint(loud).abs(), 0.99 * loud.abs())
    assert torch.equal(autoencoder.sound(faint, 0), autoencoder.synthesise(faint)), (
        "without the fit nothing is taken off"
    )


def test_the_gradient_goes_through_all_iterations_and_stays_finite(autoencoder: Autoencoder) -> None:
    spectrum = random_phases(autoencoder.analyse(tone(233.0, 0.4)), ItemRandom([0]))
    magnitude = spectrum.abs().requires_grad_()
    autoencoder.sound(magnitude * spectrum / spectrum.abs().clamp_min(1e-9), 8).square().mean().backward()
    assert magnitude.grad is not None and magnitude.grad.isfinite().all() and magnitude.grad.abs().max() > 0


def test_each_iteration_hears_seven_frames_further(autoencoder: Autoencoder) -> None:
    """So that decoding in windows equals decoding whole (test_autoencoder.py): frames of 10 ms, two to a latent."""
    plain = Autoencoder(LONG.model_copy(update={"griffin_lim": 0})).receptive_field
    assert autoencoder.receptive_field - plain == math.ceil(8 * 7 / 2)
