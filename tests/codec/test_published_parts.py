"""A bundle whose autoencoder and renderers were published by others: stereo out, and it says what is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.renderer.published_layouts import V1, V2, small, small_ear2
from tests.tiny import song, tiny_bundle, tiny_config
from typer.testing import CliRunner

from duotok.audio.io import probe
from duotok.cli.main import app
from duotok.codec.bundle import CONFIG_FILE, build, seal_bundle, write_bundle
from duotok.codec.duotok import DuoTok
from duotok.errors import BundleError
from duotok.renderer.ear_vae import EarVAE
from duotok.renderer.ear_vae2 import EarVAE2
from duotok.renderer.stable_audio import StableAudioDiT

EAR: dict[str, Any] = {"kind": "ear-vae", "model": small(V2, channels=2), "licence": "Apache-2.0", "source": "ear.pyt"}
DIT: dict[str, Any] = {
    "kind": "stable-audio", "latent_dim": 4, "condition_dim": 4, "width": 64, "heads": 2, "blocks": 1,
    "licence": "MIT", "source": "dit.ckpt",
}  # fmt: skip
PARTS: dict[str, Any] = {"autoencoder": EAR, "dit": {"vocals": DIT, "accompaniment": DIT}}
EAR2: dict[str, Any] = {"kind": "ear-vae2", "model": small_ear2()["model"]["gen"]["config"], "source": "ear_vae2.pt"}
ONE: dict[str, Any] = {**DIT, "latents_per_frame": 1}
PARTS2: dict[str, Any] = {"autoencoder": EAR2, "dit": {"vocals": ONE, "accompaniment": ONE}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("published"), **PARTS)


@pytest.fixture(scope="module")
def folder2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With one latent for each token frame."""
    return tiny_bundle(tmp_path_factory.mktemp("published2"), **PARTS2)


@pytest.mark.parametrize("version", ["ear-vae", "ear-vae2"])
def test_every_track_decodes_to_stereo(version: str, folder: Path, folder2: Path, tmp_path: Path) -> None:
    model = DuoTok.from_pretrained(folder if version == "ear-vae" else folder2)
    assert isinstance(model.autoencoder, EarVAE if version == "ear-vae" else EarVAE2)
    assert isinstance(model.dit("vocals"), StableAudioDiT)
    tokens = model.encode(vocals=song(2.0), accompaniment=song(2.0))
    tracks = {track: model.decode(tokens, track) for track in ("vocals", "accompaniment")}
    for sound in tracks.values():
        assert sound.shape == (2, tokens.n_samples)
        assert float((sound[0] - sound[1]).abs().max()) > 1e-4, "two channels, not one twice"
    torch.testing.assert_close(model.decode(tokens), tracks["vocals"] + tracks["accompaniment"])
    model.decode_to(tmp_path / "vocals.wav", tokens, "vocals")
    assert probe(tmp_path / "vocals.wav").channels == 2


def test_a_stream_of_one_latent_a_frame_is_the_whole(folder2: Path) -> None:
    model = DuoTok.from_pretrained(folder2)
    tokens = model.encode(vocals=song(3.0), accompaniment=song(3.0))
    stream = model.stream()
    heard = list(stream.decode([tokens], gain_db=tokens.gain_db, n_samples=tokens.n_samples))
    torch.testing.assert_close(torch.cat(heard, dim=1), model.decode(tokens), atol=1e-5, rtol=1e-4)
    plan, field = stream.settings.plan, model.autoencoder.receptive_field
    latents = plan.window - plan.context + plan.decode_block + field
    assert stream.look_ahead.decoding == latents / 25, "a latent is 40 ms long"


def test_info_says_kind_licence_and_source(folder: Path) -> None:
    done = CliRunner().invoke(app, ["info", str(folder), "--json"])
    parts = json.loads(done.stdout)["parts"]
    told = {name: {key: parts[name].get(key) for key in ("kind", "licence", "source")} for name in parts}
    assert told["autoencoder"] == {"kind": "ear-vae", "licence": "Apache-2.0", "source": "ear.pyt"}
    assert told["dit.vocals"] == {"kind": "stable-audio", "licence": "MIT", "source": "dit.ckpt"}
    written = json.loads((folder / CONFIG_FILE).read_text())
    assert written["autoencoder"]["kind"] == "ear-vae" and written["autoencoder"]["model"]["downsampling_ratio"] == 960


def test_our_own_parts_say_their_kind(tmp_path: Path) -> None:
    written = json.loads((tiny_bundle(tmp_path) / CONFIG_FILE).read_text())
    assert written["autoencoder"]["kind"] == "spectral" and written["dit"]["vocals"]["kind"] == "duotok"


def test_published_weights_keep_more_than_eight_bits(tmp_path: Path) -> None:
    config = tiny_config(**PARTS)
    torch.manual_seed(0)
    modules = {part: build(config, part) for part in config.parts}
    write_bundle(tmp_path / "small", config, modules, storage="int8")
    loaded = DuoTok.from_pretrained(tmp_path / "small").autoencoder.state_dict()
    for name, value in modules["autoencoder"].state_dict().items():
        torch.testing.assert_close(loaded[name], value, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("autoencoder.model", small(V1), "44.1 kHz version|use the 48 kHz version"),
        ("autoencoder.sample_rate", 44_100, "use the 48 kHz version"),
        ("autoencoder.model.latent_dim", 5, "must be one number"),
        ("dit.vocals.latent_dim", 6, r"dit\.vocals makes latents of 6 numbers, the autoencoder reads 4"),
        (
            "dit.vocals.latents_per_frame",
            1,
            r"dit\.vocals makes 1 latents for each token frame, the autoencoder reads 2",
        ),
        ("dit.vocals.latents_per_frame", 3, r"dit\.vocals\.latents_per_frame"),
        ("dit.vocals.blocks", 2**70, r"dit\.vocals\.blocks is over"),
        ("autoencoder.model.encoder.config.channels", 2**70, r"channels is over"),
        ("autoencoder.model.encoder.config.channel", 4, r"unknown key 'autoencoder\.model\.encoder\.config\.channel'"),
        ("autoencoder.kind", "mp3", r"'autoencoder\.kind' = 'mp3'|unknown key 'autoencoder\."),
    ],
)
def test_a_config_that_cannot_be_is_refused(place: str, value: Any, told: str, tmp_path: Path) -> None:
    path = tiny_bundle(tmp_path, **PARTS) / CONFIG_FILE
    values = json.loads(path.read_text())
    *parents, last = place.split(".")
    node = values
    for parent in parents:
        node = node[parent]
    node[last] = value
    path.write_text(json.dumps(values))
    with pytest.raises(BundleError, match=told) as error:
        seal_bundle(path.parent)
    assert "kind: " not in str(error.value) and "\n" not in str(error.value)
