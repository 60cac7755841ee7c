"""The tokens of a song (two streams of integers, one frame every 40 ms, with what decoding needs), and their file.

The token file `.duotok` is safetensors, two tensors and one metadata entry, sealed with a checksum. The entry `duotok` is a JSON
header in canonical form (sorted keys, no spaces); its `sha256` covers the other fields and the token bytes. One entry only, because
safetensors writes several in random order, and equal tokens must give equal files.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from duotok.clock import FRAME_RATE, FRAME_SAMPLES, SAMPLE_RATE, n_frames
from duotok.errors import TokenFileError
from duotok.files import write_bytes
from duotok.seals import read_json
from duotok.tracks import TRACKS

FORMAT_VERSION = 3
READS = (1, 2, 3)
KEY = "duotok"
SUFFIX = ".duotok"
_FIELDS: dict[str, type] = {
    "codebook_sizes": list,
    "format_version": int,
    "frame_rate": float,
    "gain_db": float,
    "model_hash": str,
    "model_id": str,
    "n_samples": int,
    "plan": dict,
    "sample_rate": int,
    "source": str,
}
_FIELDS_2: dict[str, type] = {"origin": str, "sources": dict}  # since version 2
_FIELDS_3: dict[str, type] = {"precision": str}  # since version 3
_SOURCE_FIELDS: dict[str, type] = {"bytes": int, "name": str, "sha256": str}

SEPARATOR = "separator"
"""Role, in `sources`, of the separator that took the mix apart."""
LARGEST_GAIN_DB = 120.0
"""More than any sound needs, and far from what float32 cannot hold."""
LARGEST_CODEBOOK = 1 << 24
LARGEST_WINDOW = 1 << 20
LONGEST_TEXT = 4096


class EncoderWindow(NamedTuple):
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

    def windows(self, frames: int) -> list[EncoderWindow]:
        """The cut of `frames` frames; the kept ranges follow each other without gap or overlap.

        All windows of a song are equally long: the last one is moved back to end with the song.
        """
        if frames < 1:
            raise ValueError(f"frames must be at least 1, got {frames}")
        if frames <= self.window:
            return [EncoderWindow(0, frames, 0, frames)]
        result: list[EncoderWindow] = []
        covered = 0
        while covered < frames:
            start = min(max(0, covered - self.context), frames - self.window)
            stop = start + self.window
            keep_stop = frames if stop == frames else stop - self.context
            result.append(EncoderWindow(start, stop, covered, keep_stop))
            covered = keep_stop
        return result


class SourceFile(NamedTuple):
    """A file that tokens came from: its name without folders, the SHA-256 of its bytes, how many there are."""

    name: str
    sha256: str
    bytes: int


class Tokens(Mapping[str, Tensor]):
    """Tokens of one sound, of any codec: a mapping from its streams to int64 `[codebooks, frames]`.

    n_samples: length of the sound at the codec's sample rate (0: not known, whole frames); gain_db: what encoding applied and
    decoding undoes.
    """

    n_samples: int
    gain_db: float

    @property
    def n_frames(self) -> int:
        return int(next(iter(self.values())).shape[1])


@dataclass(frozen=True, eq=False)
class DualTokens(Tokens):
    """The tokens of one song: a mapping from the two tracks to int64 `[1, frames]`.

    vocals, accompaniment: int64 `[frames]`, 25 a second, equally long. n_samples: length of the song at 48 kHz.
    gain_db: what `encode` applied to both tracks alike, so that decoding can undo it. plan: the encoder's windows.
    model_id, model_hash: the bundle that gave the codes their meaning. source: name of the file they came from; sources:
    that file and given stems by what they are ("mix", "vocals", "accompaniment"), and the "separator" of a mix without stems
    (its kind, the hash of weights and settings, no bytes); origin: a hash of the song's path
    relative to the token file, "" where that is not known. precision: number format in which the encoder computed, as of `DuoTok`; ""
    where that is not known (files of format 1 and 2) or several songs of several precisions were joined.
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
    precision: str = ""

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
        for name in ("model_id", "model_hash", "source", "origin", "precision"):
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
        cls, vocals: Sequence[int] | Tensor, accompaniment: Sequence[int] | Tensor, **fields: object
    ) -> DualTokens:
        """Tokens from bare integers, as a language model gives them; `fields` are the other fields, where known.

        Raises ValueError for anything but whole numbers.
        """
        codes = [_whole_numbers(c, track) for c, track in zip((vocals, accompaniment), TRACKS, strict=True)]
        fields.setdefault("n_samples", len(codes[0]) * FRAME_SAMPLES)
        return cls(codes[0], codes[1], **fields)  # type: ignore[arg-type]

    def __getitem__(self, track: str) -> Tensor:
        if track not in TRACKS:
            raise KeyError(track)
        return self.track(track)[None]

    def __iter__(self) -> Iterator[str]:
        return iter(TRACKS)

    def __len__(self) -> int:
        return len(TRACKS)

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
        def preview(codes: Tensor) -> str:
            return "[" + ", ".join(map(str, codes[:4].tolist())) + (", ...]" if len(codes) > 4 else "]")

        source = f", of {self.source}" if self.source else ""
        model = f", by {self.model_id or 'a model'} {self.model_hash[:8]}".rstrip() if self.model_hash else ""
        streams = ", ".join(f"{track} {preview(self.track(track))}" for track in TRACKS)
        return f"DualTokens({self.seconds:.2f} s, 2 x {self.n_frames} frames: {streams}{source}{model})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DualTokens):
            return NotImplemented
        fields, other_fields = ({k: v for k, v in vars(x).items() if k not in TRACKS} for x in (self, other))
        return fields == other_fields and all(torch.equal(self.track(name), other.track(name)) for name in TRACKS)

    __hash__ = None  # type: ignore[assignment]

    def save(self, path: str | Path) -> None:
        """Write a `.duotok` file, atomically. Raises TokenFileError when `path` cannot be written."""
        save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> DualTokens:
        """Read a `.duotok` file. Raises TokenFileError when it is missing, foreign, damaged or of another version."""
        return load(path)


def _whole_numbers(codes: Sequence[int] | Tensor, track: str) -> Tensor:
    """int64 `[frames]` on the CPU."""
    try:
        values = torch.as_tensor(codes if hasattr(codes, "__len__") else list(codes)).cpu()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{track}: {type(codes).__name__} is no row of tokens; give whole numbers") from None
    if values.numel() and (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool):
        raise ValueError(f"{track}: {values.dtype} values are no tokens; give whole numbers")
    return values.to(torch.int64)


# -- the file ---------------------------------------------------------------------------------------------------


def _canonical(header: dict[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def _checksum(header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(_canonical(header))
    for name in TRACKS:
        digest.update(f"\0{name}\0{arrays[name].dtype.str}\0{len(arrays[name])}\0".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def to_bytes(tokens: DualTokens, version: int | None = None) -> bytes:
    """The whole file as bytes, of the newest format or version 2; equal tokens give equal bytes."""
    version = version or FORMAT_VERSION
    kind = np.uint16 if max(tokens.codebook_sizes) <= 1 << 16 else np.int32
    arrays = {name: tokens.track(name).cpu().numpy().astype(kind) for name in TRACKS}
    header: dict[str, Any] = {
        "codebook_sizes": [int(size) for size in tokens.codebook_sizes],
        "format_version": version,
        "frame_rate": FRAME_RATE,
        "gain_db": float(tokens.gain_db),
        "model_hash": tokens.model_hash,
        "model_id": tokens.model_id,
        "n_samples": int(tokens.n_samples),
        "plan": {"context": tokens.plan.context, "window": tokens.plan.window},
        **({"precision": tokens.precision} if version > 2 else {}),
        "sample_rate": SAMPLE_RATE,
        "source": tokens.source,
        "origin": tokens.origin,
        "sources": {role: file._asdict() for role, file in tokens.sources.items()},
    }
    sealed = {**header, "sha256": _checksum(header, arrays)}
    data: bytes = safetensors.numpy.save(arrays, metadata={KEY: _canonical(sealed).decode()})
    return data


def _is_plain_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def from_bytes(data: bytes, name: str = "tokens") -> DualTokens:
    """The inverse of `to_bytes`. Raises TokenFileError, beginning with `name`, for anything else."""
    foreign = f"{name}: not a DuoTok token file; make one with: duotok encode"
    damaged = f"{name}: damaged token file; encode the song again or copy the file again"
    try:
        length = int.from_bytes(data[:8], "little")
        outer = read_json(data[8 : 8 + length]) if length < len(data) else None
        arrays: dict[str, NDArray[Any]] = safetensors.numpy.load(data)
    except (ValueError, SafetensorError, KeyError, AttributeError):
        raise TokenFileError(damaged if f'"{KEY}"'.encode() in data[:4096] else foreign) from None
    metadata = outer.get("__metadata__") if isinstance(outer, dict) else None
    if not isinstance(metadata, dict) or KEY not in metadata:
        raise TokenFileError(damaged if set(TRACKS) <= set(arrays) else foreign)
    try:
        header = read_json(metadata[KEY])
    except (ValueError, TypeError):
        raise TokenFileError(damaged) from None
    if not isinstance(header, dict) or not _is_plain_int(header.get("format_version")):
        raise TokenFileError(damaged)
    if header["format_version"] not in READS:
        raise TokenFileError(
            f"{name}: token file of format version {header['format_version']}, this DuoTok reads {FORMAT_VERSION}; "
            "update DuoTok, or encode the song again"
        )
    seal = header.pop("sha256", None)
    version = header["format_version"]
    fields = _FIELDS | (_FIELDS_2 if version > 1 else {}) | (_FIELDS_3 if version > 2 else {})
    well_formed = (
        set(header) == set(fields)
        and all(type(header[key]) is kind for key, kind in fields.items())
        and set(header["plan"]) == {"context", "window"}
        and set(arrays) == set(TRACKS)
        and all(a.ndim == 1 and a.dtype in (np.uint16, np.int32) for a in arrays.values())
    )
    if not well_formed or seal != _checksum(header, arrays):
        raise TokenFileError(damaged)
    # The checksum matches, so whatever is wrong from here on was written that way.
    if header["sample_rate"] != SAMPLE_RATE or header["frame_rate"] != FRAME_RATE:
        raise TokenFileError(
            f"{name}: tokens at {header['frame_rate']} Hz for {header['sample_rate']} Hz; encode again"
        )
    try:
        return DualTokens(
            vocals=torch.from_numpy(arrays["vocals"].astype(np.int64)),
            accompaniment=torch.from_numpy(arrays["accompaniment"].astype(np.int64)),
            n_samples=header["n_samples"],
            gain_db=header["gain_db"],
            model_id=header["model_id"],
            model_hash=header["model_hash"],
            codebook_sizes=tuple(header["codebook_sizes"]),
            plan=WindowPlan(**header["plan"]),
            source=header["source"],
            origin=header.get("origin", ""),
            precision=header.get("precision", ""),
            sources={role: _source(values) for role, values in header.get("sources", {}).items()},
        )
    except (ValueError, TypeError) as error:
        raise TokenFileError(f"{name}: impossible tokens ({error}); encode the song again") from None


def _source(values: Any) -> SourceFile:
    if not isinstance(values, dict) or {key: type(value) for key, value in values.items()} != _SOURCE_FIELDS:
        raise ValueError("a source is not its name, sha256 and bytes")
    return SourceFile(**values)


def is_token_file(path: str | Path) -> bool:
    """Whether a file was begun as a token file, be it damaged since; an empty file counts."""
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    return not head or f'"{KEY}"'.encode() in head


def save(tokens: DualTokens, path: str | Path) -> None:
    """Write a `.duotok` file, atomically. Raises TokenFileError when `path` cannot be written."""
    try:
        write_bytes(Path(path), to_bytes(tokens))
    except OSError as error:
        raise TokenFileError(f"{path}: cannot be written ({error.strerror}); choose another place") from None


def load(path: str | Path) -> DualTokens:
    """Read a `.duotok` file. Raises TokenFileError when it is missing, foreign, damaged or of another version."""
    return from_bytes(read_bytes(path), str(path))


def read_bytes(path: str | Path) -> bytes:
    """Raises TokenFileError for a file that cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise TokenFileError(f"{path}: cannot be read ({error.strerror}); check the name") from None
