"""How much of `duotok tokenize` is the model, and what it needs as songs and corpora grow.

    python -m benchmarks.bulk speed music/ --workers 1 2 --turns 3     beside a loop of DuoTok.encode, in turn; seconds of each part
    python -m benchmarks.bulk memory --minutes 5 180 --loop a.opus     peak memory of a song of so many minutes, each in a process of its own
    python -m benchmarks.bulk listing --entries 1000000                a list and a folder of so many names
    python -m benchmarks.bulk corpus --entries 100 1000 10000          short sounds: CPU time a song, by the size of the corpus
    python -m benchmarks.bulk corpus --entries 1000 100000 --without-model    all but reading and encoding

speed: "share" is the seconds in the model (separator and encoder) of all processes over (processes x seconds from the first song's
beginning to the last one's end), so starting processes and loading the model do not count; "of its parts" counts reading too, whose
processes want the same cores where there are no more than workers. Ratios are those of runs of one turn.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from benchmarks.calling import mistakes_in_one_line, positive_int, positive_number
from duotok.audio.io import stream
from duotok.bulk.encoding import packed
from duotok.bulk.engines import Job, LocalPipeline, Model, Pipeline, Result, Times
from duotok.bulk.listing import Listing
from duotok.bulk.plan import Plan
from duotok.bulk.planning import listed
from duotok.bulk.preparing import prepare
from duotok.bulk.settings import Settings, Summary
from duotok.bulk.sources import songs
from duotok.bulk.tokenizing import tokenize
from duotok.clock import FRAME_SAMPLES, SAMPLE_RATE
from duotok.codec.duotok import DuoTok
from duotok.errors import DuoTokError
from duotok.lm.streams import codec_identity


def peak_mb() -> float:
    """Of this process so far. Linux's own figure where there is one: what getrusage tells is inherited from who started it."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(source: str, place: Path, codec: DuoTok, model: str, workers: int) -> tuple[Summary, Times]:
    """The local engine, in processes of its own even for one worker."""
    pipeline = LocalPipeline(Model(model, codec.model_hash), ["cpu"] * workers, 1, apart=True)
    return tokenize([source], place, codec, lambda scratch: pipeline, Settings()), pipeline.times


def naive(source: str, codec: DuoTok) -> tuple[float, float]:
    """A loop over the songs: seconds of the clock, and of music."""
    began, music = time.monotonic(), 0.0
    for entry in songs([source], Listing()):
        if not entry.problem:
            files = {role: place.uri for role, place in entry.sources.items()}
            tokens = codec.encode(
                files.get("mix"), vocals=files.get("vocals"), accompaniment=files.get("accompaniment")
            )
            music += tokens.seconds
    return time.monotonic() - began, music


def parts(source: str, scratch: Path, codec: DuoTok) -> dict[str, float]:
    """Seconds for an hour of music that reading takes (fetch, hash, decode, filter, put on disk)."""
    began, music = time.process_time(), 0.0
    for entry in songs([source], Listing()):
        if entry.problem:
            continue
        payload = {
            "sources": {role: list(place) for role, place in entry.sources.items()}, "marks": entry.marks, "separates": True,
            "highpass": codec.config.codec.highpass_hz, "scratch": str(scratch),
        }  # fmt: skip
        facts = prepare(payload)
        music += facts["seconds"]
        Path(facts["file"]).unlink()
    return {"reading": 3600 * (time.process_time() - began) / music}


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Turns of the naive loop and of each number of workers."""
    codec = DuoTok.from_pretrained(options.model)
    naive_seconds: list[float] = []
    found: dict[int, list[dict[str, float]]] = {workers: [] for workers in options.workers}
    with tempfile.TemporaryDirectory(prefix="duotok-bulk-") as name:
        costs = parts(options.source, Path(name), codec)
        for turn in range(options.turns):
            seconds, music = naive(options.source, codec)
            naive_seconds.append(seconds)
            for workers in options.workers:
                summary, times = run(options.source, Path(name) / f"{turn}-{workers}", codec, options.model, workers)
                model = 3600 * times.model / summary.seconds
                found[workers].append({
                    "of its parts": (costs["reading"] + model) / (workers * 3600 * times.span / summary.seconds),
                    "share": times.model / (workers * times.span), "busy": times.encoding / (workers * times.span),
                    "faster than the loop": seconds / times.span, "model": model,
                    "encoding": 3600 * times.encoding / summary.seconds, "hours a day": 24 * summary.seconds / times.span,
                })  # fmt: skip
    rows = {
        f"{workers} workers": {key: round(statistics.median(row[key] for row in turns), 3) for key in turns[0]}
        for workers, turns in found.items()
    }
    loop = {"seconds for an hour": round(3600 * statistics.median(naive_seconds) / music, 1)}
    return {
        "music": round(music, 1),
        "turns": options.turns,
        "reading": round(costs["reading"], 2),
        "loop": loop,
        **rows,
    }


def blocks_of(loop: Path | None) -> Iterator[np.ndarray]:
    """Sound at 48 kHz without end, `[samples, 2]` at a time: a song over and over, or tones and noise."""
    rng = np.random.default_rng(0)
    while True:
        for block in stream(loop, 48_000, 2, 10.0) if loop else ():
            yield block.numpy().T
        if loop is None:
            tone = 0.2 * np.sin(2 * np.pi * rng.choice([220.0, 330.0, 440.0]) * np.arange(480_000) / 48_000)
            yield (tone[:, None] + 0.002 * rng.standard_normal((480_000, 2))).astype(np.float32)


def generated(path: Path, minutes: float, loop: Path | None = None) -> Path:
    """A song of so many minutes, written in blocks."""
    left = round(minutes * 60 * 48_000)
    with soundfile.SoundFile(path, "w", 48_000, 2, "PCM_16", format="FLAC") as file:
        for block in blocks_of(loop):
            file.write(block[:left])
            left -= len(block)
            if left <= 0:
                return path
    return path


def one_song(options: argparse.Namespace) -> dict[str, Any]:
    """A song of `minutes` through both steps in this process."""
    with tempfile.TemporaryDirectory(prefix="duotok-bulk-") as name:
        folder = Path(name) / "music"
        folder.mkdir()
        names = ["s.vocals.flac", "s.accompaniment.flac"] if options.stems else ["s.flac"]
        for number, name_of_track in enumerate(names):
            generated(folder / name_of_track, options.minutes[0], options.loop[number] if options.loop else None)
        codec = DuoTok.from_pretrained(options.model)
        before = peak_mb()
        began = time.monotonic()
        summary = tokenize(
            [str(folder)], Path(name) / "store", codec, lambda scratch: LocalPipeline(Model(options.model, codec.model_hash), ["cpu"])
        )  # fmt: skip
        assert summary.encoded == 1
        return {
            "minutes": options.minutes[0],
            "peak MB": round(peak_mb()),
            "before MB": round(before),
            "seconds": round(time.monotonic() - began, 1),
        }


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """`one_song` for each length, in a process of its own."""
    rows = []
    for minutes in options.minutes:
        command = [sys.executable, "-m", "benchmarks.bulk", "one", "--minutes", str(minutes), "--model", options.model]
        command += ["--stems"] if options.stems else []
        command += ["--loop", *map(str, options.loop)] if options.loop else []
        done = subprocess.run(command, stdout=subprocess.PIPE)
        if done.returncode:
            raise DuoTokError(f"{minutes:g} minutes: the process that tokenizes them failed, and says above why")
        rows.append(json.loads(done.stdout))
    return {"songs": rows, "ratio": round(rows[-1]["peak MB"] / rows[0]["peak MB"], 2)}


def listing(options: argparse.Namespace) -> dict[str, Any]:
    """Names only: no file of them is opened."""
    count = options.entries[0]
    with tempfile.TemporaryDirectory(prefix="duotok-bulk-") as name:
        place = Path(name)
        with (place / "songs.txt").open("w") as file:
            file.writelines(f"s3://bucket/music/{n % 1000:03d}/song-{n:07d}.mp3\n" for n in range(count))
        folder = place / "music"
        for n in range(count // 10):
            if n % 10_000 == 0:
                (folder / f"{n // 10_000:03d}").mkdir(parents=True)
            (folder / f"{n // 10_000:03d}" / f"song-{n:07d}.mp3").touch()
        before, rows = peak_mb(), {}
        for source in ("music", "songs.txt"):
            began = time.process_time()
            found = listed(
                place / f"{source}.parquet",
                songs([str(place / source)], Listing()),
                Plan(place / f"{source}.plan", 1000),
                Listing(),
            )
            again = time.process_time()
            Plan(place / f"{source}.plan", 1000).find(np.zeros(1, np.uint64))
            rows[source] = {"entries": len(found), "CPU seconds": round(again - began, 1), "peak MB": round(peak_mb())}
        return {"before MB": round(before), **rows}


class WithoutModel:
    """A pipeline that knows the codes of every song at once: what is left is listing, journal, shards, manifest."""

    def __init__(self, sizes: list[int], frames: int = 250) -> None:
        self.times, self.sizes, self.frames = Times(), sizes, frames

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Result]]:
        for job in jobs:
            rng = np.random.default_rng(job.number)
            codes = [torch.from_numpy(rng.integers(size, size=self.frames)) for size in self.sizes]
            sources = {role: f"{job.number:064x}" for role in job.payload["sources"]}
            yield job.number, {
                "codes": packed(codes), "sha256": sources, "marks": job.payload["marks"], "n_samples": self.frames * FRAME_SAMPLES,
                "gain_db": 0.0, "seconds": self.frames * FRAME_SAMPLES / SAMPLE_RATE,
            }  # fmt: skip


def short_sounds(folder: Path, count: int) -> None:
    """A tree of so many files of 0.1 s, in folders of a thousand; links, as far as a file system has them."""
    sound = 0.1 * np.random.default_rng(0).standard_normal((4800, 2))
    for number in range(count):
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.wav"
        if number % 1000 == 0:
            path.parent.mkdir(parents=True)
            soundfile.write(path, sound, 48_000)
        else:
            path.hardlink_to(path.with_name(f"{number - number % 1000:06d}.wav"))


def used(work: Callable[[], Summary]) -> tuple[Summary, float]:
    """What it returns, and the CPU seconds of this process."""
    began = time.process_time()
    summary = work()
    return summary, time.process_time() - began


def corpus(options: argparse.Namespace) -> dict[str, Any]:
    """Corpora of short sounds, each into a store of its own: the first run, and one that finds all done."""
    codec = DuoTok.from_pretrained(options.model)
    sizes = [size for stream in codec_identity(codec).streams for size in stream.codebook_sizes]
    rows = []
    for count in options.entries:
        with tempfile.TemporaryDirectory(prefix="duotok-bulk-") as name:
            music, store = Path(name) / "music", Path(name) / "store"
            short_sounds(music, count)

            def pipeline(scratch: Path) -> Pipeline:
                if options.without_model:
                    return WithoutModel(sizes)
                return LocalPipeline(Model(options.model, codec.model_hash), ["cpu"])

            first, seconds = used(lambda: tokenize([str(music)], store, codec, pipeline))  # noqa: B023
            again, second = used(lambda: tokenize([str(music)], store, codec, pipeline))  # noqa: B023
            assert (first.encoded, again.kept) == (count, count)
            rows.append({
                "songs": count, "ms a song": round(1000 * seconds / count, 3), "of it model": round(1000 * first.times.model / count, 3),
                "ms a song, all done": round(1000 * second / count, 3), "peak MB": round(peak_mb()),
            })  # fmt: skip
    return {"corpora": rows}


@mistakes_in_one_line
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bulk", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["speed", "memory", "listing", "corpus", "one"])
    parser.add_argument("source", nargs="?", default="../shared/audio/validation")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--workers", type=positive_int, nargs="+", default=[1, 2])
    parser.add_argument("--turns", type=positive_int, default=3)
    parser.add_argument("--minutes", type=positive_number, nargs="+", default=[5.0, 60.0])
    parser.add_argument("--stems", action="store_true", help="given stems: nothing is separated")
    parser.add_argument(
        "--loop", type=Path, nargs="+", help="a song to make it of, or vocals and accompaniment with --stems"
    )
    parser.add_argument("--without-model", action="store_true", help="corpus: codes are known at once")
    parser.add_argument("--entries", type=positive_int, nargs="+", default=[1_000_000])
    options = parser.parse_intermixed_args()  # the folder may come behind the options
    work: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
        "speed": speed, "memory": memory, "listing": listing, "corpus": corpus, "one": one_song,
    }  # fmt: skip
    print(json.dumps(work[options.what](options)))


if __name__ == "__main__":
    main()
