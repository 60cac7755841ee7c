"""Generation with the cache of keys and values against reading everything anew at every step, in the same run.

    python -m benchmarks.generation                          mini and 100m, 30 s; goal: 10 times as fast
    python -m benchmarks.generation --presets mini --every 1     every step without the cache, not one in 125
    python -m benchmarks.generation --count 8 --device cuda

Without the cache a step is timed at every `--every`th frame, its time interpolated in between, and the codes compared with those that
the cache gave. `anew` makes the logits of the last step only, which is the least that it can do; `forward` makes them for all
steps, as `MultiStreamLM.forward` does. The cached run is timed before and after, the mean counts. Models are untrained,
over 2 x 32,768 codes: the work is the same. `codes_equal`: share of the compared codes that are.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.calling import mistakes_in_one_line, positive_int, positive_number
from benchmarks.output import parser, show, table
from duotok.codec.contract import Stream
from duotok.lm.config import PRESETS, LMConfig
from duotok.lm.generate import generate
from duotok.lm.model import MultiStreamLM
from duotok.lm.protocols import parallel
from duotok.lm.saved import LanguageModel
from duotok.lm.streams import CodecIdentity
from duotok.tracks import TRACKS


def seconds_of(work: Callable[[], Any], device: str) -> float:
    """Wall time, with everything done that was asked of a GPU."""
    sync: Callable[[], Any] = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    sync()
    began = time.perf_counter()
    work()
    sync()
    return time.perf_counter() - began


def measure(preset: str, options: Any) -> dict[str, Any]:
    """One preset: seconds with and without the cache."""
    codec = CodecIdentity("noise", "00" * 32, 25.0, 48_000, tuple(Stream(track, (options.codes,)) for track in TRACKS))
    torch.manual_seed(0)
    model = MultiStreamLM(LMConfig.model_validate({"preset": preset}), codec).eval().to(options.device)
    lm = LanguageModel(model, parallel(codec), options.seconds, Path(preset))
    seeds, frames = range(options.count), codec.frames(options.seconds)
    generate(lm, seeds, 0.4)
    made: list[Any] = []
    cached = [seconds_of(lambda: made.append(generate(lm, seeds, options.seconds)), options.device)]
    tokens = [song.tokens for song in made[0]]
    places = sorted({1, *range(options.every, frames, options.every), frames - 1})
    anew, forward, equal = [], [], []
    for place in places:
        again: list[Any] = []

        def step(place: int = place, again: list[Any] = again) -> None:
            given = {name: codes[:, :place] for name, codes in tokens[0].items()}
            again.extend(generate(lm, seeds, (place + 1) / codec.frame_rate, given, cache=False))

        anew.append(seconds_of(step, options.device))
        equal += [again[0].tokens[name][0, place] == tokens[0][name][0, place] for name in tokens[0]]
        sequence = torch.zeros(options.count, place + 1, len(codec.columns), dtype=torch.int64, device=options.device)
        with torch.inference_mode():
            forward.append(seconds_of(lambda z=sequence: model(z), options.device))  # type: ignore[misc]
    cached.append(seconds_of(lambda: made.append(generate(lm, seeds, options.seconds)), options.device))
    whole = [float(np.interp(range(frames), places, times).sum()) for times in (anew, forward)]
    mean = sum(cached) / len(cached)
    return {
        "preset": preset, "parameters": sum(p.numel() for p in model.parameters()), "cached_seconds": mean,
        "frames_a_second": frames * options.count / mean, "real_time": options.seconds * options.count / mean,
        "anew_seconds": whole[0], "forward_seconds": whole[1], "times_faster": whole[0] / mean,
        "times_faster_than_forward": whole[1] / mean, "codes_equal": float(np.mean(equal)),
    }  # fmt: skip


@mistakes_in_one_line
def main() -> None:
    assert __doc__ is not None
    options_of = parser(__doc__)
    options_of.add_argument("--presets", nargs="+", choices=list(PRESETS), default=["mini", "100m"])
    options_of.add_argument("--seconds", type=positive_number, default=30.0)
    options_of.add_argument("--count", type=positive_int, default=1, help="candidates at once (default %(default)s)")
    options_of.add_argument(
        "--every", type=positive_int, default=125, help="frames between timed steps without the cache"
    )
    options_of.add_argument("--codes", type=positive_int, default=32_768, help="of each codebook")
    options = options_of.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for preset in options.presets:
        rows.append(measure(preset, options))
        print(f"{preset}: {rows[-1]['times_faster']:.1f} times as fast with the cache", file=sys.stderr)
    conditions = {
        "date": date.today().isoformat(), "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu", "threads": options.threads,
        "cpus": os.cpu_count(), "load_average": round(os.getloadavg()[0], 2), "seconds": options.seconds,
        "count": options.count, "every": options.every, "codes": options.codes,
    }  # fmt: skip
    show(
        {"conditions": conditions, "rows": rows},
        [table(list(rows[0]), [list(row.values()) for row in rows])],
        options.json,
    )


if __name__ == "__main__":
    main()
