"""One unit of a suite: one system, one instrument, one stretch of a song. Plain JSON in and out, so it runs in any process."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from duotok.audio.io import write
from duotok.audio.marks import MARK
from duotok.clock import SAMPLE_RATE
from duotok.data.jobs import Unit
from duotok.errors import ConfigError
from duotok.evaluation.instrument import Instrument, Song, System, codec_of
from duotok.evaluation.reconstruction import Reconstruction
from duotok.evaluation.results import plain_name
from duotok.evaluation.stability import Stability
from duotok.evaluation.systems import AnchorSystem, SystemConfig, open_system
from duotok.evaluation.usage import Usage
from duotok.files import short_hash
from duotok.suite.songs import SongSet, Stretch, load
from duotok.tracks import TRACKS

SOUND, STREAMS = "sound", "streams"
"""Keys of settings: the hash of what decodes, for instruments that decode; names of streams other than the two tracks, which no model
hash tells."""


def settings_of(system: System, instrument: Instrument) -> dict[str, Any]:
    """Of an instrument, with what decodes where it hears that, and the streams of one that codes the mix."""
    sound = getattr(system, "sound_hash", "") if instrument.cost.decodings else ""
    streams = TRACKS if system.codec is None else tuple(stream.name for stream in system.codec.streams)
    own = {**({SOUND: sound} if sound else {}), **({STREAMS: list(streams)} if streams != TRACKS else {})}
    return {**instrument.settings, **own}


FORMAT = 1
"""Of what a unit returns; another number makes everything be measured again."""
INSTRUMENTS: dict[str, type[Instrument]] = {one.name: one for one in (Reconstruction, Stability, Usage)}
"""By name: what a suite can ask of every system and song. An instrument is added here."""


def make_instrument(name: str, fields: Mapping[str, Any]) -> Instrument:
    """The instrument with these settings. Raises ConfigError for an unknown instrument or setting."""
    if name not in INSTRUMENTS:
        raise ConfigError(f"instrument '{name}' does not exist; choose among {', '.join(INSTRUMENTS)}")
    given = {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
    for field in dataclasses.fields(INSTRUMENTS[name]):  # type: ignore[arg-type]
        if isinstance(field.default, tuple):
            _check_list(f"instrument '{name}': {field.name}", given.get(field.name, ()))
    try:
        return INSTRUMENTS[name](**given)
    except TypeError:
        known = ", ".join(field.name for field in dataclasses.fields(INSTRUMENTS[name])) or "none"  # type: ignore[arg-type]
        raise ConfigError(f"instrument '{name}': settings {', '.join(fields)}; it has {known}") from None


def _check_list(what: str, values: Any) -> None:
    """Raises ConfigError for what is no list of names, each once: what is named twice would be measured twice."""
    if not isinstance(values, tuple) or not all(isinstance(value, str) for value in values):
        raise ConfigError(f"{what} '{values}' is no list of names; write [{values}]")
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise ConfigError(f"{what}: '{twice}' comes twice; name it once")


def unit_of(
    config: SystemConfig, system: System, instrument: Instrument, fields: Mapping[str, Any], songs: SongSet, stretch: Stretch,
    cache: Path, keep: Path | None = None,
) -> Unit:  # fmt: skip
    """The unit; what decides its result is its payload, where things are is its place."""
    hashes = songs.hashes_of(stretch)
    separator = songs.config.separator if stretch.separated else "none"
    payload = {
        "format": FORMAT, "instrument": instrument.name, "settings": settings_of(system, instrument), "model_hash": system.model_hash,
        "song": stretch.song, "part": stretch.part, "start": stretch.start, "seconds": stretch.seconds, "hashes": hashes,
        "stamp": songs.stamp if stretch.separated else "",
    }  # fmt: skip
    stems = short_hash(
        json.dumps([hashes, stretch.start, stretch.seconds, payload["stamp"], "channels turned back"]), 24
    )
    place = {
        "system": config.model_dump(mode="json"), "fields": dict(fields), "files": dict(stretch.files), "separator": separator,
        "weights": songs.config.weights, "stems": str(cache / f"{stems}.vocals.wav"),
        "keep": str(keep / plain_name(system.name)) if keep is not None else "",
        "original": str(keep / ORIGINAL) if keep is not None else "",
    }  # fmt: skip
    where = f"{stretch.song}#{stretch.part}" if stretch.part else stretch.song
    return Unit(f"{instrument.name}/{system.name}/{where}", payload, place)


ORIGINAL = "reference"
"""The folder of what was coded."""


def observe(payload: dict[str, Any]) -> dict[str, Any]:
    """The observation of one stretch, the seconds it took, which sounds were kept, and the rate of each track of an anchor."""
    began = time.process_time()
    system = _system(json.dumps(payload["system"], sort_keys=True))
    instrument = make_instrument(payload["instrument"], payload["fields"])
    if instrument.of_tokens:
        codec_of(system)
    stretch = Stretch(
        payload["song"], payload["part"], {n: tuple(p) for n, p in payload["files"].items()},
        payload["start"], payload["seconds"],
    )  # fmt: skip
    song = load(stretch, payload["separator"], payload["weights"], Path(payload["stems"]))
    kept = list[str]()
    if payload["keep"] and isinstance(instrument, Reconstruction):
        keep = _keeper(Path(payload["keep"]), Path(payload["original"]), song, kept)
        data = {"rows": instrument.packed(instrument.measure(system, song, keep))}
    else:
        data = instrument.observe(system, song)
    rates = {"kbps": dict(system.rates)} if isinstance(system, AnchorSystem) and system.rates else {}
    return {"data": data, "took": round(time.process_time() - began, 3), "kept": kept, **rates}


def _keeper(folder: Path, original: Path, song: Song, kept: list[str]) -> Any:
    """Writes decoded and original sounds of a track as mono wav at 48 kHz."""
    name = utterance(song.name, song.part)

    def keep(track: str, decoded: Tensor, target: Tensor) -> None:
        for root, sound in ((folder, decoded), (original, target)):
            path = root / track / f"{name}.wav"
            write(path, sound, SAMPLE_RATE, comment=f"{MARK}eval")
            kept.append(str(path))

    return keep


def utterance(song: str, part: str = "") -> str:
    """A song's name as toolkits take one: no blanks, no slashes."""
    return plain_name(f"{song}@{part}" if part else song)


@lru_cache(maxsize=1)
def _system(config: str) -> System:
    """The last system stays open: units of one system follow each other."""
    return open_system(SystemConfig(**json.loads(config)))
