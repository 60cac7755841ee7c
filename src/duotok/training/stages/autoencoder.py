"""The latent autoencoder: reconstruct sound under multi-resolution spectral losses, latents kept at unit variance.

Losses: the seven-scale log-mel distance of the evaluation carried over to 48 kHz (a random choice of scales each step keeps
a step cheap), plus a spectral-convergence term. Latents get a little noise, so that the decoder forgives a renderer. With
`adversary`, discriminators judge the sound as well: a second run, `adversarial`, starts from the first one's weights and
leaves the encoder as it is, so that renderers may learn its latents meanwhile. A run of `autoencoder` that starts from another
goes on with its encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from duotok.audio.features import POWER_FLOOR, mel_filters, squared_magnitude
from duotok.audio.io import write
from duotok.audio.marks import SAMPLE
from duotok.clock import FRAME_SAMPLES, LATENT_SAMPLES, SAMPLE_RATE
from duotok.distributed import total, world
from duotok.errors import ConfigError
from duotok.evaluation.fidelity import mel_distance
from duotok.evaluation.music import chroma_correlation
from duotok.random import ItemRandom
from duotok.renderer.autoencoder import Autoencoder, AutoencoderConfig
from duotok.renderer.griffin_lim import FAINT, random_phases
from duotok.shards.store import ShardStore
from duotok.tracks import TRACKS
from duotok.training.batches.sounds import TrackComponent, TrackMixture, excerpts, span, torch_rng
from duotok.training.checkpoint import best, load_module
from duotok.training.earlier_runs import config_of, origin_of
from duotok.training.logs import compare_mels
from duotok.training.stage import START_FROM, Batch, NamedRun, Stage, StageConfig
from duotok.training.stages.adversary import AdversaryConfig, Discriminators, judge

SCALES = (64, 128, 256, 512, 1024, 2048, 4096)
EVEN_FROM = 50.0  # Hz
AUDIBLE = 0.01  # root mean square that a crop should have
NEW = ("bass_encoder.", "bass_decoder.")
"""Parts that may be missing in the weights that `only_basses` starts from."""
AUTOENCODERS = ("autoencoder", "adversarial", "adapt")
"""The stages that train an autoencoder. The first makes latents; the later ones train its decoder alone, and keep them."""


class AutoencoderStageConfig(StageConfig):
    model: AutoencoderConfig = AutoencoderConfig()
    crop_seconds: float = Field(default=1.0, ge=0.06, description="at least 60 ms: half the longest window and more")
    scales_per_step: int = Field(default=3, ge=1, le=len(SCALES))
    latent_noise: float = Field(default=0.2, ge=0)
    fit_iterations: int = Field(
        default=8,
        ge=0,
        description="of model.griffin_lim while it learns; the gradient goes through all of them; 0 = only magnitudes learn",
    )
    magnitude_weight: float = Field(
        default=1.0, ge=0, description="of the error of the predicted magnitudes themselves, with model.griffin_lim"
    )
    silence: float = Field(default=0.05, ge=0, le=1, description="share of crops that may be quiet")
    held_out_seconds: float = Field(default=5.0, gt=0.1)
    held_out_clips: int = Field(default=6, ge=1, description="of each track")
    adversary: AdversaryConfig | None = Field(default=None, description="discriminators; null = reconstruction alone")
    start_from: Path | None = Field(
        default=None,
        description="run whose weights to start from, in RUNS or absolute; renderers must follow its latents",
    )
    latents_kept: float = Field(
        default=0.1,
        ge=0,
        description="stage autoencoder with start_from: weight of the squared distance to the latents as they were",
    )
    only_basses: bool = Field(
        default=False,
        description="stage autoencoder with start_from: only what model.bass_latents bring learns, on magnitudes; the rest of the "
        "run stays as it is, and so do the latents before them",
    )
    mixture: dict[str, TrackComponent] = {
        "vocals": TrackComponent(weight=9, types=("vocals",), track="vocals", optional=True),
        "speech": TrackComponent(weight=1, kinds=("speech",), track="vocals", optional=True),
        "accompaniment": TrackComponent(weight=4, types=("accompaniment",), track="accompaniment", optional=True),
        "instrumental": TrackComponent(weight=5, types=("instrumental",), track="accompaniment", optional=True),
        "other": TrackComponent(weight=1, kinds=("sound", "music"), track="mix", optional=True),
    }

    def earlier_runs(self) -> tuple[NamedRun, ...]:
        return () if self.start_from is None else (NamedRun(START_FROM, self.start_from, AUTOENCODERS),)


class AdversarialConfig(AutoencoderStageConfig):
    """The second run: discriminators teach the decoder of a trained autoencoder."""

    start_from: Path | None = Field(
        default=Path("autoencoder"), description="run of the autoencoder whose decoder learns on; its latents are kept"
    )


class MultiScaleMel(nn.Module):
    """Means over the chosen scales: of |ln M - ln M'|, M power mels at 48 kHz; of the error of magnitudes, relative to their mean in the batch."""

    def __init__(self) -> None:
        super().__init__()
        for n_fft in SCALES:
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)
            mels = mel_filters(SAMPLE_RATE, n_fft, 5 * n_fft // 64)
            self.register_buffer(f"filters_{n_fft}", mels, persistent=False)

    def power(self, audio: Tensor, n_fft: int) -> Tensor:
        window = getattr(self, f"window_{n_fft}")
        spectrum = torch.stft(audio, n_fft, n_fft // 4, window=window, center=True, return_complex=True)
        return squared_magnitude(spectrum).transpose(1, 2)

    def forward(self, estimate: Tensor, target: Tensor, scales: list[int]) -> tuple[Tensor, Tensor]:
        distances, convergence = [], estimate.new_zeros(())
        for n_fft in scales:
            filters = getattr(self, f"filters_{n_fft}")
            a, b = self.power(estimate, n_fft), self.power(target, n_fft)
            log_a, log_b = (a @ filters).clamp_min(POWER_FLOOR).log(), (b @ filters).clamp_min(POWER_FLOOR).log()
            distances.append((log_a - log_b).abs().mean())
            a, b = (a + 1e-8).sqrt(), (b + 1e-8).sqrt()
            # One scale for the whole batch, over all processes.
            convergence = convergence + (a - b).abs().mean() / (total(b.mean()) / world() + 1e-2)
        return torch.stack(distances).mean(), convergence / len(scales)


def octave_weights(bins: int) -> Tensor:
    """Weights of the bins of a spectrum from 0 to 24 kHz `[bins]`, 1 on average: above 50 Hz every octave counts about alike.

    With equal weights the 1 % of the bins that lie below 300 Hz are learned last, and a bass plays wrong notes (docs/experiments/basses-in-sound.md).
    """
    hertz = torch.linspace(0, SAMPLE_RATE / 2, bins)
    weights = 1 / (hertz + EVEN_FROM)
    return weights / weights.mean()


def _model_of(run: Path) -> dict[str, Any]:
    """`model` of the config of a run."""
    model: dict[str, Any] = config_of(run).get("model") or {}
    return model


def load_start(checkpoint: Path, autoencoder: Autoencoder, new: tuple[str, ...] = ()) -> None:
    """Load the autoencoder of a checkpoint to train on. Raises as `load_module`, which takes `new`.

    With `output: magnitude` the phases that the checkpoint predicts are left out.
    """
    output = _model_of(checkpoint.parent).get("output", AutoencoderConfig().output)
    if autoencoder.config.output != "magnitude" or output == "magnitude":
        load_module(checkpoint / "autoencoder.safetensors", autoencoder, new=new)
        return
    whole = Autoencoder(autoencoder.config.model_copy(update={"output": output}))
    load_module(checkpoint / "autoencoder.safetensors", whole, new=new)
    autoencoder.load_state_dict(whole.without_phases().state_dict())


class AutoencoderStage(Stage):
    def __init__(
        self, config: AutoencoderStageConfig, store: ShardStore, name: str = "autoencoder", start: Path | None = None
    ) -> None:
        """start: the run that `config.start_from` names."""
        self.config: AutoencoderStageConfig = config
        self.name = name
        self.start_run = start
        torch.manual_seed(config.seed)
        self.autoencoder = Autoencoder(config.model)
        self.modules = {"autoencoder": self.autoencoder}
        self.encoder_learns = name == "autoencoder"
        if not self.encoder_learns:
            self.freeze_encoder()
        self.before: Autoencoder | None = None
        self.basses = self.encoder_learns and config.only_basses
        # Latents for basses are new where the run before had none: only then do their statistics begin anew.
        self.new_latents = self.basses and start is not None and not _model_of(start).get("bass_latents")
        if config.only_basses and not self.encoder_learns:
            raise ConfigError(
                f"{name}: only_basses is for the stage autoencoder; here the decoder learns, and latents stay"
            )
        if self.basses:
            self.autoencoder.requires_grad_(False)
            for part in self.autoencoder.basses():
                part.requires_grad_(True)
        elif self.encoder_learns and config.latents_kept and start is not None:
            self.needs_start = True
            self.before = Autoencoder(config.model).requires_grad_(False)
            load_start(best(start), self.before)
            self.made_from(START_FROM, origin_of(best(start), "autoencoder"))
        self.discriminators: Discriminators | None = None
        if config.adversary is not None:
            self.discriminators = self.modules["discriminators"] = Discriminators(config.adversary)
        self.mel = MultiScaleMel()
        self.store = store
        self.size = int(config.crop_seconds * SAMPLE_RATE) // LATENT_SAMPLES * LATENT_SAMPLES
        self.clips = self._held_out_clips(store)

    def freeze_encoder(self) -> None:
        """Freeze the encoder, so that latents keep their meaning; only the decoder learns."""
        for part in self.autoencoder.encoder():
            part.requires_grad_(False)

    def start(self) -> None:
        if self.start_run is not None:
            checkpoint = best(self.start_run)
            load_start(checkpoint, self.autoencoder, NEW if self.basses else ())
            self.made_from(START_FROM, origin_of(checkpoint, "autoencoder"))

    def parameter_groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = [{"params": [p for p in self.autoencoder.parameters() if p.requires_grad]}]
        if self.discriminators is not None and self.config.adversary is not None:
            a = self.config.adversary
            mine = {
                "params": list(self.discriminators.parameters()),
                "scale": a.lr_scale,
                "betas": a.betas,
                "clip": a.clip,
            }
            groups.append(mine)
        return groups

    @cached_property
    def crops(self) -> TrackMixture:
        """The training mixture; opened by the first batch, as `adapt` has none."""
        return TrackMixture(self.store, "train", self.config.mixture, self.config.seed, self.size / SAMPLE_RATE)

    def _held_out_clips(self, store: ShardStore) -> dict[str, Tensor]:
        """Fixed loud excerpts of validation recordings, per track: `[clips, samples]`."""
        size = int(self.config.held_out_seconds * SAMPLE_RATE) // FRAME_SAMPLES * FRAME_SAMPLES
        clips = {}
        for track in TRACKS:
            component = TrackComponent(kinds=("song", "voice", "instrumental"), track=track)
            fixed = excerpts(store, "validation", component, size / SAMPLE_RATE, self.config.held_out_clips)
            if fixed:
                clips[track] = torch.stack([sound.mono(track, start, size) for sound, start in fixed])
        return clips

    def batch(self, step: int, items: Sequence[int]) -> Batch:
        crops, ids = [], []
        for item in items:
            rng = np.random.default_rng((self.config.seed, step, item))
            sound, track = self.crops.draw(step * self.config.batch_size + item)
            least = 0.0 if rng.random() < self.config.silence else AUDIBLE
            start = span(rng, sound, track, self.size, least)
            wave = sound.mono(track, start, self.size) * 10 ** (float(rng.normal(0, 4)) / 20)
            crops.append(wave / max(1.0, float(wave.abs().max())))
            ids.append(f"{sound.key} {track} from sample {start}")
        return {"audio": torch.stack(crops), "ids": ids}

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        audio = batch["audio"]
        with torch.set_grad_enabled(self.encoder_learns and torch.is_grad_enabled()):
            raw = self.autoencoder.raw_latents(audio[:, None]).float()
        if self.encoder_learns:
            self._follow(raw.detach(), step)
        latents = self.autoencoder.standardised(raw)
        # Soft bound: outliers bring nothing, and diffusion would have to reproduce them.
        bound = (latents.abs() - 4).clamp_min(0).square().mean()
        if self.before is not None:
            with torch.no_grad():
                old = self.before.to(audio.device).encode(audio[:, None])
            bound = bound + self.config.latents_kept * (latents - old).square().mean()
        draws = self.draws(batch)
        noise = draws.uniform(1, 1) * self.config.latent_noise
        return self.decoded(latents + noise * draws.normal(*latents.shape[1:]), audio, step, draws, bound)

    def decoded(
        self, latents: Tensor, audio: Tensor, step: int, draws: ItemRandom, bound: Tensor | None = None, edge: int = 0
    ) -> dict[str, Tensor]:
        """Losses of latents decoded against their sound; the outer `edge` samples count for nothing. draws: phases to begin with.

        With fitted phases (`model.griffin_lim`) magnitudes learn behind phases that were fitted from random ones. Fitted from the
        predicted ones they would learn to suit these, which for a steady tone are those of a comb.
        """
        inside = slice(edge, audio.shape[1] - edge)
        spectrum = self.autoencoder.spectrum(latents)
        losses = {"loss": audio.new_zeros(()) if bound is None else bound}
        fitted = self.autoencoder.config.griffin_lim > 0
        if not fitted:
            losses = self.reconstruction(self.autoencoder.sound(spectrum)[:, inside], audio[:, inside], step, bound)
        elif self.config.fit_iterations and not self.basses:
            sound = self.autoencoder.sound(random_phases(spectrum, draws), self.config.fit_iterations)
            losses = self.reconstruction(sound[:, inside], audio[:, inside], step, bound)
        errors = {}
        if fitted and not self.basses:
            errors["magnitude"] = self.magnitude_error(spectrum, audio, edge)
        if self.autoencoder.bass_decoder is not None:
            errors["basses"] = self.bass_error(spectrum, audio, edge)
        for error in errors.values():
            losses["loss"] = losses["loss"] + self.config.magnitude_weight * error
        return losses | errors

    def magnitude_error(self, spectrum: Tensor, audio: Tensor, edge: int = 0) -> Tensor:
        """Mean |ln A - ln A'| of predicted and true magnitudes, octaves alike: `[batch, frames, bins]`, `[batch, samples]`.

        Frames that are centred in the outer `edge` samples are left out.
        """
        error, _ = self._magnitudes(spectrum, audio, edge)
        return (error * octave_weights(error.shape[-1]).to(error)).mean()

    def bass_error(self, spectrum: Tensor, audio: Tensor, edge: int = 0) -> Tensor:
        """The same of the bins that `model.bass_latents` tell. Half of it counts loud partials more: they are the notes, and what lies
        between them is most of the bins.
        """
        bins = self.autoencoder.config.bass_bins
        error, true = self._magnitudes(spectrum[..., :bins], audio, edge)
        loudness = true.sqrt()
        return (error * (1 + loudness / loudness.mean(-1, keepdim=True)) / 2).mean()

    def _magnitudes(self, spectrum: Tensor, audio: Tensor, edge: int) -> tuple[Tensor, Tensor]:
        """|ln A - ln A'| and A, true magnitudes, of the lowest bins that `spectrum` has; at least FAINT."""
        skip = edge // self.autoencoder.config.hop
        frames, bins = slice(skip, spectrum.shape[1] - skip), spectrum.shape[2]
        with torch.autocast(audio.device.type, enabled=False):
            true = self.autoencoder.analyse(audio)[:, frames, :bins].abs().clamp_min(FAINT)
            return (spectrum[:, frames].abs().clamp_min(FAINT).log() - true.log()).abs(), true

    def reconstruction(
        self, estimate: Tensor, audio: Tensor, step: int, bound: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Losses of decoded against true sound `[batch, samples]`, and of the discriminators if there are any."""
        with torch.autocast(audio.device.type, enabled=False):
            distance, convergence = self.mel.to(audio.device)(estimate.float(), audio, self._scales(step))
        losses = {"loss": distance + 0.5 * convergence, "mel": distance, "convergence": convergence}
        if bound is not None:
            losses["loss"] = losses["loss"] + bound
        adversary = self.config.adversary
        if adversary is not None and self.discriminators is not None and self.discriminators.training:
            judged = judge(self.discriminators, estimate, audio)
            ready = 1.0 if step >= adversary.warmup else 0.0
            decoder = adversary.weight * judged["adversarial"] + adversary.feature_weight * judged["matching"]
            losses["loss"] = losses["loss"] + ready * decoder + judged["discrimination"]
            losses |= judged
        return losses

    @torch.no_grad()
    def _follow(self, raw: Tensor, step: int) -> None:
        """Update running statistics of the latents, which replace a penalty on their scale. The same on all processes."""
        count = raw.shape[0] * raw.shape[1] * world()
        mean = total(raw.sum((0, 1))) / count
        variance = total((raw - mean).square().sum((0, 1))) / max(1, count - 1)
        anew = self.start_run is None or self.new_latents
        self.autoencoder.follow(mean, variance.sqrt(), max(0.01, 1.0 / (step + 1)) if anew else 0.01)

    def _scales(self, step: int) -> list[int]:
        """Some of the scales, drawn anew at each step to keep it cheap."""
        picks = torch.randperm(len(SCALES), generator=torch_rng(self.config.seed, step))
        return [SCALES[i] for i in picks[: self.config.scales_per_step].tolist()]

    def held_out(self) -> dict[str, float]:
        """Of each track mel distance, chroma correlation and, with fitted phases, the error of magnitudes; of basses, where they have
        latents of their own; loss: what is learned."""
        fitted = self.autoencoder.config.griffin_lim > 0
        result: dict[str, float] = {}
        for track, clips in self.clips.items():
            clips = clips.to(self.device)
            spectrum = self.autoencoder.spectrum(self.autoencoder.encode(clips[:, None]))
            pairs = list(zip(self.autoencoder.sound(spectrum).cpu(), clips.cpu(), strict=True))
            result[f"mel_{track}"] = float(np.mean([mel_distance(e, c, SAMPLE_RATE) for e, c in pairs]))
            result[f"chroma_{track}"] = float(np.mean([chroma_correlation(e, c, SAMPLE_RATE) for e, c in pairs]))
            if fitted:
                result[f"magnitude_{track}"] = float(self.magnitude_error(spectrum, clips))
            if self.autoencoder.bass_decoder is not None:
                result[f"basses_{track}"] = float(self.bass_error(spectrum, clips))
        if not result:
            return {}
        learned = "basses" if self.basses else "mel" if self.config.fit_iterations or not fitted else "magnitude"
        return result | {"loss": float(np.mean([result[f"{learned}_{track}"] for track in self.clips]))}

    def sample(self, folder: Path) -> None:
        for track, clips in self.clips.items():
            estimate = self.autoencoder.decode(self.autoencoder.encode(clips[:1, None].to(self.device)))[0].cpu()
            write(folder / f"{track}.flac", estimate, SAMPLE_RATE, comment=SAMPLE)
            write(folder / f"{track}.true.flac", clips[:1], SAMPLE_RATE, comment=SAMPLE)
            compare_mels(folder / f"{track}.png", {"true": clips[0], "decoded": estimate[0]}, SAMPLE_RATE)
