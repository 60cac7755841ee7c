"""Stages 1 to 3, the autoencoder and the data under them: splits, purity of batches, resume, frozen encoder."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from duotok.errors import ConfigError, DuoTokError
from duotok.model.config import TokenizerConfig
from duotok.renderer.autoencoder import AutoencoderConfig
from duotok.training.autoencoder import AutoencoderStage, AutoencoderStageConfig
from duotok.training.corpus import Corpus, prepare, sources
from duotok.training.crops import CropBatches, mel_power_sum
from duotok.training.engine import Stage, train
from duotok.training.features import gain_mel, read_features
from duotok.training.stage1 import Stage1, Stage1Config
from duotok.training.stage2 import Stage2, Stage2Config
from duotok.training.stage3 import Stage3, Stage3Config
from duotok.training.stages import build_stage

SMALL = TokenizerConfig(
    conv_channels=16, width=32, heads=2, lower_blocks=1, upper_blocks=1, ffn=64, codebook_size=256, head_hidden=16,
    mask_channels=16, mask_hidden=8, vocabulary=28,
)  # fmt: skip
COMMON = {"steps": 12, "batch_size": 4, "lr": 3e-3, "warmup": 2, "crop_frames": 40, "model": SMALL, "save_every": 100}
AUTOENCODER = AutoencoderStageConfig(
    steps=12, batch_size=2, lr=2e-3, warmup=2, crop_seconds=0.4, scales_per_step=2, held_out_seconds=1.0,
    model=AutoencoderConfig(encoder_width=16, encoder_blocks=(1, 1), decoder_width=16, decoder_blocks=(0, 1)),
)  # fmt: skip


def digest(module: torch.nn.Module) -> str:
    h = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        h.update(name.encode() + tensor.numpy().tobytes())
    return h.hexdigest()


@pytest.fixture(scope="module")
def runs(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stages 1 and 2 trained for a few steps."""
    folder = tmp_path_factory.mktemp("runs")
    train(Stage1(Stage1Config.model_validate(COMMON), corpus), folder / "stage1")
    train(Stage2(Stage2Config.model_validate(COMMON), corpus, folder / "stage1"), folder / "stage2")
    return folder


def test_no_recording_is_in_two_splits_and_held_out_songs_stay_out(corpus: Corpus):
    training, held_out = ({r.id for r in corpus.recordings(split)} for split in ("train", "held_out"))
    assert training and held_out and not training & held_out
    assert "Potassium" in held_out and "Lithium" in training
    assert len(training | held_out) == len(corpus.all)


def test_preparing_again_changes_nothing(corpus: Corpus, audio_folder: Path):
    before = (corpus.cache / "recordings.jsonl").read_text()
    prepare([audio_folder], corpus.cache)
    assert (corpus.cache / "recordings.jsonl").read_text() == before


def test_a_broken_recording_is_left_out_and_named(
    audio_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "songs"
    folder.mkdir()
    (folder / "good.flac").write_bytes((audio_folder / "chant" / "v.flac").read_bytes())
    (folder / "broken.flac").write_bytes(b"this is not sound" * 100)
    prepare([folder], tmp_path / "cache")
    assert [r.id for r in Corpus(tmp_path / "cache").all] == ["good"]
    assert "broken.flac" in capsys.readouterr().out


def test_a_folder_without_audio_is_told(tmp_path: Path):
    with pytest.raises(DuoTokError, match="no audio"):
        sources(tmp_path)


def test_tracks_of_a_song_are_found_by_name(audio_folder: Path):
    found = sources(audio_folder / "dual")
    assert set(found["Lithium"]["tracks"]) == {"vocals", "accompaniment"}  # type: ignore[call-overload]


def test_the_mix_is_the_sum_of_its_tracks(corpus: Corpus):
    from duotok.training.features import load_mono

    song = next(r for r in corpus.all if r.id == "Lithium")
    total = load_mono(song, "vocals") + load_mono(song, "accompaniment")
    torch.testing.assert_close(load_mono(song, "mix"), total, atol=1e-5, rtol=1e-4)


def test_batches_are_a_pure_function_of_the_seed(corpus: Corpus):
    shares = {"mix": 1.0, "vocals": 1.0, "solo": 1.0, "instrumental": 1.0}
    one, two = (CropBatches(corpus, "train", shares, 40, pseudo_mix=0.5, mask_bins=128) for _ in range(2))
    two.batch((5, 1), 4)
    a, b, c = one.batch((5, 2), 6), two.batch((5, 2), 6), two.batch((5, 3), 6)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["mel"], c["mel"])
    assert a["mel"].shape == (6, 160, 128) and a["masks"].shape == (6, 160, 4, 128)
    assert not a["masks_items"].any()  # no teacher has been run


def test_crops_hold_the_features_of_their_place(corpus: Corpus):
    crops = CropBatches(corpus, "train", {"vocals": 1.0}, 40).pools["vocals"]
    source, start, count = crops.draw(np.random.default_rng(0))
    whole = torch.from_numpy(source.array("mel").astype(np.float32))
    assert torch.equal(read_features(source, "mel", start, count), whole[4 * start : 4 * (start + count)])


def test_gain_of_a_mel_is_the_mel_of_the_gain():
    from duotok.audio.features import LogMel

    x, mel = 0.1 * torch.randn(4800), LogMel()
    torch.testing.assert_close(gain_mel(mel(x), 6.0), mel(x * 10 ** (6 / 20)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gain_mel(mel(x * 0), -6.0), mel(x * 0))


def test_powers_of_unrelated_sounds_add():
    from duotok.audio.features import LogMel

    mel = LogMel()
    a, b = torch.randn(24_000), torch.randn(24_000)
    gap = mel_power_sum(mel(a), mel(b)) - mel(a + b)
    assert abs(float(gap.mean())) * mel.std < 0.1


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_stage_overfits_one_batch(number: int, corpus: Corpus, runs: Path):
    stage = make(number, corpus, runs)
    batch = stage.batch(0)
    parameters = [p for m in stage.modules.values() for p in m.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    key = "loss" if number == 1 else "mel"
    history = []
    for step in range(60):
        torch.manual_seed(0)
        losses = stage.losses(batch, step)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        history.append(float(losses[key].detach()))
    assert history[-1] < 0.75 * history[0], history[::10]


def make(number: int, corpus: Corpus, runs: Path) -> Stage:
    if number == 1:
        return Stage1(Stage1Config.model_validate(COMMON), corpus)
    if number == 2:
        return Stage2(Stage2Config.model_validate(COMMON), corpus, runs / "stage1")
    return Stage3(Stage3Config.model_validate(COMMON), corpus, runs / "stage2")


def test_stage3_leaves_the_encoder_and_the_basis_alone(corpus: Corpus, runs: Path, tmp_path: Path):
    stage = Stage3(Stage3Config.model_validate(COMMON), corpus, runs / "stage2")
    tokenizer = stage.tokenizer
    lower = (digest(tokenizer.downsampling), digest(tokenizer.lower_blocks))
    basis = {t: tokenizer.branch(t).quantizer.basis.clone() for t in ("vocals", "accompaniment")}
    upper = digest(tokenizer.upper_blocks)
    train(stage, tmp_path)
    assert (digest(tokenizer.downsampling), digest(tokenizer.lower_blocks)) == lower
    assert digest(tokenizer.upper_blocks) != upper
    assert all(torch.equal(tokenizer.branch(t).quantizer.basis, b) for t, b in basis.items())


@pytest.mark.parametrize("number", [1, 2, 3])
def test_stopped_and_resumed_equals_uninterrupted(number: int, corpus: Corpus, runs: Path, tmp_path: Path):
    whole, parts, rest = (make(number, corpus, runs) for _ in range(3))
    train(whole, tmp_path / "whole")
    train(parts, tmp_path / "parts", stop_after=5)
    train(rest, tmp_path / "parts")
    assert [digest(m) for m in rest.modules.values()] == [digest(m) for m in whole.modules.values()]


def test_the_autoencoder_learns_and_resumes(corpus: Corpus, tmp_path: Path):
    whole, parts, rest = (AutoencoderStage(AUTOENCODER, corpus) for _ in range(3))
    batch = whole.batch(0)
    torch.manual_seed(1)
    before = float(whole.losses(batch, 5)["loss"].detach())
    train(whole, tmp_path / "whole")
    torch.manual_seed(1)
    assert float(whole.losses(batch, 12)["loss"].detach()) < before
    train(parts, tmp_path / "parts", stop_after=5)
    train(rest, tmp_path / "parts")
    reference = AutoencoderStage(AUTOENCODER, corpus)
    train(reference, tmp_path / "reference")
    assert digest(rest.autoencoder) == digest(reference.autoencoder)


def test_a_missing_previous_stage_is_named(corpus: Corpus, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"stage1.*train that stage first"):
        Stage2(Stage2Config.model_validate(COMMON), corpus, tmp_path / "stage1")
    with pytest.raises(ConfigError, match="unknown"):
        build_stage("stage9", tmp_path / "x.yaml", [], tmp_path, corpus)
