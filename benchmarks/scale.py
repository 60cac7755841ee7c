"""What a corpus costs, from what an hour of music costs: a simulation of the pipeline, and tables by formula.

    python -m benchmarks.scale simulate speed.json      what `python -m benchmarks.bulk speed` measured, beside what is simulated
    python -m benchmarks.scale count --model mini       operations for a second of music: separator and encoder
    python -m benchmarks.scale plan --songs 1000000 --minutes 4 --reading 40 --encoding 900 --price 0.04 --devices 1 64

A reader takes `reading` seconds for an hour of music, a device `encoding` seconds; between them a shelf of so many songs, as in
`duotok.bulk.engines`. plan: songs x minutes / 60 hours; devices x 3600 x 24 / encoding hours a day; devices that one core's readers feed:
encoding / reading; bytes a frame as measured.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.calling import mistakes_in_one_line, number_from_0, positive_int, positive_number
from benchmarks.output import table
from duotok.bulk.listing import Listing
from duotok.bulk.sources import songs
from duotok.clock import ANALYSIS_RATE, FRAME_RATE, SAMPLE_RATE
from duotok.codec.duotok import DuoTok
from duotok.errors import DuoTokError
from duotok.separation.separator import MiniSeparator

BYTES_A_FRAME = 3.75
"""Of both tracks together, in shards of the bundled model's tokens (docs/scale.md)."""


def simulate(hours: Sequence[float], reading: float, encoding: float, readers: int, devices: int, shelf: int) -> float:
    """Seconds from the first song's beginning on a device to the last one's end.

    hours: of each song, in order; reading, encoding: seconds for an hour; shelf: songs that may be read and not yet begun.
    """
    free_readers, free_devices = [0.0] * readers, [0.0] * devices
    begun: list[float] = []
    """When each song began on a device: a reader may begin song n once song n - shelf has."""
    first = None
    for n, length in enumerate(hours):
        start = heapq.heappop(free_readers)
        if n >= shelf + readers:
            start = max(start, begun[n - shelf - readers])
        read = start + reading * length
        heapq.heappush(free_readers, read)
        at = max(read, heapq.heappop(free_devices))
        first = at if first is None else first
        begun.append(at)
        heapq.heappush(free_devices, at + encoding * length)
    return max(free_devices) - (first or 0.0)


def lengths(source: str) -> list[float]:
    """Hours of each song of a source."""
    from duotok.audio.io import probe

    found = []
    for entry in songs([source], Listing()):
        if not entry.problem:
            info = probe(Path(next(iter(entry.sources.values())).uri))
            found.append(info.n_samples / info.rate / 3600)
    return found


def compare(measured: dict[str, object], hours: Sequence[float]) -> list[list[object]]:
    """Rows: workers, hours a day measured and simulated with the costs of the same run."""
    rows: list[list[object]] = []
    for workers in itertools.count(1):
        facts = measured.get(f"{workers} workers")
        if not isinstance(facts, dict):
            if workers > 64:
                return rows
            continue
        reading = float(measured["reading"])  # type: ignore[arg-type]
        span = simulate(hours, reading, facts["encoding"], 1, workers, 2 * workers + 1)
        rows.append([workers, facts["hours a day"], 24 * 3600 * sum(hours) / span, facts["share"], facts["encoding"]])
    return rows


def count(model: str) -> dict[str, float]:
    """GFLOP for a second of music."""
    codec = DuoTok.from_pretrained(model)
    frames = codec.config.codec.plan.window
    kept = (frames - 2 * codec.config.codec.plan.context) / FRAME_RATE
    samples = round(frames / FRAME_RATE * ANALYSIS_RATE)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        codec.encode_mel(codec.mel(torch.randn(2, samples + 2 * codec.mel.margin), margins=True), torch.arange(2))
    result = {"encoder": counter.get_total_flops() / kept / 1e9}
    if isinstance(codec.separator, MiniSeparator):
        separator = codec.separator
        with FlopCounterMode(display=False) as counter:
            separator.estimates(torch.randn(1, 2, separator.chunk), ("vocals",))
        result["separator"] = counter.get_total_flops() / ((separator.chunk - separator.overlap) / SAMPLE_RATE) / 1e9
    return {name: round(value, 2) for name, value in result.items()}


def number(value: float) -> str:
    """Three digits, or all before the point: of a small corpus too, nothing is 0."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def plan(options: argparse.Namespace) -> str:
    """Hours, bytes, and a row for each number of devices."""
    hours = options.songs * options.minutes / 60
    frames = hours * 3600 * FRAME_RATE
    rows = []
    for devices in options.devices:
        days = hours * options.encoding / devices / 86_400
        cores = devices * options.reading / options.encoding
        rows.append(
            [
                devices,
                number(days),
                math.ceil(cores),
                number(hours * options.encoding / 3600 * options.price),
            ]
        )
    shards, read = number(frames * options.bytes / 1e9), number(hours * options.megabytes / 1e6)
    head = f"{number(hours)} hours; {shards} GB of shards; read {read} TB"
    return head + "\n\n" + table(("devices", "days", "cores that read", "money"), rows)


def measured_in(path: Path | None) -> dict[str, object]:
    """What `benchmarks.bulk speed` printed. Raises DuoTokError for anything else."""
    made = "make it with: python -m benchmarks.bulk speed FOLDER > speed.json"
    if path is None:
        raise DuoTokError(f"simulate needs a file of measurements; {made}")
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DuoTokError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'no JSON'}); {made}") from None
    if not isinstance(facts, dict) or "reading" not in facts:
        raise DuoTokError(f"{path}: no measurements of speed; {made}")
    return facts


@mistakes_in_one_line
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["simulate", "count", "plan"])
    parser.add_argument("measured", nargs="?", type=Path)
    parser.add_argument("--source", default="../shared/audio/validation")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--songs", type=positive_number, default=1e6)
    parser.add_argument("--minutes", type=positive_number, default=4.0)
    parser.add_argument("--devices", type=positive_int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--reading", type=positive_number, help="core seconds for an hour of music")
    parser.add_argument("--encoding", type=positive_number, help="device seconds for an hour of music")
    parser.add_argument("--price", type=number_from_0, default=1.0, help="of an hour of a device")
    parser.add_argument("--bytes", type=positive_number, default=BYTES_A_FRAME, help="of a frame in the shards")
    parser.add_argument(
        "--megabytes", type=positive_number, default=58.0, help="of an hour of music as it is stored; 58: 128 kbit/s"
    )
    options = parser.parse_args()
    if options.what == "count":
        print(json.dumps(count(options.model)))
    elif options.what == "simulate":
        rows = compare(measured_in(options.measured), lengths(options.source))
        print(
            table(("workers", "hours a day, measured", "simulated", "share of the model", "seconds for an hour"), rows)
        )
    else:
        if options.reading is None or options.encoding is None:
            raise DuoTokError("plan needs --reading and --encoding: python -m benchmarks.bulk speed measures them")
        print(plan(options))


if __name__ == "__main__":
    main()
