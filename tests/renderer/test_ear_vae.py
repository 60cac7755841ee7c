"""The ear-VAE: the published names and formulas, windows equal to whole, bounded pieces, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.renderer.published_layouts import (
    V1,
    V2,
    decoded,
    ear_vae_shapes,
    posterior_mean,
    published_files,
    random_state,
    small,
)
from torch import Tensor

from duotok.config import parse
from duotok.errors import ConfigError
from duotok.renderer import ear_vae_files
from duotok.renderer.ear_vae import EarVAE, EarVAEConfig, PublishedConfig
from duotok.renderer.ear_vae_files import (
    from_published,
    load_ear_vae,
    published_shapes,
    read_published,
    save_ear_vae,
    to_published,
)
from duotok.renderer.encoding import encode_blocks
from duotok.renderer.render import decode_blocks

RATES = {"v1": 44_100, "v2": 48_000}
JSONS = {"v1": V1, "v2": V2}


def opened(folder: Path, name: str, **sizes: int) -> EarVAE:
    return read_published(*published_files(folder, small(JSONS[name], **sizes)), sample_rate=RATES[name])


def config(values: dict[str, Any], rate: int = 48_000) -> EarVAEConfig:
    return EarVAEConfig(kind="ear-vae", model=parse(PublishedConfig, values), sample_rate=rate)


# -- as it was published ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "keys", "millions"), [("v1", 386, 147.83), ("v2", 365, 168.41)])
def test_names_and_shapes_are_the_published_ones(name: str, keys: int, millions: float) -> None:
    """At full size, without memory for it. Both counts are those of the published code with these sizes."""
    with torch.device("meta"):
        vae = EarVAE(config(JSONS[name]))
    wanted = ear_vae_shapes(JSONS[name])
    assert {name: list(shape) for name, shape in published_shapes(vae).items()} == wanted
    assert len(wanted) == keys
    twice = {second for second, _ in ear_vae_files.snakes_twice(vae).items()}
    fixed = ("inv_freq", "pre_norm.beta", "ff_norm.beta")
    count = sum(torch.Size(shape).numel() for n, shape in wanted.items() if n not in twice and not n.endswith(fixed))
    assert count / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_sound_and_latents_are_those_of_the_published_formulas(name: str, tmp_path: Path) -> None:
    values = small(JSONS[name], channels=4, mults=2)
    state = random_state(ear_vae_shapes(values))
    vae = read_published(*published_files(tmp_path, values, state), sample_rate=RATES[name])
    audio = 0.3 * torch.randn(2, 2, 5 * vae.config.hop)
    mean = posterior_mean(state, values, audio)
    assert mean.std() > 0.01
    torch.testing.assert_close(vae.encode(audio), mean.transpose(1, 2), atol=1e-5, rtol=1e-4)
    latents = torch.randn(2, 5, vae.config.latent_dim)
    sound = decoded(state, values, latents.transpose(1, 2))
    assert sound.shape == audio.shape and sound.std() > 0.01
    torch.testing.assert_close(vae.decode(latents), sound, atol=1e-5, rtol=1e-4)


def test_the_hop_and_the_end_are_read_from_the_json(tmp_path: Path) -> None:
    """Other sizes than the two published ones: nothing is fixed in the code."""
    values = small(V2, channels=2, mults=3)
    for part in ("encoder", "decoder"):
        values[part]["config"] |= {"strides": [4, 2], "c_mults": [1, 3]}
    values["decoder"]["config"]["final_tanh"] = True
    values["downsampling_ratio"] = 8
    state = random_state(ear_vae_shapes(values))
    vae = read_published(*published_files(tmp_path, values, state))
    latents = 9 * torch.randn(1, 7, 4)
    sound = decoded(state, values, latents.transpose(1, 2))
    assert sound.shape == (1, 2, 56)
    torch.testing.assert_close(vae.decode(latents), sound, atol=1e-5, rtol=1e-4)


def test_the_way_back_to_published_names(tmp_path: Path) -> None:
    vae = opened(tmp_path, "v1")
    state = to_published(vae)
    assert {k: list(v.shape) for k, v in state.items()} == ear_vae_shapes(small(V1))
    again = EarVAE(vae.config)
    found = from_published(state, again, tmp_path)
    for name, value in vae.state_dict().items():
        if name not in ("mean", "std"):
            torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("extra", [0, 1, 479, 959])
def test_sound_is_padded_to_the_hop(extra: int, tmp_path: Path) -> None:
    """The published code drops what does not fill a latent; here every started one counts."""
    vae = opened(tmp_path, "v2")
    audio = torch.randn(1, 2, 3 * 960 + extra)
    latents = vae.encode(audio)
    assert latents.shape[1] == 3 + (extra > 0)
    padded = torch.nn.functional.pad(audio, (0, -extra % 960))
    assert torch.equal(latents, vae.encode(padded))


def test_one_channel_is_heard_as_two_equal_ones(tmp_path: Path) -> None:
    vae = opened(tmp_path, "v2")
    mono = torch.randn(2, 1, 1920)
    torch.testing.assert_close(vae.encode(mono), vae.encode(mono.repeat(1, 2, 1)), atol=1e-6, rtol=1e-5)


def test_statistics_bring_latents_to_unit_variance_and_back(tmp_path: Path) -> None:
    vae = opened(tmp_path, "v2")
    audio = torch.randn(1, 2, 9600)
    raw, sound = vae.encode(audio), vae.decode(vae.encode(audio))
    vae.mean.copy_(raw[0].mean(0))
    vae.std.copy_(raw[0].std(0))
    latents = vae.encode(audio)
    torch.testing.assert_close(latents[0].std(0), torch.ones(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(vae.decode(latents), sound, atol=1e-4, rtol=1e-3)


# -- windows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_fields_are_those_that_the_network_has(name: str, tmp_path: Path) -> None:
    """The farthest frame that a change reaches, either way: no farther than told, and told not more than two too far."""
    vae = opened(tmp_path, name, channels=2).double()
    vae.transformers = None
    frames, place, hop = 41, 20, vae.config.hop
    assert max(vae.receptive_field, vae.encoder_field) <= 16  # the context that users of v2 are advised to give
    audio = torch.randn(1, 2, frames * hop, dtype=torch.float64)
    other = audio.clone()
    other[..., place * hop : (place + 1) * hop] += 1e3 * torch.randn(2, hop, dtype=torch.float64)
    moved = (vae.encode(audio) - vae.encode(other)).abs().amax((0, 2)).nonzero()[:, 0]
    reach = int((moved - place).abs().max())
    assert vae.encoder_field - 2 <= reach <= vae.encoder_field
    latents = torch.randn(1, frames, vae.config.latent_dim, dtype=torch.float64)
    other = latents.clone()
    other[:, place] += 1e3
    change = (vae.decode(latents) - vae.decode(other)).abs().amax(1).reshape(frames, hop).amax(1)
    reach = int((change.nonzero()[:, 0] - place).abs().max())
    assert vae.receptive_field - 2 <= reach <= vae.receptive_field


@pytest.mark.parametrize("name", ["v1", "v2"])
@pytest.mark.parametrize("block", [7, 30, 500])
def test_decoding_in_windows_is_decoding_whole(name: str, block: int, tmp_path: Path) -> None:
    """v1 as well: its attention sees all latents, and only the convolutions go in windows."""
    vae = opened(tmp_path, name)
    latents = torch.randn(53, vae.config.latent_dim)
    whole = vae.decode(latents[None])[0]
    pieces = list(vae.decode_windows(latents, block))
    assert max(piece.shape[1] for piece in pieces) <= block * vae.config.hop
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-4, rtol=0)


def test_less_context_than_told_would_be_heard(tmp_path: Path) -> None:
    """So the comparison above is sharp."""
    vae = opened(tmp_path, "v2")

    class Short:
        receptive_field, hop = 2, 960

        def decode(self, latents: Tensor) -> Tensor:
            return vae.decode(latents)

    latents = torch.randn(53, vae.config.latent_dim)
    pieces = torch.cat(list(decode_blocks(Short(), [latents], 7)), dim=1)
    assert float((pieces - vae.decode(latents[None])[0]).abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_encoding_in_windows_is_encoding_whole(name: str, tmp_path: Path) -> None:
    """However the sound is cut, with an end that fills no latent."""
    vae = opened(tmp_path, name)
    audio = 0.3 * torch.randn(2, 40 * vae.config.hop + 123)
    whole = vae.encode(audio[None])[0]
    for sizes in (997, 20_000):
        pieces = list(encode_blocks(vae, audio.split(sizes, dim=1), block=9))
        assert {len(piece) for piece in pieces[:-1]} == {9}
        torch.testing.assert_close(torch.cat(pieces), whole, atol=1e-4, rtol=0)


def test_pieces_do_not_grow_with_the_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The most that encoder and decoder are given at once is the same for 60 and for 600 frames."""
    vae = opened(tmp_path, "v2", channels=2)
    most: dict[str, int] = {}

    def spied(part: str) -> Callable[..., None]:
        def spy(_: Any, given: tuple[Tensor, ...]) -> None:
            most[part] = max(most.get(part, 0), given[0].shape[-1])

        return spy

    vae.encoder.register_forward_pre_hook(spied("encoder"))
    vae.decoder.register_forward_pre_hook(spied("decoder"))
    found = []
    for frames in (60, 600):
        most.clear()
        audio = torch.zeros(2, frames * 960)
        latents = torch.cat(list(encode_blocks(vae, audio.split(4800, dim=1), block=10)))
        assert latents.shape == (frames, 4)
        assert sum(piece.shape[1] for piece in vae.decode_windows(latents, 10)) == frames * 960
        found.append(dict(most))
    assert found[0] == found[1]
    assert found[0]["decoder"] == 10 + 2 * vae.receptive_field
    assert found[0]["encoder"] == (10 + 2 * vae.encoder_field) * 960


# -- files -----------------------------------------------------------------------------------------------------------


def test_the_command_makes_a_folder_that_opens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, settings = published_files(tmp_path, small(V2))
    arguments = [str(checkpoint), str(settings), str(tmp_path / "ear")]
    assert ear_vae_files.main(arguments) == 0
    assert "48000 Hz, hop 960" in capsys.readouterr().out
    vae, direct = load_ear_vae(tmp_path / "ear"), read_published(checkpoint, settings)
    assert vae.config == direct.config and vae.config.licence == "Apache-2.0"
    assert "ear_vae.pyt (sha256 " in vae.config.source and "ear_vae.json (sha256 " in vae.config.source
    latents = torch.randn(1, 3, 4)
    assert torch.equal(vae.decode(latents), direct.decode(latents))
    assert ear_vae_files.main(arguments) == 1 and "is there already" in capsys.readouterr().err
    assert ear_vae_files.main([*arguments[:2], str(tmp_path / "v1"), "--rate", "44100"]) == 0
    assert "use the 48 kHz version" in capsys.readouterr().err


def test_safetensors_will_do_as_well(tmp_path: Path) -> None:
    values = small(V2)
    _, settings = published_files(tmp_path, values)
    save_file(random_state(ear_vae_shapes(values)), tmp_path / "ear.safetensors")
    latents = torch.randn(1, 3, 4)
    direct = read_published(tmp_path / "ear_vae.pyt", settings)
    assert torch.equal(read_published(tmp_path / "ear.safetensors", settings).decode(latents), direct.decode(latents))


@pytest.mark.parametrize("name", [ear_vae_files.CONFIG, ear_vae_files.WEIGHTS])
def test_a_folder_that_was_changed_is_refused(name: str, tmp_path: Path) -> None:
    save_ear_vae(opened(tmp_path, "v2"), tmp_path / "ear")
    path = tmp_path / "ear" / name
    data = bytearray(path.read_bytes())
    place = data.index(b"Apache") if name == ear_vae_files.CONFIG else len(data) - 3
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=f"{name}: not as it was written; make it anew"):
        load_ear_vae(tmp_path / "ear")


def test_a_transformer_that_only_the_json_has_is_left_out(tmp_path: Path) -> None:
    values = small(V1)
    state = {k: v for k, v in random_state(ear_vae_shapes(values)).items() if not k.startswith("transformers.")}
    vae = read_published(*published_files(tmp_path, values, state), sample_rate=44_100)
    assert vae.transformers is None and vae.config.model.transformer is None


# -- what is refused -------------------------------------------------------------------------------------------------


def edited(change: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    if change == "missing":
        for name in (
            "encoder.layers.0.bias",
            "encoder.layers.0.weight_g",
            "decoder.layers.0.bias",
            "decoder.layers.6.beta",
        ):
            del state[name]
    elif change == "unknown":
        state["decoder.layers.9.bias"] = torch.zeros(1)
    elif change == "shape":
        state["encoder.layers.7.bias"] = torch.zeros(5)
    elif change == "not finite":
        state["encoder.layers.7.bias"][0] = torch.nan
    elif change == "unlike":
        state["encoder.layers.1.layers.0.layers.2.alpha"] += 1
    elif change == "no direction":
        state["encoder.layers.0.weight_v"][0] = 0
    elif change == "gan":
        return {"gen_ema": torch.zeros(1), "gen": torch.zeros(1)}
    return state


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            "missing",
            r"4 missing: decoder\.layers\.0\.bias, decoder\.layers\.6\.beta, encoder\.layers\.0\.bias, \.\.\.\)",
        ),
        ("unknown", r"1 unexpected: decoder\.layers\.9\.bias"),
        ("shape", r"1 of another shape: 'encoder\.layers\.7\.bias' is \[5\], not \[8\]"),
        ("not finite", r"1 not finite: encoder\.layers\.7\.bias"),
        ("unlike", r"layers\.2\.alpha differs from encoder\.layers\.1\.layers\.0\.layers\.0\.alpha"),
        ("no direction", r"encoder\.layers\.0\.weight_v has a row of zeros"),
        ("gan", r"missing: .*2 unexpected: gen, gen_ema"),  # as the later ear-VAE2 has them: another model
    ],
)
def test_weights_that_do_not_fit_are_named(change: str, told: str, tmp_path: Path) -> None:
    values = small(V2)
    files = published_files(tmp_path, values, edited(change, random_state(ear_vae_shapes(values))))
    with pytest.raises(ConfigError, match=told) as error:
        read_published(*files)
    assert str(error.value).startswith(str(files[0])) and "\n" not in str(error.value)


def test_a_checkpoint_with_attention_needs_its_json(tmp_path: Path) -> None:
    values = small(V1)
    state = random_state(ear_vae_shapes(values))
    del values["transformer"]
    with pytest.raises(ConfigError, match=r"has a transformer, and .* tells none"):
        read_published(*published_files(tmp_path, values, state))


HUGE = 2**70


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("downsampling_ratio", 480, "downsampling_ratio 480, encoder strides 960, decoder strides 960 must be one"),
        ("io_channels", 1, "io_channels 1, in_channels 2, out_channels 2 must be one"),
        ("latent_dim", 8, "latent_dim 8, decoder.latent_dim 4, half of encoder.latent_dim 4 must be one"),
        ("downsampling_ratio", HUGE, "downsampling_ratio"),
        ("encoder.config.channels", HUGE, "encoder.config.channels"),
        ("encoder.config.c_mults", [1, 1, 1, 1, HUGE], "encoder.config.c_mults.4"),
        ("encoder.config.c_mults", [1] * 10_000, "encoder.config.c_mults"),
        ("encoder.config.strides", [2, 2, 4, 6], "5 c_mults and 4 strides"),
        ("encoder.config.strides", [3, 2, 4, 4, 10], "stride 3 is odd"),
        ("encoder.config.use_snake", False, "encoder.config.use_snake"),
        ("decoder.config.use_nearest_upsample", True, "decoder.config.use_nearest_upsample"),
        ("decoder.config.antialias", True, "unknown key 'decoder.config.antialias'"),
        ("transformer", {"depth": HUGE, "config": {}}, "transformer.depth"),
        ("transformer", {"depth": 2, "config": {"dim_heads": 64}}, "cannot be cut into heads of 64"),
    ],
)
def test_a_json_that_cannot_be_is_refused(place: str, value: Any, told: str, tmp_path: Path) -> None:
    """By its key, before anything is built or the checkpoint is opened (there is none here)."""
    values = small(V2)
    *parents, last = place.split(".")
    node = values
    for parent in parents:
        node = node[parent]
    node[last] = value
    (tmp_path / "ear.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=told) as error:
        read_published(tmp_path / "none.pyt", tmp_path / "ear.json")
    assert str(error.value).startswith(str(tmp_path / "ear.json")) and "\n" not in str(error.value)


def test_wide_and_many_blocks_together_are_refused(tmp_path: Path) -> None:
    """Each number could be; all of them would be a network of 5 * 10^10 weights."""
    values = small(V2, channels=4096, mults=8)
    (tmp_path / "ear.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="weights, over the 2e"):
        read_published(tmp_path / "none.pyt", tmp_path / "ear.json")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deep"),
        ("[1, 2]", "no object"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": "' + "x" * 2_000_000 + '"}', "bytes"),
        ("{", "not the published JSON"),
    ],
)
def test_json_that_is_none_is_refused(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "ear.json").write_text(text)
    with pytest.raises(ConfigError, match=told):
        read_published(tmp_path / "none.pyt", tmp_path / "ear.json")


class _Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        import os

        return os.system, (f"touch {self.mark}",)


def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, settings = published_files(tmp_path, small(V2))
    torch.save({"encoder.layers.0.bias": _Evil(tmp_path / "ran")}, tmp_path / "evil.pyt")
    assert ear_vae_files.main([str(tmp_path / "evil.pyt"), str(settings), str(tmp_path / "ear")]) == 1
    told = capsys.readouterr().err
    assert "evil.pyt: not opened (it contains" in told and "system" in told and told.count("\n") == 1
    assert not (tmp_path / "ran").exists() and not (tmp_path / "ear").exists()
    # the same file does run for a reader that is not restricted: the test above is one
    torch.load(tmp_path / "evil.pyt", weights_only=False)
    assert (tmp_path / "ran").exists()
