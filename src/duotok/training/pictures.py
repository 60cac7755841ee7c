"""Pictures that training and reports show: mels side by side."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from duotok.audio.features import ANALYSIS_RATE, LogMel
from duotok.audio.io import resample


def compare_mels(path: Path, sounds: dict[str, Tensor], rate: int) -> None:
    """Write a PNG with the log-mel of each sound (`[samples]` at `rate`) below the other, on one colour scale."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    mel = LogMel()
    figure, axes = plt.subplots(len(sounds), 1, figsize=(10, 2.4 * len(sounds)), squeeze=False, sharex=True)
    for axis, (name, sound) in zip(axes[:, 0], sounds.items(), strict=True):
        mono = resample(sound[None], rate, ANALYSIS_RATE)[0]
        mono = torch.nn.functional.pad(mono, (0, -len(mono) % 240))
        picture = mel.denormalise(mel(mono)).T.numpy()
        axis.imshow(
            picture, origin="lower", aspect="auto", vmin=-11.5, vmax=8, extent=(0, len(mono) / ANALYSIS_RATE, 0, 128)
        )
        axis.set_title(name, fontsize=9)
        axis.set_ylabel("mel band")
    axes[-1, 0].set_xlabel("seconds")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)
