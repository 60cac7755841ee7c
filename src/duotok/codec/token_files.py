"""Tokens of any codec in a safetensors file, with a JSON header that names the codec and the source, and a checksum.

A tensor for each stream, int32 `[codebooks, frames]`, and float32 `STREAM:NAME` for arrays that a codec keeps beside its codes.

DuoTok's own tokens have another format (`.duotok`, docs/tokens.md).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from safetensors import SafetensorError
from torch import Tensor

from duotok.codec.contract import Described, StreamTokens
from duotok.errors import TokenFileError
from duotok.files import write_bytes
from duotok.seals import read_json
from duotok.tokens import LARGEST_GAIN_DB, Tokens

FORMAT = 1
FORMAT_BESIDE = 2
"""The format of files with arrays beside the codes, which a reader of the first format would take for streams."""
BESIDE = ":"
"""Separates stream and name in the key of such an array (`STREAM:NAME`), which is float32; codes are int32."""
KEY = "duotok-codec"
SUFFIX = ".safetensors"


def _seal(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(f"\0{name}\0{arrays[name].dtype.str}\0{list(arrays[name].shape)}\0".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def save_tokens(path: Path, tokens: Tokens, codec: Described, source: str = "") -> None:
    """Write tokens atomically. source: the file they were made from. Raises TokenFileError when `path` cannot be written."""
    arrays = {name: np.ascontiguousarray(codes.numpy().astype(np.int32)) for name, codes in tokens.items()}
    for stream, stream_arrays in tokens.beside.items() if isinstance(tokens, StreamTokens) else ():
        for name, array in stream_arrays.items():
            arrays[f"{stream}{BESIDE}{name}"] = np.ascontiguousarray(array.numpy().astype(np.float32))
    header = {
        "format": FORMAT if len(arrays) == len(tokens) else FORMAT_BESIDE,
        "model_id": codec.model_id, "model_hash": codec.model_hash, "frame_rate": codec.frame_rate,
        "sample_rate": codec.sample_rate, "n_samples": tokens.n_samples, "gain_db": tokens.gain_db, "source": source,
    }  # fmt: skip
    sealed = {**header, "sha256": _seal(header, arrays)}
    try:
        write_bytes(path, safetensors.numpy.save(arrays, metadata={KEY: json.dumps(sealed, sort_keys=True)}))
    except OSError as error:
        raise TokenFileError(f"{path}: cannot be written ({error.strerror}); choose another place") from None


def load_tokens(path: Path) -> tuple[Tokens, dict[str, Any]]:
    """The tokens and the header that `save_tokens` wrote. Raises TokenFileError when the file is missing, foreign or damaged."""
    try:
        data = path.read_bytes()
        header = read_json(read_json(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"][KEY])
        arrays = safetensors.numpy.load(data)
        if header.pop("sha256") != _seal(header, arrays) or header["format"] not in (FORMAT, FORMAT_BESIDE):
            raise ValueError("seal")
        if not (abs(header["gain_db"]) <= LARGEST_GAIN_DB and header["n_samples"] >= 0):
            raise ValueError("range")
        codes: dict[str, Tensor] = {}
        beside: dict[str, dict[str, Tensor]] = {}
        for key, array in arrays.items():
            stream, _, name = key.partition(BESIDE)
            if name:
                beside.setdefault(stream, {})[name] = torch.from_numpy(array.astype(np.float32))
            else:
                codes[key] = torch.from_numpy(array.astype(np.int64))
        if not beside.keys() <= codes.keys():
            raise ValueError("beside")
        return StreamTokens(codes, int(header["n_samples"]), float(header["gain_db"]), beside), header
    except OSError as error:
        raise TokenFileError(f"{path}: cannot be read ({error.strerror}); encode the song again") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, SafetensorError):
        raise TokenFileError(f"{path}: no tokens of a codec, or damaged; encode the song again") from None
