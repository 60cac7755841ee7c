"""The smallest stages: what the tests of training train."""

from __future__ import annotations

from pathlib import Path

import yaml

from duotok.model.config import TokenizerConfig
from duotok.renderer.autoencoder import AutoencoderConfig
from duotok.renderer.dit import DiTConfig
from duotok.separation.bs_roformer import BSRoFormerConfig
from duotok.shards.mixture import Component
from duotok.shards.store import ShardStore
from duotok.training.stage import Stage
from duotok.training.stages.autoencoder import AutoencoderStage, AutoencoderStageConfig
from duotok.training.stages.separator import SeparatorStage, SeparatorStageConfig
from duotok.training.stages.stage1 import Stage1, Stage1Config
from duotok.training.stages.stage2 import Stage2, Stage2Config
from duotok.training.stages.stage3 import Stage3, Stage3Config

TOKENIZER = TokenizerConfig(
    conv_channels=16, width=32, heads=2, lower_blocks=1, upper_blocks=1, ffn=64, codebook_size=256, head_hidden=16,
    mask_channels=16, mask_hidden=8, vocabulary=28,
)  # fmt: skip
COMMON = {
    "steps": 12, "batch_size": 4, "lr": 3e-3, "warmup": 2, "model": TOKENIZER, "save_every": 100, "held_out_every": 100,
    "sample_every": 0, "log_every": 1, "crops": {"frames": 40}, "device": "cpu",
}  # fmt: skip
BESTRQ = {"codebook_size": 64}
DIT = DiTConfig(
    condition_dim=16, condition_width=8, condition_kernel=3, width=16, heads=2, blocks=1, ffn_ratio=2.0, conv_kernel=3,
    time_dim=16, attention_window=8,
)  # fmt: skip
AUTOENCODER = AutoencoderStageConfig(
    steps=12, batch_size=2, lr=2e-3, warmup=2, crop_seconds=0.4, scales_per_step=2, held_out_seconds=1.0, log_every=1,
    held_out_clips=2, device="cpu",
    model=AutoencoderConfig(encoder_width=16, encoder_blocks=(1, 1), decoder_width=16, decoder_blocks=(0, 1)),
)  # fmt: skip
SEPARATOR = SeparatorStageConfig(
    steps=10, batch_size=4, lr=3e-3, warmup=2, crop_seconds=0.2, held_out_seconds=0.5, held_out_clips=2, log_every=1,
    device="cpu",
    model=BSRoFormerConfig(
        n_fft=960, hop=320, bands=(8, 8, 16, 64, 385), groups=(1, 1, 2, 8, 64), dim=16, depth=1, heads=2, head_dim=8,
        feedforward=32, mask_hidden=8,
    ),
)  # fmt: skip


def stage1_config(**changes: object) -> Stage1Config:
    return Stage1Config.model_validate({**COMMON, "bestrq": BESTRQ, **changes})


def stage2_config(**changes: object) -> Stage2Config:
    return Stage2Config.model_validate({**COMMON, **changes})


def stage3_config(**changes: object) -> Stage3Config:
    mixture = {
        "vocals": Component(types=("vocals",), weight=3),
        "accompaniment": Component(types=("accompaniment", "instrumental"), weight=2),
    }
    return Stage3Config.model_validate({**COMMON, "fit_batches": 2, "mixture": mixture, **changes})


def make(name: str, store: ShardStore, runs: Path, **changes: object) -> Stage:
    """A stage by name; stage 2 and 3 start from RUNS/stage1 and RUNS/stage2."""
    if name == "stage1":
        return Stage1(stage1_config(**changes), store)
    if name == "stage2":
        return Stage2(stage2_config(**changes), store, runs / "stage1")
    if name == "stage3":
        return Stage3(stage3_config(**changes), store, runs / "stage2")
    if name == "autoencoder":
        return AutoencoderStage(AUTOENCODER.model_copy(update=changes), store)
    return SeparatorStage(SEPARATOR.model_copy(update=changes), store)


def stage4_values() -> dict[str, object]:
    """The config of stage 4 for `write`."""
    return dict(
        steps=2, batch_size=2, lr=1e-3, warmup=1, crop_frames=16, encoder_window=40, device="cpu", log_every=1,
        dit=DIT.model_dump(mode="json"), sample_steps=3, sampler="ddim", temperature=0.5,
        render={"window": 96, "context": 16, "crossfade": 8},
    )  # fmt: skip


def write(folder: Path, name: str, values: dict[str, object]) -> Path:
    """A config as a file."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path
