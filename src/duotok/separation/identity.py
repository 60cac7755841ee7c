"""Which separator a song was taken apart with: a name and a hash that differ where the stems would."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from torch import nn

PLAIN = (bool, int, float, str)


def separator_identity(separator: object) -> tuple[str, str]:
    """The kind of a separator, and the SHA-256 (64 hex digits) of its kind, its settings and the weights of its networks.

    Weights count as float32, so that the precision of storage alone makes no other separator.
    """
    kind = type(separator).__name__
    digest = hashlib.sha256(kind.encode())
    for name, value in _parts(separator):
        if isinstance(value, nn.Module):
            for key, tensor in sorted(value.state_dict().items()):
                held = tensor.detach().cpu()
                held = held.float() if held.is_floating_point() else held
                digest.update(f"\0{name}.{key}\0{held.dtype}\0{list(held.shape)}\0".encode())
                digest.update(held.contiguous().numpy().tobytes())
        else:
            digest.update(f"\0{name}\0{json.dumps(value)}".encode())
    return kind, digest.hexdigest()


def _parts(separator: Any) -> Iterator[tuple[str, Any]]:
    """Networks and plain settings, in the order of their names."""
    if isinstance(separator, nn.Module):
        yield "", separator
        return
    for name, value in sorted(getattr(separator, "__dict__", {}).items()):
        if name.lstrip("_") == "device":  # where it runs is not what it is
            continue
        plain = isinstance(value, PLAIN) or (isinstance(value, tuple) and all(isinstance(v, PLAIN) for v in value))
        if plain or isinstance(value, nn.Module):
            yield name, value
