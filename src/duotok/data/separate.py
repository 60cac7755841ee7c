"""Separate: recordings that have only a mix get WORK/stems/ID/vocals.EXT + accompaniment.EXT at 48 kHz.

The stems have the time line of the mix's file: for a recording that is a part of a file (`start`) silence comes first. One
recording is one unit of work, computed on one thread on the CPU, so that the bytes depend neither on the number of workers
nor on the engine.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from duotok.audio.channels import PolarityFix
from duotok.audio.io import probe, stream
from duotok.clock import SAMPLE_RATE
from duotok.data.jobs import Engine, Outcome, Pending, Results, Unit, pending, run_units
from duotok.data.sources import fingerprint, local
from duotok.data.stem_files import EXTENSIONS, StemWriter, remove_stems, stems_in
from duotok.errors import AudioError, ConfigError
from duotok.files import sha256
from duotok.records import Recording
from duotok.separation.choose import SEPARATORS, separator_by_name, separator_stamp
from duotok.separation.chunked import ACCOMPANIMENT, VOCALS, ChunkedSeparator
from duotok.tracks import ACCOMPANIMENT_STEMS, TRACKS

LEDGER = Path("ledger") / "separate.jsonl"
FORMAT = 1  # of this step's files; a new number makes everything be separated again
KINDS = ("song", "music")
BLOCK_SECONDS = 10.0
NOTE_SECONDS = 15.0

Note = Callable[[str], None]


@dataclass(frozen=True)
class SeparationOptions:
    """Which separator (see `separator_by_name`), and how the stems are stored: extension flac (16 or 24 bits) or opus."""

    separator: str = "mini"
    weights: str | None = None
    config: str | None = None
    model: str = "htdemucs"
    device: str = "cpu"
    extension: str = "flac"
    bits: int = 16

    def __post_init__(self) -> None:
        if self.separator not in SEPARATORS:
            separator_by_name(self.separator)  # raises an error that lists the separators
        if self.extension not in EXTENSIONS or self.bits not in (16, 24):
            raise ConfigError(f"stems as {self.extension} of {self.bits} bits: use flac (16 or 24 bits) or opus")

    def open(self) -> ChunkedSeparator:
        """Load the separator."""
        return _opened(self.separator, self.weights, self.config, self.model, self.device)

    def stamp(self) -> str:
        return separator_stamp(self.separator, weights=self.weights, config=self.config, model=self.model)


@lru_cache(maxsize=1)
def _opened(name: str, weights: str | None, config: str | None, model: str, device: str) -> ChunkedSeparator:
    return separator_by_name(name, weights=weights, config=config, model=model, device=device)


def to_separate(recordings: Iterable[Recording]) -> list[Recording]:
    """The recordings of kind song and music that have a mix but no stems."""
    tracks = {*TRACKS, *ACCOMPANIMENT_STEMS}
    return [r for r in recordings if r.kind in KINDS and "mix" in r.audio and not tracks & r.audio.keys()]


def with_stems(recordings: Iterable[Recording], work: Path) -> list[Recording]:
    """The recordings, with the stems that were separated for them added to `audio`."""
    recordings = list(recordings)
    separable = {recording.id for recording in to_separate(recordings)}
    result = []
    for recording in recordings:
        stems = stems_in(work / "stems" / recording.id) if recording.id in separable else {}
        audio = recording.audio | {track: str(path) for track, path in stems.items()}
        result.append(dataclasses.replace(recording, audio=audio))
    return result


def separate_recording(payload: dict[str, Any]) -> dict[str, Any]:
    """The unit of work: separate one mix and write its stems. Raises AudioError for sound that cannot be read."""
    folder = Path(payload["folder"]) / payload["id"]
    remove_stems(folder)  # older stems must not outlive a mix that is damaged now
    options = SeparationOptions(**payload["options"])
    separator = options.open()
    start, stop = payload["start"], payload["stop"]
    began, samples = time.perf_counter(), 0
    with local(payload["mix"]) as path, _one_thread(options.device):
        channels = min(probe(path).channels, 2)
        blocks = stream(path, SAMPLE_RATE, channels, BLOCK_SECONDS, start, stop - start if stop else None, strict=True)
        fixed = map(PolarityFix().push, blocks)
        with StemWriter(folder, channels, options.extension, options.bits) as writer:
            for silence in _silence(channels, round(start * SAMPLE_RATE)):
                writer.write(silence, silence)
            for vocals, accompaniment in _pieces(separator, fixed, channels):
                if not bool(vocals.isfinite().all()):
                    raise AudioError(f"{path}: the separator gave no finite sound for it; try another")
                writer.write(vocals, vocals + accompaniment)
                samples += vocals.shape[-1]
        source = sha256(path)
    return {
        "samples": samples, "seconds": samples / SAMPLE_RATE, "channels": channels, "clipped": writer.clipped,
        "took": round(time.perf_counter() - began, 3), "extension": options.extension,
        "sha256": source,
    }  # fmt: skip


def _silence(channels: int, samples: int) -> Iterator[Tensor]:
    for first in range(0, samples, SAMPLE_RATE):
        yield torch.zeros(channels, min(SAMPLE_RATE, samples - first))


def _pieces(separator: ChunkedSeparator, blocks: Iterable[Tensor], channels: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(vocals, accompaniment) `[channels, n]`; for a mono mix the mean of the separator's two channels."""
    for piece in separator.stream(blocks):
        vocals, accompaniment = piece[VOCALS], piece[ACCOMPANIMENT]
        if channels == 1:
            vocals, accompaniment = vocals.mean(0, keepdim=True), accompaniment.mean(0, keepdim=True)
        yield vocals, accompaniment


class _one_thread:
    """On the CPU, compute on one thread, so that sums do not depend on the number of threads."""

    def __init__(self, device: str) -> None:
        self._threads = torch.get_num_threads() if device == "cpu" else 0

    def __enter__(self) -> None:
        if self._threads:
            torch.set_num_threads(1)

    def __exit__(self, *error: object) -> None:
        if self._threads:
            torch.set_num_threads(self._threads)


def separate_units(recordings: Sequence[Recording], work: Path, options: SeparationOptions) -> list[Unit]:
    """One unit for each recording of `to_separate`; another separator or a changed file changes the stamp of the unit."""
    chosen = to_separate(recordings)
    stamp = options.stamp() if chosen else ""
    files = {name: str(Path(path).absolute()) for name in ("weights", "config") if (path := getattr(options, name))}
    place = {"folder": str(work.absolute() / "stems"), "options": dataclasses.asdict(options) | files}
    return [
        Unit(
            recording.id,
            {
                "id": recording.id, "mix": recording.audio["mix"], "start": recording.start, "stop": recording.stop,
                "file": fingerprint(recording.audio["mix"]), "separator": stamp,
                "as": [options.extension, *([options.bits] if options.extension == "flac" else [])], "format": FORMAT,
            },
            place,
        )
        for recording in chosen
    ]  # fmt: skip


def _intact(unit: Unit, result: dict[str, Any]) -> bool:
    return bool(stems_in(Path(unit.place["folder"]) / unit.id))


def pending_separate(
    recordings: Sequence[Recording], work: Path, options: SeparationOptions, retry: bool = False
) -> Pending:
    """What `run_separate` would do; writes nothing."""
    return pending(separate_units(recordings, work, options), work / LEDGER, retry=retry, intact=_intact)


def run_separate(
    recordings: Sequence[Recording],
    work: Path,
    options: SeparationOptions,
    engine: Engine,
    retry: bool = False,
    note: Note | None = None,
) -> Results:
    """Separate the recordings that need it; see `run_units` for what is kept, retried and raised. note: gets progress lines."""
    units = separate_units(recordings, work, options)
    folders = [work / "stems" / unit.id for unit in units]
    if note is not None:
        lengths = {r.id: r.stop - r.start if r.stop else r.seconds for r in recordings}
        engine = _NotingEngine(engine, note, lengths)
    return run_units(
        separate_recording, units, work / LEDGER, engine, "separate", retry=retry, intact=_intact, folders=folders
    )


class _NotingEngine:
    """An engine that reports now and then how much is done, how fast, and how long the rest will take."""

    def __init__(self, engine: Engine, note: Note, lengths: dict[str, float | None]) -> None:
        self._engine, self._note, self._lengths = engine, note, lengths

    def map(
        self, function: Callable[[dict[str, Any]], dict[str, Any]], payloads: Iterable[dict[str, Any]]
    ) -> Iterator[tuple[int, Outcome]]:
        todo = list(payloads)
        began = noted = time.monotonic()
        left, sound = dict(enumerate(todo)), 0.0
        for index, outcome in self._engine.map(function, todo):
            yield index, outcome
            del left[index]
            ended = len(todo) - len(left)
            sound += outcome.result["seconds"] if outcome.result else 0.0
            now = time.monotonic()
            if sound and (now - noted >= NOTE_SECONDS or not left):
                noted = now
                lengths = [self._lengths[payload["id"]] or sound / ended for payload in left.values()]
                remaining = f", about {_time(sum(lengths) * (now - began) / sound)} left" if left else ""
                self._note(
                    f"separated {ended:,} of {len(todo):,}: {_time(sound)} of sound in {_time(now - began)}, "
                    f"{(now - began) / sound:.2f} x real time{remaining}"
                )


def _time(seconds: float) -> str:
    return (
        f"{seconds / 3600:.1f} h"
        if seconds >= 3600
        else f"{seconds / 60:.1f} min"
        if seconds >= 60
        else f"{seconds:.1f} s"
    )
