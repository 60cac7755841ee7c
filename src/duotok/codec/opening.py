"""A codec by its name, whoever made it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from duotok.codec.checkpoint_folder import PREFIX
from duotok.codec.contract import Codec
from duotok.codec.duotok import DuoTok
from duotok.codec.wrapped import TransformersCodec
from duotok.devices import check_device
from duotok.errors import ConfigError
from duotok.tracks import TRACKS


def open_codec(
    name: str | Path, device: str = "cpu", codebooks: int | None = None, tracks: Sequence[str] | None = None
) -> Codec:
    """A DuoTok bundle ("mini", a folder, `owner/name`), or `transformers:FOLDER` or `transformers:OWNER/NAME`.

    codebooks, tracks: for the latter (`TransformersCodec.from_pretrained`). Raises BundleError for what is not there, damaged
    or no codec; MissingExtraError without transformers; ConfigError for a device, codebooks or tracks that there are not.
    """
    check_device(device)
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
