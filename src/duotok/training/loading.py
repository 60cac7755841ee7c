"""Trained modules out of a folder of runs; each run keeps the config that built them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from torch import Tensor

from duotok.config import parse
from duotok.errors import ConfigError
from duotok.model.config import TokenizerConfig
from duotok.model.tokenizer import Tokenizer
from duotok.renderer.autoencoder import Autoencoder, AutoencoderConfig
from duotok.renderer.dit import DiT, DiTConfig
from duotok.separation.bs_roformer import BSRoFormer, BSRoFormerConfig
from duotok.training.checkpoint import latest, load_module, read_state
from duotok.training.latent_data import condition_vectors


def run_config(run: Path) -> dict[str, Any]:
    """The resolved config of a run's newest checkpoint. Raises ConfigError when the run has none."""
    config = read_state(latest(run))["config"]
    if not isinstance(config, dict):
        raise ConfigError(f"{run}: state.json holds no config; train that stage again")
    return config


def run_highpass(run: Path) -> float:
    """The high-pass of the front end that a run of stages 1 to 3 was trained behind, in Hz; 0 for runs from before it."""
    return float(run_config(run)["crops"].get("highpass_hz", 0.0))


def fingerprint(run: Path, module: str) -> str:
    """Names the newest weights of a run: checkpoint and the start of their SHA-256."""
    path = latest(run) / f"{module}.safetensors"
    return f"{path.parent.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


def load_separator(runs: Path) -> BSRoFormer:
    run = runs / "separator"
    module = BSRoFormer(parse(BSRoFormerConfig, run_config(run)["model"], str(run)))
    load_module(latest(run) / "separator.safetensors", module)
    return module.eval().requires_grad_(False)


def load_autoencoder(runs: Path, run_name: str = "autoencoder") -> Autoencoder:
    run = runs / run_name
    module = Autoencoder(parse(AutoencoderConfig, run_config(run)["model"], str(run)))
    load_module(latest(run) / "autoencoder.safetensors", module)
    return module.eval().requires_grad_(False)


def load_tokenizer(runs: Path, stage: str = "stage3") -> Tokenizer:
    run = runs / stage
    module = Tokenizer(parse(TokenizerConfig, run_config(run)["model"], str(run)))
    load_module(latest(run) / "tokenizer.safetensors", module)
    return module.eval().requires_grad_(False)


def load_dit(runs: Path, track: str) -> DiT:
    """The averaged weights of a track's renderer."""
    run = runs / f"stage4.{track}"
    module = DiT(parse(DiTConfig, run_config(run)["dit"], str(run)))
    load_module(latest(run) / "ema.safetensors", module)
    return module.eval().requires_grad_(False)


def load_vectors(runs: Path, track: str) -> Tensor:
    """What the track's renderer is told of each code, `[codes, condition_dim]`."""
    kind = run_config(runs / f"stage4.{track}")["dit"]["condition"]
    return condition_vectors(load_tokenizer(runs), track, kind)
