"""Stage 4: batches are pure functions of the step, resume is exact, the average follows, held-out numbers hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from duotok.errors import ConfigError
from duotok.renderer.dit import DiTConfig
from duotok.training.engine import train
from duotok.training.latent_data import (
    LatentData,
    crop,
    frame_levels,
    write_code_vectors,
    write_recording,
)
from duotok.training.stage4 import Stage4, Stage4Config

DIT = DiTConfig(
    latent_dim=6,
    condition_dim=4,
    condition_width=8,
    condition_kernel=3,
    width=16,
    heads=2,
    blocks=1,
    ffn_ratio=2.0,
    conv_kernel=3,
    time_dim=16,
    attention_window=8,
)


def config(**changes: object) -> Stage4Config:
    values: dict[str, object] = dict(
        steps=6, batch_size=3, lr=5e-3, warmup=1, crop_frames=8, silence=0.0, ema=0.9, dit=DIT,
        save_every=3, held_out_every=6, sample_every=6, sample_steps=2,
    )  # fmt: skip
    return Stage4Config.model_validate(values | changes)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three recordings to train on (one silent in its first half, one shorter than a crop), one held out."""
    root = tmp_path / "data"
    torch.manual_seed(0)
    vectors, weights = 3 * torch.randn(10, 4) + 1, torch.randn(4, 6) / 4
    write_code_vectors(root, "vocals", vectors)

    def add(split: str, name: str, frames: int, levels: Tensor | None) -> None:
        codes = torch.randint(0, 10, (frames,))
        latents = (vectors[codes] @ weights).repeat_interleave(2, dim=0)
        write_recording(root, split, name, "vocals", latents, codes, levels)

    half = torch.cat([torch.full((100,), -90.0), torch.full((20,), -20.0)])
    add("train", "dual/a", 120, half)
    add("train", "dual/b", 5, torch.full((5,), -20.0))
    add("train", "c", 40, None)
    add("held_out", "d", 30, None)
    return root


def test_data_comes_back_as_it_was_written(data: Path) -> None:
    found = LatentData(data, "vocals")
    names = [recording.name for recording in found.recordings("train")]
    assert names == ["c", "dual/a", "dual/b"]
    assert found.vectors.shape == (10, 4)
    recording = found.recordings("train")[1]
    assert recording.latents.dtype == np.float16 and isinstance(recording.latents, np.memmap)
    latents, codes, length = crop(recording, 110, 8)
    assert latents.shape == (16, 6) and codes.shape == (8,) and length == 16
    assert recording.share_of_sound(96, 8) == 0.5


def test_short_recordings_are_padded(data: Path) -> None:
    latents, codes, length = crop(LatentData(data, "vocals").recordings("train")[2], 0, 8)
    assert length == 10 and latents.shape == (16, 6) and codes.shape == (8,)
    assert not latents[10:].any() and not codes[5:].any()


def test_levels() -> None:
    audio = torch.cat([torch.zeros(1920), torch.full((1920,), 0.1), torch.full((10,), 1.0)])
    levels = frame_levels(audio)
    assert levels.shape == (3,)
    assert levels[:2].tolist() == pytest.approx([-120, -20], abs=1e-3)


def test_a_batch_is_a_function_of_the_step(data: Path) -> None:
    one, two = (Stage4(config(), LatentData(data, "vocals")) for _ in range(2))
    two.batch(1)
    for name, value in one.batch(7).items():
        assert torch.equal(value, two.batch(7)[name])
    assert not torch.equal(one.batch(7)["latents"], one.batch(8)["latents"])


def test_crops_prefer_sound_but_keep_some_silence(data: Path) -> None:
    def silent(share: float) -> float:
        stage = Stage4(config(silence=share), LatentData(data, "vocals"))
        recording = stage.train_set[1]
        stage.train_set, stage.chances = [recording], np.ones(1)
        quiet = [
            not any(torch.equal(latents, crop(recording, start, 8)[0]) for start in range(94, 113))
            for step in range(40)
            for latents in stage.batch(step)["latents"]
        ]
        return float(np.mean(quiet))

    assert silent(0.0) < 0.5 < silent(1.0)


def test_resume_is_exact(data: Path, tmp_path: Path) -> None:
    def stage() -> Stage4:
        return Stage4(config(), LatentData(data, "vocals"))

    train(stage(), tmp_path / "whole")
    train(stage(), tmp_path / "parts", stop_after=3)
    train(stage(), tmp_path / "parts")
    for module in ("dit", "ema"):
        whole, parts = (
            load_file(tmp_path / run / "checkpoint-00000006" / f"{module}.safetensors") for run in ("whole", "parts")
        )
        assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_the_average_follows_and_is_not_trained(data: Path) -> None:
    stage = Stage4(config(), LatentData(data, "vocals"))
    assert not any(parameter.requires_grad for parameter in stage.ema.parameters())
    with torch.no_grad():
        stage.dit.leave.bias.fill_(1.0)
    stage.after_step(0)  # decay of the first step: 1 / 10
    torch.testing.assert_close(stage.ema.leave.bias, torch.full((6,), 0.9))
    stage.after_step(10_000)  # and the configured one in the end
    torch.testing.assert_close(stage.ema.leave.bias, torch.full((6,), 0.91))


def test_training_learns(data: Path, tmp_path: Path) -> None:
    stage = Stage4(config(steps=150, held_out_every=150, sample_every=150, save_every=150), LatentData(data, "vocals"))
    before = stage.held_out()
    after = train(stage, tmp_path / "run")
    assert set(after) == {"loss", "loss_raw", "mse_1", "mse_8"}
    assert after["loss"] < 0.7 * before["loss"]
    assert after["mse_1"] < 0.7 * before["mse_1"]


def test_held_out_is_repeatable_and_from_held_out_recordings(data: Path) -> None:
    stage = Stage4(config(), LatentData(data, "vocals"))
    assert len(stage.clips["latents"]) == 3  # 30 frames: three whole crops of 8
    assert stage.held_out() == stage.held_out()


def test_sound_and_pictures(data: Path, tmp_path: Path) -> None:
    class Decoder:
        def decode(self, latents: Tensor) -> Tensor:
            return 0.1 * latents.mean(-1).repeat_interleave(960, dim=1)[:, None]

    stage = Stage4(config(), LatentData(data, "vocals"), Decoder())
    stage.sample(tmp_path)
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert {"0.true.flac", "0.1_step.flac", "0.2_steps.flac", "0.png", "1.png"} <= names


def test_mistakes_are_named(data: Path) -> None:
    with pytest.raises(ConfigError, match=r"code_vectors\.accompaniment\.npy"):
        LatentData(data, "accompaniment")
    with pytest.raises(ConfigError, match=r"validation: no vocals\.latents\.npy"):
        LatentData(data, "vocals").recordings("validation")
    write_recording(data, "train", "bad", "vocals", torch.zeros(9, 6), torch.zeros(9, dtype=torch.long))
    with pytest.raises(ConfigError, match="9 latents do not fit 9 codes"):
        LatentData(data, "vocals").recordings("train")
    write_recording(data, "train", "bad", "vocals", torch.zeros(4, 6), torch.tensor([3, 10]))
    with pytest.raises(ConfigError, match="codes beyond the 10 code vectors"):
        LatentData(data, "vocals").recordings("train")
    (data / "train" / "bad" / "vocals.latents.npy").write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match="cannot be read"):
        LatentData(data, "vocals").recordings("train")
