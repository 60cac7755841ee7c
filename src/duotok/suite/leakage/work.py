"""The unit of a leakage experiment: one song, all tokenizers, so that it is separated once. Plain JSON in and out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from duotok.codec.contract import Codec
from duotok.errors import DuoTokError
from duotok.evaluation.systems import SystemConfig
from duotok.suite.leakage.measure import keep, kept, measure
from duotok.suite.leakage.stems import OpenSeparator, open_separators, variants
from duotok.suite.opened import codec_named
from duotok.suite.true_stems import TrueSong, stretches


def measure_song(payload: dict[str, Any]) -> dict[str, Any]:
    """Every stretch of a song is kept in the folder of each tokenizer. failed: tokenizer -> why the song failed there.

    Raises AudioError where the song itself cannot be used.
    """
    files = {track: tuple(map(Path, paths)) for track, paths in payload["files"].items()}
    song = TrueSong(payload["song"], "test", files)
    folders = {name: Path(folder) for name, folder in payload["folders"].items()}
    codecs = _codecs(json.dumps(payload["systems"], sort_keys=True))
    separators = _separators(tuple(payload["separators"]), payload["device"])
    failed, done = dict[str, str](), dict[str, list[str]]()
    for start, true in stretches(song, payload["seconds"], payload["stretches"]):
        file = f"{start:09.3f}.safetensors"
        there = {n: kept(folders[n] / file) for n in codecs}
        wanted = [
            n for n, one in there.items()
            if n not in failed and (payload["again"] or one is None or (payload["retry"] and one.failed))
        ]  # fmt: skip
        made = list(variants(true, payload["levels"], separators)) if wanted else []
        for name in wanted:
            try:
                measured = measure(codecs[name], song.id, f"{start:.3f}", true, made, payload["decode"])
            except DuoTokError as error:
                failed[name] = str(error)
                continue
            keep(folders[name] / file, measured)
        for name in codecs:
            if name not in failed:
                done.setdefault(name, []).append(file)
    return {"failed": failed, "files": done}


@lru_cache(maxsize=1)
def _codecs(text: str) -> Mapping[str, Codec]:
    """The last set of tokenizers stays open."""
    return {name: codec_named(SystemConfig(**config)) for name, config in json.loads(text).items()}


@lru_cache(maxsize=1)
def _separators(texts: tuple[str, ...], device: str) -> list[OpenSeparator]:
    return open_separators(texts, device)[0] if texts else []
