"""Stage 4: a latent diffusion decoder for one track (paper section 3.4, Table 8).

The tokenizer and the autoencoder are done and frozen; a DiT learns to turn the code vectors of one track (25 Hz) into
the autoencoder's latents of that track (50 Hz, or 25) by v-prediction. Vocals and accompaniment are two runs that share
nothing. Latents and codes are computed once (`latent_data`), so that a step touches no audio. The weights that render
are an exponential moving average of the trained ones.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from duotok.audio.io import write
from duotok.audio.marks import SAMPLE
from duotok.clock import SAMPLE_RATE
from duotok.config import Config
from duotok.distributed import mean_divisor
from duotok.evaluation.fidelity import mel_distance
from duotok.renderer.contract import LatentDecoder
from duotok.renderer.diffusion import VelocityModel, diffusion_loss, masked_mean_square, stratified_times
from duotok.renderer.dit import DiT, DiTConfig, guided
from duotok.renderer.kinds import AnyDiTConfig, make_dit
from duotok.renderer.render import RenderPlan, decode_blocks
from duotok.renderer.samplers import sample
from duotok.shards.store import ShardStore
from duotok.tracks import TRACKS
from duotok.training.batches.latent_data import LatentStretch, crop, latent_stretches, padding, stack
from duotok.training.batches.sounds import torch_rng
from duotok.training.checkpoint import best, load_module
from duotok.training.earlier_runs import origin_of
from duotok.training.logs import compare_mels
from duotok.training.stage import START_FROM, Batch, NamedRun, Stage, StageConfig, to_device
from duotok.training.stages.autoencoder import AUTOENCODERS

HELD_OUT_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
HELD_OUT_CROPS = 8
BASSES = ("basses.",)
"""The part that may be missing in the weights that a run starts from."""
ENOUGH_SOUND = 0.25  # share of a crop's frames that must contain sound, unless the crop is drawn as silence


class Stage4Config(StageConfig):
    track: Literal["vocals", "accompaniment"] = "vocals"
    dit: AnyDiTConfig = DiTConfig()
    crop_frames: int = Field(default=128, gt=0, description="token frames of a crop, 40 ms each")
    encoder_window: int = Field(default=256, gt=0, description="token frames of the windows that codes are made in")
    silence: float = Field(default=0.1, ge=0, le=1, description="share of crops that may be silent")
    ema: float = Field(
        default=0.999,
        ge=0,
        lt=1,
        description="decay of the averaged weights, which render; (1 + step) / (10 + step) while that is less",
    )
    min_snr: float | None = Field(default=None, gt=0, description="gamma of the min-SNR weighting; null = none")
    condition_dropout: float = Field(
        default=0.1, ge=0, lt=1, description="share of items that are not told their codes, where dit.unconditional"
    )
    condition_noise: float = Field(
        default=0.0,
        ge=0,
        description="spread of noise on the code vectors while training, as a share of theirs: a codebook lies closer to the "
        "frames it was fitted to than to other songs, and a renderer that never saw the difference trusts codes too much",
    )
    si_snr: float = Field(default=0.0, ge=0, description="weight of SI-SNR on the estimated latents; v1 only, 0 = v2")
    sample_steps: int = Field(default=16, gt=0, description="denoising steps of samples, and of the bundle")
    sampler: Literal["ddim", "dpmpp-2m", "dpmpp-3m-sde"] = Field(default="dpmpp-2m", description="and of the bundle")
    temperature: float = Field(default=1.0, ge=0, description="scale of the noise, and of the bundle's")
    render: RenderPlan = Field(default=RenderPlan(), description="windows that the bundle renders a song in")
    tokenizer_from: Path = Field(default=Path("stage3"), description="run of the tokenizer: in RUNS, or absolute")
    autoencoder_from: Path = Field(default=Path("autoencoder"), description="run of the autoencoder, likewise")
    start_from: Path | None = Field(
        default=None, description="run of stage 4, of either track, whose averaged weights to start from, likewise"
    )
    only_basses: bool = Field(
        default=False,
        description="with start_from: only what dit.bass_latents bring learns; all that the run renders besides stays as it is",
    )

    def earlier_runs(self) -> tuple[NamedRun, ...]:
        runs = [
            NamedRun("autoencoder_from", self.autoencoder_from, AUTOENCODERS),
            NamedRun("tokenizer_from", self.tokenizer_from, ("stage3",)),
        ]
        if self.start_from is not None:
            runs.append(NamedRun(START_FROM, self.start_from, tuple(f"stage4.{track}" for track in TRACKS)))
        return tuple(runs)


class RendererRuns(Config):
    """The run of each track's renderer: in RUNS, or absolute."""

    vocals: Path = Path("stage4.vocals")
    accompaniment: Path = Path("stage4.accompaniment")

    def named(self) -> dict[str, NamedRun]:
        """By track."""
        return {t: NamedRun(f"renderer_from.{t}", getattr(self, t), (f"stage4.{t}",)) for t in TRACKS}


class Stage4(Stage):
    def __init__(
        self, config: Stage4Config, store: ShardStore, vectors: Tensor, autoencoder: LatentDecoder | None = None,
        start: Path | None = None, made_by: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """vectors: the condition vector of each code, `[codes, condition_dim]` (latent_data.condition_vectors).

        `autoencoder` turns latents into sound for `sample`; without one only the losses are reported. start: the run that
        `config.start_from` names. made_by: of the latents and codes, as `latent_stretches` takes it.
        """
        self.config: Stage4Config = config
        self.name = f"stage4.{config.track}"
        torch.manual_seed(config.seed)
        self.vectors, self.autoencoder, self.start_run = vectors, autoencoder, start
        self.train_set = latent_stretches(store, "train", config.track, made_by)
        self.padding = padding(self.train_set, config.crop_frames)
        frames = np.array([stretch.frames for stretch in self.train_set], dtype=np.float64)
        self.chances = np.cumsum(frames / frames.sum())
        self.dit = make_dit(config.dit)
        used = self.vectors[self._codes_in_use()]
        self.dit.standardise(used)
        self.spread = float(used.var(0).mean().sqrt())
        self.ema = copy.deepcopy(self.dit).requires_grad_(False)
        self.first = 0  # of the numbers of a latent that are learned
        if config.only_basses:
            assert isinstance(self.dit, DiT) and self.dit.basses is not None
            self.dit.requires_grad_(False)
            self.dit.basses.requires_grad_(True)
            self.first = self.dit.main_latents
        self.modules = {"dit": self.dit, "ema": self.ema}
        self.excerpts = self._held_out_excerpts(latent_stretches(store, "validation", config.track, made_by))
        self.clips: Batch = stack([crop(stretch, start, config.crop_frames) for stretch, start in self.excerpts])

    def start(self) -> None:
        """Start from the other track's renderer, if asked for; from then on the two share nothing."""
        if self.start_run is not None:
            checkpoint = best(self.start_run)
            load_module(checkpoint / "ema.safetensors", self.dit, new=BASSES)
            self.made_from(START_FROM, origin_of(checkpoint, "ema"))
            if not self.config.only_basses:  # what stays has learned with the spread that it knows
                self.dit.standardise(self.vectors[self._codes_in_use()])
            self.ema.load_state_dict(self.dit.state_dict())

    def _codes_in_use(self, at_most: int = 100_000) -> Tensor:
        """Codes of the training set, thinned evenly: code vectors count as often as they occur."""
        thin = max(1, sum(stretch.frames for stretch in self.train_set) // at_most)
        codes = np.concatenate([stretch.codes()[::thin] for stretch in self.train_set])
        return torch.from_numpy(codes.astype(np.int64))

    def _held_out_excerpts(self, stretches: list[LatentStretch]) -> list[tuple[LatentStretch, int]]:
        """Fixed crops (stretch, first frame), spread over the recordings, those with most sound first."""
        size = self.config.crop_frames
        ranked: dict[str, list[tuple[float, LatentStretch, int]]] = {}
        for stretch in stretches:
            starts = range(0, max(1, stretch.frames - size + 1), size)
            loud = [(stretch.share_of_sound(start, size), stretch, start) for start in starts]
            ranked.setdefault(stretch.recording, []).extend(loud)
        for crops in ranked.values():
            crops.sort(key=lambda entry: (-entry[0], entry[1].key, entry[2]))
        most = max(map(len, ranked.values()))
        turns = [crops[i] for i in range(most) for crops in ranked.values() if i < len(crops)]
        return [(stretch, start) for _, stretch, start in turns[:HELD_OUT_CROPS]]

    def batch(self, step: int, items: Sequence[int]) -> Batch:
        size = self.config.crop_frames
        crops, ids = [], []
        for item in items:
            rng = np.random.default_rng((self.config.seed, step, item))
            silence_will_do = rng.random() < self.config.silence
            for _attempt in range(8):
                stretch = self.train_set[int(np.searchsorted(self.chances, rng.random(), side="right"))]
                start = int(rng.integers(0, max(1, stretch.frames - size + 1)))
                if silence_will_do or stretch.share_of_sound(start, size) >= ENOUGH_SOUND:
                    break
            crops.append(crop(stretch, start, size))
            ids.append(f"{stretch.key} from frame {start}")
        # Strata over the whole batch of all processes, of which this part is used here.
        times = stratified_times(self.config.batch_size, torch_rng(self.config.seed, step))
        return {**stack(crops), "times": times[list(items)], "ids": ids}

    def _lengths(self, batch: Batch) -> Tensor | None:
        """Real frames of each item; None when nothing is padded, since attention without a mask is faster."""
        full = bool((batch["lengths"] == batch["latents"].shape[1]).all())
        return None if full else batch["lengths"]

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        latents, t = batch["latents"], batch["times"]
        draws = self.draws(batch)
        noise = draws.normal(*latents.shape[1:])
        condition = self._condition(batch)
        if self.config.condition_noise:
            condition = condition + self.config.condition_noise * self.spread * draws.normal(*condition.shape[1:])
        model: VelocityModel = self.dit
        if self.config.dit.unconditional:
            dropped = draws.uniform(1)[:, 0] < self.config.condition_dropout
            model = functools.partial(self.dit, dropped=dropped)
        loss, each = diffusion_loss(
            model, latents, condition, self._lengths(batch), t=t, noise=noise,
            objective=self.config.dit.objective, min_snr=self.config.min_snr, si_snr=self.config.si_snr, first=self.first,
        )  # fmt: skip
        late = (t > 0.5).to(each.dtype)
        noisy = (each * late).sum() / mean_divisor(late.sum())
        clean = (each * (1 - late)).sum() / mean_divisor((1 - late).sum())
        shares = batch.get("shares", {})
        losses = {"loss": loss, "noisy_half": noisy, "clean_half": clean}
        return {name: value * shares.get(name, 1.0) for name, value in losses.items()}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Real frames; times are strata of the whole batch, so a part of it may lie in one half."""
        late = (batch["times"] > 0.5).sum()
        return {"loss": batch["lengths"].sum(), "noisy_half": late, "clean_half": len(batch["times"]) - late}

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

    def _sampled(self, steps: int, sampler: str = "dpmpp-2m", temperature: float = 1.0) -> Tensor:
        return sample(
            guided(self.ema), self._fixed_noise(), self._condition(self._fixed()), steps, sampler,
            torch.Generator().manual_seed(self.config.seed), temperature,
            lengths=self._lengths(self.clips), objective=self.config.dit.objective,
        )  # fmt: skip

    def _rendered(self) -> Tensor:
        """Latents as the bundle samples them: with the config's sampler, steps and temperature."""
        return self._sampled(self.config.sample_steps, self.config.sampler, self.config.temperature)

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """`loss` of the average over a fixed grid of t (`loss_raw`: of the trained weights); `mse_N` after N steps.

        Latents have unit variance: an `mse_1` of 1 means that nothing was learned, and the gap from `mse_1` up to `mse_8`
        is the detail added by sampling that the codes do not determine. With `only_basses` all of their latents alone.
        With an autoencoder also `mel` and `mel_deviation`:
        mean and standard deviation over the crops of the mel distance between their rendered sound and the recording.
        """
        latents, condition = self._fixed()["latents"], self._condition(self._fixed())
        lengths, noise = self._lengths(self.clips), self._fixed_noise()
        result: dict[str, float] = {}
        for name, model in (("loss", self.ema), ("loss_raw", self.dit)):
            values = []
            for value in HELD_OUT_TIMES:
                t = torch.full((len(latents),), value, device=self.device)
                loss, _ = diffusion_loss(
                    model, latents, condition, lengths, t=t, noise=noise, objective=self.config.dit.objective,
                    first=self.first,
                )  # fmt: skip
                values.append(float(loss))
            result[name] = float(np.mean(values))
        for steps in (1, 8):
            result[f"mse_{steps}"] = float(
                masked_mean_square((self._sampled(steps) - latents)[..., self.first :], lengths).mean()
            )
        return result | self._mel_distances()

    def _mel_distances(self) -> dict[str, float]:
        if self.autoencoder is None:
            return {}
        distances = []
        for row, real, (stretch, start) in zip(
            self._rendered().cpu(), self.clips["lengths"].tolist(), self.excerpts, strict=True
        ):
            true = stretch.mono(start, real // self.config.dit.latents_per_frame)
            distances.append(mel_distance(self._sound(row[:real]).mean(0, keepdim=True), true, SAMPLE_RATE))
        return {"mel": float(np.mean(distances)), "mel_deviation": float(np.std(distances))}

    def _sound(self, latents: Tensor) -> Tensor:
        """`[channels, samples]` of `[latent_frames, latent_dim]`, in pieces: half a minute of a published decoder takes GBs."""
        assert self.autoencoder is not None
        return torch.cat(list(decode_blocks(self.autoencoder, [latents])), dim=1)

    def sample(self, folder: Path) -> None:
        """The first two held-out crops: true latents, one step and `sample_steps` steps, as sound and as mels."""
        if self.autoencoder is None:
            return
        kinds = {"true": self._fixed()["latents"], "1_step": self._sampled(1)}
        kinds[f"{self.config.sample_steps}_steps"] = self._rendered()
        for index in range(min(2, len(self.clips["latents"]))):
            real = int(self.clips["lengths"][index])
            sounds = {}
            for name, latents in kinds.items():
                sound = self._sound(latents[index, :real].cpu())
                write(folder / f"{index}.{name}.flac", sound.clamp(-1, 1), SAMPLE_RATE, comment=SAMPLE)
                sounds[name] = sound.mean(0)
            compare_mels(folder / f"{index}.png", sounds, SAMPLE_RATE)
