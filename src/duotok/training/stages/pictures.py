"""Pictures that training shows: mels one below the other."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from duotok.audio.features import LogMel
from duotok.audio.io import resample
from duotok.clock import ANALYSIS_RATE, MEL_RATE


def show_mels(path: Path, mels: dict[str, Tensor]) -> None:
    """Write a PNG of normalised log-mels `[mel_frames, 128]`, one below the other on one colour scale."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(mels), 1, figsize=(10, 2.4 * len(mels)), squeeze=False, sharex=True)
    for axis, (name, mel) in zip(axes[:, 0], mels.items(), strict=True):
        picture = LogMel().denormalise(mel).T.numpy()
        axis.imshow(
            picture, origin="lower", aspect="auto", vmin=-11.5, vmax=8, extent=(0, len(mel) / MEL_RATE, 0, len(picture))
        )
        axis.set_title(name, fontsize=9)
        axis.set_ylabel("mel band")
    axes[-1, 0].set_xlabel("seconds")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def compare_mels(path: Path, sounds: dict[str, Tensor], rate: int) -> None:
    """Write a PNG with the log-mel of each sound (`[samples]` at `rate`)."""
    mel = LogMel()
    mels = {}
    for name, sound in sounds.items():
        mono = resample(sound[None], rate, ANALYSIS_RATE)[0]
        mels[name] = mel(torch.nn.functional.pad(mono, (0, -len(mono) % 240)))
    show_mels(path, mels)
