"""Adaptation of the decoder to its renderer: the encoder is frozen, the decoder learns to turn rendered latents into sound.

What the diffusion renders from tokens is smoother than true latents. The decoder that finishes the autoencoder therefore sees
both: true latents with noise, and latents rendered from tokens once beforehand with the bundle's default sampler. Not in the paper, whose
autoencoder is a finished one; the latents' meaning does not change, so the renderers stay valid.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from rich.progress import track as progress
from torch import Tensor

from duotok.errors import ConfigError
from duotok.renderer.autoencoder import LATENT_HOP, RATE
from duotok.renderer.render import latents as render_latents
from duotok.tokens import TRACKS
from duotok.training.autoencoder import SCALES, AutoencoderStage, AutoencoderStageConfig
from duotok.training.corpus import Corpus, Recording
from duotok.training.features import load_array, load_mono, save_array
from duotok.training.latent_data import LatentData
from duotok.training.loading import load_autoencoder, load_dit

EXCERPT_SECONDS = 30


class AdaptConfig(AutoencoderStageConfig):
    rendered_share: float = Field(default=0.7, ge=0, le=1, description="share of crops whose latents are rendered")
    rendered_seconds: float = Field(default=3600, gt=0, description="sound to render beforehand, for each track")
    sampler_steps: int = Field(default=8, gt=0)
    sampler: str = "dpmpp-2m"
    temperature: float = Field(default=1.0, ge=0)


def rendered_folder(runs: Path) -> Path:
    return runs / "rendered"


class Excerpt:
    """The first token frame of an excerpt of a recording, with its true and rendered latents `[latent_frames, 64]`."""

    def __init__(self, recording: Recording, track: str, start: int, true: np.ndarray, rendered: np.ndarray) -> None:
        self.recording, self.track, self.start, self.true, self.rendered = recording, track, start, true, rendered


def render_excerpts(corpus: Corpus, runs: Path, config: AdaptConfig, split: str, seconds: float) -> list[Excerpt]:
    """Render an excerpt of each recording (kinds in turn) until `seconds` are reached for each track; done ones are kept."""
    found: list[Excerpt] = []
    for track in TRACKS:
        data, dit = LatentData(runs / "latents", track), load_dit(runs, track)
        by_name = {recording.name: recording for recording in data.recordings(split)}
        kinds = [[r for r in corpus.recordings(split, kind) if r.id in by_name] for kind in config.mix]
        queue = [kind[i] for i in range(max(map(len, kinds), default=0)) for kind in kinds if i < len(kind)]
        left = seconds
        for recording in progress(queue, description=f"rendering {track}"):
            if left <= 0:
                break
            latent = by_name[recording.id]
            size = min(latent.frames, int(EXCERPT_SECONDS * 25))
            starts = range(0, latent.frames - size + 1, max(1, size))
            start = max(starts, key=lambda s: latent.share_of_sound(s, size))
            if latent.share_of_sound(start, size) < 0.2:
                continue
            path = rendered_folder(runs) / split / recording.id / f"{track}.{start}.npy"
            if not path.is_file():
                codes = torch.from_numpy(np.array(latent.codes[start : start + size], dtype=np.int64))
                rendered = render_latents(
                    dit, data.vectors[codes], steps=config.sampler_steps, sampler=config.sampler,
                    temperature=config.temperature, seed=len(found), track=track,
                )  # fmt: skip
                save_array(path, rendered.half().numpy())
            true = latent.latents[2 * start : 2 * (start + size)]
            found.append(Excerpt(recording, track, start, true, load_array(path)))
            left -= size / 25
    if not found:
        raise ConfigError(f"{runs}: no latents to adapt to; train stage4 for both tracks first")
    return found


class Adapt(AutoencoderStage):
    name = "adapt"

    def __init__(self, config: AdaptConfig, corpus: Corpus, runs: Path) -> None:
        super().__init__(config, corpus)
        self.adapt: AdaptConfig = config
        trained = load_autoencoder(runs)
        self.autoencoder.load_state_dict(trained.state_dict())
        for part in self._encoder():
            part.requires_grad_(False)
        self.excerpts = render_excerpts(corpus, runs, config, "train", config.rendered_seconds)
        self.fixed = render_excerpts(corpus, runs, config, "held_out", 120.0)

    def _encoder(self) -> list[torch.nn.Module]:
        a = self.autoencoder
        return [a.features, a.enter, a.encode_fine, a.pool, a.encode_coarse, a.to_latent]

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [p for p in self.autoencoder.parameters() if p.requires_grad]}]

    def batch(self, step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.config.seed, step))
        frames = int(self.config.crop_seconds * RATE) // LATENT_HOP
        audios, latents = [], []
        for _ in range(self.config.batch_size):
            excerpt = self.excerpts[int(rng.integers(len(self.excerpts)))]
            for _attempt in range(4):
                at = int(rng.integers(0, max(1, len(excerpt.true) - frames)))
                begin = (2 * excerpt.start + at) * LATENT_HOP
                audio = load_mono(excerpt.recording, excerpt.track, begin, begin + frames * LATENT_HOP)
                if len(audio) == frames * LATENT_HOP and (
                    audio.abs().max() > 0.02 or rng.random() < self.config.silence
                ):
                    break
            source = excerpt.rendered if rng.random() < self.adapt.rendered_share else excerpt.true
            latent = torch.from_numpy(np.array(source[at : at + frames], dtype=np.float32))
            audios.append(torch.nn.functional.pad(audio, (0, frames * LATENT_HOP - len(audio))))
            latents.append(torch.nn.functional.pad(latent, (0, 0, 0, frames - len(latent))))
        return {"audio": torch.stack(audios), "latents": torch.stack(latents)}

    def losses(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        estimate = self.autoencoder.decode(batch["latents"])[:, 0]
        picks = torch.randperm(len(SCALES))[: self.config.scales_per_step].tolist()
        # The outer 100 ms lack the context that rendering gives them.
        edge = 5 * LATENT_HOP
        distance, convergence = self.mel(
            estimate[:, edge:-edge], batch["audio"][:, edge:-edge], [SCALES[i] for i in picks]
        )
        return {"loss": distance + 0.5 * convergence, "mel": distance, "convergence": convergence}

    def held_out(self) -> dict[str, float]:
        from duotok.evaluation.fidelity import mel_distance

        values: dict[str, list[float]] = {}
        for excerpt in self.fixed:
            begin = 2 * excerpt.start * LATENT_HOP
            audio = load_mono(excerpt.recording, excerpt.track, begin, begin + len(excerpt.true) * LATENT_HOP)
            for name, latents in (("true", excerpt.true), ("rendered", excerpt.rendered)):
                estimate = self.autoencoder.decode(torch.from_numpy(np.array(latents, dtype=np.float32))[None])[0, 0]
                values.setdefault(f"{name}_{excerpt.track}", []).append(mel_distance(estimate, audio, RATE))
        return {name: float(np.mean(v)) for name, v in values.items()}
