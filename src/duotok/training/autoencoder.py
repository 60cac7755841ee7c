"""The latent autoencoder: reconstruct sound under multi-resolution spectral losses, latents kept at unit variance.

Losses: the seven-scale log-mel distance of the evaluation carried over to 48 kHz (a random choice of scales each step keeps
a step cheap), plus a spectral-convergence term on one scale. Latents get a little noise, so that the decoder forgives a renderer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from duotok.audio.features import POWER_FLOOR, mel_filters
from duotok.audio.io import write
from duotok.evaluation.fidelity import mel_distance
from duotok.renderer.autoencoder import RATE, Autoencoder, AutoencoderConfig
from duotok.training.corpus import Corpus, Recording
from duotok.training.engine import Stage, StageConfig
from duotok.training.pictures import compare_mels

SCALES = (64, 128, 256, 512, 1024, 2048, 4096)


class AutoencoderStageConfig(StageConfig):
    model: AutoencoderConfig = AutoencoderConfig()
    crop_seconds: float = Field(default=1.0, gt=0)
    scales_per_step: int = Field(default=3, ge=1, le=len(SCALES))
    latent_noise: float = Field(default=0.2, ge=0)
    silence: float = Field(default=0.05, ge=0, le=1, description="share of crops that may be quiet")
    held_out_seconds: float = Field(default=5.0, gt=0.1)
    mix: dict[str, float] = {
        "dual": 0.25, "chant": 0.2, "speech": 0.05, "instrumental": 0.3, "song": 0.03, "sound": 0.02, "loop": 0.03,
        "generated": 0.12,
    }  # fmt: skip


class MultiScaleMel(nn.Module):
    """Mean |ln M - ln M'| of power mels at 48 kHz for the chosen scales, and spectral convergence on the largest of them."""

    def __init__(self) -> None:
        super().__init__()
        for n_fft in SCALES:
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)
            mels = mel_filters(RATE, n_fft, 5 * n_fft // 64)
            self.register_buffer(f"filters_{n_fft}", mels, persistent=False)

    def power(self, audio: Tensor, n_fft: int) -> Tensor:
        window = getattr(self, f"window_{n_fft}")
        spectrum = torch.stft(audio, n_fft, n_fft // 4, window=window, center=True, return_complex=True)
        return torch.view_as_real(spectrum).square().sum(-1).transpose(1, 2)

    def forward(self, estimate: Tensor, target: Tensor, scales: list[int]) -> tuple[Tensor, Tensor]:
        distances, convergence = [], estimate.new_zeros(())
        for n_fft in scales:
            filters = getattr(self, f"filters_{n_fft}")
            a, b = self.power(estimate, n_fft), self.power(target, n_fft)
            log_a, log_b = (a @ filters).clamp_min(POWER_FLOOR).log(), (b @ filters).clamp_min(POWER_FLOOR).log()
            distances.append((log_a - log_b).abs().mean())
            a, b = (a + 1e-8).sqrt(), (b + 1e-8).sqrt()
            convergence = convergence + (a - b).abs().mean() / (b.mean() + 1e-2)
        return torch.stack(distances).mean(), convergence / len(scales)


class AutoencoderStage(Stage):
    name = "autoencoder"

    def __init__(self, config: AutoencoderStageConfig, corpus: Corpus) -> None:
        self.config: AutoencoderStageConfig = config
        torch.manual_seed(config.seed)
        self.autoencoder = Autoencoder(config.model)
        self.modules = {"autoencoder": self.autoencoder}
        self.mel = MultiScaleMel()
        self.pools: list[tuple[float, list[tuple[Recording, str]]]] = []
        for kind, weight in config.mix.items():
            pool = [
                (recording, track)
                for recording in corpus.recordings("train", kind)
                for track in recording.tracks
                if recording.seconds > config.crop_seconds + 0.1
                and (track in ("vocals", "accompaniment") or len(recording.tracks) == 1)
            ]
            if pool:
                self.pools.append((weight, pool))
        self.weights = np.array([w for w, _ in self.pools]) / sum(w for w, _ in self.pools)
        self.durations = [np.array([r.seconds for r, _ in pool]) for _, pool in self.pools]
        self.clips = self._held_out_clips(corpus)

    def _held_out_clips(self, corpus: Corpus) -> dict[str, Tensor]:
        """Fixed loud excerpts of held-out recordings, per track: `[clips, samples]`."""
        clips: dict[str, list[Tensor]] = {"vocals": [], "accompaniment": []}
        wanted = int(self.config.held_out_seconds * RATE) // 960 * 960
        for recording in corpus.recordings("held_out", "dual", "chant", "instrumental"):
            for track in ("vocals", "accompaniment"):
                if track in recording.tracks and len(clips[track]) < 6:
                    audio = recording.audio(track)
                    if len(audio) < wanted:
                        continue
                    size = wanted
                    starts = np.linspace(0, len(audio) - size, 12).astype(int)
                    energy = [float(np.square(audio[s : s + size : 50].astype(np.float32)).mean()) for s in starts]
                    start = int(starts[int(np.argsort(energy)[len(energy) * 3 // 4])])
                    clips[track].append(self._load(audio[start : start + size], recording.gain_db))
        return {track: torch.stack(found) for track, found in clips.items() if found}

    @staticmethod
    def _load(samples: np.ndarray, gain_db: float) -> Tensor:
        mono = samples.astype(np.float32).mean(1) / 32768
        return torch.from_numpy(mono * np.float32(10 ** (gain_db / 20)))

    def batch(self, step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.config.seed, step))
        size = int(self.config.crop_seconds * RATE) // 960 * 960
        crops = []
        for _ in range(self.config.batch_size):
            pool = int(rng.choice(len(self.pools), p=self.weights))
            recordings = self.pools[pool][1]
            durations = self.durations[pool]
            recording, track = recordings[int(rng.choice(len(recordings), p=durations / durations.sum()))]
            audio = recording.audio(track)
            keep_silence = rng.random() < self.config.silence
            for _attempt in range(6):
                start = int(rng.integers(0, recording.samples - size))
                crop = audio[start : start + size]
                if keep_silence or np.abs(crop[::97].astype(np.int32)).max() > 600:
                    break
            gain = recording.gain_db + float(rng.normal(0, 4))
            wave = self._load(crop, gain)
            crops.append(wave / max(1.0, float(wave.abs().max())))
        return {"audio": torch.stack(crops)}

    def losses(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        audio = batch["audio"]
        raw = self.autoencoder.raw_latents(audio[:, None])
        with torch.no_grad():
            # Running statistics instead of a penalty: the scale of latents is no one's loss.
            rate = max(0.01, 1.0 / (step + 1))
            mean, std = raw.mean((0, 1)), raw.std((0, 1))
            self.autoencoder.mean.lerp_(mean, rate)
            self.autoencoder.std.lerp_(std.clamp_min(1e-3), rate)
        latents = (raw - self.autoencoder.mean) / self.autoencoder.std
        # Soft bound: nothing is gained by outliers that diffusion would have to reach.
        bound = (latents.abs() - 4).clamp_min(0).square().mean()
        noise = torch.rand(len(latents), 1, 1) * self.config.latent_noise
        estimate = self.autoencoder.decode(latents + noise * torch.randn_like(latents))[:, 0]
        picks = torch.randperm(len(SCALES))[: self.config.scales_per_step].tolist()
        distance, convergence = self.mel(estimate, audio, [SCALES[i] for i in picks])
        return {"loss": distance + 0.5 * convergence + bound, "mel": distance, "convergence": convergence}

    def held_out(self) -> dict[str, float]:
        result = {}
        for track, clips in self.clips.items():
            estimates = self.autoencoder.decode(self.autoencoder.encode(clips[:, None]))[:, 0]
            result[f"mel_{track}"] = float(
                np.mean([mel_distance(e, c, RATE) for e, c in zip(estimates, clips, strict=True)])
            )
        return result

    def sample(self, folder: Path) -> None:
        for track, clips in self.clips.items():
            estimate = self.autoencoder.decode(self.autoencoder.encode(clips[:1, None]))[0]
            write(folder / f"{track}.flac", estimate, RATE)
            write(folder / f"{track}.true.flac", clips[:1], RATE)
            compare_mels(folder / f"{track}.png", {"true": clips[0], "decoded": estimate[0]}, RATE)
