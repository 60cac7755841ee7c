"""Opens any codec by its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from duotok.codec.checkpoint_folder import PREFIX
from duotok.codec.contract import Codec
from duotok.codec.duotok import DuoTok
from duotok.codec.external.codec import ExternalCodec
from duotok.codec.external.settings import PREFIX as EXTERNAL_PREFIX
from duotok.codec.wrapped import TransformersCodec
from duotok.errors import ConfigError
from duotok.tracks import TRACKS


def open_codec(
    name: str | Path, device: str = "cpu", codebooks: int | None = None, tracks: Sequence[str] | None = None
) -> Codec:
    """A DuoTok bundle ("mini", a folder, `owner/name`), `transformers:FOLDER` or `transformers:OWNER/NAME`, or `external:FILE`.

    FILE: YAML that describes a tokenizer in an environment of its own (`ExternalConfig`). codebooks, tracks: for all but bundles
    (`TransformersCodec.from_pretrained`). Raises BundleError when the model is missing, damaged or not a codec; MissingExtraError
    without transformers; ConfigError for unknown devices, codebooks or tracks, or an environment that cannot be used.
    """
    if str(name).startswith(EXTERNAL_PREFIX):  # it has its own torch, which may know other devices
        return ExternalCodec.open(str(name).removeprefix(EXTERNAL_PREFIX), device, codebooks, tracks)
    text = str(name)
    if text.startswith(PREFIX):
        return TransformersCodec.from_pretrained(text.removeprefix(PREFIX), device, codebooks, tracks)
    if codebooks not in (None, 1):
        raise ConfigError(f"{text}: {codebooks} codebooks; a DuoTok bundle has one a track; leave the number out")
    if tracks is not None and tuple(tracks) != TRACKS:
        raise ConfigError(
            f"{text}: tracks {', '.join(tracks)}; a DuoTok bundle has {' and '.join(TRACKS)}; leave them out"
        )
    return DuoTok.from_pretrained(name, device)
