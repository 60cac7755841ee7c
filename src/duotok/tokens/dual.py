"""Two streams of integers, one frame every 40 ms, and what is needed to turn them into sound again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

TRACKS = ("vocals", "accompaniment")
SEPARATOR = "separator"
"""Role, in `sources`, of what took the mix apart."""
SAMPLE_RATE = 48_000
FRAME_SAMPLES = 1920
FRAME_RATE = SAMPLE_RATE / FRAME_SAMPLES
LARGEST_GAIN_DB = 120.0
"""More than any sound needs, and far from what float32 cannot hold."""
LARGEST_CODEBOOK = 1 << 24
LARGEST_WINDOW = 1 << 20
LONGEST_TEXT = 4096


def n_frames(n_samples: int) -> int:
    """Frames of a song of `n_samples` samples at 48 kHz: `ceil(n_samples / 1920)`; a started frame counts."""
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1, got {n_samples}")
    return -(-n_samples // FRAME_SAMPLES)


class Window(NamedTuple):
    """Frames `[start, stop)` go through the encoder together, of which `[keep_start, keep_stop)` are kept."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


@dataclass(frozen=True)
class WindowPlan:
    """How a long song is cut for the encoder: windows of `window` frames, `context` discarded at every inner edge.

    A token depends on the sound and the plan alone, so the plan is stored with the tokens.
    """

    window: int = 500
    context: int = 50

    def __post_init__(self) -> None:
        if not all(type(value) is int for value in (self.window, self.context)):
            raise ValueError(f"window {self.window!r} and context {self.context!r} must be whole numbers")
        if self.window > LARGEST_WINDOW:
            raise ValueError(f"window must be at most {LARGEST_WINDOW}, got {self.window}")
        if self.context < 0 or self.window <= 2 * self.context:
            raise ValueError(f"window must be over twice the context, got window {self.window}, context {self.context}")

    def windows(self, frames: int) -> list[Window]:
        """The cut of `frames` frames; the kept ranges follow each other without gap or overlap.

        All windows of a song are equally long: the last one is moved back to end with the song.
        """
        if frames < 1:
            raise ValueError(f"frames must be at least 1, got {frames}")
        if frames <= self.window:
            return [Window(0, frames, 0, frames)]
        result: list[Window] = []
        kept = 0
        while kept < frames:
            start = min(max(0, kept - self.context), frames - self.window)
            stop = start + self.window
            keep_stop = frames if stop == frames else stop - self.context
            result.append(Window(start, stop, kept, keep_stop))
            kept = keep_stop
        return result


class SourceFile(NamedTuple):
    """A file that tokens came from: its name without folders, the SHA-256 of its bytes, how many there are."""

    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True, eq=False)
class DualTokens:
    """The tokens of one song.

    vocals, accompaniment: int64 `[frames]`, 25 a second, equally long. n_samples: length of the song at 48 kHz.
    gain_db: what `encode` applied to both tracks alike, so that decoding can undo it. plan: the encoder's windows.
    model_id, model_hash: the bundle that gave the codes their meaning. source: name of the file they came from; sources:
    that file and given stems by what they are ("mix", "vocals", "accompaniment"), and the "separator" of a mix without stems
    (its kind, the hash of weights and settings, no bytes); origin: a hash of where the song lay
    beside the token file, "" where that is not known.
    Raises ValueError when the parts do not fit together.
    """

    vocals: Tensor
    accompaniment: Tensor
    n_samples: int
    gain_db: float = 0.0
    model_id: str = ""
    model_hash: str = ""
    codebook_sizes: tuple[int, int] = (32_768, 32_768)
    plan: WindowPlan = WindowPlan()
    source: str = ""
    sources: Mapping[str, SourceFile] = field(default_factory=dict)
    origin: str = ""

    def __post_init__(self) -> None:
        expected = n_frames(self.n_samples)
        if not (math.isfinite(self.gain_db) and abs(self.gain_db) <= LARGEST_GAIN_DB):
            raise ValueError(f"gain_db must be within {LARGEST_GAIN_DB:g} dB of 0, got {self.gain_db}")
        if len(self.codebook_sizes) != 2 or not all(
            isinstance(size, int) and 1 <= size <= LARGEST_CODEBOOK for size in self.codebook_sizes
        ):
            raise ValueError(
                f"codebook_sizes must be two numbers of 1 to {LARGEST_CODEBOOK}, got {self.codebook_sizes}"
            )
        for name in ("model_id", "model_hash", "source", "origin"):
            if len(getattr(self, name)) > LONGEST_TEXT:
                raise ValueError(f"{name} must be at most {LONGEST_TEXT} characters, got {len(getattr(self, name))}")
        for role, file in self.sources.items():
            if max(len(role), len(file.name), len(file.sha256)) > LONGEST_TEXT or file.bytes < 0:
                raise ValueError(
                    f"sources must have short names and sizes of 0 or more, got {file.bytes} bytes for {role[:40]!r}"
                )
        for track, size in zip(TRACKS, self.codebook_sizes, strict=True):
            codes: Tensor = getattr(self, track)
            if codes.ndim != 1 or codes.dtype != torch.int64:
                raise ValueError(f"{track} must be int64 [frames], got {codes.dtype} {list(codes.shape)}")
            if len(codes) != expected:
                raise ValueError(f"{track} has {len(codes)} frames, {self.n_samples} samples need {expected}")
            low, high = int(codes.min()), int(codes.max())
            if low < 0 or high >= size:
                raise ValueError(f"{track} holds token {low if low < 0 else high}, its codebook ends at {size - 1}")

    @classmethod
    def from_codes(
        cls, vocals: Sequence[int] | Tensor, accompaniment: Sequence[int] | Tensor, **known: object
    ) -> DualTokens:
        """Tokens from bare integers, as a language model gives them; `known` are the other fields, where known.

        Raises ValueError for what are no whole numbers.
        """
        codes = [_whole_numbers(c, track) for c, track in zip((vocals, accompaniment), TRACKS, strict=True)]
        known.setdefault("n_samples", len(codes[0]) * FRAME_SAMPLES)
        return cls(codes[0], codes[1], **known)  # type: ignore[arg-type]

    @property
    def n_frames(self) -> int:
        return len(self.vocals)

    @property
    def seconds(self) -> float:
        return self.n_samples / SAMPLE_RATE

    def track(self, name: str) -> Tensor:
        """The codes of "vocals" or "accompaniment": int64 `[frames]`."""
        if name not in TRACKS:
            raise ValueError(f"no track '{name}'; there are {' and '.join(TRACKS)}")
        codes: Tensor = getattr(self, name)
        return codes

    def stack(self) -> Tensor:
        """int64 `[2, frames]`, vocals first."""
        return torch.stack([self.vocals, self.accompaniment])

    def __repr__(self) -> str:
        def some(codes: Tensor) -> str:
            return "[" + ", ".join(map(str, codes[:4].tolist())) + (", ...]" if len(codes) > 4 else "]")

        of = f", of {self.source}" if self.source else ""
        by = f", by {self.model_id or 'a model'} {self.model_hash[:8]}".rstrip() if self.model_hash else ""
        streams = ", ".join(f"{track} {some(self.track(track))}" for track in TRACKS)
        return f"DualTokens({self.seconds:.2f} s, 2 x {self.n_frames} frames: {streams}{of}{by})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DualTokens):
            return NotImplemented
        mine, theirs = ({k: v for k, v in vars(x).items() if k not in TRACKS} for x in (self, other))
        return mine == theirs and all(torch.equal(self.track(name), other.track(name)) for name in TRACKS)

    __hash__ = None  # type: ignore[assignment]

    def save(self, path: str | Path) -> None:
        """Write a `.duotok` file, atomically. Raises TokenFileError when `path` cannot be written."""
        from duotok.tokens.file import save

        save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> DualTokens:
        """Read a `.duotok` file. Raises TokenFileError when it is missing, foreign, damaged or of another version."""
        from duotok.tokens.file import load

        return load(path)


def _whole_numbers(codes: Sequence[int] | Tensor, track: str) -> Tensor:
    """int64 `[frames]` on the CPU."""
    try:
        found = torch.as_tensor(codes if hasattr(codes, "__len__") else list(codes)).cpu()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{track}: {type(codes).__name__} is no row of tokens; give whole numbers") from None
    if found.numel() and (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool):
        raise ValueError(f"{track}: {found.dtype} values are no tokens; give whole numbers")
    return found.to(torch.int64)
