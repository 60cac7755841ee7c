"""Tokenizers as people name them for an instrument: `MODEL`, or `NAME=MODEL`, which gives the name in tables."""

from __future__ import annotations

import re
from collections.abc import Sequence

from duotok.codec import open_codec
from duotok.codec.checkpoint_folder import PREFIX as TRANSFORMERS
from duotok.codec.contract import Codec
from duotok.codec.external.settings import PREFIX as EXTERNAL
from duotok.errors import ConfigError


def named(text: str) -> tuple[str, str]:
    """(name or "", model) of `NAME=MODEL` or `MODEL`."""
    found = re.fullmatch(r"([\w.+ -]+)=(.+)", text)
    return (found[1], found[2]) if found else ("", text)


def open_named(text: str, device: str = "cpu", mix: bool = False) -> tuple[str, Codec]:
    """The name in tables (`model_id` if none is given) and the tokenizer.

    mix: tokenizers that code one sound at a time get the mix as their only stream; those of two tracks stay as they are.
    Raises as `open_codec`.
    """
    name, model = named(text)
    if mix and model.startswith(TRANSFORMERS):
        codec = open_codec(model, device, tracks=("mix",))
    elif mix and model.startswith(EXTERNAL):
        try:
            codec = open_codec(model, device, tracks=("mix",))
        except ConfigError:  # it codes both tracks together
            codec = open_codec(model, device)
    else:
        codec = open_codec(model, device)
    return name or codec.model_id, codec


def open_all(texts: Sequence[str], device: str = "cpu", mix: bool = False) -> dict[str, Codec]:
    """By name. Raises ConfigError for two tokenizers of one name, or none."""
    if not texts:
        raise ConfigError("no tokenizer; name at least one with --model, e.g. --model mini")
    found: dict[str, Codec] = {}
    for text in texts:
        name, codec = open_named(text, device, mix)
        if name in found:
            raise ConfigError(f"two tokenizers are called '{name}'; name them apart: --model NAME={named(text)[1]}")
        found[name] = codec
    return found
