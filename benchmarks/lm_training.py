"""The language model's training step against the rate of large matrix products in the same run, and its evaluation.

    python -m benchmarks.lm_training                         mini and 100m, one piece of 30 s a step, fp32; goal 60 %
    python -m benchmarks.lm_training --presets 100m --items 4 --profile
    python -m benchmarks.lm_training --device cuda --items 10     bf16

Products and steps take turns, and the share is the median over the turns: on a machine that does other things at the same
time the seconds are too long, the share much less so. A multiply-add counts as two operations, attention as causal (half of
all pairs); norms, softmax, cross-entropy and the optimizer count as nothing done. Tokens are noise of 2 x 32,768 codes.
The last table: seconds that it takes to score an hour of tokens.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.calling import mistakes_in_one_line, positive_int, positive_number
from benchmarks.output import parser, show, table
from duotok.codec.contract import Stream
from duotok.lm.config import PRESETS
from duotok.lm.corpus import write_tokens
from duotok.lm.evaluate import score_songs
from duotok.lm.song import TokenizedSong
from duotok.lm.stage import LMStage, LMStageConfig
from duotok.lm.streams import CodecIdentity
from duotok.tracks import TRACKS
from duotok.training.cost.estimate import Trial, matmul_rate
from duotok.training.processes import join


def noise(folder: Path, size: int, seconds: float) -> Path:
    """A packed corpus of random codes: one song for training, one held out."""
    codec = CodecIdentity("noise", "00" * 32, 25.0, 48_000, tuple(Stream(track, (size,)) for track in TRACKS))
    rng = np.random.default_rng(0)
    frames = codec.frames(seconds)
    songs = [
        TokenizedSong(split, split, {track: rng.integers(0, size, (1, frames)).astype(np.int32) for track in TRACKS})
        for split in ("train", "validation")
    ]  # fmt: skip
    write_tokens(folder / "noise.parquet", codec, songs)  # type: ignore[arg-type]
    return folder / "noise.parquet"


def operations(stage: LMStage, items: int) -> float:
    """Floating-point operations of one step: twice the products forward again for their two gradients."""
    c, steps = stage.config.model, stage.length + 1
    width = c.hidden // c.heads
    layer = c.hidden * (2 * c.hidden + 2 * c.kv_heads * width + 3 * c.ffn) + 2 * c.hidden * steps / 2
    join = len(stage.lm.sizes) * c.code_width * c.hidden * (1 if c.embedding is None else 2)  # in, and out again
    heads = sum((size + 3) * c.code_width for size in stage.lm.sizes)
    return 3 * 2 * items * steps * (c.layers * layer + join + heads)


def measure(preset: str, data: Path, options: Any) -> dict[str, Any]:
    """Seconds and share of the matmul rate of one preset's step."""
    config = LMStageConfig.model_validate(
        {
            "steps": 1000, "batch_size": options.items, "data": data, "model": {"preset": preset}, "device": options.device,
            "precision": "bf16" if options.device == "cuda" else "fp32", "seconds": options.seconds,
        }
    )  # fmt: skip
    stage = LMStage(config)
    trial = Trial(stage, config, join(config))
    items = range(options.items)
    batch = {**stage.batch(0, items), "seeds": stage.seeds(0, items)}
    flops = operations(stage, options.items)
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    trial.step(batch, 0)
    rates, turns = [matmul_rate(trial.device, dtype)], []
    for turn in range(options.repeat):
        turns.append(trial.step(batch, 1 + turn))
        rates.append(matmul_rate(trial.device, dtype))
    near = [(a + b) / 2 for a, b in pairwise(rates)]
    found = {
        "preset": preset, "parameters": sum(p.numel() for p in stage.lm.parameters()), "tera_flop": flops / 1e12,
        "seconds": statistics.median(sum(turn) for turn in turns),
        "update_seconds": statistics.median(update for _, update in turns),
        "matmul_tera_flop_a_second": statistics.median(near) / 1e12,
        "share": statistics.median(flops / (sum(turn) * rate) for turn, rate in zip(turns, near, strict=True)),
        "share_without_update": statistics.median(flops / (turn[0] * rate) for turn, rate in zip(turns, near, strict=True)),
    }  # fmt: skip
    if options.profile:
        from benchmarks.training import profile

        found["profile"] = profile(trial, batch, options)
    song = stage.held_songs[0]
    began = time.perf_counter()
    score_songs(stage.lm, [song], stage.protocol, seconds=options.seconds, batch_size=options.items)
    found["evaluation_seconds_an_hour"] = (time.perf_counter() - began) * 3600 * 25 / song.frames
    return found


@mistakes_in_one_line
def main() -> None:
    assert __doc__ is not None
    options_of = parser(__doc__)
    options_of.add_argument("--presets", nargs="+", choices=list(PRESETS), default=["mini", "100m"])
    options_of.add_argument("--items", type=positive_int, default=1, help="pieces of a step (default %(default)s)")
    options_of.add_argument("--seconds", type=positive_number, default=30.0, help="of a piece (default %(default)s)")
    options_of.add_argument("--codes", type=positive_int, default=32_768, help="of each codebook")
    options_of.add_argument("--repeat", type=positive_int, default=5)
    options_of.add_argument("--profile", action="store_true", help="tables of where the time goes")
    options_of.add_argument("--rows", type=positive_int, default=15, help="of a profile")
    options = options_of.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = noise(Path(folder), options.codes, max(120.0, 4 * options.seconds))
        for preset in options.presets:
            rows.append(measure(preset, data, options))
            print(f"{preset}: {rows[-1]['share']:.0%} of the matmul rate", file=sys.stderr)
    conditions = {
        "date": date.today().isoformat(), "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu", "threads": options.threads,
        "cpus": os.cpu_count(), "load_average": round(os.getloadavg()[0], 2), "items": options.items,
        "seconds": options.seconds, "codes": options.codes, "repeat": options.repeat,
    }  # fmt: skip
    columns = ("preset", "parameters", "tera_flop", "seconds", "update_seconds", "matmul_tera_flop_a_second", "share",
               "share_without_update", "evaluation_seconds_an_hour")  # fmt: skip
    tables = [table(columns, [[row[column] for column in columns] for row in rows])]
    for row in rows:
        if "profile" in row:
            tables.append(f"{row['preset']}:\n" + table(("operation", "calls", "share"), row["profile"]))
    show({"conditions": conditions, "rows": rows}, tables, options.json)


if __name__ == "__main__":
    main()
