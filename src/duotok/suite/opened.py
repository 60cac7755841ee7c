"""Opens the tokenizers that people name for an instrument: `MODEL`, or `NAME=MODEL`, which gives the name in tables."""

from __future__ import annotations

from collections.abc import Sequence

from duotok.codec.checkpoint_folder import PREFIX as TRANSFORMERS
from duotok.codec.contract import Codec
from duotok.codec.external.settings import PREFIX as EXTERNAL
from duotok.errors import ConfigError
from duotok.evaluation.instrument import MIX, codec_of
from duotok.evaluation.systems import SystemConfig, open_system, parse_system


def open_named(config: SystemConfig, mix: bool = False) -> tuple[str, Codec]:
    """The name in tables and the tokenizer.

    mix: tokenizers that code one sound at a time get the mix as their only stream; those of two tracks stay as they are.
    Raises as `open_system`, and NoTokens for an anchor.
    """
    whole = config.model_copy(update={"tracks": (MIX,)})
    if mix and config.model.startswith(TRANSFORMERS):
        config = whole
    elif mix and config.model.startswith(EXTERNAL):
        try:
            return _opened(whole)
        except ConfigError:  # it codes both tracks together
            pass
    return _opened(config)


def _opened(config: SystemConfig) -> tuple[str, Codec]:
    system = open_system(config)
    return system.name, codec_of(system)


def open_all(texts: Sequence[str], device: str = "cpu", mix: bool = False) -> dict[str, Codec]:
    """By name. Raises ConfigError for two tokenizers of one name, or none."""
    if not texts:
        raise ConfigError("no tokenizer; name at least one, e.g. mini")
    found: dict[str, Codec] = {}
    for text in texts:
        config = parse_system(text, device=device)
        name, codec = open_named(config, mix)
        if name in found:
            raise ConfigError(f"two tokenizers are called '{name}'; name them apart: NAME={config.model}")
        found[name] = codec
    return found
