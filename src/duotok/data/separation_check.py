"""Quality of a separator on recordings with known true stems: SI-SDR of both tracks, compared with no separation."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from duotok.audio.io import probe, stream
from duotok.clock import SAMPLE_RATE
from duotok.data.separate import BLOCK_SECONDS
from duotok.data.sources import local
from duotok.records import CorpusError, Recording
from duotok.separation.chunked import VOCALS, ChunkedSeparator, StreamReader
from duotok.separation.measures import SiSdr
from duotok.tracks import ACCOMPANIMENT_STEMS, TRACKS


def with_true_stems(recordings: Iterable[Recording]) -> list[Recording]:
    """The recordings with vocals and a complete accompaniment, as one track or as drums, bass and other."""
    return [
        r
        for r in recordings
        if "vocals" in r.audio and ("accompaniment" in r.audio or r.audio.keys() >= {*ACCOMPANIMENT_STEMS})
    ]


# A track this much softer than the rest is silent but for coding noise, and SI-SDR is not defined.
SILENT_DB = -40.0


@dataclass(frozen=True)
class Quality:
    """SI-SDR in dB of each track: `nothing` when the mix itself is the estimate, `separated`. NaN for a silent track."""

    recording: str
    seconds: float
    took: float
    nothing: dict[str, float]
    separated: dict[str, float]


def measure_separation(
    recordings: Sequence[Recording], separator: ChunkedSeparator, seconds: float | None = None
) -> Iterator[Quality]:
    """Separate the sum of the true stems of each recording (the `seconds` in its middle) and compare.

    Raises CorpusError where a recording's stems are not known, AudioError where they cannot be read.
    """
    for recording in recordings:
        if not with_true_stems([recording]):
            raise CorpusError(f"{recording.id}: its true stems are not known; separation cannot be measured on it")
        yield _measured(recording, separator, seconds)


def _measured(recording: Recording, separator: ChunkedSeparator, seconds: float | None) -> Quality:
    names = ("vocals", *(("accompaniment",) if "accompaniment" in recording.audio else ACCOMPANIMENT_STEMS))
    scores = {way: {track: SiSdr() for track in TRACKS} for way in ("nothing", "separated")}
    truth: list[Tensor] = []
    reading = [0.0]

    def mixes(places: Sequence[Path]) -> Iterator[Tensor]:
        first, length = _part(recording, places[0], seconds)
        streams = [stream(path, SAMPLE_RATE, 2, BLOCK_SECONDS, first, length) for path in places]
        while True:
            began = time.perf_counter()
            blocks = [block for source in streams if (block := next(source, None)) is not None]
            if len(blocks) < len(streams):
                return
            size = min(block.shape[-1] for block in blocks)
            vocals, accompaniment = blocks[0][:, :size], torch.stack([block[:, :size] for block in blocks[1:]]).sum(0)
            truth.append(torch.stack((vocals, accompaniment)))
            reading[0] += time.perf_counter() - began
            yield vocals + accompaniment

    took, samples = 0.0, 0
    with ExitStack() as stack:
        places = [stack.enter_context(local(recording.audio[name])) for name in names]
        true_stems = StreamReader(_drained(truth))
        began = time.perf_counter()
        for piece in separator.stream(mixes(places)):
            took += time.perf_counter() - began
            true = true_stems.take(piece[VOCALS].shape[-1])
            assert true is not None  # a piece of the estimate was read before it was separated
            for track, target in zip(TRACKS, true, strict=True):
                scores["separated"][track].add(piece[track], target)
                scores["nothing"][track].add(true.sum(0), target)
            samples += true.shape[-1]
            began = time.perf_counter()
    values = {way: {track: score.decibels() for track, score in by.items()} for way, by in scores.items()}
    for track in TRACKS:
        if not values["nothing"][track] > SILENT_DB:
            values["nothing"][track] = values["separated"][track] = math.nan
    return Quality(
        recording.id, samples / SAMPLE_RATE, max(took - reading[0], 0.0), values["nothing"], values["separated"]
    )


def _part(recording: Recording, path: Path, seconds: float | None) -> tuple[float, float | None]:
    """(start, length) in seconds of the file; None to its end."""
    whole = (recording.stop or probe(path).seconds) - recording.start
    if seconds is None or seconds >= whole:
        return recording.start, whole if recording.stop else None
    return recording.start + (whole - seconds) / 2, seconds


def _drained(pieces: list[Tensor]) -> Iterator[Tensor]:
    """The items of the list, removed from it one by one."""
    while pieces:
        yield pieces.pop(0)


def mean_quality(qualities: Sequence[Quality]) -> dict[str, dict[str, float]]:
    """Means for each track: nothing, separated, gain; over the recordings in which both tracks are audible."""
    audible = [q for q in qualities if not any(math.isnan(value) for value in q.nothing.values())]
    means: dict[str, dict[str, float]] = {}
    for track in TRACKS:
        pairs = [(q.nothing[track], q.separated[track]) for q in audible]
        before, after = (sum(pair[n] for pair in pairs) / len(pairs) if pairs else math.nan for n in (0, 1))
        means[track] = {"nothing": before, "separated": after, "gain": after - before}
    return means
