"""The first losses of every stage at tiny size: what a change of structure must leave as it is.

python -m tests.training.golden             compare this checkout with golden.json
python -m tests.training.golden --write     make golden.json anew, after a change that is meant to change training
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from tests.shards.shard_maker import make_shards
from tests.training.conftest import segments
from tests.training.small import DIT, make

from duotok.shards.features import derive_features, derive_samples
from duotok.shards.store import ShardStore
from duotok.training.batches.derive import compute_codes, compute_latents
from duotok.training.batches.latent_data import condition_vectors
from duotok.training.checkpoint import best
from duotok.training.engine import train
from duotok.training.stage import Stage
from duotok.training.stages.loading import load_autoencoder, load_tokenizer
from duotok.training.stages.stage4 import Stage4, Stage4Config

GOLDEN = Path(__file__).with_name("golden.json")
STEPS = 20
STAGES = ("separator", "autoencoder", "stage1", "stage2", "stage3", "stage4")
TOLERANCE = 5e-3
"""Relative. Sums in another order differ by 1e-7, and five stages of twenty steps make more of it: 2e-3 on another processor."""


def measure(store: ShardStore, runs: Path) -> dict[str, list[float]]:
    """Each stage's training losses, twenty steps from the twenty steps of those before it."""
    torch.manual_seed(0)
    losses = {}
    for name in STAGES[:-1]:
        losses[name] = _losses(make(name, store, runs, steps=STEPS, save_every=1000), runs / name)
    losses["stage4"] = _losses(_stage4(store, runs), runs / "stage4")
    return losses


def _losses(stage: Stage, run: Path) -> list[float]:
    train(stage, run)
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row["loss"] for row in rows if row["kind"] == "train"]


def _stage4(store: ShardStore, runs: Path) -> Stage4:
    config: dict[str, Any] = dict(
        steps=STEPS, batch_size=2, lr=1e-3, warmup=1, crop_frames=16, encoder_window=40, device="cpu", log_every=1,
        dit=DIT.model_dump(mode="json"), sample_every=0, save_every=1000,
    )  # fmt: skip
    compute_latents(store, load_autoencoder(best(runs / "autoencoder")), str(best(runs / "autoencoder")))
    tokenizer = load_tokenizer(best(runs / "stage3"))
    compute_codes(store, tokenizer, 40, str(best(runs / "stage3")))
    return Stage4(Stage4Config.model_validate(config), store, condition_vectors(tokenizer, "vocals"))


def gaps(found: dict[str, list[float]]) -> dict[str, float]:
    """The largest relative difference from golden.json, by stage."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return {
        name: max(abs(a - b) / abs(b) for a, b in zip(found[name], values, strict=True))
        for name, values in golden.items()
    }


def main() -> int:
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    try:
        make_shards(folder / "shards", segments(), per_shard=6)
        store = ShardStore(folder / "shards", folder / "derived")
        derive_samples(store)
        derive_features(store)
        found = measure(store, folder / "runs")
    finally:
        shutil.rmtree(folder)
    if "--write" in sys.argv:
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return 0
    differences = gaps(found)
    for name, gap in differences.items():
        print(f"{name:12} {gap:.2e} {'' if gap <= TOLERANCE else 'CHANGED'}")
    return int(any(gap > TOLERANCE for gap in differences.values()))


if __name__ == "__main__":
    sys.exit(main())
