"""How well codebooks start: use and distortion of stage-3 starts on train and held-out bottleneck features.

    python -m benchmarks.codebook_start --runs runs/mini
    duotok bundle --unpack mini --runs released && python -m benchmarks.codebook_start --runs released --data WORK

Needs a trained stage 2. Distortion is the share of the features' variance that quantization loses before any training. Where it
is much lower on frames of the training set than on those of other recordings, everything that learns from codes learns from
better ones than it will ever get: stage 3 itself, renderers, language models.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.calling import mistakes_in_one_line, positive_int
from duotok.config import load_config
from duotok.model.tokenizer import Basis, Tokenizer
from duotok.shards.store import ShardStore
from duotok.tracks import TRACKS
from duotok.training.batches.crop_batches import CropBatches
from duotok.training.checkpoint import best
from duotok.training.stages.loading import load_tokenizer
from duotok.training.stages.stage3 import Stage3Config

Start = tuple[Basis, float, float]
STARTS: tuple[Start, ...] = (
    ("random", 1.0, 0.0), ("random", 0.85, 0.0), ("random", 0.7, 0.0), ("features", 1.0, 0.0),
    ("means", 1.0, 0.0), ("means", 1.0, 0.1), ("means", 1.0, 0.4),
)  # fmt: skip


@torch.no_grad()
def gather(tokenizer: Tokenizer, crops: CropBatches, batches: int) -> dict[str, Tensor]:
    """Hidden frames `[n, width]` of each track."""
    hidden: dict[str, list[Tensor]] = {name: [] for name in TRACKS}
    for index in range(batches):
        batch = crops.batch(index, range(crops.batch_size))
        found = tokenizer.lower(batch["mel"], batch["lengths"])
        for item, length, track in zip(found, batch["lengths"].tolist(), batch["track"].tolist(), strict=True):
            hidden[TRACKS[track]].append(item[:length])
    return {name: torch.cat(rows) for name, rows in hidden.items()}


@mistakes_in_one_line
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/mini"), help="folder of runs with stage2")
    parser.add_argument("--data", type=Path, help="WORK of `duotok data prepare` (default RUNS/data)")
    parser.add_argument("--config", default="mini/stage3", help="a YAML file, or a packaged recipe")
    parser.add_argument("--batches", type=positive_int, default=60, help="training batches of 6 x 10 s to fit on")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    data, config = options.data or options.runs / "data", load_config(Stage3Config, options.config)
    store, tokenizer = ShardStore(data / "shards", data / "derived"), load_tokenizer(best(options.runs / "stage2"))
    tokenizer.start_stage3()
    tokenizer.eval()
    features = {
        "train": gather(tokenizer, config.batches(store, "train"), options.batches),
        "validation": gather(tokenizer, config.batches(store, "validation"), 10),
    }
    rows = []
    for basis, scale, noise in STARTS:
        for track in TRACKS:
            tokenizer.fit_quantizer(features["train"][track][None], track, scale=scale, basis=basis, noise=noise)
            for split, hidden in features.items():
                with torch.no_grad():
                    q = tokenizer.quantize(hidden[track][None], track)
                z = q.z[0]
                lost = float((q.z - q.z_q).square().sum() / (z - z.mean(0)).square().sum())
                rows.append(
                    {"start": basis, "scale": scale, "noise": noise, "track": track, "split": split, "frames": len(z),
                     "distinct": len(q.codes.unique()), "distortion": round(lost, 5)}
                )  # fmt: skip
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(map(str, row.values())) + " |")


if __name__ == "__main__":
    main()
