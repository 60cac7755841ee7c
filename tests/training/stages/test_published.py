"""A published autoencoder as the run that renderers are trained on: measured, heard in stereo, found by stage 4; and its DiT."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.renderer.published_layouts import V1, V2, ear2_files, published_files, small, small_ear2
from tests.training.small import stage4_values, write
from tests.training.stages.test_stage4 import config as stage4_config

from duotok.codec.duotok import DuoTok
from duotok.errors import ConfigError
from duotok.renderer.ear_vae import EarVAE
from duotok.renderer.ear_vae2 import EarVAE2
from duotok.renderer.ear_vae_files import read_published, save_ear_vae
from duotok.renderer.stable_audio import StableAudioConfig, StableAudioDiT
from duotok.shards.deriving import derive
from duotok.shards.store import ShardStore
from duotok.tracks import TRACKS
from duotok.training.assemble import assemble
from duotok.training.batches.derive import compute_latents
from duotok.training.batches.latent_data import latent_segments, rendered
from duotok.training.batches.sounds import SegmentSound
from duotok.training.checkpoint import best
from duotok.training.earlier_runs import stamp
from duotok.training.engine import train
from duotok.training.stages import published
from duotok.training.stages.loading import autoencoder_config, load_autoencoder, load_dit
from duotok.training.stages.registry import Needs, build_stage
from duotok.training.stages.stage4 import Stage4

DIT = StableAudioConfig(kind="stable-audio", latent_dim=4, condition_dim=16, width=64, heads=2, blocks=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """v2 with few channels, made ready for use."""
    place = tmp_path_factory.mktemp("published")
    save_ear_vae(read_published(*published_files(place, small(V2, channels=2))), place / "ear")
    return place / "ear"


@pytest.fixture(scope="module")
def store(data: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardStore:
    derived = tmp_path_factory.mktemp("ear") / "derived"
    shutil.copytree(data / "derived", derived)
    return ShardStore(data / "shards", derived)


@pytest.fixture(scope="module")
def runs(folder: Path, store: ShardStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs")
    published.adopt(folder, store, place, minutes=60)
    return place


def test_latents_of_the_training_set_have_unit_variance(runs: Path, store: ShardStore) -> None:
    autoencoder = load_autoencoder(best(runs / "autoencoder"))
    assert isinstance(autoencoder, EarVAE) and not any(p.requires_grad for p in autoencoder.parameters())
    sounds = published.measured_sound(store, 60, 2)
    latents = torch.cat([autoencoder.encode(sound[None])[0] for sound in sounds])
    assert len(latents) > 1000
    torch.testing.assert_close(latents.mean(0), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.std(0), torch.ones(4), atol=1e-2, rtol=0)


def test_few_minutes_are_spread_over_all_segments(store: ShardStore) -> None:
    whole, part = (list(published.measured_sound(store, minutes, 2)) for minutes in (60, 0.2))
    assert sum(sound.shape[1] for sound in part) < 0.5 * sum(sound.shape[1] for sound in whole)
    assert len(part) > 0.6 * len(whole)


def test_minutes_that_are_too_few_for_all_segments_are_of_every_so_many(
    store: ShardStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of the first ones: a large library begins with one corpus."""
    heard: list[int] = []
    monkeypatch.setattr(
        published.Stretch, "sound", lambda stretch, *_: heard.append(stretch.indices[0]) or torch.zeros(2, 9)
    )
    segments = rendered(store, "vocals", "train")
    list(published.measured_sound(store, 2 * 3 / 60, 2))
    places = [segments.index(index) for index in heard[:3]]
    assert len(segments) > 6 and len(heard) == 6
    assert places == [0, len(segments) // 3, 2 * len(segments) // 3]


def test_stage_4_trains_on_stereo_latents(runs: Path, store: ShardStore) -> None:
    """Derived latents are those of both channels; a DiT of stable-audio-tools learns them and comes back from its run."""
    autoencoder = load_autoencoder(best(runs / "autoencoder"))
    compute_latents(store, autoencoder, stamp(best(runs / "autoencoder"), "autoencoder"))
    segment = latent_index(store)
    sound = SegmentSound(store, segment).stereo("vocals")
    whole = autoencoder.encode(sound[None])[0].numpy()
    np.testing.assert_allclose(store.rows(segment, "vocals", "latents"), whole, atol=2e-3)
    other = autoencoder.encode(sound[None].flip(1))[0].numpy()
    swapped = float(np.abs(store.rows(segment, "vocals", "latents") - other).max())
    assert swapped > 1e-2 or torch.equal(sound[0], sound[1])

    def codes(index: int, track: str) -> np.ndarray:
        frames = store.segments[index].segment.frames
        return np.random.default_rng(index).integers(0, 10, (frames, 1)).astype(np.int32)

    derive(store, "codes", codes, tracks=("vocals",), made_by="test")
    vectors = torch.randn(10, 16)
    stage = Stage4(
        stage4_config(dit=DIT, steps=2, save_every=2, held_out_every=2, sample_every=0), store, vectors, autoencoder
    )
    figures = train(stage, runs / "stage4.vocals")
    assert {"loss", "mel"} <= figures.keys() and all(np.isfinite(v) for v in figures.values())
    dit = load_dit(best(runs / "stage4.vocals"))
    assert isinstance(dit, StableAudioDiT) and dit.config == DIT
    assert len(latent_segments(store, "train", "vocals")) > 3


def latent_index(store: ShardStore) -> int:
    """A segment without neighbours: its latents are those of its sound alone."""
    return next(i for i in rendered(store, "vocals", "train") if "voice0" in store.segments[i].segment.key)


def test_renderers_on_it_become_a_bundle_that_decodes_to_stereo(needs: Needs, folder: Path, tmp_path: Path) -> None:
    """The recipe's own way: adopt, stage 4 of both tracks, bundle; the card says whose autoencoder it is."""
    # Without what other tests may have trained there, in the order that they come in.
    own = Path(
        shutil.copytree(
            needs.runs, tmp_path / "runs", ignore=shutil.ignore_patterns("autoencoder", "stage4.*", "adapt*")
        )
    )
    there = Needs(own, ShardStore(needs.store.ranges.url, own / "derived"))
    published.adopt(folder, there.store, own, minutes=0.5)
    config = write(tmp_path, "stage4", stage4_values())
    with pytest.raises(ConfigError, match=r"dit\.latent_dim"):
        build_stage("stage4", config, ["track=vocals"], there)
    for track in TRACKS:
        stage = build_stage("stage4", config, [f"track={track}", "dit.latent_dim=4", "sample_every=0"], there)
        train(stage, own / stage.name)
    made = assemble(own, there.store, tmp_path / "out", "ear", "test")
    model = DuoTok.from_pretrained(made)
    assert isinstance(model.autoencoder, EarVAE) and float(model.autoencoder.std.min()) > 1e-3
    torch.testing.assert_close(
        model.autoencoder.std, load_autoencoder(best(own / "autoencoder")).std, atol=0, rtol=1e-3
    )
    tokens = model.encode(vocals=torch.randn(2, 30_000) / 9, accompaniment=torch.randn(2, 30_000) / 9)
    assert model.decode(tokens, "vocals").shape == (2, 30_000)
    assert "- autoencoder: ear-vae, Apache-2.0, ear_vae.pyt (sha256 " in model_card_of(made)


def test_one_latent_a_token_frame_from_training_to_sound(needs: Needs, tmp_path: Path) -> None:
    """The ear-VAE2 through the same stages: its rate is asked for where it is missing, and the latents are those of the sound."""
    save_ear_vae(read_published(*ear2_files(tmp_path, small_ear2())), tmp_path / "ear2")
    leave_out = shutil.ignore_patterns("autoencoder", "stage4.*", "adapt*", "*.latents.*")
    own = Path(shutil.copytree(needs.runs, tmp_path / "runs", ignore=leave_out))
    there = Needs(own, ShardStore(needs.store.ranges.url, own / "derived"))
    published.adopt(tmp_path / "ear2", there.store, own, minutes=0.5)
    config, settings = write(tmp_path, "stage4", stage4_values()), ["dit.latent_dim=4", "sample_every=0"]
    with pytest.raises(ConfigError, match=r"has 1 for each token frame; set dit\.latents_per_frame=1"):
        build_stage("stage4", config, ["track=vocals", *settings], there)
    for track in TRACKS:
        stage = build_stage("stage4", config, [f"track={track}", *settings, "dit.latents_per_frame=1"], there)
        assert isinstance(stage, Stage4) and stage.clips["latents"].shape[1] == stage.clips["codes"].shape[1]
        figures = train(stage, own / stage.name)
        assert np.isfinite(figures["mel"])
    autoencoder = load_autoencoder(best(own / "autoencoder"))
    assert isinstance(autoencoder, EarVAE2)
    segment = next(
        i for i in rendered(there.store, "vocals", "train") if "voice0" in there.store.segments[i].segment.key
    )
    whole = autoencoder.encode(SegmentSound(there.store, segment).stereo("vocals")[None])[0].numpy()
    assert len(whole) == there.store.segments[segment].segment.frames
    np.testing.assert_allclose(there.store.rows(segment, "vocals", "latents"), whole, atol=2e-3)
    made = assemble(own, there.store, tmp_path / "out", "ear", "test")
    model = DuoTok.from_pretrained(made)
    tokens = model.encode(vocals=torch.randn(2, 30_000) / 9, accompaniment=torch.randn(2, 30_000) / 9)
    assert isinstance(model.autoencoder, EarVAE2) and model.decode(tokens, "vocals").shape == (2, 30_000)
    assert "- autoencoder: ear-vae2, Apache-2.0, ear_vae2.pt (sha256 " in model_card_of(made)
    with pytest.raises(ConfigError, match=r"a published autoencoder \(ear-vae2\), which is finished"):
        autoencoder_config(best(own / "autoencoder"))


def model_card_of(bundle: Path) -> str:
    return (bundle / "README.md").read_text()


def test_it_is_not_trained_further(runs: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"a published autoencoder \(ear-vae\), which is finished; leave this stage out"
    ):
        autoencoder_config(best(runs / "autoencoder"))


def test_what_stands_there_stays(folder: Path, store: ShardStore, runs: Path) -> None:
    with pytest.raises(ConfigError, match="there is an autoencoder already"):
        published.adopt(folder, store, runs)


def test_the_44_khz_version_does_not_fit_the_renderer(store: ShardStore, tmp_path: Path) -> None:
    vae = read_published(*published_files(tmp_path, small(V1)), sample_rate=44_100)
    save_ear_vae(vae, tmp_path / "ear")
    with pytest.raises(ConfigError, match=r"44100 Hz and 1024 samples a latent \(43.07 a second\).*48 kHz version"):
        published.adopt(tmp_path / "ear", store, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_the_command(folder: Path, store: ShardStore, data: Path, tmp_path: Path, capsys: Any) -> None:
    arguments = [str(folder), "--data", str(data), "--runs", str(tmp_path / "runs"), "--minutes", "0.2"]
    assert published.main(arguments) == 0
    assert "stage 4 trains on this autoencoder" in capsys.readouterr().out
    assert published.main(arguments) == 1
    assert "there is an autoencoder already" in capsys.readouterr().err


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_minutes_in_which_nothing_is_heard_are_one_line(
    minutes: str, folder: Path, data: Path, tmp_path: Path, capsys: Any
) -> None:
    """0 made a run whose latents had a spread of 0.001, a thousand times what renderers learn."""
    arguments = [str(folder), "--data", str(data), "--runs", str(tmp_path / "runs"), "--minutes", minutes]
    assert published.main(arguments) == 1
    assert capsys.readouterr().err.startswith(f"error: --minutes {minutes}: write a number above 0")
    assert not (tmp_path / "runs").exists()
