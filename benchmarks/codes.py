"""How much of the codebooks real (and generated) music uses: utilization and normalized entropy of each track.

    python -m benchmarks.codes                          recordings of ../shared/audio that have stems or one track
    python -m benchmarks.codes FOLDER...                any folders: stem pairs, `duotok songs` folders
    python -m benchmarks.codes --data runs/mini/data    the segments of prepared shards, training and validation alike
    python -m benchmarks.codes FOLDER --separate        folders of mixed songs (slower)

The figures are plug-in estimates over all frames, silence included; `sounding` leaves frames under -60 dBFS out. What
ideal (uniform) codes would show in a sample of the same size is printed beside them: an hour is 90,000 tokens, in which
even they would use only 0.936 of 32,768 entries.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.calling import int_from_0, mistakes_in_one_line, positive_number
from benchmarks.output import conditions, parser, show, table
from benchmarks.recordings import recordings
from duotok.audio.io import probe, read
from duotok.clock import FRAME_SAMPLES, SAMPLE_RATE
from duotok.codec.duotok import DuoTok
from duotok.errors import AudioError
from duotok.evaluation.codes import CodeUsage
from duotok.shards.store import ShardStore
from duotok.tracks import TRACKS

Piece = tuple[str, dict[str, Tensor]]
SILENT_POWER = 10 ** (-60 / 10)


def of_folders(folders: list[Path], piece: float, separate: bool, rng: random.Random) -> Iterator[Piece]:
    """(kind, sounds) of every recording, in random order; one excerpt of `piece` seconds each."""
    entries = recordings(*folders, splits=("train", "validation"))
    rng.shuffle(entries)
    for entry in entries:
        wanted = {stem: path for stem, path in entry.audio.items() if stem in TRACKS}
        if not wanted and separate and "mix" in entry.audio:
            wanted = {"mix": entry.audio["mix"]}
        if not wanted:
            continue
        try:
            length = min(probe(path).seconds for path in wanted.values())
            start = rng.uniform(0.0, max(0.0, length - piece))
            sounds = {s: read(p, SAMPLE_RATE, 2, start=start, seconds=piece) for s, p in wanted.items()}
        except AudioError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        yield entry.kind, sounds


def of_shards(data: Path, separate: bool, rng: random.Random) -> Iterator[Piece]:
    """(kind, sounds) of every segment of prepared shards, in random order."""
    store = ShardStore(data / "shards", data / "derived")
    indices = store.select("train", "validation")
    rng.shuffle(indices)
    for index in indices:
        wanted = [track for track in TRACKS if track in store.tracks(index)]
        if not wanted and separate:
            wanted = ["mix"]
        if wanted:
            yield store.segments[index].segment.kind, {track: store.audio(index, track, channels=2) for track in wanted}


def sounding(sound: Tensor, frames: int) -> Tensor:
    """Which frames of `[channels, samples]` are not silent: bool `[frames]`."""
    mono = torch.nn.functional.pad(sound.mean(0), (0, frames * FRAME_SAMPLES - sound.shape[1]))
    return mono.reshape(frames, FRAME_SAMPLES).square().mean(1) > SILENT_POWER


@mistakes_in_one_line
def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("folders", nargs="*", type=Path, help="default: --audio")
    arguments.add_argument("--data", type=Path, help="WORK of `duotok data prepare` instead of folders: its segments")
    arguments.add_argument("--hours", type=positive_number, default=2.0, help="stop when each track has this much")
    arguments.add_argument("--piece", type=positive_number, default=60.0, help="seconds of a recording, at most")
    arguments.add_argument("--separate", action="store_true", help="use songs without stems as well")
    arguments.add_argument("--seed", type=int_from_0, default=0)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    model = DuoTok.from_pretrained(options.model, options.device)
    rng = random.Random(options.seed)
    if options.data:
        found = of_shards(options.data, options.separate, rng)
    else:
        found = of_folders(options.folders or [options.audio], options.piece, options.separate, rng)
    usage = {track: CodeUsage(size) for track, size in zip(TRACKS, model.codebook_sizes, strict=True)}
    heard = {track: CodeUsage(size) for track, size in zip(TRACKS, model.codebook_sizes, strict=True)}
    kinds: dict[str, dict[str, float]] = {}
    wanted = options.hours * 3600 * model.frame_rate
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f}%"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks = {track: bars.add_task(track, total=wanted) for track in TRACKS}
        for kind, sounds in found:
            if all(u.tokens >= wanted for u in usage.values()):
                break
            present = [track for track in TRACKS if track in sounds or "mix" in sounds]
            # What a track has beyond the others' share would only skew the kinds: leave full tracks alone.
            if all(usage[track].tokens >= wanted for track in present):
                continue
            if "mix" in sounds:
                tokens = model.encode(sounds["mix"])
            else:
                n = min(sound.shape[1] for sound in sounds.values())
                full = {track: sounds.get(track, torch.zeros(2, n))[:, :n] for track in TRACKS}
                tokens = model.encode(vocals=full["vocals"], accompaniment=full["accompaniment"])
            for track in present:
                codes = tokens.track(track)
                usage[track].add(codes)
                heard[track].add(codes[sounding(sounds.get(track, sounds.get("mix", codes)), len(codes))])
                share = kinds.setdefault(kind, dict.fromkeys(TRACKS, 0.0))
                share[track] += len(codes) / model.frame_rate / 60
                bars.update(tasks[track], completed=usage[track].tokens)
    rows: list[list[Any]] = []
    facts: dict[str, Any] = {}
    for track in TRACKS:
        for name, counted in (("all frames", usage[track]), ("sounding", heard[track])):
            f = counted.facts()
            facts.setdefault(track, {})[name] = f.as_dict()
            figures = (f.utilization, f.uniform_utilization, f.normalized_entropy, f.uniform_normalized_entropy)
            hours = f.tokens / model.frame_rate / 3600
            cells = [f"{hours:.2f}", f"{f.distinct:,}", *(f"{x:.3f}" for x in figures), f"{f.most_frequent_share:.2%}"]
            rows.append([track, name, *cells])
    result = {"conditions": conditions(model, options.threads), "codes": facts, "minutes_by_kind": kinds}
    head = ["track", "frames", "hours", "distinct", "utilization", "ideal", "normalized entropy", "ideal", "top code"]
    minutes = [[kind, *(f"{share[track]:.1f}" for track in TRACKS)] for kind, share in sorted(kinds.items())]
    show(result, [table(head, rows), table(["minutes of", *TRACKS], minutes)], options.json)


if __name__ == "__main__":
    main()
