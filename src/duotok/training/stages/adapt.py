"""Adaptation of the decoder to its renderer: the encoder is frozen, the decoder learns to turn rendered latents into sound.

What the diffusion renders from tokens is smoother than true latents. The decoder that finishes the autoencoder therefore sees
both: true latents with noise, and latents rendered from tokens once beforehand as stage 4's config says. Not in the paper, whose
autoencoder is a finished one; the latents' meaning does not change, so the renderers stay valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from rich.progress import track as progress
from torch import Tensor

from duotok.clock import LATENT_SAMPLES, SAMPLE_RATE
from duotok.errors import ConfigError
from duotok.evaluation.fidelity import mel_distance
from duotok.files import writing
from duotok.records import Split
from duotok.renderer.render import RenderSettings
from duotok.renderer.render import latents as render_latents
from duotok.shards.store import ShardStore
from duotok.tracks import TRACKS
from duotok.training.batches.latent_data import LatentSegment, latent_segments
from duotok.training.checkpoint import best, checkpoints, load_module
from duotok.training.stage import Batch
from duotok.training.stages.autoencoder import AutoencoderStage, AutoencoderStageConfig
from duotok.training.stages.loading import device_of, load_dit, load_sampling, load_vectors


class AdaptConfig(AutoencoderStageConfig):
    rendered_share: float = Field(default=0.7, ge=0, le=1, description="share of crops whose latents are rendered")
    rendered_seconds: float = Field(default=3600, gt=0, description="sound to render beforehand, for each track")


ADVERSARIAL = "adversarial"
"""The run of the decoder that discriminators have taught."""
ENOUGH_SOUND = 0.2  # share of a segment's frames that must hold sound


def rendered_folder(runs: Path) -> Path:
    return runs / "rendered"


class Excerpt:
    """A whole segment of one track with its rendered latents `[latent_frames, 64]`."""

    def __init__(self, segment: LatentSegment, rendered: np.ndarray) -> None:
        self.segment, self.rendered, self.true = segment, rendered, segment.latents()

    def audio(self, start: int, latent_frames: int) -> Tensor:
        """Mono sound `[samples]` of latent frames from `start`."""
        return self.segment.sound.mono(self.segment.track, start * LATENT_SAMPLES, latent_frames * LATENT_SAMPLES)


def render_excerpts(store: ShardStore, runs: Path, config: AdaptConfig, split: Split, seconds: float) -> list[Excerpt]:
    """Render segments (recordings in turn) until `seconds` are reached for each track; done ones are kept."""
    found: list[Excerpt] = []
    for track in TRACKS:
        dit, vectors = load_dit(runs, track).to(device_of(config)), load_vectors(runs, track)
        chosen = load_sampling(runs, track)
        least = int(config.crop_seconds * 25) + 1
        by_recording: dict[str, list[LatentSegment]] = {}
        for segment in latent_segments(store, split, track, least):
            if segment.share_of_sound(0, segment.frames) >= ENOUGH_SOUND:
                by_recording.setdefault(segment.sound.segment.recording, []).append(segment)
        turns = max(map(len, by_recording.values()), default=0)
        queue = [of[i] for i in range(turns) for of in by_recording.values() if i < len(of)]
        left = seconds
        for segment in progress(queue, description=f"rendering {track}"):
            if left <= 0:
                break
            path = rendered_folder(runs) / split / f"{segment.key}.{track}.npy"
            if not path.is_file():
                codes = torch.from_numpy(segment.codes().astype(np.int64))
                rendered = render_latents(
                    dit,
                    vectors[codes],
                    RenderSettings(chosen.steps, chosen.sampler, len(found), chosen.temperature, chosen.render),
                    track=track,
                )
                with writing(path) as partial, partial.open("wb") as file:
                    np.save(file, rendered.half().cpu().numpy(), allow_pickle=False)
            found.append(Excerpt(segment, np.load(path, mmap_mode="r", allow_pickle=False)))
            left -= segment.sound.seconds
    if not found:
        raise ConfigError(f"{runs}: no latents to adapt to; train stage4 for both tracks first")
    return found


class Adapt(AutoencoderStage):
    def __init__(self, config: AdaptConfig, store: ShardStore, runs: Path) -> None:
        super().__init__(config, store, "adapt")
        self.adapt: AdaptConfig = config
        self.runs = runs
        self.freeze_encoder()
        self.excerpts = render_excerpts(store, runs, config, "train", config.rendered_seconds)
        self.fixed = render_excerpts(store, runs, config, "validation", 120.0)

    def start(self) -> None:
        """From the decoder that discriminators have taught where there is one, with these discriminators."""
        run = self.runs / (ADVERSARIAL if checkpoints(self.runs / ADVERSARIAL) else "autoencoder")
        load_module(best(run) / "autoencoder.safetensors", self.autoencoder)
        if self.discriminators is not None and (best(run) / "discriminators.safetensors").is_file():
            load_module(best(run) / "discriminators.safetensors", self.discriminators)

    def batch(self, step: int, items: Sequence[int]) -> Batch:
        frames = int(self.config.crop_seconds * SAMPLE_RATE) // LATENT_SAMPLES
        audios, latents, ids = [], [], []
        for item in items:
            rng = np.random.default_rng((self.config.seed, step, item))
            excerpt = self.excerpts[int(rng.integers(len(self.excerpts)))]
            quiet = rng.random() < self.config.silence
            for _attempt in range(4):
                start = int(rng.integers(0, len(excerpt.true) - frames + 1))
                audio = excerpt.audio(start, frames)
                if quiet or audio.abs().max() > 0.02:
                    break
            source = excerpt.rendered if rng.random() < self.adapt.rendered_share else excerpt.true
            latents.append(torch.from_numpy(np.array(source[start : start + frames], dtype=np.float32)))
            audios.append(audio)
            ids.append(f"{excerpt.segment.key} {excerpt.segment.track} from latent frame {start}")
        return {"audio": torch.stack(audios), "latents": torch.stack(latents), "ids": ids}

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        estimate = self.autoencoder.decode(batch["latents"])[:, 0]
        # The outer 100 ms lack the context that rendering gives them.
        edge = 5 * LATENT_SAMPLES
        return self.reconstruction(estimate[:, edge:-edge], batch["audio"][:, edge:-edge], step)

    def held_out(self) -> dict[str, float]:
        values: dict[str, list[float]] = {}
        for excerpt in self.fixed:
            audio = excerpt.audio(0, len(excerpt.true))
            for name, latents in (("true", excerpt.true), ("rendered", excerpt.rendered)):
                given = torch.from_numpy(np.array(latents, dtype=np.float32))[None].to(self.device)
                estimate = self.autoencoder.decode(given)[0, 0].cpu()
                values.setdefault(f"{name}_{excerpt.segment.track}", []).append(
                    mel_distance(estimate, audio, SAMPLE_RATE)
                )
        result = {name: float(np.mean(v)) for name, v in values.items()}
        return result | {"loss": float(np.mean([v for name, v in result.items() if name.startswith("rendered")]))}
