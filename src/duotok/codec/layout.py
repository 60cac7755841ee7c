"""How the frames of a codec are aligned with its samples, and in which pieces long sound goes through its model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from duotok.tokens import WindowPlan


class Piece(NamedTuple):
    """Samples `[start, stop)` go through the model together and give `frames` frames, of which `[keep_start, keep_stop)` stay."""

    start: int
    stop: int
    frames: int
    keep_start: int
    keep_stop: int


class Layout(Protocol):
    """Frames and samples of one codec."""

    @property
    def samples_per_frame(self) -> float: ...

    def n_frames(self, n_samples: int) -> int:
        """Frames of `n_samples` samples, rounded up. Raises ValueError for less than one sample."""
        ...

    def n_samples(self, frames: int) -> int:
        """Samples that `frames` frames decode to."""
        ...

    def pieces(self, frames: int) -> list[Piece]:
        """The pieces of a sound of `frames` frames; the kept frames of successive pieces join without gap or overlap."""
        ...

    def settings(self) -> list[int | str]:
        """The settings that can change a token, for the hash."""
        ...


@dataclass(frozen=True)
class Even:
    """Blocks of `block` samples with `per_block` frames each, in windows of whole blocks.

    Most codecs have one frame a block, its hop. Those that describe a stretch of sound by an unordered set of codes have
    many, and know no time finer than a block. plan: counts blocks; None: the whole sound at once.
    """

    block: int
    per_block: int = 1
    plan: WindowPlan | None = None

    @property
    def samples_per_frame(self) -> float:
        return self.block / self.per_block

    def n_frames(self, n_samples: int) -> int:
        return self.per_block * -(-_check_samples(n_samples) // self.block)

    def n_samples(self, frames: int) -> int:
        return -(-frames // self.per_block) * self.block

    def pieces(self, frames: int) -> list[Piece]:
        blocks, each = -(-frames // self.per_block), self.per_block
        if self.plan is None:
            return [Piece(0, blocks * self.block, frames, 0, frames)]
        return [
            Piece(
                w.start * self.block, w.stop * self.block, (w.stop - w.start) * each,
                (w.keep_start - w.start) * each, (w.keep_stop - w.start) * each,
            )
            for w in self.plan.windows(blocks)
        ]  # fmt: skip

    def settings(self) -> list[int | str]:
        if self.plan is None:
            return ["whole"]
        return [self.plan.window, self.plan.context]


@dataclass(frozen=True)
class Chunks:
    """Overlapping chunks that the model codes one by one, as EnCodec at 48 kHz does: `length` samples every `stride`.

    A chunk has its own frames of `hop` samples, `length / hop` of them; the last chunk ends with the sound. So frames are
    `stride / (length / hop)` samples apart on average, and those at the edges of two chunks overlap in time.
    """

    length: int
    stride: int
    hop: int

    @property
    def per_chunk(self) -> int:
        return self.length // self.hop

    @property
    def samples_per_frame(self) -> float:
        return self.stride / self.per_chunk

    def n_frames(self, n_samples: int) -> int:
        before = -(-_check_samples(n_samples) // self.stride) - 1
        return before * self.per_chunk + -(-(n_samples - before * self.stride) // self.hop)

    def n_samples(self, frames: int) -> int:
        before = (frames - 1) // self.per_chunk
        return before * self.stride + (frames - before * self.per_chunk) * self.hop

    def pieces(self, frames: int) -> list[Piece]:
        result = []
        for chunk, first in enumerate(range(0, frames, self.per_chunk)):
            chunk_frames = min(self.per_chunk, frames - first)
            start = chunk * self.stride
            result.append(Piece(start, start + chunk_frames * self.hop, chunk_frames, 0, chunk_frames))
        return result

    def settings(self) -> list[int | str]:
        return ["chunks", self.length, self.stride]


def _check_samples(n_samples: int) -> int:
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1, got {n_samples}")
    return n_samples
