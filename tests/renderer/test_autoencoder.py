"""The spectral autoencoder: exact lengths, a true inverse STFT, finite receptive field, silence."""

import pytest
import torch

from duotok.config import parse
from duotok.errors import ConfigError
from duotok.renderer.autoencoder import Autoencoder, AutoencoderConfig, ConvNeXt, Snake, first_phases

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


@pytest.mark.parametrize("iterations", [0, 3])
def test_decoding_in_windows_equals_the_whole(iterations: int):
    torch.manual_seed(0)
    autoencoder = Autoencoder(TINY.model_copy(update={"griffin_lim": iterations, "n_fft": 1920})).eval()
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


def test_snake_is_periodic_around_the_identity():
    snake = Snake(3)
    snake.log_rate.data = torch.tensor([0.0, 1.0, -1.0])
    x = torch.linspace(-3, 3, 60).view(20, 3)
    rate = snake.log_rate.detach().exp()
    expected = x + (1 - torch.cos(2 * rate * x)) / (2 * rate)  # sin^2, written otherwise
    torch.testing.assert_close(snake(x).detach(), expected)


def test_a_block_adds_what_its_scale_says():
    block = ConvNeXt(8, 2, 3)
    x = torch.randn(1, 10, 8)
    added = {}
    for scale in (0.0, 0.5, 1.0):
        block.scale.data.fill_(scale)
        added[scale] = (block(x) - x).detach()
    assert not added[0.0].any() and added[0.5].abs().max() > 1e-3
    torch.testing.assert_close(added[1.0], 2 * added[0.5])
    for parameter in block.down.parameters():
        parameter.data *= 3
    torch.testing.assert_close((block(x) - x).detach(), 3 * added[1.0])


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


@pytest.mark.parametrize(
    "changes",
    [
        {"output": "vector"},
        {"activation": "snake"},
        {"low_bands": 12},
        {"phase_bins": 40},
        {"n_fft": 1920},
        {"bass_latents": 5, "bass_bins": 9},
        {"output": "magnitude", "griffin_lim": 2},
    ],
)
def test_every_form_decodes_in_windows_and_learns(changes: dict[str, object]):
    """The same promises for each switch: exact lengths, windows equal to the whole, and a gradient in every weight."""
    torch.manual_seed(0)
    autoencoder = Autoencoder(TINY.model_copy(update=changes))
    if autoencoder.bass_decoder is not None:  # which says nothing before it has learned
        torch.nn.init.normal_(autoencoder.bass_decoder.leave.weight, std=0.1)
    latents = torch.randn(1, 60, 64)
    reach = autoencoder.receptive_field
    whole, part = autoencoder.decode(latents), autoencoder.decode(latents[:, 20 - reach : 40 + reach])
    torch.testing.assert_close(
        part[..., reach * 960 : (reach + 20) * 960], whole[..., 20 * 960 : 40 * 960], atol=1e-5, rtol=1e-4
    )
    sound = 0.1 * torch.randn(2, 1, 9600)
    decoded = autoencoder.decode(autoencoder.encode(sound))
    assert decoded.shape == sound.shape
    (decoded - sound).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in autoencoder.parameters())


def test_a_vector_gives_its_direction_to_the_phase_and_nothing_to_the_magnitude():
    torch.manual_seed(0)
    autoencoder = Autoencoder(TINY.model_copy(update={"output": "vector"})).eval()
    latents = torch.randn(1, 10, 64)
    before = autoencoder.spectrum(latents)
    bins = autoencoder.bins
    with torch.no_grad():
        autoencoder.to_spectrum.weight[bins:] *= 7.0
        autoencoder.to_spectrum.bias[bins:] *= 7.0
    after = autoencoder.spectrum(latents)
    torch.testing.assert_close(after.angle().cos(), before.angle().cos(), atol=1e-4, rtol=1e-4)
    loud = before.abs() > 0.5 * before.abs().mean()
    torch.testing.assert_close(after.abs()[loud], before.abs()[loud], rtol=2e-2, atol=1e-3)


def test_low_bands_tell_harmonics_of_a_low_note_apart():
    """55 and 110 Hz apart is nothing to a window of 43 ms; through 85 ms the two notes differ in more bands."""
    time = torch.arange(48_000) / 48_000
    notes = [sum(torch.sin(2 * torch.pi * f * k * time) for k in range(1, 6)) * 0.1 for f in (55.0, 58.3)]
    features = Autoencoder(TINY.model_copy(update={"low_bands": 96})).features
    a, b = (features(torch.as_tensor(note)[None])[0, 40:60].mean(0) for note in notes)
    gap = (a - b).abs()
    assert float(gap[-96:][:20].mean()) > 2 * float(gap[:20].mean())


@pytest.mark.parametrize("values", [{"n_fft": 1000}, {"n_fft": 480}, {"kernel": 6}, {"hop": 240}, {"hop": 960}])
def test_sizes_that_cannot_be_are_named(values: dict[str, int]):
    with pytest.raises(ValueError, match=f"{next(iter(values))} {next(iter(values.values()))}"):
        AutoencoderConfig(**values)


@pytest.mark.parametrize("key", ["encoder_blocks", "decoder_blocks"])
@pytest.mark.parametrize("blocks", [(-1, 2), (1, -2)])
def test_no_fewer_than_no_blocks(key: str, blocks: tuple[int, int]):
    with pytest.raises(
        ConfigError, match=rf"'{key}\.{blocks.index(min(blocks))}' = -[12]: .* greater than or equal to 0"
    ):
        parse(AutoencoderConfig, {key: blocks})


def test_a_decoder_without_blocks_keeps_its_lengths():
    none = Autoencoder(TINY.model_copy(update={"encoder_blocks": (0, 0), "decoder_blocks": (0, 0)}))
    assert none.decode(none.encode(torch.zeros(1, 1, 2881))).shape == (1, 1, 3840)


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


def tone(hertz: float, turn: float = 0.0) -> torch.Tensor:
    return 0.1 * torch.sin(2 * torch.pi * (hertz * torch.arange(48_000) / 48_000 + turn))[None]


def test_a_steady_tone_is_one_frame_for_magnitudes_and_not_for_phases():
    """Why a decoder behind magnitudes makes a comb of every tone: it is told the same thing at every frame."""
    for bins, moves in ((0, False), (240, True)):
        features = Autoencoder(TINY.model_copy(update={"phase_bins": bins})).features(tone(437.0))[0, 20:80]
        spread = float((features - features.mean(0)).abs().amax())
        assert (spread > 0.5) == moves, (bins, spread)


def test_what_is_told_the_same_at_every_frame_comes_out_with_the_period_of_a_frame():
    torch.manual_seed(0)
    autoencoder = Autoencoder(TINY).eval()
    sound = autoencoder.decode(torch.randn(1, 1, 64).expand(1, 120, 64))[0, 0]
    middle = sound[40 * 960 : 80 * 960].view(40, 960)
    assert float(sound.abs().max()) > 0
    torch.testing.assert_close(middle, middle[:1].expand_as(middle), atol=1e-5, rtol=1e-4)


def with_basses(plain: Autoencoder, latents: int = 4, bins: int = 6) -> Autoencoder:
    """The same weights, and new ones for basses; its latents are those of `plain` and `latents` more."""
    shape = {"latent_dim": plain.config.latent_dim + latents, "bass_latents": latents, "bass_bins": bins}
    whole = Autoencoder(plain.config.model_copy(update=shape)).eval()
    found = whole.load_state_dict(plain.state_dict(), strict=False)
    assert not found.unexpected_keys and all(key.startswith("bass_") for key in found.missing_keys)
    return whole


@torch.no_grad()
def test_latents_for_basses_change_nothing_before_they_have_learned(autoencoder: Autoencoder):
    whole, sound = with_basses(autoencoder), 0.1 * torch.randn(2, 1, 9600)
    latents = autoencoder.encode(sound)
    assert torch.equal(whole.encode(sound)[..., :64], latents)
    torch.testing.assert_close(whole.decode(whole.encode(sound)), autoencoder.decode(latents))


@torch.no_grad()
def test_latents_for_basses_tell_the_lowest_bins_alone(autoencoder: Autoencoder):
    whole = with_basses(autoencoder, bins=6)
    torch.nn.init.normal_(whole.bass_decoder.leave.weight)
    latents = torch.randn(1, 12, 68)
    before = whole.spectrum(latents).abs()
    latents[..., 64:] += 1.0
    moved = (whole.spectrum(latents).abs().log() - before.log()).abs().amax((0, 1))
    assert bool((moved[:6] > 1e-3).all()) and not moved[6:].any()
    latents[..., :64] += 1.0  # and the others still tell the rest
    assert bool(((whole.spectrum(latents).abs() - before).abs().amax((0, 1))[6:] > 0).all())


@torch.no_grad()
def test_latents_for_basses_hear_low_notes_alone(autoencoder: Autoencoder):
    whole = with_basses(autoencoder, bins=6)  # bins of 50 Hz, and 8 more are heard
    time = torch.arange(9600) / 48_000
    for hertz, heard in ((150.0, True), (3000.0, False)):
        quiet, loud = (
            whole.encode(a * torch.sin(2 * torch.pi * hertz * time)[None, None])[:, 2:-2] for a in (0.1, 0.3)
        )
        assert bool(((loud - quiet)[..., 64:].abs() > 1e-2).any()) == heard
        assert bool(((loud - quiet)[..., :64].abs() > 1e-2).any())


@torch.no_grad()
def test_latents_for_basses_hear_a_little_above_the_bins_that_they_tell(autoencoder: Autoencoder):
    """The other side of a partial at the edge."""
    encoder = with_basses(autoencoder, bins=6).bass_encoder
    heard = []
    for place in range(20):
        magnitude = torch.full((1, 8, 20), 0.1)
        magnitude[..., place] = 1.0
        heard.append(not torch.equal(encoder(magnitude), encoder(torch.full((1, 8, 20), 0.1))))
    assert heard == [place < 6 + 8 for place in range(20)]


@torch.no_grad()
def test_a_latent_depends_on_no_sound_beyond_the_field_of_the_encoder():
    """Of either part: here the window of the basses is the longest, and their blocks reach further."""
    torch.manual_seed(0)
    shape = {"latent_dim": 68, "bass_latents": 4, "bass_bins": 9, "n_fft": 9600, "encoder_blocks": (0, 0)}
    autoencoder = Autoencoder(TINY.model_copy(update=shape)).eval()
    sound = 0.1 * torch.randn(1, 1, 80 * 960)
    changed = sound.clone()
    changed[..., 40 * 960 : 41 * 960] *= -3.0
    gap = (autoencoder.encode(sound) - autoencoder.encode(changed)).abs()[0].amax(1)
    reach = autoencoder.encoder_field
    assert gap[40] > 0 and not gap[: 40 - reach].any() and not gap[40 + reach + 1 :].any()
    assert gap[40 - 8] > 0, "as far as its window and blocks"


@torch.no_grad()
def test_a_sample_depends_on_no_latents_beyond_the_field_of_the_decoder_for_basses():
    torch.manual_seed(0)
    shape = {"latent_dim": 68, "bass_latents": 4, "bass_bins": 9, "decoder_blocks": (0, 0)}
    autoencoder = Autoencoder(TINY.model_copy(update=shape)).eval()
    torch.nn.init.normal_(autoencoder.bass_decoder.leave.weight)
    latents = torch.randn(1, 60, 68)
    changed = latents.clone()
    changed[:, 30] += 10.0
    gap = (autoencoder.decode(latents) - autoencoder.decode(changed)).abs()[0, 0].view(60, 960).amax(1)
    reach = autoencoder.receptive_field
    assert not gap[: 30 - reach].any() and not gap[30 + reach + 1 :].any()
    assert gap[30 - 6] > 0, "as far as its blocks"


@torch.no_grad()
def test_statistics_follow_what_learns(autoencoder: Autoencoder):
    whole = with_basses(autoencoder)
    whole.follow(torch.full((68,), 2.0), torch.full((68,), 3.0), 0.5)
    raw = torch.randn(1, 5, 68)
    torch.testing.assert_close(whole.standardised(raw), (raw - 1.0) / 2.0)
    whole.to_latent.requires_grad_(False)
    whole.follow(torch.full((68,), 5.0), torch.full((68,), 6.0), 1.0)
    torch.testing.assert_close(whole.standardised(raw)[..., :64], (raw[..., :64] - 1.0) / 2.0)
    torch.testing.assert_close(whole.standardised(raw)[..., 64:], (raw[..., 64:] - 5.0) / 6.0)


@pytest.mark.parametrize(
    ("values", "told"),
    [({"bass_latents": 64}, "bass_latents 64"), ({"bass_latents": 4, "bass_bins": 962}, "bass_bins 962")],
)
def test_basses_that_cannot_be_are_named(values: dict[str, int], told: str):
    with pytest.raises(ValueError, match=told):
        AutoencoderConfig(**values)


@torch.no_grad()
def test_magnitudes_are_the_same_without_phases():
    torch.manual_seed(0)
    whole = Autoencoder(TINY.model_copy(update={"output": "vector", "griffin_lim": 2, "n_fft": 1920})).eval()
    silent, latents = whole.without_phases().eval(), torch.randn(2, 12, 64)
    ratio = silent.spectrum(latents).abs() / whole.spectrum(latents).abs()
    assert bool((ratio > 0.999).all()) and float((ratio < 1.01).float().mean()) > 0.99, (
        "but where a vector had no direction"
    )
    assert silent.to_spectrum.out_features * 3 == whole.to_spectrum.out_features
    sound = 0.1 * torch.randn(1, 1, 9600)
    assert torch.equal(silent.encode(sound), whole.encode(sound))
    fitted, begun = silent.sound(silent.spectrum(latents)), silent.sound(silent.spectrum(latents), 0)
    assert bool((fitted - begun).abs().max() > 1e-3), "the phases are fitted"


def test_phases_to_begin_with_spread_the_energy_of_a_frame():
    """All alike (or linear) they would be a click in every frame."""
    frame = torch.fft.irfft(torch.polar(torch.ones(1921), first_phases(1921)))
    click = torch.fft.irfft(torch.ones(1921, dtype=torch.complex64))
    assert float(frame.abs().max()) < 0.1 * float(click.abs().max())
    assert torch.equal(first_phases(100), first_phases(100)) and float(first_phases(1921).max()) < 6.2832


def test_no_phases_and_none_fitted_is_no_sound():
    with pytest.raises(ValueError, match="output magnitude has no phases; set griffin_lim"):
        AutoencoderConfig(output="magnitude")
