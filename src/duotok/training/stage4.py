"""Stage 4: a latent diffusion decoder for one track (paper section 3.4, Table 8).

The tokenizer and the autoencoder are done and frozen; a DiT learns to turn the code vectors of one track (25 Hz) into
the autoencoder's latents of that track (50 Hz) by v-prediction. Vocals and accompaniment are two runs that share
nothing. Latents and codes are computed once (`latent_data`), so that a step touches no audio. The weights that render
are an exponential moving average of the trained ones.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from duotok.audio.io import write
from duotok.corpora.store import ShardStore
from duotok.distributed import share
from duotok.renderer.diffusion import VelocityModel, diffusion_loss, masked_mean_square, stratified_times
from duotok.renderer.dit import DiT, DiTConfig, guided
from duotok.renderer.samplers import sample
from duotok.training.checkpoint import latest, load_module
from duotok.training.latent_data import LatentSegment, crop, latent_segments, stack
from duotok.training.pictures import compare_mels
from duotok.training.sounds import torch_rng
from duotok.training.stage import Batch, Stage, StageConfig, to_device

RATE = 48_000
HELD_OUT_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
HELD_OUT_CROPS = 8
ENOUGH_SOUND = 0.25  # share of a crop's frames that must hold sound, where silence was not asked for


class LatentDecoder(Protocol):
    """The part of an autoencoder that `sample` needs."""

    def decode(self, latents: Tensor) -> Tensor: ...


class Stage4Config(StageConfig):
    track: Literal["vocals", "accompaniment"] = "vocals"
    dit: DiTConfig = DiTConfig()
    crop_frames: int = Field(default=128, gt=0, description="token frames of a crop, 40 ms each")
    encoder_window: int = Field(default=256, gt=0, description="token frames of the windows that codes are made in")
    silence: float = Field(default=0.1, ge=0, le=1, description="share of crops that may be silent")
    ema: float = Field(default=0.999, ge=0, lt=1, description="decay of the weights that render")
    min_snr: float | None = Field(default=None, gt=0, description="gamma of the min-SNR weighting; null = none")
    condition_dropout: float = Field(
        default=0.1, ge=0, lt=1, description="share of items that are not told their codes, where dit.unconditional"
    )
    si_snr: float = Field(default=0.0, ge=0, description="weight of SI-SNR on the estimated latents; v1 only, 0 = v2")
    sample_steps: int = Field(default=16, gt=0)
    start_from: Path | None = Field(
        default=None, description="run of the other track whose averaged weights to start from"
    )


class Stage4(Stage):
    def __init__(
        self, config: Stage4Config, store: ShardStore, vectors: Tensor, autoencoder: LatentDecoder | None = None
    ) -> None:
        """vectors: what stands for each code `[codes, condition_dim]` (latent_data.condition_vectors).

        `autoencoder` turns latents into sound for `sample`; without one only the losses are reported.
        """
        self.config: Stage4Config = config
        self.name = f"stage4.{config.track}"
        torch.manual_seed(config.seed)
        self.vectors, self.autoencoder = vectors, autoencoder
        self.train_set = latent_segments(store, "train", config.track)
        frames = np.array([segment.frames for segment in self.train_set], dtype=np.float64)
        self.chances = np.cumsum(frames / frames.sum())
        self.dit = DiT(config.dit)
        self.dit.standardise(self.vectors[self._codes_in_use()])
        self.ema = copy.deepcopy(self.dit).requires_grad_(False)
        self.modules = {"dit": self.dit, "ema": self.ema}
        self.clips: Batch = stack(self._held_out_crops(latent_segments(store, "validation", config.track)))

    def start(self) -> None:
        """Start from the other track's renderer, if asked for; from then on the two share nothing."""
        if self.config.start_from is not None:
            load_module(latest(self.config.start_from) / "ema.safetensors", self.dit)
            self.dit.standardise(self.vectors[self._codes_in_use()])
            self.ema.load_state_dict(self.dit.state_dict())

    def _codes_in_use(self, at_most: int = 100_000) -> Tensor:
        """Codes of the training set, thinned evenly: code vectors count as often as they occur."""
        thin = max(1, sum(segment.frames for segment in self.train_set) // at_most)
        codes = np.concatenate([segment.codes()[::thin] for segment in self.train_set])
        return torch.from_numpy(codes.astype(np.int64))

    def _held_out_crops(self, segments: list[LatentSegment]) -> list[tuple[Tensor, Tensor, int]]:
        """Fixed crops, spread over the recordings, those with most sound first."""
        size = self.config.crop_frames
        ranked: dict[str, list[tuple[float, LatentSegment, int]]] = {}
        for segment in segments:
            starts = range(0, max(1, segment.frames - size + 1), size)
            loud = [(segment.share_of_sound(start, size), segment, start) for start in starts]
            ranked.setdefault(segment.sound.segment.recording, []).extend(loud)
        for found in ranked.values():
            found.sort(key=lambda entry: (-entry[0], entry[1].key, entry[2]))
        most = max(map(len, ranked.values()))
        turns = [found[i] for i in range(most) for found in ranked.values() if i < len(found)]
        return [crop(segment, start, size) for _, segment, start in turns[:HELD_OUT_CROPS]]

    def batch(self, step: int, items: Sequence[int]) -> Batch:
        size = self.config.crop_frames
        crops, ids = [], []
        for item in items:
            rng = np.random.default_rng((self.config.seed, step, item))
            silence_will_do = rng.random() < self.config.silence
            for _attempt in range(8):
                segment = self.train_set[int(np.searchsorted(self.chances, rng.random(), side="right"))]
                start = int(rng.integers(0, max(1, segment.frames - size + 1)))
                if silence_will_do or segment.share_of_sound(start, size) >= ENOUGH_SOUND:
                    break
            crops.append(crop(segment, start, size))
            ids.append(f"{segment.key} from frame {start}")
        # strata over the whole batch of all processes, of which this part is taken
        times = stratified_times(self.config.batch_size, torch_rng(self.config.seed, step))
        return {**stack(crops), "times": times[list(items)], "ids": ids}

    def _lengths(self, batch: Batch) -> Tensor | None:
        """None when nothing is padded: attention without a mask is faster."""
        full = bool((batch["lengths"] == batch["latents"].shape[1]).all())
        return None if full else batch["lengths"]

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        latents, t = batch["latents"], batch["times"]
        draws = self.draws(batch)
        noise = draws.normal(*latents.shape[1:])
        model: VelocityModel = self.dit
        if self.config.dit.unconditional:
            dropped = draws.uniform(1)[:, 0] < self.config.condition_dropout
            model = functools.partial(self.dit, dropped=dropped)
        loss, each = diffusion_loss(
            model, latents, self._condition(batch), self._lengths(batch), t=t, noise=noise,
            objective=self.config.dit.objective, min_snr=self.config.min_snr, si_snr=self.config.si_snr,
        )  # fmt: skip
        late = (t > 0.5).to(each.dtype)
        noisy = (each * late).sum() / share(late.sum())
        clean = (each * (1 - late)).sum() / share((1 - late).sum())
        return {"loss": loss, "noisy_half": noisy, "clean_half": clean}

    def _condition(self, batch: Batch) -> Tensor:
        self.vectors = self.vectors.to(self.device)
        return self.vectors[batch["codes"]]

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        decay = min(self.config.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.dit.parameters()), 1 - decay)

    def _fixed_noise(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.config.seed)
        return torch.randn(self.clips["latents"].shape, generator=generator).to(self.device)

    def _fixed(self) -> Batch:
        self.clips = to_device(self.clips, self.device)
        return self.clips

    def _sampled(self, steps: int) -> Tensor:
        return sample(
            guided(self.ema), self._fixed_noise(), self._condition(self._fixed()), steps,
            lengths=self._lengths(self.clips), objective=self.config.dit.objective,
        )  # fmt: skip

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """`loss` of the average over a fixed grid of t (`loss_raw`: of the trained weights); `mse_N` after N steps.

        Latents have unit variance: an `mse_1` of 1 says nothing was learned, and the gap from `mse_1` up to `mse_8` is
        what sampling adds in detail that the codes do not determine.
        """
        latents, condition = self._fixed()["latents"], self._condition(self._fixed())
        lengths, noise = self._lengths(self.clips), self._fixed_noise()
        result: dict[str, float] = {}
        for name, model in (("loss", self.ema), ("loss_raw", self.dit)):
            values = []
            for value in HELD_OUT_TIMES:
                t = torch.full((len(latents),), value, device=self.device)
                loss, _ = diffusion_loss(
                    model, latents, condition, lengths, t=t, noise=noise, objective=self.config.dit.objective
                )
                values.append(float(loss))
            result[name] = float(np.mean(values))
        for steps in (1, 8):
            result[f"mse_{steps}"] = float(masked_mean_square(self._sampled(steps) - latents, lengths).mean())
        return result

    def sample(self, folder: Path) -> None:
        """The first two held-out crops: true latents, one step and `sample_steps` steps, as sound and as mels."""
        if self.autoencoder is None:
            return
        kinds = {"true": self._fixed()["latents"], "1_step": self._sampled(1)}
        kinds[f"{self.config.sample_steps}_steps"] = self._sampled(self.config.sample_steps)
        for index in range(min(2, len(self.clips["latents"]))):
            real = int(self.clips["lengths"][index])
            sounds = {}
            for name, latents in kinds.items():
                sound = self.autoencoder.decode(latents[index : index + 1, :real].cpu())[0]
                write(folder / f"{index}.{name}.flac", sound.clamp(-1, 1), RATE)
                sounds[name] = sound.mean(0)
            compare_mels(folder / f"{index}.png", sounds, RATE)
