"""The separator: a small BS-RoFormer learns to take random mixtures apart.

Each batch is mixed anew from stems of the training recordings (`remix.py`). The loss is L1 on the waveform plus complex
L1 on short-time spectra (three window lengths in turn), for vocals and accompaniment always, for drums, bass and other
where they are known (after BS-RoFormer, arXiv:2309.02612; high bins weigh a little more, as the tokenizer hears mels).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from duotok.audio.io import write
from duotok.separation.bs_roformer import BSRoFormer, BSRoFormerConfig
from duotok.separation.measures import si_sdr
from duotok.separation.separator import MiniSeparator
from duotok.training.corpus import RATE, Corpus, Recording
from duotok.training.engine import Stage, StageConfig
from duotok.training.pictures import compare_mels
from duotok.training.remix import STEMS, Remixer

SCALES = (4096, 1536, 512)


class SeparatorStageConfig(StageConfig):
    model: BSRoFormerConfig = BSRoFormerConfig()
    crop_seconds: float = Field(default=3.0, gt=0.1)
    waveform_weight: float = Field(default=1.0, ge=0)
    spectral_weight: float = Field(default=1.0, ge=0)
    tilt: float = Field(default=0.3, ge=0, description="exponent of frequency in the weight of spectral bins")
    held_out_seconds: float = Field(default=10.0, gt=0.1)
    held_out_clips: int = Field(default=4, ge=1)


class SpectralError(nn.Module):
    """Mean magnitude of the complex short-time spectrum of an error signal, on one of several window lengths."""

    def __init__(self, tilt: float) -> None:
        super().__init__()
        self.windows = [torch.hann_window(n) / n**0.5 for n in SCALES]
        frequencies = [torch.linspace(0, RATE / 2, n // 2 + 1) for n in SCALES]
        self.weights = [(f.clamp(100.0, 12_000.0) / 1000.0).pow(tilt) for f in frequencies]

    def forward(self, error: Tensor, scale: int) -> Tensor:
        """`error [signals, channels, samples]` -> `[signals]`. Linear: one transform of the difference is enough."""
        window = self.windows[scale].to(error.device)
        weight = self.weights[scale].to(error.device)
        n_fft = window.numel()
        flat = error.flatten(0, 1)
        spectrum = torch.stft(flat, n_fft, n_fft // 2, window=window, center=True, return_complex=True)
        # a root with a floor: the gradient of a complex magnitude at zero is not finite
        size = (torch.view_as_real(spectrum).square().sum(-1) + 1e-10).sqrt()
        return (size.mean(-1) * weight).mean(-1).view(error.shape[:2]).mean(1)


class SeparatorStage(Stage):
    name = "separator"

    def __init__(self, config: SeparatorStageConfig, corpus: Corpus) -> None:
        self.config: SeparatorStageConfig = config
        torch.manual_seed(config.seed)
        self.separator = BSRoFormer(config.model)
        self.modules = {"separator": self.separator}
        self.order = [config.model.stems.index(stem) for stem in STEMS]
        self.remixer = Remixer(corpus, "train", int(config.crop_seconds * RATE) // config.model.hop * config.model.hop)
        self.spectral = SpectralError(config.tilt)
        self.clips = self._held_out_clips(corpus)

    def _held_out_clips(self, corpus: Corpus) -> list[tuple[Tensor, Tensor]]:
        """Fixed (mix, vocals) excerpts `[2, samples]` of held-out songs, where the vocals are loudest."""
        recordings = corpus.recordings("held_out", "dual", track="vocals")
        recordings = recordings or corpus.recordings("held_out", "generated", track="vocals")
        recordings = recordings[: self.config.held_out_clips]
        each = -(-self.config.held_out_clips // max(1, len(recordings)))
        clips = [clip for recording in recordings for clip in self._excerpts(recording, each)]
        return clips[: self.config.held_out_clips]

    def _excerpts(self, recording: Recording, count: int) -> list[tuple[Tensor, Tensor]]:
        size = min(int(self.config.held_out_seconds * RATE), recording.samples)
        gain = np.float32(10 ** (recording.gain_db / 20) / 32768)
        vocals, accompaniment = recording.audio("vocals"), recording.audio("accompaniment")
        starts = np.arange(0, recording.samples - size + 1, size)
        energy = [float(np.square(vocals[s : s + size : 50].astype(np.float32)).mean()) for s in starts]
        found = []
        for start in sorted(int(starts[i]) for i in np.argsort(energy)[::-1][:count]):
            v, a = (
                torch.from_numpy(np.ascontiguousarray(track[start : start + size].T.astype(np.float32) * gain))
                for track in (vocals, accompaniment)
            )
            found.append((v + a, v))
        return found

    def batch(self, step: int) -> dict[str, Tensor]:
        mixtures = [
            self.remixer.draw(np.random.default_rng((self.config.seed, step, item)))
            for item in range(self.config.batch_size)
        ]
        return {
            "mix": torch.stack([m.mix for m in mixtures]),
            "stems": torch.stack([m.stems for m in mixtures]),
            "known": torch.stack([m.known for m in mixtures]),
        }

    def losses(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        mix, stems, known = batch["mix"], batch["stems"], batch["known"]
        estimate = self.separator(mix)[:, self.order]
        vocals = estimate[:, 0] - stems[:, 0]
        # the accompaniment is everything but the vocals, whether its stems are known or not
        accompaniment = estimate[:, 1:].sum(1) - (mix - stems[:, 0])
        where = known[:, 1:].nonzero(as_tuple=True)
        parts = estimate[:, 1:][where] - stems[:, 1:][where]
        if self.config.model.sum_to_mix:
            accompaniment = accompaniment[:0]  # its error is that of the vocals, negated: nothing new to measure
        count = len(mix)
        errors = torch.cat((vocals, accompaniment, parts))
        distances = self.config.waveform_weight * errors.abs().mean((1, 2))
        distances = distances + self.config.spectral_weight * self.spectral(errors, step % len(SCALES))
        tracks = distances[: count + len(accompaniment)].mean()
        others = distances[count + len(accompaniment) :].sum() / (3 * count)
        with torch.no_grad():
            both = torch.stack((stems[:, 0], mix - stems[:, 0])).square().mean((2, 3)).amin(0) > 1e-6
            gains = si_sdr(estimate[:, 0], stems[:, 0]) - si_sdr(mix, stems[:, 0])
            gained = gains[both].mean() if bool(both.any()) else torch.zeros(())
        return {"loss": 2 * tracks + others, "tracks": tracks, "stems": others, "vocals_gain_db": gained}

    def held_out(self) -> dict[str, float]:
        """SI-SDR of both tracks in dB, and how much better than the mix itself, through the chunked separator."""
        separator = MiniSeparator(self.separator)
        values: dict[str, list[float]] = {}
        for mix, vocals in self.clips:
            estimates = separator.separate(mix)
            for track, true in (("vocals", vocals), ("accompaniment", mix - vocals)):
                before, after = float(si_sdr(mix, true)), float(si_sdr(estimates[track], true))
                values.setdefault(f"si_sdr_{track}", []).append(after)
                values.setdefault(f"gain_{track}", []).append(after - before)
        return {name: float(np.mean(found)) for name, found in values.items()}

    def sample(self, folder: Path) -> None:
        """The first held-out excerpt: mix, true vocals, both tracks, the model's stems; sound and picture."""
        for mix, vocals in self.clips[:1]:
            separator = MiniSeparator(self.separator, ("vocals", "accompaniment", "drums", "bass", "other"))
            estimates = separator.separate(mix)
            sounds = {"mix": mix, "vocals.true": vocals, **estimates}
            for name, sound in sounds.items():
                write(folder / f"{name}.flac", sound.clamp(-1, 1), RATE)
            compare_mels(folder / "stems.png", {name: sound.mean(0) for name, sound in sounds.items()}, RATE)
