"""Opens the tokenizers that people name for an experiment: `MODEL`, or `NAME=MODEL`, which gives the name in tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from duotok.codec.checkpoint_folder import PREFIX as TRANSFORMERS
from duotok.codec.contract import Codec
from duotok.codec.external.settings import PREFIX as EXTERNAL
from duotok.errors import ConfigError, DuoTokError
from duotok.evaluation.instrument import MIX, NoTokens, System
from duotok.evaluation.systems import SystemConfig, open_system
from duotok.suite.runner import Gap


@dataclass(frozen=True)
class Named:
    """A tokenizer under its name in tables, and what opens it again in another process."""

    name: str
    config: SystemConfig
    codec: Codec


def open_named(config: SystemConfig, mix: bool = False) -> System:
    """mix: tokenizers that code one sound at a time get the mix as their only stream; those of two tracks stay as they are.

    Raises as `open_system`.
    """
    whole = config.model_copy(update={"tracks": (MIX,)})
    if mix and config.model.startswith(TRANSFORMERS):
        config = whole
    elif mix and config.model.startswith(EXTERNAL):
        try:
            return open_system(whole)
        except ConfigError:  # it codes both tracks together
            pass
    return open_system(config)


def codec_named(config: SystemConfig, mix: bool = False) -> Codec:
    """Raises as `open_named`, and NoTokens for an anchor."""
    system = open_named(config, mix)
    if system.codec is None:
        raise NoTokens(no_tokens(system.name))
    return system.codec


def no_tokens(name: str) -> str:
    return f"{name} has no tokens"


def open_each(configs: Sequence[SystemConfig], mix: bool = False) -> tuple[list[Named], list[Gap]]:
    """Those that open and have tokens, and the others with their reasons. Raises ConfigError for two of one name, or none."""
    if not configs:
        raise ConfigError("no tokenizer; name at least one, e.g. mini")
    found, gaps = list[Named](), list[Gap]()
    for config in configs:
        try:
            system = open_named(config, mix)
        except DuoTokError as error:
            gaps.append(Gap(config.name or config.model, "", str(error)))
            continue
        if system.name in [one.name for one in found]:
            raise ConfigError(f"two tokenizers are called '{system.name}'; name them apart: NAME={config.model}")
        if system.codec is None:
            gaps.append(Gap(system.name, system.model_hash, no_tokens(system.name)))
            continue
        found.append(Named(system.name, config, system.codec))
    return found, gaps
