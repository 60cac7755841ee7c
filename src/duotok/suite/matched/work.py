"""The units of a matched-decoder experiment: arrays of a song, one decoder trained, one song reconstructed. Plain JSON in and out."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from duotok.codec.duotok import DuoTok
from duotok.config import parse
from duotok.errors import BundleError
from duotok.evaluation.reconstruction import Reconstruction
from duotok.evaluation.systems import SystemConfig
from duotok.renderer.contract import LatentAutoencoder
from duotok.suite.matched.experiment import Contestant, Experiment, MatchedExperimentConfig, System, contestant
from duotok.suite.opened import codec_named
from duotok.suite.true_stems import TrueSong
from duotok.training.engine import train

MEASURES = ("pesq", "stoi", "mel", "chroma", "f0")


def instrument() -> Reconstruction:
    """What the decoded songs are measured with."""
    return Reconstruction(names=MEASURES)


def autoencoder_of(bundle: str) -> LatentAutoencoder:
    """That of a bundle. Raises BundleError for one without."""
    found = DuoTok.from_pretrained(bundle)
    if not found.config.renders:
        raise BundleError(f"{bundle}: a bundle without an autoencoder; name one that renders")
    autoencoder: LatentAutoencoder = found.autoencoder
    return autoencoder


def make_arrays(payload: dict[str, Any]) -> dict[str, Any]:
    """Latents and embeddings of a song lie in the cache now."""
    experiment, who = _opened(payload)
    song = experiment.song(payload["song"])
    experiment.latents(song)
    if who.embed is not None:
        experiment.conditions(who, song)
    return {}


def train_track(payload: dict[str, Any]) -> dict[str, Any]:
    """The decoder of a track is trained; its last held-out figures."""
    experiment, who = _opened(payload)
    stage = experiment.stage(who, payload["track"])
    return {"figures": train(stage, experiment.run_folder(who, payload["track"]))}


def reconstruct(payload: dict[str, Any]) -> dict[str, Any]:
    """What was observed of a test song behind the trained decoders."""
    system = _system(json.dumps(payload["experiment"], sort_keys=True))
    song = system.experiment.sounds(system.experiment.song(payload["song"]))
    return {"data": instrument().observe(system, song), "part": song.part, "tracks": list(song.tracks)}


def _opened(payload: dict[str, Any]) -> tuple[Experiment, Contestant]:
    return _experiment(json.dumps(payload["experiment"], sort_keys=True))


@lru_cache(maxsize=1)
def _experiment(text: str) -> tuple[Experiment, Contestant]:
    """The last contestant stays open: its units follow each other."""
    place = json.loads(text)
    songs = [
        TrueSong(id, split, {track: tuple(map(Path, paths)) for track, paths in files.items()})
        for id, split, files in place["songs"]
    ]
    config = parse(MatchedExperimentConfig, place["config"])
    experiment = Experiment(songs, _autoencoder(place["autoencoder"]), config, Path(place["folder"]), place["contents"])
    codec = None if place["system"] is None else codec_named(SystemConfig(**place["system"]))
    return experiment, contestant(place["kind"], place["name"], codec)


@lru_cache(maxsize=1)
def _autoencoder(bundle: str) -> LatentAutoencoder:
    return autoencoder_of(bundle)


@lru_cache(maxsize=1)
def _system(text: str) -> System:
    experiment, who = _experiment(text)
    return experiment.trained(who)
