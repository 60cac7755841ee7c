"""The matched-decoder experiment (paper, 5.4 and B.3.1, Table 4a): one decoder for each tokenizer and track, then reconstruction.

Besides the tokenizers come two controls with the same decoder, steps, seeds and data: the first tokenizer's embeddings in a random
order in time, which must be worse, and the log-mel of the true track, which must be better. The true latents through the
autoencoder alone are the ceiling of all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from duotok.clock import SAMPLE_RATE
from duotok.codec.contract import Codec
from duotok.config import Config
from duotok.errors import AudioError, ConfigError
from duotok.evaluation.instrument import MIX, Song, facts_of
from duotok.evaluation.intervals import Resampling, minimum_songs
from duotok.records import SPLITS, Split
from duotok.renderer.contract import LatentAutoencoder
from duotok.renderer.render import decode_blocks, frame_noise
from duotok.renderer.samplers import sample
from duotok.separation.identity import separator_identity
from duotok.suite.matched.material import (
    Embed,
    Material,
    MaterialCache,
    conditions_of,
    embeddings_of,
    ideal,
    latents_of,
    level,
    shuffled,
)
from duotok.suite.matched.stage import MatchedConfig, MatchedStage
from duotok.suite.splits import balanced
from duotok.suite.true_stems import TrueSong, content_of
from duotok.tracks import TRACKS
from duotok.training.checkpoint import Damaged, checkpoints, load_module, read_state
from duotok.training.engine import train
from duotok.training.stages.loading import device_of

WORK = "matched"
"""Folder in the store for arrays and runs."""
IDEAL, CEILING = "ideal: log-mel", "ceiling: true latents"


class MatchedExperimentConfig(Config):
    """What is held constant over tokenizers."""

    training: MatchedConfig = MatchedConfig()
    seconds: float = Field(default=30.0, ge=1, description="of each song, from its middle")
    controls: bool = Field(default=True, description="train the two controls as well")


TOKENS, SHUFFLED, LOG_MEL, LATENTS = "tokens", "shuffled", "log-mel", "latents"
"""Kinds of contestants."""


@dataclass(frozen=True)
class Contestant:
    """One row of the table. kind: what its decoder reads; owner: identifies its arrays; embed None: the ceiling, not trained."""

    name: str
    kind: str
    owner: str
    embed: Embed | None
    about: Mapping[str, Any] = field(default_factory=dict)


def contestant(kind: str, name: str = "", codec: Codec | None = None) -> Contestant:
    """The row of a tokenizer, of its shuffled control, or of the two controls that need none."""
    if kind == LOG_MEL:
        return Contestant(IDEAL, kind, "log-mel 1", ideal)
    if kind == LATENTS or codec is None:
        return Contestant(CEILING, LATENTS, "latents", None)
    owner = f"tokens {codec.model_hash}"
    if kind == SHUFFLED:
        return Contestant(f"shuffled: {name}", kind, f"shuffled 2 {owner}", shuffled(embeddings_of(codec)))
    return Contestant(name, kind, owner, embeddings_of(codec), facts_of(codec))


class Experiment:
    """Songs, autoencoder and settings, the same for all contestants. folder: of the store; contents: hashes of the songs' sounds, if
    they are known."""

    def __init__(
        self, songs: Sequence[TrueSong], autoencoder: LatentAutoencoder, config: MatchedExperimentConfig, folder: Path,
        contents: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.songs = {split: [song for song in songs if song.split == split] for split in SPLITS}
        self.autoencoder, self.config, self.folder = autoencoder, config, folder / WORK
        self.autoencoder_hash = separator_identity(autoencoder)[1]
        dit = config.training.dit
        for key, has, wanted in (
            ("latent_dim", dit.latent_dim, autoencoder.config.latent_dim),
            ("latents_per_frame", dit.latents_per_frame, autoencoder.latents_per_frame),
        ):
            if has != wanted:
                raise ConfigError(f"training.dit.{key} {has}: the autoencoder has {wanted}; set it so")
        empty = [split for split, found in self.songs.items() if not found]
        if empty:
            raise ConfigError(f"no song with true stems for {' and '.join(empty)}; give more songs")
        self.contents = dict(contents) if contents is not None else {song.id: content_of([song]) for song in songs}
        self.content = hashlib.sha256(json.dumps([sorted(self.contents.items()), _splits(songs)]).encode()).hexdigest()

    def settings(self) -> dict[str, Any]:
        """All that a cell depends on besides the tokenizer and the songs."""
        training = self.config.training.model_dump(mode="json")
        return {"training": training, "seconds": self.config.seconds, "autoencoder": self.autoencoder_hash}

    def song(self, name: str) -> TrueSong:
        return next(song for songs in self.songs.values() for song in songs if song.id == name)

    def stretch(self, song: TrueSong) -> tuple[float, float]:
        """(start, seconds) of a song."""
        return max(0.0, (song.seconds - self.config.seconds) / 2), self.config.seconds

    def sounds(self, song: TrueSong) -> Song:
        """The stretch of a song as instruments get it."""
        stems = song.sound(*self.stretch(song))
        return Song(song.id, {**stems, MIX: torch.stack(list(stems.values())).sum(0)})

    def latents(self, song: TrueSong) -> dict[str, Tensor]:
        cache = MaterialCache(self.folder / "arrays", self.stretch(song))
        owner = f"latents {self.autoencoder_hash}"
        return cache.tracks(song, self.contents[song.id], owner, lambda s: latents_of(self.autoencoder, s))

    def conditions(self, contestant: Contestant, song: TrueSong) -> dict[str, Tensor]:
        """Raises AudioError where a tokenizer cannot take the song, or gives no numbers."""
        embed = contestant.embed
        assert embed is not None
        cache, per_frame = MaterialCache(self.folder / "arrays", self.stretch(song)), self.autoencoder.latents_per_frame
        owner = contestant.owner if per_frame == 2 else f"{contestant.owner} at {per_frame} a frame"
        return cache.tracks(song, self.contents[song.id], owner, lambda s: conditions_of(embed, s, per_frame))

    def materials(self, contestant: Contestant, split: Split, track: str) -> list[Material]:
        """Songs of a split with both arrays of a track."""
        return [
            Material(
                song.id,
                self.latents(song)[track],
                self.conditions(contestant, song)[track],
                self.autoencoder.latents_per_frame,
            )
            for song in self.songs[split]
        ]

    def run_folder(self, contestant: Contestant, track: str) -> Path:
        key = json.dumps([contestant.owner, self.content, self.settings()], sort_keys=True)
        return self.folder / "runs" / hashlib.sha256(key.encode()).hexdigest()[:16] / track

    def stage(self, contestant: Contestant, track: str) -> MatchedStage:
        """Untrained."""
        learned, watched = self.materials(contestant, "train", track), self.materials(contestant, "validation", track)
        return MatchedStage(self.config.training, track, learned, watched)

    def trained(self, contestant: Contestant) -> System:
        """The decoders of both tracks, trained as far as they were not, as what `Reconstruction` measures."""
        stages = {}
        if contestant.embed is not None:
            for track in TRACKS:
                stages[track] = self.stage(contestant, track)
                run = self.run_folder(contestant, track)
                if not loaded(stages[track], run):
                    train(stages[track], run)
                stages[track].ema.eval()
        return System(self, contestant, stages)


def loaded(stage: MatchedStage, run: Path) -> bool:
    """Whether the run has come to its end; its average is in the stage then. Several workers may read it at once, where only one trains."""
    whole = checkpoints(run)
    if not whole:
        return False
    with contextlib.suppress(Damaged):  # then training mends it
        if int(read_state(whole[-1])["step"]) >= stage.config.steps:
            load_module(whole[-1] / "ema.safetensors", stage.ema)
            stage.device = device_of(stage.config)
            stage.ema.to(stage.device)
            return True
    return False


class System:
    """A tokenizer (or control) with its matched decoders, as instruments see it."""

    codec = None
    sample_rate = SAMPLE_RATE

    def __init__(self, experiment: Experiment, contestant: Contestant, stages: Mapping[str, MatchedStage]) -> None:
        self.experiment, self.contestant, self.stages = experiment, contestant, stages
        self.name = contestant.name
        self.places = {song.id: song for song in experiment.songs["test"]}

    @property
    def model_hash(self) -> str:
        return hashlib.sha256(self.contestant.owner.encode()).hexdigest()

    @property
    def about(self) -> dict[str, Any]:
        return dict(self.contestant.about)

    @torch.no_grad()
    def reconstruct(self, song: Song) -> dict[str, Tensor]:
        """Both tracks and their sum. Raises AudioError for a song that is not among the test songs."""
        if song.name not in self.places:
            raise AudioError(f"{song.name}: not a test song of this experiment")
        place = self.places[song.name]
        latents = self.experiment.latents(place)
        if self.stages:
            conditions = self.experiment.conditions(self.contestant, place)
            latents = {track: self._sampled(track, conditions[track]) for track in TRACKS}
        factor, samples = level(song.sounds), song.sounds[MIX].shape[1]
        decoder = self.experiment.autoencoder
        found = {t: torch.cat(list(decode_blocks(decoder, [latents[t]])), dim=1)[:, :samples] / factor for t in TRACKS}
        return {**found, MIX: torch.stack(list(found.values())).sum(0)}

    def _sampled(self, track: str, condition: Tensor) -> Tensor:
        """Latents `[latent_frames, dim]`; the noise is that of the seed, the track and the frame, for every tokenizer."""
        stage, config = self.stages[track], self.experiment.config.training
        noise = frame_noise(config.seed, track, 0, len(condition), config.dit.latent_dim)
        return sample(
            stage.ema, noise[None].to(stage.device), condition[None].to(stage.device), config.sample_steps, config.sampler,
            torch.Generator().manual_seed(config.seed), objective=config.dit.objective,
        )[0].cpu()  # fmt: skip


def _splits(songs: Sequence[TrueSong]) -> list[list[str]]:
    return sorted([song.id, song.split] for song in songs)


def with_splits(songs: Sequence[TrueSong]) -> list[TrueSong]:
    """The corpus's own splits where each has a song and the test enough for an interval; otherwise about 60, 15 and 25 % of the
    songs, by a hash of their names."""
    own = Counter(song.split for song in songs)
    if all(own[split] for split in SPLITS) and own["test"] >= minimum_songs(Resampling().level):
        return list(songs)
    split_of = balanced({song.id: song.id for song in songs})
    return [TrueSong(song.id, split_of[song.id], song.files) for song in songs]
