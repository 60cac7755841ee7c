"""Identify the separator of a song by a name and a hash that differ where the stems would."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from torch import nn

PLAIN = (bool, int, float, str)


def separator_identity(separator: object) -> tuple[str, str]:
    """The kind of a separator, and the SHA-256 (64 hex digits) of its kind, its settings and the weights of its networks.

    Weights count as float32, so that the stored precision alone does not change the hash.
    """
    kind = type(separator).__name__
    digest = hashlib.sha256(kind.encode())
    for name, value in _parts(separator):
        if isinstance(value, nn.Module):
            for key, tensor in sorted(value.state_dict().items()):
                values = tensor.detach().cpu()
                values = values.float() if values.is_floating_point() else values
                digest.update(f"\0{name}.{key}\0{values.dtype}\0{list(values.shape)}\0".encode())
                digest.update(values.contiguous().numpy().tobytes())
        else:
            digest.update(f"\0{name}\0{json.dumps(value)}".encode())
    return kind, digest.hexdigest()


def _parts(separator: Any) -> Iterator[tuple[str, Any]]:
    """Networks and plain settings, in the order of their names."""
    if isinstance(separator, nn.Module):
        yield "", separator
        return
    for name, value in sorted(getattr(separator, "__dict__", {}).items()):
        if name.lstrip("_") == "device":  # the device does not identify a separator
            continue
        plain = isinstance(value, PLAIN) or (isinstance(value, tuple) and all(isinstance(v, PLAIN) for v in value))
        if plain or isinstance(value, nn.Module):
            yield name, value
