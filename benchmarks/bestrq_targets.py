"""How many codes the targets of stage 1 use, and what they depend on, by the whitening before the random projection.

    python -m benchmarks.bestrq_targets --mels FOLDER

FOLDER: any tree of `*mel*.npy`, normalised log-mel `[frames at 100 Hz, 128]`. Crops of 10 s are drawn in proportion to
duration (files of less are left out); statistics are fitted on half of the files, all else is measured on the others.

    batch        codes effectively used by the masked frames of one batch (perplexity), mean over batches
    all          the same over all batches together
    top          share of the most frequent code
    R2 loudness  share of a frame's loudness (mean log-mel) that its code tells, on frames not used for the code's mean
    -6 dB        share of frames that keep their code when the sound is 6 dB quieter
    next         share of frames that have the code of the frame before
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.calling import mistakes_in_one_line, positive_int
from duotok.audio.features import MEL_MEAN, MEL_STD, POWER_FLOOR
from duotok.errors import ConfigError
from duotok.model.bestrq import BestRQConfig, RandomProjectionQuantizer, span_mask

CROP = 1000
SILENCE = (math.log(POWER_FLOOR) - MEL_MEAN) / MEL_STD
SIX_DB = math.log(10**0.6) / MEL_STD
WHITENINGS = (("none", 1.0), ("bins", 1.0), ("full", 1e-1), ("full", 1e-2), ("full", 1e-3), ("full", 1e-4))


def crops(files: list[Path], count: int, seed: int) -> Tensor:
    """`count` crops `[count, CROP, n_mels]` drawn in proportion to the files' duration."""
    rng = np.random.default_rng(seed)
    mels = [np.load(path, mmap_mode="r", allow_pickle=False) for path in files]
    frames = np.array([max(0, len(mel) - CROP) for mel in mels], dtype=np.float64)
    if not frames.any():
        raise ConfigError(f"none of {len(files)} mels is longer than {CROP} frames")
    found = []
    while len(found) < count:
        mel = mels[rng.choice(len(mels), p=frames / frames.sum())]
        start = int(rng.integers(len(mel) - CROP + 1))
        found.append(torch.from_numpy(np.array(mel[start : start + CROP], dtype=np.float32)))
    return torch.stack(found)


def perplexity(codes: Tensor, size: int) -> float:
    share = torch.bincount(codes, minlength=size).double() / len(codes)
    return float(torch.special.entr(share).sum().exp())


def told(codes: Tensor, values: Tensor, size: int) -> float:
    """R2 of `values [crops, frames]` by the mean of their code in the even crops, measured in the odd ones."""
    fit, test = codes[::2].flatten(), codes[1::2].flatten()
    known, truth = values[::2].flatten(), values[1::2].flatten()
    count = torch.bincount(fit, minlength=size)
    means = torch.bincount(fit, known, minlength=size) / count.clamp_min(1)
    guess = torch.where(count[test] > 0, means[test], known.mean())
    return float(1 - (truth - guess).square().sum() / (truth - truth.mean()).square().sum())


def measure(train: Tensor, test: Tensor, whitening: str, floor: float, batch: int) -> dict[str, object]:
    config = BestRQConfig()
    quantizer = RandomProjectionQuantizer(train.shape[2], config)
    if whitening != "none":
        quantizer.fit(train, whitening, floor)  # type: ignore[arg-type]
    n, frames, size = len(test), CROP // 4, config.codebook_size
    every = torch.ones(n, frames, dtype=torch.bool)
    codes = quantizer(test, every)[:, 0].view(n, frames)
    quiet = quantizer((test - SIX_DB).clamp_min(SILENCE), every)[:, 0].view(n, frames)
    mask = span_mask(n, frames, config.span_frames, config.mask_probability, None, torch.Generator().manual_seed(0))
    parts = [perplexity(codes[i : i + batch][mask[i : i + batch]], size) for i in range(0, n, batch)]
    loudness = test.mean(2).view(n, frames, 4).mean(2)
    return {
        "whitening": whitening, "floor": floor if whitening == "full" else "", "batch": round(sum(parts) / len(parts)),
        "all": round(perplexity(codes.flatten(), size)), "distinct": len(codes.unique()),
        "top": round(float(torch.bincount(codes.flatten()).max()) / codes.numel(), 3),
        "R2 loudness": round(told(codes, loudness, size), 3), "-6 dB": round(float((codes == quiet).float().mean()), 3),
        "next": round(float((codes[:, 1:] == codes[:, :-1]).float().mean()), 3),
    }  # fmt: skip


@mistakes_in_one_line
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mels", type=Path, required=True)
    parser.add_argument("--exclude", default="generated", help="leave out files with this in their path")
    parser.add_argument("--batch", type=positive_int, default=8, help="crops of 10 s in a batch")
    parser.add_argument("--batches", type=positive_int, default=24)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = sorted(path for path in options.mels.rglob("*mel*.npy") if options.exclude not in str(path))
    if len(found) < 2:
        raise ConfigError(f"{options.mels}: no *mel*.npy files below it")
    order = np.random.default_rng(0).permutation(len(found))
    halves = [[found[i] for i in order[k::2]] for k in (0, 1)]
    train, test = (crops(half, options.batch * options.batches, seed) for seed, half in enumerate(halves))
    rows = [measure(train, test, whitening, floor, options.batch) for whitening, floor in WHITENINGS]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(map(str, row.values())) + " |")


if __name__ == "__main__":
    main()
