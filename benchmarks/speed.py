"""Real-time factors of a 30 s song: seconds of work for a second of music, best and median of several runs; and memory.

    python -m benchmarks.speed                       the demo song, or --song / --vocals --accompaniment
    python -m benchmarks.speed --threads 1 --repeat 5

Models are loaded and run once before the clock starts. The load average is printed with the figures: on a machine that
does other things at the same time they are too slow. The processor's own time, with --threads 1, is not: it counts only
while this process runs.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.calling import mistakes_in_one_line, positive_int, positive_number
from benchmarks.output import conditions, parser, show, table
from duotok.audio.io import read
from duotok.clock import SAMPLE_RATE
from duotok.codec.duotok import DuoTok
from duotok.demo.report import demo_song
from duotok.errors import DuoTokError
from duotok.renderer.samplers import SAMPLERS


def song(options: Any) -> dict[str, torch.Tensor]:
    """vocals and accompaniment `[2, samples]`, 30 s (repeated when the song is shorter)."""
    if options.vocals and options.accompaniment:
        files = (options.vocals, options.accompaniment)
    else:
        try:
            files = demo_song().truth
        except DuoTokError:
            files = None
    if files is None:
        name = "Potassium"  # held out by name
        files = tuple(options.audio / "dual" / f"{name}.{track}.opus" for track in ("vocals", "accompaniment"))
    n = round(options.seconds * SAMPLE_RATE)
    sounds = []
    for file in files:
        sound = read(file, SAMPLE_RATE, 2)
        sounds.append(sound.repeat(1, -(-n // sound.shape[1]))[:, :n])
    return {"vocals": sounds[0], "accompaniment": sounds[1], "mix": sounds[0] + sounds[1]}


def clocked(work: Callable[[], object], repeat: int) -> list[tuple[float, float]]:
    """Seconds, and processor seconds of all threads, of `repeat` runs after one that does not count."""
    work()
    taken = []
    for _ in range(repeat):
        began, used = time.perf_counter(), time.process_time()
        work()
        taken.append((time.perf_counter() - began, time.process_time() - used))
    return taken


@mistakes_in_one_line
def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--vocals", type=Path)
    arguments.add_argument("--accompaniment", type=Path)
    arguments.add_argument("--seconds", type=positive_number, default=30.0)
    arguments.add_argument("--repeat", type=positive_int, default=3)
    arguments.add_argument("--steps", type=positive_int, help="of decoding; default: the bundle's")
    arguments.add_argument("--sampler", choices=list(SAMPLERS))
    options = arguments.parse_args()
    if (options.vocals is None) != (options.accompaniment is None):
        arguments.error("give both, --vocals and --accompaniment, or neither")
    torch.set_num_threads(options.threads)
    model = DuoTok.from_pretrained(options.model, options.device)
    sounds = song(options)
    tokens = model.encode(vocals=sounds["vocals"], accompaniment=sounds["accompaniment"])
    decoding = (
        f"decode the mix, {options.steps or model.config.codec.steps} x {options.sampler or model.config.codec.sampler}"
    )
    jobs: dict[str, Callable[[], object]] = {
        "encode, stems given": lambda: model.encode(vocals=sounds["vocals"], accompaniment=sounds["accompaniment"]),
        "encode, with separation": lambda: model.encode(sounds["mix"]),
        decoding: lambda: model.decode(tokens, steps=options.steps, sampler=options.sampler),
    }
    if model.separator is None:
        del jobs["encode, with separation"]
    seconds = {name: clocked(work, options.repeat) for name, work in jobs.items()}
    rows = [
        {
            "job": name,
            "best": min(wall for wall, _ in taken) / options.seconds,
            "median": statistics.median(wall for wall, _ in taken) / options.seconds,
            "processor": min(used for _, used in taken) / options.seconds,
        }
        for name, taken in seconds.items()
    ]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    result = {
        "peak_gigabytes": peak,
        "conditions": conditions(model, options.threads),
        "seconds": options.seconds,
        "real_time_factors": rows,
    }
    head = [f"{options.seconds:g} s of music", "best", f"median of {options.repeat}", "processor time, best"]
    cells = [
        [row["job"], f"{row['best']:.3f} x real time", f"{row['median']:.3f} x", f"{row['processor']:.3f} x"]
        for row in rows
    ]
    show(result, [table(head, cells), f"peak memory of all that: {peak:.1f} GB"], options.json)


if __name__ == "__main__":
    main()
