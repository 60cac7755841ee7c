"""How much longer history helps: cnBPT against the seconds of context (section 6.2, figure 4). Lengths are ours.

The same target tokens are scored with more and more of what comes before them: of every block only the last `target`
seconds count, and the model sees `context` seconds up to its end. So the curve shows the context alone, not that the
middle of a song is easier than its start.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from duotok.comparison.intervals import difference, estimate
from duotok.comparison.metrics import Measured
from duotok.errors import MetricError
from duotok.evaluation.intervals import Interval, Resampling

if TYPE_CHECKING:
    from duotok.lm.scores import SongScore
    from duotok.lm.song import TokenizedSong

CONTEXTS = (5.0, 10.0, 15.0, 20.0, 25.0, 30.0)
TARGET = 2.5
"""Seconds that are scored. Below the shortest context less the 2 s prefix of the track-to-track protocol."""
BLOCKS = 4
"""Blocks of a song at most; they are spread over it."""


def target_frames(frame_rate: float, target: float = TARGET) -> int:
    """Frames that are scored of every window, at least one."""
    return max(1, round(target * frame_rate))


def block_ends(frames: int, longest: int, target: int, blocks: int = BLOCKS) -> list[int]:
    """Where the blocks of a song of `frames` end: each has `longest` frames before its end, none shares a target frame."""
    room = frames - longest
    if room < 0:
        return []
    count = min(blocks, 1 + room // target)
    return [longest + (room * i) // max(1, count - 1) for i in range(count)]


def windows(
    songs: Sequence[TokenizedSong],
    frame_rate: float,
    context: float,
    contexts: Sequence[float] = CONTEXTS,
    target: float = TARGET,
    blocks: int = BLOCKS,
) -> list[TokenizedSong]:
    """The pieces of `context` seconds to score; their ids are `SONG@END`, END in frames.

    Songs shorter than the longest of `contexts` are left out at every context. Raises MetricError when that is all of
    them, or when the target is longer than the shortest context.
    """
    if target > min(contexts):
        raise MetricError(f"target of {target:g} s is longer than the shortest context, {min(contexts):g} s")
    longest, length = round(max(contexts) * frame_rate), round(context * frame_rate)
    result = []
    for song in songs:
        frames = next(iter(song.tokens.values())).shape[1]
        for end in block_ends(frames, longest, target_frames(frame_rate, target), blocks):
            tokens = {stream: codes[:, end - length : end] for stream, codes in song.tokens.items()}
            result.append(replace(song, id=f"{song.id}@{end}", tokens=tokens))
    if not result:
        raise MetricError(f"no song of {max(contexts):g} s or more among {len(songs)}; take shorter contexts")
    return result


def tails(scores: Iterable[SongScore], frame_rate: float, target: float = TARGET) -> list[SongScore]:
    """The last `target` seconds of scored windows, named after the song again.

    Raises MetricError when fewer tokens than that were scored (a prefix that reaches into the target).
    """
    frames = target_frames(frame_rate, target)
    result = []
    for score in scores:
        if len(score.bits) < frames:
            raise MetricError(
                f"window '{score.song}': {len(score.bits)} tokens scored, the target has {frames}; take longer contexts"
            )
        tail = {name: getattr(score, name)[-frames:] for name in ("bits", "ranks", "codes")}
        result.append(replace(score, song=score.song.rpartition("@")[0], **tail))
    return result


@dataclass(frozen=True)
class Point:
    """One context: cnBPT (average over streams), and how much it is above (+) or below (-) the shortest context."""

    seconds: float
    cnbpt: Interval
    gain: Interval


def curve(runs: Mapping[float, Sequence[Measured]], resampling: Resampling = Resampling()) -> list[Point]:
    """The curve over contexts; for each one `Measured` for each seed. Differences are paired over songs and seeds."""
    shortest = runs[min(runs)]
    return [
        Point(
            seconds,
            estimate(runs[seconds], resampling)["average.cnbpt"],
            difference(runs[seconds], shortest, resampling, same_seeds=True)["average.cnbpt"],
        )
        for seconds in sorted(runs)
    ]
