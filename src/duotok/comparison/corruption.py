"""How much a model uses the source track: what its corruption costs (section 6.1, equation 8, figure 3).

In the track-to-track protocol the model predicts the target from the whole source. Here the source is shifted in time,
partly replaced, or taken from another song; the model and the target stay as they are, so what the prediction gets worse
by is what the model drew from the source. Shifts and ratios are ours: the paper does not give its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from duotok.comparison.intervals import relative_cost
from duotok.comparison.metrics import Measured
from duotok.errors import MetricError
from duotok.evaluation.intervals import Interval, Resampling

if TYPE_CHECKING:
    from duotok.lm.song import TokenizedSong

Kind = Literal["shift", "mask", "mismatch"]
Codes = NDArray[np.int32]
SHIFTS = (1.0, 2.0, 4.0, 8.0, 16.0)
RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9)
PAD = 2
"""PAD is V + 2 in every codebook of size V."""


@dataclass(frozen=True)
class Corruption:
    """One way to spoil the source. amount: seconds of a shift, share of masked frames; a mismatch has none.

    fill: what masked frames become: `uniform` random codes, or the `pad` id, which marks an absent stream.
    """

    kind: Kind
    amount: float = 0.0
    fill: Literal["uniform", "pad"] = "uniform"

    def __post_init__(self) -> None:
        if self.kind == "shift" and not self.amount > 0:
            raise MetricError(f"shift of {self.amount:g} s: must be above 0")
        if self.kind == "mask" and not 0 < self.amount <= 1:
            raise MetricError(f"mask of {self.amount:g}: a share of the frames, above 0 and at most 1")

    def __str__(self) -> str:
        if self.kind == "mismatch":
            return "mismatch"
        return f"shift {self.amount:g} s" if self.kind == "shift" else f"mask {100 * self.amount:g}% {self.fill}"

    @property
    def slug(self) -> str:
        """For file names."""
        return str(self).replace(" ", "-").replace("%", "")


DEFAULT = (
    *(Corruption("shift", seconds) for seconds in SHIFTS),
    *(Corruption("mask", ratio) for ratio in RATIOS),
    Corruption("mismatch"),
)


def shift(codes: Codes, seconds: float, frame_rate: float) -> Codes:
    """`codes [codebooks, frames]` later by `seconds`; what falls off the end comes in at the start.

    Raises MetricError when the codes are not at least 1.5 times as long: what wraps round would be hardly displaced.
    """
    frames, length = max(1, round(seconds * frame_rate)), codes.shape[1]
    # Both were rounded to frames, the track perhaps twice.
    if length <= frames or length < 1.5 * (frames - 0.5) - 0.5:
        raise MetricError(
            f"a shift of {seconds:g} s needs a track of at least {1.5 * seconds:g} s, this one has {length / frame_rate:g} s"
        )
    return np.roll(codes, frames, axis=1)


def mask(codes: Codes, sizes: Sequence[int], ratio: float, fill: str, random: np.random.Generator) -> Codes:
    """`codes [codebooks, frames]` with a share of its frames replaced, all codebooks of a frame together.

    The frames masked at a smaller ratio are among those of a larger one, given the same `random`.
    """
    length = codes.shape[1]
    frames = random.permutation(length)[: round(ratio * length)]
    noise = np.stack([random.integers(0, size, length) for size in sizes])[:, frames]
    result = codes.copy()
    result[:, frames] = noise if fill == "uniform" else np.array(sizes)[:, None] + PAD
    return result


def mismatched(identities: Sequence[str], seed: int = 0) -> list[int]:
    """For every song the index of another one, with another identity; each is taken once.

    Raises MetricError when one identity has more than half of the songs.
    """
    shuffled: list[int] = np.random.default_rng([seed, 3]).permutation(len(identities)).tolist()
    # Sort songs of one identity together and shift by the size of the largest group: no song gets its own identity.
    order = sorted(shuffled, key=lambda i: hashlib.sha256(f"{seed}:{identities[i]}".encode()).digest())
    sizes = {name: list(identities).count(name) for name in identities}
    largest = max(sizes, key=lambda name: sizes[name], default="")
    if 2 * sizes.get(largest, 1) > len(identities):
        raise MetricError(
            f"mismatch: {sizes.get(largest, 0)} of {len(identities)} songs are '{largest}'; others must be at least as many"
        )
    result = [0] * len(order)
    for place, index in enumerate(order):
        result[index] = order[(place + sizes[largest]) % len(order)]
    return result


def fitted(codes: Codes, frames: int) -> Codes:
    """The first `frames` of `codes [codebooks, frames]`, repeated from the start where it is too short."""
    return np.tile(codes, (1, -(-frames // codes.shape[1])))[:, :frames]


def corrupt(
    songs: Sequence[TokenizedSong],
    source: str,
    sizes: Sequence[int],
    frame_rate: float,
    corruption: Corruption,
    seed: int = 0,
    identity: Callable[[TokenizedSong], str] = lambda song: song.id,
) -> list[TokenizedSong]:
    """The songs with a corrupted source stream; all else is untouched.

    sizes: of the source's codebooks; identity: what makes two songs unrelated. A pure function of the songs and the seed:
    what is masked in a song does not depend on the others. Raises MetricError, naming the song that is too short.
    """
    if corruption.kind == "mismatch":
        partners = mismatched([identity(song) for song in songs], seed)
        spoiled = [
            fitted(songs[partner].tokens[source], song.tokens[source].shape[1])
            for song, partner in zip(songs, partners, strict=True)
        ]
    else:
        spoiled = [_spoil(song, source, sizes, frame_rate, corruption, seed) for song in songs]
    return [replace(song, tokens={**song.tokens, source: codes}) for song, codes in zip(songs, spoiled, strict=True)]


def _spoil(
    song: TokenizedSong, source: str, sizes: Sequence[int], frame_rate: float, corruption: Corruption, seed: int
) -> Codes:
    codes = song.tokens[source]
    if corruption.kind == "mask":
        digest = hashlib.sha256(f"{seed}:{song.id}".encode()).digest()
        return mask(codes, sizes, corruption.amount, corruption.fill, np.random.default_rng(list(digest)))
    try:
        return shift(codes, corruption.amount, frame_rate)
    except MetricError as error:
        raise MetricError(f"song '{song.id}': {error}; leave shorter songs out, or this shift") from None


@dataclass(frozen=True)
class CorruptionCost:
    """What one corruption costs: relative change of the target's cnBPT in percent (the same for enBPT, appendix A.2)."""

    corruption: Corruption
    percent: Interval


def costs(
    clean: Sequence[Measured], corrupted: Mapping[Corruption, Sequence[Measured]], resampling: Resampling = Resampling()
) -> list[CorruptionCost]:
    """Relative costs with paired intervals; one `Measured` for each seed, in the same order. Raises MetricError."""
    return [
        CorruptionCost(corruption, relative_cost(clean, runs, resampling)["average.cnbpt"])
        for corruption, runs in corrupted.items()
    ]
