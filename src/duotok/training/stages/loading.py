"""Loads trained modules from checkpoints; each checkpoint has the config that built them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from duotok.config import Config, parse
from duotok.devices import gpu_or_cpu
from duotok.errors import ConfigError
from duotok.model.config import TokenizerConfig
from duotok.model.tokenizer import Tokenizer
from duotok.renderer.autoencoder import AutoencoderConfig
from duotok.renderer.contract import LatentAutoencoder, LatentDiffusion
from duotok.renderer.kinds import AnyAutoencoderConfig, AnyDiTConfig, make_autoencoder, make_dit
from duotok.renderer.render import RenderSettings
from duotok.separation.bs_roformer import BSRoFormer, BSRoFormerConfig
from duotok.training.batches.latent_data import condition_vectors
from duotok.training.checkpoint import load_module, read_state
from duotok.training.stage import StageConfig
from duotok.training.stages.stage4 import Stage4Config


def device_of(config: StageConfig) -> torch.device:
    """The device on which a stage's arrays are derived: that of its training."""
    return gpu_or_cpu(config.device)


def _config(checkpoint: Path) -> dict[str, Any]:
    config: dict[str, Any] = read_state(checkpoint)["config"]
    return config


def load_separator(checkpoint: Path) -> BSRoFormer:
    """The separator of a checkpoint, frozen. Raises ConfigError when it is not whole, or of another stage."""
    module = BSRoFormer(parse(BSRoFormerConfig, _config(checkpoint)["model"], str(checkpoint)))
    load_module(checkpoint / "separator.safetensors", module)
    return module.eval().requires_grad_(False)


class _Renderer(Config):
    """The part of a checkpoint's config that describes the trained model."""

    model: AnyAutoencoderConfig | None = None
    dit: AnyDiTConfig | None = None


def _renderer(checkpoint: Path, key: str) -> Any:
    return getattr(parse(_Renderer, {key: _config(checkpoint)[key]}, str(checkpoint)), key)


def load_autoencoder(checkpoint: Path) -> LatentAutoencoder:
    """The autoencoder of a checkpoint, frozen: ours, or a published one (`stages.published`). Raises as `load_separator`."""
    module = make_autoencoder(_renderer(checkpoint, "model"))
    load_module(checkpoint / "autoencoder.safetensors", module)
    return module.eval().requires_grad_(False)


def autoencoder_config(checkpoint: Path) -> AutoencoderConfig:
    """The config of our own autoencoder, for stages that train it further. Raises ConfigError for a published one."""
    config = _renderer(checkpoint, "model")
    if not isinstance(config, AutoencoderConfig):
        raise ConfigError(
            f"{checkpoint}: a published autoencoder ({config.kind}), which is finished; leave this stage out"
        )
    return config


def load_tokenizer(checkpoint: Path) -> Tokenizer:
    """The tokenizer of a checkpoint, frozen. Raises as `load_separator`."""
    module = Tokenizer(parse(TokenizerConfig, _config(checkpoint)["model"], str(checkpoint)))
    load_module(checkpoint / "tokenizer.safetensors", module)
    return module.eval().requires_grad_(False)


def stage4_config(checkpoint: Path) -> Stage4Config:
    """What a renderer was trained with; keys that its checkpoint lacks have their defaults."""
    return parse(Stage4Config, _config(checkpoint), str(checkpoint))


def load_dit(checkpoint: Path) -> LatentDiffusion:
    """The averaged weights of a renderer. Raises as `load_separator`."""
    module = make_dit(_renderer(checkpoint, "dit"))
    load_module(checkpoint / "ema.safetensors", module)
    return module.eval().requires_grad_(False)


def load_render_settings(checkpoint: Path) -> RenderSettings:
    """How the renderer of a track is to be used, as the config of its stage 4 says."""
    config = stage4_config(checkpoint)
    return RenderSettings(config.sample_steps, config.sampler, temperature=config.temperature, plan=config.render)


def load_vectors(renderer: Path, tokenizer: Path) -> Tensor:
    """The condition vector of each code for a renderer, `[codes, condition_dim]`, from its checkpoint and the tokenizer's."""
    config = stage4_config(renderer)
    return condition_vectors(load_tokenizer(tokenizer), config.track, config.dit.condition)
