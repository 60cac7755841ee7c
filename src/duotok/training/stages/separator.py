"""The separator: a small BS-RoFormer learns to take random mixtures apart.

Each batch is mixed anew from stems of the training recordings (`remix.py`). The loss is L1 on the waveform plus complex
L1 on short-time spectra (three window lengths in turn), for vocals and accompaniment always, for drums, bass and other
where they are known (after BS-RoFormer, arXiv:2309.02612; high bins weigh a little more, as the tokenizer hears mels).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from duotok.audio.features import squared_magnitude
from duotok.audio.io import write
from duotok.audio.marks import SAMPLE
from duotok.clock import FRAME_SAMPLES, SAMPLE_RATE
from duotok.distributed import mean_divisor
from duotok.separation.bs_roformer import BSRoFormer, BSRoFormerConfig
from duotok.separation.measures import floored_si_sdr
from duotok.separation.separator import MiniSeparator
from duotok.shards.store import ShardStore
from duotok.tracks import STEMS
from duotok.training.batches.remix import Remixer
from duotok.training.batches.sounds import TrackComponent, excerpts
from duotok.training.checkpoint import best, load_module
from duotok.training.earlier_runs import origin_of
from duotok.training.logs import compare_mels
from duotok.training.stage import START_FROM, Batch, NamedRun, Stage, StageConfig

SCALES = (4096, 1536, 512)


class SeparatorStageConfig(StageConfig):
    model: BSRoFormerConfig = BSRoFormerConfig()
    crop_seconds: float = Field(default=3.0, gt=0.1)
    waveform_weight: float = Field(default=1.0, ge=0)
    spectral_weight: float = Field(default=1.0, ge=0)
    tilt: float = Field(default=0.3, ge=0, description="exponent of frequency in the weight of spectral bins")
    held_out_seconds: float = Field(default=10.0, gt=0.1)
    held_out_clips: int = Field(default=4, ge=1)
    start_from: Path | None = Field(
        default=None, description="run of a separator whose weights to start from, in RUNS or absolute"
    )

    def earlier_runs(self) -> tuple[NamedRun, ...]:
        return () if self.start_from is None else (NamedRun(START_FROM, self.start_from, ("separator",)),)


class SpectralError(nn.Module):
    """Mean magnitude of the complex short-time spectrum of an error signal, on one of several window lengths."""

    def __init__(self, tilt: float) -> None:
        super().__init__()
        self.windows = [torch.hann_window(n) / n**0.5 for n in SCALES]
        frequencies = [torch.linspace(0, SAMPLE_RATE / 2, n // 2 + 1) for n in SCALES]
        self.weights = [(f.clamp(100.0, 12_000.0) / 1000.0).pow(tilt) for f in frequencies]

    def forward(self, error: Tensor, scale: int) -> Tensor:
        """`error [signals, channels, samples]` -> `[signals]`. Linear: one transform of the difference is enough."""
        window = self.windows[scale].to(error.device)
        weight = self.weights[scale].to(error.device)
        n_fft = window.numel()
        flat = error.flatten(0, 1)
        spectrum = torch.stft(flat, n_fft, n_fft // 2, window=window, center=True, return_complex=True)
        # A root with a floor, because the gradient of a complex magnitude is not finite at zero.
        size = (squared_magnitude(spectrum) + 1e-10).sqrt()
        return (size.mean(-1) * weight).mean(-1).view(error.shape[:2]).mean(1)


class SeparatorStage(Stage):
    name = "separator"

    def __init__(self, config: SeparatorStageConfig, store: ShardStore, start: Path | None = None) -> None:
        """start: the run that `config.start_from` names."""
        self.config: SeparatorStageConfig = config
        self.start_run = start
        torch.manual_seed(config.seed)
        self.separator = BSRoFormer(config.model)
        self.modules = {"separator": self.separator}
        self.order = [config.model.stems.index(stem) for stem in STEMS]
        self.remixer = Remixer(
            store, "train", int(config.crop_seconds * SAMPLE_RATE) // config.model.hop * config.model.hop
        )
        self.spectral = SpectralError(config.tilt)
        self.clips = self._held_out_clips(store)

    def start(self) -> None:
        if self.start_run is not None:
            checkpoint = best(self.start_run)
            load_module(checkpoint / "separator.safetensors", self.separator)
            self.made_from(START_FROM, origin_of(checkpoint, "separator"))

    def _held_out_clips(self, store: ShardStore) -> list[tuple[Tensor, Tensor]]:
        """Fixed (mix, vocals) excerpts `[2, samples]` of validation songs, where the vocals are loudest; real ones first."""
        size = int(self.config.held_out_seconds * SAMPLE_RATE) // FRAME_SAMPLES * FRAME_SAMPLES
        songs = TrackComponent(kinds=("song",), needs=("accompaniment",), track="vocals")
        candidates = excerpts(store, "validation", songs, self.config.held_out_seconds)
        candidates.sort(key=lambda entry: entry[0].segment.generated)
        chosen = candidates[: self.config.held_out_clips]
        pairs = [(s.stereo("vocals", start, size), s.stereo("accompaniment", start, size)) for s, start in chosen]
        return [(vocals + accompaniment, vocals) for vocals, accompaniment in pairs]

    def batch(self, step: int, items: Sequence[int]) -> Batch:
        remixes = [self.remixer.draw(np.random.default_rng((self.config.seed, step, item))) for item in items]
        return {
            "mix": torch.stack([r.mix for r in remixes]),
            "stems": torch.stack([r.stems for r in remixes]),
            "known": torch.stack([r.known for r in remixes]),
            "ids": [f"remix {self.config.seed}.{step}.{item}" for item in items],
        }

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        mix, stems, known = batch["mix"], batch["stems"], batch["known"]
        estimate = self.separator(mix)[:, self.order]
        vocals = estimate[:, 0] - stems[:, 0]
        # The accompaniment is everything but the vocals, whether its stems are known or not.
        accompaniment = estimate[:, 1:].sum(1) - (mix - stems[:, 0])
        where = known[:, 1:].nonzero(as_tuple=True)
        parts = estimate[:, 1:][where] - stems[:, 1:][where]
        if self.config.model.sum_to_mix:
            accompaniment = accompaniment[:0]  # its error is the negated error of the vocals, so it adds no information
        count = torch.tensor(float(len(mix)), device=mix.device)
        errors = torch.cat((vocals, accompaniment, parts))
        distances = self.config.waveform_weight * errors.abs().mean((1, 2))
        distances = distances + self.config.spectral_weight * self.spectral(errors, step % len(SCALES))
        whole = len(vocals) + len(accompaniment)
        tracks = distances[:whole].sum() / (mean_divisor(count) * (whole / len(mix)))
        others = distances[whole:].sum() / (3 * mean_divisor(count))
        with torch.no_grad():
            both = torch.stack((stems[:, 0], mix - stems[:, 0])).square().mean((2, 3)).amin(0) > 1e-6
            gains = floored_si_sdr(estimate[:, 0], stems[:, 0]) - floored_si_sdr(mix, stems[:, 0])
            gained = gains[both].sum() / mean_divisor(both.sum())
        return {"loss": 2 * tracks + others, "tracks": tracks, "stems": others, "vocals_gain_db": gained}

    def held_out(self) -> dict[str, float]:
        """Floored SI-SDR of both tracks in dB, and how much better than the mix itself (`loss`: minus that), chunk by chunk."""
        separator = MiniSeparator(self.separator)
        values: dict[str, list[float]] = {}
        for mix, vocals in self.clips:  # the separator takes each chunk to its device and back
            estimates = separator.separate(mix)
            for track, true in (("vocals", vocals), ("accompaniment", mix - vocals)):
                before, after = (float(floored_si_sdr(sound, true)) for sound in (mix, estimates[track]))
                values.setdefault(f"si_sdr_{track}", []).append(after)
                values.setdefault(f"gain_{track}", []).append(after - before)
        result = {name: float(np.mean(clips)) for name, clips in values.items()}
        gains = [value for name, value in result.items() if name.startswith("gain")]
        return result | {"loss": -float(np.mean(gains))} if gains else {}

    def sample(self, folder: Path) -> None:
        """The first held-out excerpt: mix, true vocals, both tracks, the model's stems; sound and picture."""
        for mix, vocals in self.clips[:1]:
            separator = MiniSeparator(self.separator, ("vocals", "accompaniment", "drums", "bass", "other"))
            estimates = {name: e.cpu() for name, e in separator.separate(mix).items()}
            sounds = {"mix": mix, "vocals.true": vocals, **estimates}
            for name, sound in sounds.items():
                write(folder / f"{name}.flac", sound.clamp(-1, 1), SAMPLE_RATE, comment=SAMPLE)
            compare_mels(folder / "stems.png", {name: sound.mean(0) for name, sound in sounds.items()}, SAMPLE_RATE)
