"""How fast batches come, and what share of its time a mini stage-1 trainer waits for them.

    python -m benchmarks.loader                         shards made of --minutes of --audio, in a temporary folder
    python -m benchmarks.loader --shards WORK/shards    your own shards, a folder or a URL

Stored: mel and chroma were derived beforehand; on the fly: every crop is decoded, resampled and transformed when it is
drawn. The load average is printed with the figures: on a machine that does other things at the same time they are too slow.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import duotok
from benchmarks.calling import mistakes_in_one_line, positive_int, positive_number
from benchmarks.output import parser, show, table
from duotok.data import catalog
from duotok.data.jobs import LocalEngine
from duotok.data.scan import run_scan
from duotok.data.segmenting import segment_all
from duotok.data.sharding import run_shards
from duotok.shards.features import TRACKS, Features, derive_features
from duotok.shards.store import ShardStore
from duotok.training.batches.crop_batches import CropBatches, CropConfig
from duotok.training.parts import Batches
from duotok.training.stage import Stage
from duotok.training.stages.stage1 import Stage1, Stage1Config


def shards_of(audio: Path, minutes: float, work: Path, workers: int) -> Path:
    """Shards of about `minutes` of a folder with INDEX.tsv, songs with both tracks first."""
    found = catalog.build(catalog.open_corpora([f"index={audio}"])).recordings
    chosen, left = [next(r for r in found if r.split == "validation")], 60 * minutes  # a stage wants both splits
    for recording in sorted(found, key=lambda r: (-len(r.audio), r.id)):
        if left > 0 and recording.seconds and recording.split == "train":
            chosen.append(recording)
            left -= recording.seconds
    catalog.write(work, catalog.Catalog(chosen))
    engine = LocalEngine(workers)
    run_scan(chosen, work, engine)
    run_shards(segment_all(work, engine=engine).segments, chosen, work, engine, shard_segments=32)
    return work / "shards"


def mini_stage1(store: ShardStore, batch_size: int, frames: int) -> Stage1:
    """The mini preset's stage 1 on every segment there is, ready for its first step."""
    config = Stage1Config(steps=1000, batch_size=batch_size, lr=1e-4, crops=CropConfig(frames=frames))
    stage = Stage1(config, store)
    stage.start()
    return stage


def waiting(stage: Stage, steps: int, workers: int, skip: int = 3) -> dict[str, float]:
    """Train for `steps` as the engine does, on the CPU: seconds a step, and the share of them spent waiting for its batch.

    workers: processes that prepare batches, 0 = the trainer itself; skip: steps before the clock starts.
    """
    parameters = [p for module in stage.modules.values() for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=stage.config.lr)
    context = "fork" if workers else None
    loader = iter(
        DataLoader(Batches(stage, 1, 0), batch_size=None, sampler=range(skip + steps), num_workers=workers,
                   prefetch_factor=4 if workers else None, multiprocessing_context=context)
    )  # fmt: skip
    waited = 0.0
    for step in range(skip + steps):
        if step == skip:
            waited, began = 0.0, time.perf_counter()
        before = time.perf_counter()
        parts = next(loader)
        waited += time.perf_counter() - before
        optimizer.zero_grad(set_to_none=True)
        for part in parts:
            stage.losses(part, step)["loss"].backward()
        optimizer.step()
    seconds = time.perf_counter() - began
    return {"seconds_per_step": seconds / steps, "waiting": waited / seconds}


def items_per_second(crops: CropBatches, batches: int) -> float:
    """Items that one process draws in a second."""
    crops.batch(0, range(crops.batch_size))
    began = time.perf_counter()
    for step in range(1, batches + 1):
        crops.batch(step, range(crops.batch_size))
    return batches * crops.batch_size / (time.perf_counter() - began)


def times_real_time(store: ShardStore, segments: int) -> float:
    """Seconds of sound whose mel, chroma and levels (of all tracks it has) one process computes in a second."""
    features, sound = Features(store), 0.0
    began = time.perf_counter()
    for index in store.select("train", types=("mix", "vocals", "accompaniment", "instrumental"))[:segments]:
        for track in set(TRACKS) & set(store.tracks(index)):
            features(index, track)
        sound += store.segments[index].segment.seconds
    return sound / (time.perf_counter() - began)


def measure(url: str | Path, derived: Path, options: Any) -> dict[str, Any]:
    bare, store = ShardStore(url), ShardStore(url, derived)
    derive_features(store, workers=options.workers)
    rows = []
    for name, found in (("stored", store), ("on the fly", bare)):
        stage = mini_stage1(found, options.batch_size, options.frames)
        row: dict[str, Any] = {"features": name, "items_per_second": items_per_second(stage.train_crops, options.steps)}
        for workers in (0, 1):
            row[f"{workers} workers"] = waiting(stage, options.steps, workers)
        rows.append(row)
    return {
        "hours": float(store.frames.sum()) / 25 / 3600,
        "segments": len(store),
        "features_times_real_time": times_real_time(bare, 16),
        "rows": rows,
        "conditions": {
            "date": date.today().isoformat(), "duotok": duotok.__version__, "torch": torch.__version__,
            "threads": torch.get_num_threads(), "cpus": os.cpu_count(), "load_average": round(os.getloadavg()[0], 2),
            "batch_size": options.batch_size, "frames": options.frames,
        },
    }  # fmt: skip


@mistakes_in_one_line
def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--shards", help="folder or URL of shards")
    options.add_argument(
        "--minutes", type=positive_number, default=30.0, help="sound to make shards of when none are given"
    )
    options.add_argument("--steps", type=positive_int, default=20)
    options.add_argument("--batch-size", type=positive_int, default=6)
    options.add_argument("--frames", type=positive_int, default=256)
    options.add_argument("--workers", type=positive_int, default=2, help="processes that make shards and features")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        url = chosen.shards or shards_of(chosen.audio, chosen.minutes, work, chosen.workers)
        result = measure(url, work / "derived", chosen)
    rows = [
        [row["features"], row["items_per_second"], row["0 workers"]["seconds_per_step"],
         100 * row["0 workers"]["waiting"], row["1 workers"]["seconds_per_step"], 100 * row["1 workers"]["waiting"]]
        for row in result["rows"]
    ]  # fmt: skip
    head = ["features", "items / s", "s / step, no worker", "waiting %", "s / step, one worker", "waiting %"]
    summary = (
        f"{result['segments']} segments, {result['hours']:.2f} h; mel, chroma and levels of all tracks at "
        f"{result['features_times_real_time']:.0f} x real time in one process"
    )
    show(result, [summary, table(head, rows)], chosen.json)


if __name__ == "__main__":
    main()
