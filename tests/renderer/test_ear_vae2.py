"""The ear-VAE2: the published names and formulas, windows equal to whole, its end, its files, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.renderer.published_layouts import (
    EAR2,
    ear2_decoded,
    ear2_files,
    ear2_mean,
    ear2_refined,
    ear2_shapes,
    ear2_state,
    small_ear2,
)
from torch import Tensor

from duotok.config import parse
from duotok.errors import ConfigError
from duotok.renderer import ear_vae_files
from duotok.renderer.ear_vae2 import EarVAE2, EarVAE2Config, PublishedConfig2
from duotok.renderer.ear_vae2_state import AVERAGE, WINDOWS, model_section, published_shapes, to_published
from duotok.renderer.ear_vae_files import load_ear_vae, read_published, save_ear_vae
from duotok.renderer.encoding import encode_blocks
from duotok.renderer.render import decode_blocks

WHOLE = 1e-4  # float rounding of windows against the whole


def config(values: dict[str, Any]) -> EarVAE2Config:
    section = model_section(values)
    assert section is not None
    return EarVAE2Config(kind="ear-vae2", model=parse(PublishedConfig2, section))


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> EarVAE2:
    found = read_published(*ear2_files(tmp_path_factory.mktemp("ear2"), small_ear2()))
    assert isinstance(found, EarVAE2)
    return found


# -- as it was published ---------------------------------------------------------------------------------------------


def test_names_and_shapes_are_the_published_ones() -> None:
    """At full size, without memory for it; keys and weights as the published code has them with this JSON."""
    with torch.device("meta"):
        vae = EarVAE2(config(EAR2))
    wanted = ear2_shapes(EAR2)
    found = {name: list(shape) for name, shape in published_shapes(vae).items()}
    assert found == {name: shape for name, shape in wanted.items() if name not in WINDOWS}
    assert len(wanted) == 326
    count = sum(torch.Size(shape).numel() for name, shape in wanted.items() if name not in WINDOWS)
    assert count == 178_354_242


def test_sound_and_latents_are_those_of_the_published_formulas(tmp_path: Path) -> None:
    values = small_ear2(width=2, latent_dim=5)
    state = ear2_state(values)
    vae = read_published(*ear2_files(tmp_path, values, state))
    audio = 0.3 * torch.randn(2, 2, 5 * 1920)
    mean = ear2_mean(state, values, audio)
    assert mean.shape == (2, 5, 5) and mean.std() > 0.01
    torch.testing.assert_close(vae.encode(audio), mean.transpose(1, 2), atol=1e-5, rtol=1e-4)
    latents = torch.randn(2, 5, 5)
    sound = ear2_decoded(state, values, latents.transpose(1, 2))
    assert sound.shape == audio.shape and sound[..., :-480].std() > 0.001
    torch.testing.assert_close(vae.decode(latents)[..., :-480], sound[..., :-480], atol=1e-5, rtol=1e-4)


def test_the_end_fades_out(vae: EarVAE2) -> None:
    """Where one window alone is left, what it holds goes down to nothing; the published division makes a click of it."""
    latents = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(3))
    sound = vae.decode(latents)
    assert sound[..., -5:].abs().max() < 1e-3 * sound[..., :-480].abs().max()
    published = ear2_decoded(to_published(vae), small_ear2(), latents.transpose(1, 2))
    assert published[..., -5:].abs().max() > 10 * sound[..., :-480].abs().max()


def test_the_spectrum_is_inverted(vae: EarVAE2) -> None:
    audio = torch.randn(2, 4800)
    parts = vae.spectrum(audio)
    assert parts.shape == (2, 2, 10, 480)
    whole = torch.fft.rfft(torch.nn.functional.pad(audio, (480, 0)).unfold(-1, 960, 480) * torch.hann_window(960))
    assert torch.allclose(torch.complex(parts[:, 0], parts[:, 1]), whole[..., :-1], atol=1e-4)
    assert torch.allclose(vae.synthesise(whole.transpose(1, 2))[:, :-480], audio[:, :-480], atol=1e-5)


def test_the_refiner_corrects_by_bands(vae: EarVAE2) -> None:
    assert vae.refiner is not None
    spectrum = torch.randn(1, 480, 7, dtype=torch.complex64)
    refined = vae.refiner(spectrum)
    state, settings = to_published(vae), small_ear2()["model"]["gen"]["config"]["refiner"]
    torch.testing.assert_close(refined, ear2_refined(state, settings, spectrum), atol=1e-5, rtol=1e-4)
    assert torch.allclose(refined[:, :30].abs(), spectrum[:, :30].abs(), atol=1e-5)
    assert torch.allclose(
        refined[:, 80:-1] / refined[:, 80:-1].abs(), spectrum[:, 80:] / spectrum[:, 80:].abs(), atol=1e-4
    )
    moved = (refined[:, 30:80] / spectrum[:, 30:80]).abs().log().abs().mean()
    turned = (refined[:, 30:80] / spectrum[:, 30:80]).angle().abs().mean()
    assert moved > 0.01 and turned > 0.01


def test_without_a_refiner_the_last_bin_is_empty(tmp_path: Path) -> None:
    values = small_ear2()
    del values["model"]["gen"]["config"]["refiner"]
    state = {name: value for name, value in ear2_state(small_ear2()).items() if not name.startswith("refiner.")}
    plain = read_published(*ear2_files(tmp_path, values, state))
    sound = plain.decode(torch.randn(1, 4, 4))
    bins = torch.fft.rfft(sound[..., 960:1920]).abs()
    assert isinstance(plain, EarVAE2) and plain.refiner is None and bins.mean() > 0
    assert plain.receptive_field == 8


@pytest.mark.parametrize("extra", [0, 1, 959, 1919])
def test_sound_is_padded_to_the_hop(extra: int, vae: EarVAE2) -> None:
    audio = torch.randn(1, 2, 3 * 1920 + extra)
    latents = vae.encode(audio)
    assert latents.shape == (1, 3 + (extra > 0), 4)
    assert torch.equal(latents, vae.encode(torch.nn.functional.pad(audio, (0, -extra % 1920))))


def test_one_channel_is_heard_as_two_equal_ones(vae: EarVAE2) -> None:
    mono = torch.randn(2, 1, 1920)
    torch.testing.assert_close(vae.encode(mono), vae.encode(mono.repeat(1, 2, 1)), atol=1e-6, rtol=1e-5)


def test_statistics_bring_latents_to_unit_variance_and_back(tmp_path: Path) -> None:
    own = read_published(*ear2_files(tmp_path, small_ear2()))
    audio = torch.randn(1, 2, 9600)
    raw, sound = own.encode(audio), own.decode(own.encode(audio))
    own.mean.copy_(raw[0].mean(0))
    own.std.copy_(raw[0].std(0))
    torch.testing.assert_close(own.encode(audio)[0].std(0), torch.ones(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(own.decode(own.encode(audio)), sound, atol=1e-4, rtol=1e-3)


def test_one_latent_is_one_token_frame(vae: EarVAE2) -> None:
    assert (vae.channels, vae.hop, vae.latents_per_frame, vae.config.latents_per_frame) == (2, 1920, 1, 1)
    assert vae.config.sample_rate == 48_000 and not vae.config.misfit


# -- windows ---------------------------------------------------------------------------------------------------------


def test_fields_are_those_that_the_network_has(tmp_path: Path) -> None:
    """The farthest latent that a change reaches: no farther than told, and told not more than two too far."""
    deep = read_published(*ear2_files(tmp_path, small_ear2(latent_dim=2))).double()
    frames, place = 41, 20
    audio = torch.randn(1, 2, frames * 1920, dtype=torch.float64)
    other = audio.clone()
    other[..., place * 1920 : (place + 1) * 1920] += 1e3 * torch.randn(2, 1920, dtype=torch.float64)
    moved = (deep.encode(audio) - deep.encode(other)).abs().amax((0, 2)).nonzero()[:, 0]
    reach = int((moved - place).abs().max())
    assert deep.encoder_field - 2 <= reach <= deep.encoder_field
    latents = torch.randn(1, frames, 2, dtype=torch.float64)
    other = latents.clone()
    other[:, place] += 1e3
    change = (deep.decode(latents) - deep.decode(other)).abs().amax(1).reshape(frames, 1920).amax(1)
    reach = int((change.nonzero()[:, 0] - place).abs().max())
    assert deep.receptive_field - 2 <= reach <= deep.receptive_field


@pytest.mark.parametrize("block", [7, 500])
def test_decoding_in_windows_is_decoding_whole(block: int, vae: EarVAE2) -> None:
    latents = torch.randn(45, 4)
    whole = vae.decode(latents[None])[0]
    pieces = list(vae.decode_windows(latents, block))
    assert max(piece.shape[1] for piece in pieces) <= block * 1920
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=WHOLE * float(whole.abs().max()), rtol=0)


def test_less_context_than_told_would_be_heard(vae: EarVAE2) -> None:
    """So the comparison above is sharp."""

    class Short:
        receptive_field, hop = 2, 1920

        def decode(self, latents: Tensor) -> Tensor:
            return vae.decode(latents)

    latents = torch.randn(45, 4)
    whole = vae.decode(latents[None])[0]
    pieces = torch.cat(list(decode_blocks(Short(), [latents], 7)), dim=1)
    assert float((pieces - whole).abs().max()) > 10 * WHOLE * float(whole.abs().max())


def test_encoding_in_windows_is_encoding_whole(vae: EarVAE2) -> None:
    audio = 0.3 * torch.randn(2, 30 * 1920 + 123)
    whole = vae.encode(audio[None])[0]
    pieces = list(encode_blocks(vae, audio.split(9973, dim=1), block=9))
    assert {len(piece) for piece in pieces[:-1]} == {9}
    torch.testing.assert_close(torch.cat(pieces), whole, atol=WHOLE, rtol=0)


# -- files -----------------------------------------------------------------------------------------------------------


def test_the_command_makes_a_folder_that_opens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, settings = ear2_files(tmp_path, small_ear2())
    arguments = [str(checkpoint), str(settings), str(tmp_path / "ear")]
    assert ear_vae_files.main(arguments) == 0
    told = capsys.readouterr()
    assert "48000 Hz, hop 1920" in told.out and not told.err
    vae, direct = load_ear_vae(tmp_path / "ear"), read_published(checkpoint, settings)
    assert isinstance(vae, EarVAE2) and vae.config == direct.config and vae.config.licence == "Apache-2.0"
    assert "ear_vae2.pt (sha256 " in vae.config.source and "ear_vae2.json (sha256 " in vae.config.source
    latents = torch.randn(1, 3, 4)
    assert torch.equal(vae.decode(latents), direct.decode(latents))


@pytest.mark.parametrize("form", ["gen_ema", "gen", "state_dict", "bare", "safetensors", "without windows"])
def test_every_form_of_a_checkpoint_is_read(form: str, tmp_path: Path) -> None:
    """Averaged weights go first, as in the published loader."""
    values = small_ear2()
    state, other = ear2_state(values), ear2_state(values, seed=1)
    checkpoint, settings = ear2_files(tmp_path, values)
    averaged = {**{AVERAGE + name: value for name, value in state.items()}, "initted": torch.tensor(True)}
    contents = {
        "gen_ema": {"gen": other, "gen_ema": averaged, "step": 3},
        "gen": {"gen": state, "opt": {"lr": 0.1}},
        "state_dict": {"state_dict": state},
        "bare": state,
        "without windows": {"gen": {n: v for n, v in state.items() if n not in WINDOWS}},
    }
    if form == "safetensors":
        checkpoint = tmp_path / "ear.safetensors"
        save_file(state, checkpoint)
    else:
        torch.save(contents[form], checkpoint)
    found = to_published(read_published(checkpoint, settings))
    assert found.keys() == state.keys()
    for name, value in state.items():
        if not name.endswith(("original0", "original1")):
            assert torch.equal(found[name], value), name
    again = read_published(*ear2_files(tmp_path, values, found))
    for name, value in read_published(checkpoint, settings).state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, atol=1e-6, rtol=1e-5)


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    checkpoint, settings = ear2_files(tmp_path, small_ear2())
    torch.save({"gen": ear2_state(small_ear2()), "note": Harmful(tmp_path / "ran")}, checkpoint)
    with pytest.raises(ConfigError, match="not opened"):
        read_published(checkpoint, settings)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", [ear_vae_files.CONFIG, ear_vae_files.WEIGHTS])
def test_a_folder_that_was_changed_is_refused(name: str, vae: EarVAE2, tmp_path: Path) -> None:
    save_ear_vae(vae, tmp_path / "ear")
    path = tmp_path / "ear" / name
    data = bytearray(path.read_bytes())
    data[data.index(b"Apache") if name == ear_vae_files.CONFIG else len(data) - 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=f"{name}: not as it was written; make it anew"):
        load_ear_vae(tmp_path / "ear")


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("missing", r"1 missing: decoder\.output_conv\.bias"),
        ("unknown", r"1 unexpected: decoder\.more"),
        ("shape", r"'encoder\.input_conv\.bias' is \[9\], not \[1\]"),
        ("not finite", r"1 not finite: refiner\.out\.bias"),
        ("no direction", r"encoder\.input_conv\.parametrizations\.weight\.original1 has a row of zeros"),
    ],
)
def test_weights_that_do_not_fit_are_named(change: str, told: str, tmp_path: Path) -> None:
    state = ear2_state(small_ear2())
    if change == "missing":
        del state["decoder.output_conv.bias"]
    elif change == "unknown":
        state["decoder.more"] = torch.zeros(1)
    elif change == "shape":
        state["encoder.input_conv.bias"] = torch.zeros(9)
    elif change == "not finite":
        state["refiner.out.bias"][0] = torch.nan
    else:
        state["encoder.input_conv.parametrizations.weight.original1"][0] = 0
    files = ear2_files(tmp_path, small_ear2(), state)
    with pytest.raises(ConfigError, match=told) as error:
        read_published(*files)
    assert str(error.value).startswith(str(files[0])) and "\n" not in str(error.value)


HUGE = 2**70


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("C0", HUGE, "C0"),
        ("C0", 4096, "weights, over the 2e"),
        ("D", 0, "D"),
        ("use_vae", False, "use_vae"),
        ("act_fn", "silu", "act_fn"),
        ("channels", 3, "unknown key 'channels'"),
        ("refiner", {"type": "plain"}, "refiner.type"),
        ("refiner", {"num_layers": HUGE}, "refiner.num_layers"),
    ],
)
def test_a_json_that_cannot_be_is_refused(key: str, value: Any, told: str, tmp_path: Path) -> None:
    """By its key, before anything is built or the checkpoint is opened (there is none here)."""
    values = small_ear2()
    values["model"]["gen"]["config"][key] = value
    (tmp_path / "ear.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=told) as error:
        read_published(tmp_path / "none.pt", tmp_path / "ear.json")
    assert str(error.value).startswith(str(tmp_path / "ear.json")) and "\n" not in str(error.value)
