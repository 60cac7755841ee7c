"""Trained modules out of a folder of runs; each run keeps the config that built them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from duotok.config import Config, parse
from duotok.errors import ConfigError
from duotok.model.config import TokenizerConfig
from duotok.model.tokenizer import Tokenizer
from duotok.renderer.contract import LatentAutoencoder, LatentDiffusion
from duotok.renderer.kinds import AnyAutoencoderConfig, AnyDiTConfig, make_autoencoder, make_dit
from duotok.renderer.render import RenderPlan
from duotok.separation.bs_roformer import BSRoFormer, BSRoFormerConfig
from duotok.training.batches.latent_data import condition_vectors
from duotok.training.checkpoint import best, load_module, read_state
from duotok.training.stage import StageConfig


def run_config(run: Path) -> dict[str, Any]:
    """The resolved config of a run's best checkpoint. Raises ConfigError when the run has none."""
    config = read_state(best(run))["config"]
    if not isinstance(config, dict):
        raise ConfigError(f"{run}: state.json holds no config; train that stage again")
    return config


def device_of(config: StageConfig) -> torch.device:
    """Where a stage's arrays are derived: where it trains."""
    return torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")


def run_highpass(run: Path) -> float:
    """The high-pass of the front end that a run of stages 1 to 3 was trained behind, in Hz; 0 for runs from before it."""
    return float(run_config(run)["crops"].get("highpass_hz", 0.0))


def fingerprint(run: Path, module: str) -> str:
    """Names the weights of a run that are used: checkpoint and the start of their SHA-256."""
    path = best(run) / f"{module}.safetensors"
    return f"{path.parent.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


def load_separator(runs: Path) -> BSRoFormer:
    run = runs / "separator"
    module = BSRoFormer(parse(BSRoFormerConfig, run_config(run)["model"], str(run)))
    load_module(best(run) / "separator.safetensors", module)
    return module.eval().requires_grad_(False)


class _Renderer(Config):
    """The part of a run's config that says what it trained."""

    model: AnyAutoencoderConfig | None = None
    dit: AnyDiTConfig | None = None


def _renderer(run: Path, key: str) -> Any:
    return getattr(parse(_Renderer, {key: run_config(run)[key]}, str(run)), key)


def load_autoencoder(runs: Path, run_name: str = "autoencoder") -> LatentAutoencoder:
    """Our own, or a published one that `training.stages.published` has put there."""
    run = runs / run_name
    module = make_autoencoder(_renderer(run, "model"))
    load_module(best(run) / "autoencoder.safetensors", module)
    return module.eval().requires_grad_(False)


def load_tokenizer(runs: Path, stage: str = "stage3") -> Tokenizer:
    run = runs / stage
    module = Tokenizer(parse(TokenizerConfig, run_config(run)["model"], str(run)))
    load_module(best(run) / "tokenizer.safetensors", module)
    return module.eval().requires_grad_(False)


def load_dit(runs: Path, track: str) -> LatentDiffusion:
    """The averaged weights of a track's renderer."""
    run = runs / f"stage4.{track}"
    module = make_dit(_renderer(run, "dit"))
    load_module(best(run) / "ema.safetensors", module)
    return module.eval().requires_grad_(False)


@dataclass(frozen=True)
class Sampling:
    """How the renderer of a track is to be used, as its stage 4 was told."""

    steps: int
    sampler: str
    temperature: float
    render: RenderPlan


def load_sampling(runs: Path, track: str) -> Sampling:
    """Out of the config of RUNS/stage4.TRACK; keys that it lacks have their defaults."""
    from duotok.training.stages.stage4 import Stage4Config

    run = runs / f"stage4.{track}"
    config = parse(Stage4Config, run_config(run), str(run))
    return Sampling(config.sample_steps, config.sampler, config.temperature, config.render)


def load_vectors(runs: Path, track: str) -> Tensor:
    """What the track's renderer is told of each code, `[codes, condition_dim]`."""
    kind = run_config(runs / f"stage4.{track}")["dit"]["condition"]
    return condition_vectors(load_tokenizer(runs), track, kind)
