"""A user's settings of a tokenizer in its own environment: a YAML file, opened as `external:FILE`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import Field

from duotok.config import Config, load_config
from duotok.errors import ConfigError

PREFIX = "external:"
PATHS = ("config", "vae_config", "vae_model")
"""Options that are files, so that they may be written relative to the YAML file."""


class ExternalConfig(Config):
    """codec: its name in `duotok codecs list`, or a new one with adapter: the file that asks a tokenizer of your own. python: of its
    environment (or the folder of that). checkout: its repository, where it is no package. weights: its checkpoint, a file or folder;
    sha256: what its first file must have. trust_pickle: open weights that are no safetensors. options: its own (`duotok codecs
    describe`). timeout, start_timeout: seconds for one request, and for loading. Paths may be relative to the file, and begin with `~`.
    """

    codec: str
    python: str
    weights: str
    checkout: str = ""
    adapter: str = ""
    sha256: str = ""
    trust_pickle: bool = False
    options: dict[str, str | int | float | bool] = {}
    codebooks: int | None = Field(default=None, ge=1, le=64)
    timeout: float = Field(default=1800.0, gt=0, le=1e6)
    start_timeout: float = Field(default=1800.0, gt=0, le=1e6)


def read_settings(path: Path) -> ExternalConfig:
    """The settings with every path absolute. Raises ConfigError for missing or invalid values."""
    config = load_config(ExternalConfig, path)
    if config.sha256 and not re.fullmatch(r"[0-9a-f]{64}", config.sha256):
        raise ConfigError(
            f"{path}: sha256 '{config.sha256[:80]}' is no sha256; give its 64 hex digits, or leave it out"
        )
    place = path.resolve().parent

    def absolute(text: Any) -> str:
        return str(place / Path(str(text)).expanduser()) if text else ""

    # Not resolved further: a Python is a link into its environment.
    options = {key: absolute(value) if key in PATHS else value for key, value in config.options.items()}
    paths = {key: absolute(getattr(config, key)) for key in ("python", "weights", "checkout", "adapter")}
    return config.model_copy(update={**paths, "options": options})


def template(codec: str, checkout: bool, options: str, pickle: bool, weights: str = "PATH") -> str:
    """The text of such a file, to be filled in."""
    lines = [f"codec: {codec}", "python: ~/envs/" + codec, "weights: " + weights]
    lines += ["checkout: PATH"] if checkout else []
    lines += (
        ["trust_pickle: true    # its weights are a pickle: only if you trust where they are from"] if pickle else []
    )
    lines += [f"options: {{{options}}}"] if options else []
    return "\n".join(lines) + "\n"
