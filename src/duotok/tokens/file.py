"""The token file `.duotok`: safetensors, two tensors and one metadata entry, sealed with a checksum.

The entry `duotok` is a JSON header in canonical form (sorted keys, no spaces); its `sha256` covers the other fields and
the token bytes. One entry only, because safetensors writes several in random order and equal tokens shall give equal
files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from duotok.durable import put
from duotok.errors import TokenFileError
from duotok.seals import read_json
from duotok.tokens.dual import FRAME_RATE, SAMPLE_RATE, TRACKS, DualTokens, WindowPlan

FORMAT_VERSION = 1
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


def _canonical(header: dict[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def _checksum(header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(_canonical(header))
    for name in TRACKS:
        digest.update(f"\0{name}\0{arrays[name].dtype.str}\0{len(arrays[name])}\0".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def to_bytes(tokens: DualTokens) -> bytes:
    """The whole file as bytes; equal tokens give equal bytes."""
    kind = np.uint16 if max(tokens.codebook_sizes) <= 1 << 16 else np.int32
    arrays = {name: tokens.track(name).cpu().numpy().astype(kind) for name in TRACKS}
    header: dict[str, Any] = {
        "codebook_sizes": [int(size) for size in tokens.codebook_sizes],
        "format_version": FORMAT_VERSION,
        "frame_rate": FRAME_RATE,
        "gain_db": float(tokens.gain_db),
        "model_hash": tokens.model_hash,
        "model_id": tokens.model_id,
        "n_samples": int(tokens.n_samples),
        "plan": {"context": tokens.plan.context, "window": tokens.plan.window},
        "sample_rate": SAMPLE_RATE,
        "source": tokens.source,
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
    if header["format_version"] != FORMAT_VERSION:
        raise TokenFileError(
            f"{name}: token file of format version {header['format_version']}, this DuoTok reads {FORMAT_VERSION}; "
            "update DuoTok, or encode the song again"
        )
    seal = header.pop("sha256", None)
    whole = (
        set(header) == set(_FIELDS)
        and all(type(header[key]) is kind for key, kind in _FIELDS.items())
        and set(header["plan"]) == {"context", "window"}
        and set(arrays) == set(TRACKS)
        and all(a.ndim == 1 and a.dtype in (np.uint16, np.int32) for a in arrays.values())
    )
    if not whole or seal != _checksum(header, arrays):
        raise TokenFileError(damaged)
    # From here on the file is as somebody wrote it; what is wrong now, the writer got wrong.
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
        )
    except (ValueError, TypeError) as error:
        raise TokenFileError(f"{name}: impossible tokens ({error}); encode the song again") from None


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` beside `path` and move it there in one step; nothing half-written stays. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        put(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def save(tokens: DualTokens, path: str | Path) -> None:
    """Write a `.duotok` file, atomically. Raises TokenFileError when `path` cannot be written."""
    try:
        write_atomically(Path(path), to_bytes(tokens))
    except OSError as error:
        raise TokenFileError(f"{path}: cannot be written ({error.strerror}); choose another place") from None


def load(path: str | Path) -> DualTokens:
    """Read a `.duotok` file. Raises TokenFileError when it is missing, foreign, damaged or of another version."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise TokenFileError(f"{path}: cannot be read ({error.strerror}); check the name") from None
    return from_bytes(data, str(path))
