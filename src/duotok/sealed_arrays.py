"""Arrays with some facts in one safetensors file that holds a hash of all of it, so that any change is noticed. No pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from duotok.files import write_bytes
from duotok.seals import read_json

KEY = "duotok"


def save_arrays(path: Path, arrays: Mapping[str, Tensor], facts: Any = None) -> None:
    """Write arrays and JSON-able `facts` as one safetensors file with a seal, atomically; the same give the same bytes."""
    whole = {name: array.detach().cpu().contiguous() for name, array in arrays.items()}
    text = json.dumps(facts, sort_keys=True, allow_nan=False)
    # One entry: the library writes several in any order, and the same arrays are to give the same bytes.
    write_bytes(path, save(whole, metadata={KEY: f"{_seal(whole, text)} {text}"}))


def read_arrays(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Arrays and facts of `save_arrays`. Raises FileNotFoundError, and ValueError for a file that is not as it was written."""
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
    seal, _, text = metadata.get(KEY, "").partition(" ")
    if seal != _seal(arrays, text):
        raise ValueError(f"{path}: not as it was written")
    return arrays, read_json(text)


def _seal(arrays: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"\0{name}\0{array.dtype}\0{list(array.shape)}\0".encode())
        digest.update(array.flatten().view(torch.uint8).numpy().tobytes() if array.numel() else b"")
    return digest.hexdigest()
