"""`suite.yaml`: the tokenizers, the songs and the instruments of one evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from duotok.config import Config, base_folder, load_config
from duotok.errors import ConfigError
from duotok.evaluation.systems import SystemConfig
from duotok.suite.experiments import EXPERIMENTS, ask
from duotok.suite.predictability import NAME as LM
from duotok.suite.run import STEMS, Plan, choose
from duotok.suite.songs import SongsConfig, find_songs
from duotok.suite.units import INSTRUMENTS

PREFIXES = ("transformers:", "external:")
PLACES = ("data", "autoencoder", "separators", "lms")
"""Settings of experiments that name folders or files."""


class SuiteConfig(Config):
    """songs: what is measured (`SongsConfig`; `folder` relative to the file); tokenizers: name in tables -> model, or its
    `SystemConfig`; instruments: name -> its settings (those of `units.INSTRUMENTS` and `experiments.EXPERIMENTS`), all
    of the former with their defaults if none are named, as the latter train models or separate songs, for hours; lm: a comparison (docs/lm.md) whose
    figures join the store, relative to the file, or a recipe."""

    songs: SongsConfig
    tokenizers: dict[str, SystemConfig] = Field(min_length=1)
    instruments: dict[str, dict[str, Any]] = Field(default={name: {} for name in INSTRUMENTS}, min_length=1)
    lm: str | None = None

    @field_validator("tokenizers", mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: {"name": str(name), **(v if isinstance(v, dict) else {"model": v})} for name, v in values.items()}

    @field_validator("instruments", mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        if isinstance(values, list):
            return {name: {} for name in values}
        return {name: v or {} for name, v in values.items()} if isinstance(values, dict) else values


def load_suite(
    path: Path, store: Path, overrides: Sequence[str] = (), retry: bool = False, force: bool = False, only: Sequence[str] = ()
) -> tuple[Plan, Path | None]:  # fmt: skip
    """The plan, and the comparison of language models if there is one. only: the instruments of it that are wanted, `lm` for that
    comparison; none for all. Raises ConfigError for what cannot be."""
    config = load_config(SuiteConfig, path, list(overrides))
    base = base_folder(path)
    songs = find_songs(
        config.songs.model_copy(update={"folder": str(base / config.songs.folder)}), (store, store / STEMS)
    )
    named = _chosen(config, only)
    unknown = [name for name in named if name not in (*INSTRUMENTS, *EXPERIMENTS)]
    if unknown:
        known = ", ".join((*INSTRUMENTS, *EXPERIMENTS))
        raise ConfigError(f"instrument '{unknown[0]}' does not exist; choose among {known}")
    chosen = tuple(choose(name, **fields) for name, fields in named.items() if name in INSTRUMENTS)
    asked = tuple(ask(name, _beside(fields, base)) for name, fields in named.items() if name in EXPERIMENTS)
    systems = tuple(_placed(one, base) for one in config.tokenizers.values())
    plan = Plan(systems, chosen, songs, store, None, retry, force, asked)
    if config.lm is None or (only and LM not in only):
        return plan, None
    beside = base / config.lm
    return plan, beside if beside.is_file() else Path(config.lm)


def _chosen(config: SuiteConfig, only: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The instruments that are wanted, with their settings. Raises ConfigError for one that the suite does not have."""
    instruments = config.instruments
    if "instruments" not in config.model_fields_set and only:  # a file that names none has any, with its defaults
        instruments = {name: {} for name in (*INSTRUMENTS, *EXPERIMENTS)}
    there = (*instruments, *((LM,) if config.lm is not None else ()))
    unknown = [name for name in only if name not in there]
    if unknown:
        raise ConfigError(f"--instrument {unknown[0]}: not in this suite; it has {', '.join(there)}")
    return {name: fields for name, fields in instruments.items() if not only or name in only}


def _beside(fields: dict[str, Any], base: Path) -> dict[str, Any]:
    """Folders and files that the settings of an experiment name, beside the YAML first; `KIND=FOLDER` as well."""

    def placed(value: Any) -> Any:
        if isinstance(value, list):
            return [placed(one) for one in value]
        if not isinstance(value, str):
            return value
        kind, equals, rest = value.rpartition("=")
        return f"{kind}{equals}{base / rest}" if rest and (base / rest).exists() else value

    return {key: placed(value) if key in PLACES else value for key, value in fields.items()}


def _placed(config: SystemConfig, base: Path) -> SystemConfig:
    """Folders and files beside the YAML first; other names as they are."""
    prefix = next((p for p in PREFIXES if config.model.startswith(p)), "")
    rest = config.model.removeprefix(prefix)
    if not rest:
        raise ConfigError(f"tokenizer '{config.name}': '{config.model}' names nothing")
    return config.model_copy(update={"model": f"{prefix}{base / rest}"}) if (base / rest).exists() else config
