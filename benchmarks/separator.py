"""How well the separator does, in dB: SI-SDR of its estimates against the mix itself as estimate, and its speed.

    python -m benchmarks.separator mini --audio ../shared/audio
    python -m benchmarks.separator runs/mini/separator --audio ../shared/audio --json

MODEL is a bundle (name or folder), a training run or a checkpoint of one. The clips are all songs below --audio whose
vocals are known (`NAME.vocals.EXT` with `NAME.accompaniment.EXT`, or with drums, bass and other; further stems are
looked up by NAME in the whole folder) and that were not trained on: held out by song, or marked evaluation-only in
INDEX.tsv. The mix is the sum of the stems. SI-SDR (`SiSdr`) of whole clips, block by
block; decoding and scoring are not in the time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.calling import mistakes_in_one_line, number_from_0, positive_int, positive_number
from benchmarks.recordings import name as name_of
from benchmarks.recordings import recordings
from duotok.audio.io import stream
from duotok.codec.bundle import Bundle
from duotok.codec.hub import find_bundle
from duotok.config import parse
from duotok.errors import DuoTokError
from duotok.separation.bs_roformer import BSRoFormer, BSRoFormerConfig
from duotok.separation.measures import SiSdr
from duotok.separation.separator import MiniSeparator
from duotok.training.checkpoint import latest, load_module

RATE = 48_000
NAMES = ("vocals", "accompaniment", "drums", "bass", "other")
ADDENDS = ("drums", "bass", "other")


def load_model(name: str) -> BSRoFormer:
    """A separator out of a bundle, a run or a checkpoint."""
    folder = Path(name)
    if any(folder.glob("checkpoint-*")):
        folder = latest(folder)
    state = folder / "state.json"
    if state.is_file():
        values = json.loads(state.read_text(encoding="utf-8"))["config"]["model"]
        model = BSRoFormer(parse(BSRoFormerConfig, values, str(state)))
        load_module(folder / "separator.safetensors", model)
        return model.eval()
    module = Bundle(find_bundle(name)).load("separator")
    assert isinstance(module, BSRoFormer)
    return module


@dataclass
class Clip:
    """A song with known stems."""

    name: str
    stems: dict[str, Path] = field(default_factory=dict)

    def blocks(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """(mix, stems) block by block, all `[2, samples]`; ends with the shortest stem."""
        names = list(self.stems)
        for parts in zip(*(stream(self.stems[n], RATE, channels=2, block_seconds=10.0) for n in names), strict=False):
            size = min(part.shape[-1] for part in parts)
            sound = {name: part[:, :size] for name, part in zip(names, parts, strict=True)}
            if "accompaniment" not in sound:
                sound["accompaniment"] = torch.stack([sound[name] for name in ADDENDS]).sum(0)
            elif {"drums", "bass"} <= sound.keys():
                sound["other"] = sound["accompaniment"] - sound["drums"] - sound["bass"]
            yield sound["vocals"] + sound["accompaniment"], sound


def find_clips(audio: Path, everything: bool) -> list[Clip]:
    """Songs with true vocals and accompaniment; those trained on only when `everything`."""
    splits = ("train", "validation", "test") if everything else ("validation", "test")
    songs = [r for r in recordings(audio, splits=splits) if "vocals" in r.audio]
    found = [Clip(name_of(r), {stem: Path(path) for stem, path in r.audio.items() if stem in NAMES}) for r in songs]
    return [clip for clip in found if "accompaniment" in clip.stems or set(ADDENDS) <= clip.stems.keys()]


def measure(clip: Clip, separator: MiniSeparator) -> dict[str, object]:
    """Scores of one clip: for each known stem the mix as estimate, the separator, and the difference."""
    before: dict[str, SiSdr] = {}
    after: dict[str, SiSdr] = {}
    waiting: dict[str, Tensor] = {}
    samples, busy = 0, 0.0

    def mixes() -> Iterator[Tensor]:
        nonlocal waiting, samples
        for mix, sound in clip.blocks():
            samples += mix.shape[-1]
            for name, target in sound.items():
                before.setdefault(name, SiSdr()).add(mix, target)
            waiting = {n: torch.cat((waiting[n], s), dim=-1) if n in waiting else s for n, s in sound.items()}
            yield mix

    class Timed:
        """The separator's own time: what passes between asking for a block and handing it over is not counted."""

        def __init__(self) -> None:
            self.blocks, self.outside = iter(mixes()), 0.0

        def __iter__(self) -> Timed:
            return self

        def __next__(self) -> Tensor:
            start = time.perf_counter()
            try:
                return next(self.blocks)
            finally:
                self.outside += time.perf_counter() - start

    source = Timed()
    start = time.perf_counter()
    scoring = 0.0
    for pieces in separator.stream(source):
        since = time.perf_counter()
        size = pieces["vocals"].shape[-1]
        for name, target in waiting.items():
            after.setdefault(name, SiSdr()).add(pieces[name], target[:, :size])
        waiting = {name: target[:, size:] for name, target in waiting.items()}
        scoring += time.perf_counter() - since
    busy = time.perf_counter() - start - source.outside - scoring
    seconds = samples / RATE
    stems = {
        name: {
            "mix": round(before[name].decibels(), 2),
            "separator": round(after[name].decibels(), 2),
            "gain": round(after[name].decibels() - before[name].decibels(), 2),
        }
        for name in NAMES
        if name in before
    }
    return {
        "clip": clip.name,
        "seconds": round(seconds, 1),
        "real_time_factor": round(busy / seconds, 3),
        "stems": stems,
    }


def table(results: list[dict[str, object]]) -> str:
    """The scores as a markdown table."""
    lines = ["| clip | stem | mix as estimate, dB | separator, dB | gain, dB |", "|---|---|---|---|---|"]
    for result in results:
        for stem, s in result["stems"].items():  # type: ignore[attr-defined]
            lines.append(f"| {result['clip']} | {stem} | {s['mix']:.2f} | {s['separator']:.2f} | {s['gain']:+.2f} |")
    return "\n".join(lines)


@mistakes_in_one_line
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="bundle, run or checkpoint")
    parser.add_argument("--audio", type=Path, required=True, help="folder with stems")
    parser.add_argument("--all", action="store_true", help="also songs that were trained on")
    parser.add_argument("--threads", type=positive_int, default=2)
    parser.add_argument("--chunk", type=positive_number, default=4.0, help="seconds")
    parser.add_argument("--overlap", type=number_from_0, default=1.0, help="seconds")
    parser.add_argument("--json", action="store_true", help="print facts as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    separator = MiniSeparator(load_model(options.model), NAMES, options.chunk, options.overlap)
    clips = find_clips(options.audio, options.all)
    if not clips:
        raise DuoTokError(f"{options.audio}: no held-out song with known stems there; try --all")
    results = [measure(clip, separator) for clip in clips]
    if options.json:
        facts = {"model": options.model, "threads": options.threads, "chunk": options.chunk, "overlap": options.overlap}
        print(json.dumps(facts | {"clips": results}, indent=1))
    else:
        print(table(results))
        for result in results:
            print(f"{result['clip']}: {result['seconds']} s at {result['real_time_factor']} of real time")


if __name__ == "__main__":
    main()
