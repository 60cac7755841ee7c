"""How well an inverted channel is distinguished from a wide mix (`duotok.audio.channels.is_inverted`).

10 s from the middle of each stereo file of --audio, as it is and made wide (side made larger, one channel late, decorrelated
reverb), and the same with a channel turned over. Printed: the share that is called turned, by the rule and by the correlation
of the whole band alone.

    python -m benchmarks.stereo --audio ../shared/audio
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.calling import mistakes_in_one_line, positive_int
from benchmarks.output import show, table
from duotok.audio.channels import correlation, is_inverted

RATE, SECONDS = 48_000, 10
OLD = -0.2
"""The threshold before there were bands."""


def excerpts(audio: Path, limit: int | None) -> Iterator[Tensor]:
    """`[2, samples]` from the middle of stereo files, but no speech."""
    import soundfile

    with (audio / "INDEX.tsv").open(encoding="utf-8", newline="") as file:
        rows = [r for r in csv.DictReader(file, delimiter="\t") if r["channels"] == "2" and r["kind"] != "speech"]
    order = np.random.default_rng(0).permutation(len(rows))
    for row in [rows[i] for i in order[:limit]]:
        with soundfile.SoundFile(audio / row["path"]) as sound:
            if sound.samplerate != RATE or sound.channels != 2:
                continue
            sound.seek(max(0, sound.frames // 2 - SECONDS * RATE // 2))
            found = torch.from_numpy(sound.read(SECONDS * RATE, dtype="float32").T.copy())
        if found.shape[1] and float(found.abs().max()) > 1e-3:
            yield found


def late(sound: Tensor, milliseconds: float) -> Tensor:
    samples = round(milliseconds * RATE / 1000)
    return torch.nn.functional.pad(sound, (samples, 0))[..., : sound.shape[-1]]


def reverb(sound: Tensor, generator: torch.Generator) -> Tensor:
    """`[2, samples]`: two tails of noise that share nothing, as loud as the sound."""
    tails = torch.randn(2, RATE, generator=generator) * torch.exp(-torch.arange(RATE) / (0.25 * RATE))
    size = 1 << (sound.shape[-1] + RATE).bit_length()
    wet = torch.fft.irfft(torch.fft.rfft(sound, size) * torch.fft.rfft(tails, size), size)[:, : sound.shape[-1]]
    scaled: Tensor = wet * sound.norm() / wet.norm(dim=1).mean().clamp_min(1e-9)
    return scaled


def variants(stereo: Tensor) -> Iterator[tuple[str, Tensor]]:
    middle, side = stereo.mean(0), (stereo[0] - stereo[1]) / 2
    wet = reverb(middle, torch.Generator().manual_seed(0))
    wide = {
        "as it is": stereo,
        **{f"side {20 * np.log10(gain):+.0f} dB": torch.stack([middle + gain * side, middle - gain * side]) for gain in (2, 4, 8)},
        **{f"one channel {ms} ms late": torch.stack([middle, late(middle, ms)]) for ms in (1, 5, 15, 25)},
        "reverb, as loud": middle + wet,
        "reverb alone": wet,
    }  # fmt: skip
    yield from wide.items()
    for name in ("as it is", "side +6 dB", "reverb, as loud"):
        yield f"turned over: {name}", wide[name] * torch.tensor([[1.0], [-1.0]])


@mistakes_in_one_line
def main() -> None:
    options_of = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options_of.add_argument("--audio", type=Path, default=Path("../shared/audio"), help="folder with INDEX.tsv")
    options_of.add_argument("--limit", type=positive_int, help="only so many files, drawn once for all")
    options_of.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = options_of.parse_args()
    found: dict[str, list[tuple[bool, bool, float]]] = {}
    for stereo in excerpts(options.audio, options.limit):
        for name, sound in variants(stereo):
            whole = correlation(sound)
            found.setdefault(name, []).append((is_inverted(sound, RATE), whole < OLD, whole))
    rows = [
        [name, len(each), *(f"{float(np.mean([one[k] for one in each])):.0%}" for k in (0, 1)),
         f"{float(np.median([one[2] for one in each])):.2f}"]
        for name, each in found.items()
    ]  # fmt: skip
    head = ["sound", "excerpts", "called turned", f"correlation below {OLD}", "correlation, median"]
    conditions = {"audio": options.audio.name, "seconds of each": SECONDS}
    show(
        {"conditions": conditions, "rows": [dict(zip(head, row, strict=True)) for row in rows]},
        [table(head, rows)],
        options.json,
    )


if __name__ == "__main__":
    main()
