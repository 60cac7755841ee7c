"""Separate songs of any length in bounded memory with a network that processes a few seconds at a time.

Chunk k covers the network's samples from k x (chunk - overlap); where two chunks overlap, their estimates are crossfaded
with weights that add to one. So an estimate depends on the sound and on the plan only, not on the size of the incoming blocks.
A network with another sample rate is placed between two streaming resamplers. Accompaniment is the mix minus the vocals,
at the caller's rate: what lies above the network's band stays in the accompaniment.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from duotok.audio.resampling import Resampler
from duotok.errors import AudioError, ConfigError

VOCALS, ACCOMPANIMENT = "vocals", "accompaniment"


def as_stereo(audio: Tensor) -> Tensor:
    """`[1 or 2, samples]` -> float32 `[2, samples]`; mono is copied. Raises AudioError for other shapes."""
    if audio.dim() != 2 or audio.shape[0] not in (1, 2):
        raise AudioError(f"separation: sound of shape {tuple(audio.shape)}; give [1 or 2 channels, samples]")
    return audio.float().expand(2, -1)


class StreamReader:
    """Reads any number of samples at a time from a stream of `[..., n]` pieces; fewer at its end."""

    def __init__(self, pieces: Iterable[Tensor]) -> None:
        self._pieces = iter(pieces)
        self._buffer: list[Tensor] = []

    def take(self, samples: int) -> Tensor | None:
        """The next `samples`; None when there is nothing left."""
        buffered = sum(piece.shape[-1] for piece in self._buffer)
        while buffered < samples:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._buffer.append(piece)
            buffered += piece.shape[-1]
        if not self._buffer:
            return None
        joined = torch.cat(self._buffer, dim=-1) if len(self._buffer) > 1 else self._buffer[0]
        self._buffer = [joined[..., samples:]] if buffered > samples else []
        return joined[..., :samples]


def resampled(pieces: Iterable[Tensor], from_rate: int, to_rate: int) -> Iterator[Tensor]:
    """A stream of `[..., n]` pieces at another rate, `ceil(n * to / from)` samples in all."""
    if from_rate == to_rate:
        yield from pieces
        return
    resampler: Resampler | None = None
    shape: tuple[int, ...] = ()
    for piece in pieces:
        shape = tuple(piece.shape[:-1])
        flat = piece.reshape(-1, piece.shape[-1]).T.numpy()
        resampler = resampler or Resampler(from_rate, to_rate, flat.shape[1])
        out = resampler.push(np.ascontiguousarray(flat))
        if len(out):
            yield torch.from_numpy(np.ascontiguousarray(out.T)).view(*shape, -1)
    if resampler is not None:
        out = resampler.push(np.zeros((0, int(np.prod(shape))), dtype=np.float32), last=True)
        if len(out):
            yield torch.from_numpy(np.ascontiguousarray(out.T)).view(*shape, -1)


def crossfaded(
    blocks: Iterable[Tensor], estimate: Callable[[Tensor], Tensor], chunk: int, rise: Tensor
) -> Iterator[Tensor]:
    """Run `estimate([2, n <= chunk]) -> [stems, 2, n]` over a stream of `[2, n]` blocks -> `[stems, 2, n]` pieces.

    rise: `[overlap]` weights of a chunk where it follows another; the one before it has 1 - rise there.
    """
    overlap = rise.numel()
    keep = chunk - overlap
    waiting = torch.zeros(2, 0)
    tail: Tensor | None = None  # the faded-out end of the previous chunk: [stems, 2, overlap]

    def run(mix: Tensor) -> Tensor:
        stems = estimate(mix)
        if tail is not None:
            # the last chunk is always longer than the overlap: a next chunk begins only when a sample beyond this one was read
            stems[..., :overlap] = tail + stems[..., :overlap] * rise
        return stems

    for block in blocks:
        position = 0
        while position < block.shape[-1]:
            # one sample more than a chunk is asked for, so that the last chunk is known to be the last
            take = chunk + 1 - waiting.shape[-1]
            waiting = torch.cat((waiting, block[:, position : position + take]), dim=-1)
            position += take
            if waiting.shape[-1] > chunk:
                stems = run(waiting[:, :chunk])
                tail = stems[..., keep:] * (1.0 - rise)
                yield stems[..., :keep]
                waiting = waiting[:, keep:]
    if waiting.shape[-1]:
        yield run(waiting)


def copies(stream: Iterator[Tensor], count: int) -> list[Iterator[Tensor]]:
    """The stream `count` times. Holds what one copy has given and another has not; itertools.tee would keep 57 pieces more."""
    ahead: list[deque[Tensor]] = [deque() for _ in range(count)]

    def copy(mine: deque[Tensor]) -> Iterator[Tensor]:
        while True:
            if not mine:
                piece = next(stream, None)
                if piece is None:
                    return
                for pieces in ahead:
                    pieces.append(piece)
                del piece
            yield mine.popleft()

    return [copy(mine) for mine in ahead]


def _delay(pieces: Iterator[Tensor], samples: int) -> Iterator[Tensor]:
    """`samples` of silence, then the stream."""
    if samples:
        yield torch.zeros(2, samples)
    yield from pieces


def _skip(pieces: Iterator[Tensor], samples: int) -> Iterator[Tensor]:
    """The stream without its first `samples`."""
    for piece in pieces:
        cut = min(samples, piece.shape[-1])
        samples -= cut
        if cut < piece.shape[-1]:
            yield piece[..., cut:]


class ChunkedSeparator(ABC):
    """A separator over a network that estimates some stems of one chunk (`estimate`).

    stems: what to return, of "vocals", "accompaniment" and the network's own (`network_stems`). chunk, rise: the plan in
    samples of the network (`rate`); the overlap, `len(rise)`, is at most half of a chunk. shifts: the plan is run once
    for each, delayed by so many samples, and the estimates are averaged. sample_rate: the caller's.
    """

    def __init__(
        self,
        network_stems: tuple[str, ...],
        stems: tuple[str, ...],
        chunk: int,
        rise: Tensor,
        *,
        rate: int,
        sample_rate: int,
        shifts: tuple[int, ...] = (0,),
    ) -> None:
        if VOCALS not in network_stems:
            raise ConfigError(
                f"separator: the network knows {', '.join(network_stems)}; one of them must be '{VOCALS}'"
            )
        for stem in stems:
            if stem not in (ACCOMPANIMENT, *network_stems):
                raise ConfigError(
                    f"separator: no stem '{stem}'; the model knows {', '.join((ACCOMPANIMENT, *network_stems))}"
                )
        self.chunk, self.overlap, self.rate = chunk, rise.numel(), rate
        if not 0 <= self.overlap <= chunk // 2:
            raise ConfigError(f"separator: overlap {self.overlap} is not between 0 and half of the chunk, {chunk}")
        self._rise, self._shifts, self._outside = rise, shifts, sample_rate
        self._stems = tuple(stems)
        # the stems that the network must estimate: vocals instead of the accompaniment
        self._inner = tuple(dict.fromkeys(VOCALS if stem == ACCOMPANIMENT else stem for stem in stems))

    @abstractmethod
    def estimate(self, mix: Tensor, stems: tuple[str, ...]) -> Tensor:
        """One chunk `mix [2, samples]` at the network's rate -> the named stems, a new `[stems, 2, samples]` on the CPU."""

    def to(self, device: torch.device) -> Self:
        """Move the network; returns the separator."""
        for part in vars(self).values():
            if isinstance(part, nn.Module):
                part.to(device)
        return self

    @property
    def sample_rate(self) -> int:
        return self._outside

    @property
    def stems(self) -> tuple[str, ...]:
        return self._stems

    def separate(self, audio: Tensor) -> dict[str, Tensor]:
        """`audio [1 or 2, samples]`, any length -> for each stem `[2, samples]`. Silence gives silence."""
        if audio.shape[-1] == 0:
            return {stem: as_stereo(audio).clone() for stem in self._stems}
        parts = list(self.stream([audio]))
        return {stem: torch.cat([part[stem] for part in parts], dim=-1) for stem in self._stems}

    def stream(self, blocks: Iterable[Tensor]) -> Iterator[dict[str, Tensor]]:
        """The same in bounded memory: blocks `[1 or 2, n]` in, pieces of every stem out, equal to `separate`."""
        network_input, mix_copy = copies((as_stereo(block) for block in blocks), 2)
        mixes = StreamReader(mix_copy)
        inside = resampled(network_input, self._outside, self.rate)
        for estimates in resampled(self._averaged(inside), self.rate, self._outside):
            mix = mixes.take(estimates.shape[-1])
            if mix is None:  # samples beyond the end, from rounding up the lengths
                return
            stem_estimates = dict(zip(self._inner, estimates[..., : mix.shape[-1]], strict=True))
            yield {
                stem: mix - stem_estimates[VOCALS] if stem == ACCOMPANIMENT else stem_estimates[stem].clone()
                for stem in self._stems
            }

    def _averaged(self, blocks: Iterator[Tensor]) -> Iterator[Tensor]:
        """`[stems, 2, n]` estimates at the network's rate, the mean over the delayed runs."""
        first, *rest = (
            _skip(crossfaded(_delay(copy, shift), self._run, self.chunk, self._rise), shift)
            for copy, shift in zip(copies(blocks, len(self._shifts)), self._shifts, strict=True)
        )
        other_runs = [StreamReader(stream) for stream in rest]
        for piece in first:
            for run in other_runs:
                estimate = run.take(piece.shape[-1])
                assert estimate is not None  # all runs are equally long
                piece = piece + estimate
            yield piece / len(self._shifts) if other_runs else piece

    @torch.no_grad()
    def _run(self, mix: Tensor) -> Tensor:
        return self.estimate(mix, self._inner)
