"""What a run would do and what that costs, from a short trial of each tokenizer on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from duotok.clock import SAMPLE_RATE
from duotok.errors import one_line
from duotok.evaluation.instrument import MIX, Song, System, encode
from duotok.tracks import TRACKS

TRIAL_SECONDS = 4.0


@dataclass(frozen=True)
class Todo:
    """One cell. why: it is not done ("": it is); songs: still to be measured; minutes: of one core, None where it cannot be told, with
    the reason in `unknown`; work: what besides songs has to be done, in words; gap: why it cannot be measured at all."""

    tokenizer: str
    instrument: str
    why: str
    songs: int = 0
    minutes: float | None = 0.0
    unknown: str = ""
    work: str = ""
    gap: str = ""

    def __str__(self) -> str:
        head = f"{self.instrument} of {self.tokenizer}: "
        if self.gap:
            return f"{head}cannot be measured: {self.gap}"
        if not self.why:
            return f"{head}done"
        time_of = f"{self.minutes:.1f} minutes of a core" if self.minutes is not None else f"unknown ({self.unknown})"
        return f"{head}{self.work or f'{self.songs} stretches'}, {time_of} ({self.why})"


def in_all(todo: list[Todo], workers: int) -> str:
    """The sum over cells; what is unknown is said to be missing in it."""
    known = sum(one.minutes for one in todo if one.minutes is not None)
    unknown = sum(one.minutes is None for one in todo)
    rest = f", and {unknown} cells of which it is unknown" if unknown else ""
    return f"in all {known:.1f} minutes of a core, with {workers} workers about {known / workers:.1f}{rest}"


@dataclass(frozen=True)
class Speed:
    """Seconds of a core that a second of sound takes; None where it does not work, and `why` says why."""

    encoding: float | None = 0.0
    decoding: float | None = 0.0
    why: str = ""

    def seconds(self, encodings: float, decodings: float, besides: float = 0.0) -> float | None:
        """Of a second of sound; None where that needs what does not work."""
        total = besides
        for count, each in ((encodings, self.encoding), (decodings, self.decoding)):
            if count and each is None:
                return None
            total += count * (each or 0.0)
        return total


def trial(system: System) -> Speed:
    """Of a system, on 4 s of noise."""
    draw = torch.Generator().manual_seed(0)
    sounds = {track: 0.1 * torch.randn(2, round(TRIAL_SECONDS * SAMPLE_RATE), generator=draw) for track in TRACKS}
    song = Song("noise", {**sounds, MIX: sounds["vocals"] + sounds["accompaniment"]})
    encoding: float | None = None
    try:
        with torch.inference_mode():
            began = time.process_time()
            if system.codec is not None:
                encode(system.codec, song.sounds, SAMPLE_RATE)
            between = time.process_time()
            encoding = between - began
            system.reconstruct(song)
            ended = time.process_time()
    except Exception as error:  # whatever a tokenizer raises; the run itself names it song by song
        what = "encoding" if encoding is None else "decoding"
        return Speed(
            None if encoding is None else encoding / TRIAL_SECONDS,
            None,
            f"{what} {TRIAL_SECONDS:g} s of noise failed: {one_line(error)}",
        )
    return Speed(encoding / TRIAL_SECONDS, max(0.0, ended - between - encoding) / TRIAL_SECONDS)
