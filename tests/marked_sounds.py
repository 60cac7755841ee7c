"""A folder with songs, and with sounds that DuoTok wrote: stems, mixes, what it decoded."""

from __future__ import annotations

from pathlib import Path

import torch

from duotok.audio.io import write


def write_marked_sounds(folder: Path) -> None:
    """Songs a (its file is the caller's), b (stems alone), d, x/d and x/e; all else is DuoTok's."""
    for name, comment in (
        ("a.vocals.wav", "duotok 0123 tiny 4567 vocals"), ("demo/mix.flac", "duotok demo"), ("b.vocals.wav", "duotok separated 01"),
        ("b.accompaniment.wav", "duotok separated 01"), ("c.wav", "duotok separated 01"), ("d.wav", "sung by a friend"),
        ("stems/x/e.vocals.wav", "duotok separated 02"), ("stems/x/e.accompaniment.wav", "duotok separated 02"), ("x/e.WAV", ""),
        ("x/d.vocals.wav", "duotok separated 03"), ("x/d.accompaniment.wav", "duotok separated 03"), ("x/d.flac", ""),
    ):  # fmt: skip
        write(folder / name, torch.zeros(1, 100), 48_000, comment=comment)
