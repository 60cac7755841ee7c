"""`python -m duotok.convert CKPT OUT.safetensors`: the one place that opens a pickle, for its tensors only.

Reads published checkpoints that are a plain dictionary of tensors, or hold one under a usual key (BS-RoFormer's .ckpt, a DiT
of stable-audio-tools; the ear-VAE's .pyt has a command of its own, `duotok.renderer.ear_vae_files`), and Demucs packages (.th:
class, arguments, weights; written as Demucs's own safetensors are). `torch.load(weights_only=True)` builds
tensors and plain containers and refuses everything else; for Demucs its network classes and fractions are allowed by name.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from duotok.errors import ConfigError, DuoTokError
from duotok.files import writing

WRAPPERS = ("state_dict", "model_state_dict", "state", "model", "codec_model")


def _demucs_classes() -> list[Any]:
    try:
        from demucs.demucs import Demucs
        from demucs.hdemucs import HDemucs
        from demucs.htdemucs import HTDemucs
    except ImportError:
        return []
    return [Demucs, HDemucs, HTDemucs, Fraction]


def read_pickle(path: Path) -> Any:
    """The content of a torch pickle, tensors and plain values only. Raises ConfigError for anything else."""
    try:
        with torch.serialization.safe_globals(_demucs_classes()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error}); check the path") from None
    except Exception as error:  # UnpicklingError, RuntimeError, EOFError, ...: the unpickler has many errors for damage
        reason = " ".join(str(error).split())
        name = reason.split("GLOBAL ")[1].split(" ")[0] if "GLOBAL " in reason else ""
        # What torch says at length of its reader, and errors such as KeyError: '101', tell a user nothing.
        what = f"it contains {name}, which is no tensor" if name else "it is no checkpoint of torch, or a damaged one"
        raise ConfigError(f"{path}: not opened ({what}); only checkpoints of tensors are read") from None


def _json(value: Any) -> str:
    def special(item: Any) -> Any:
        if isinstance(item, Fraction):
            return {"_type": "fraction", "numerator": item.numerator, "denominator": item.denominator}
        return str(item)

    return json.dumps(value, default=special)


def tensors_of(content: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(weights, metadata) of the content of a checkpoint. Raises ConfigError when there is no dictionary of tensors in it."""
    metadata: dict[str, str] = {}
    if isinstance(content, dict) and isinstance(content.get("klass"), type):  # a Demucs package
        klass = content["klass"]
        metadata = {
            "klass": f"{klass.__module__}.{klass.__qualname__}",
            "args": _json(content["args"]),
            "kwargs": _json(content["kwargs"]),
        }
    state = content
    while isinstance(state, dict):
        inner = next((state[key] for key in WRAPPERS if isinstance(state.get(key), dict)), None)
        if inner is None:
            break
        state = inner
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise ConfigError(f"{path}: holds no plain dictionary of tensors; give a checkpoint of BS-RoFormer or Demucs")
    # a copy of each: shared tensors (rotary frequencies) have one name for each layer, and safetensors refuses shared memory
    return {str(key): value.detach().clone().contiguous() for key, value in state.items()}, metadata


def convert(source: Path, target: Path) -> int:
    """Write the tensors of `source` as `target`, atomically; the number of tensors. Raises ConfigError."""
    if target.suffix != ".safetensors":
        raise ConfigError(f"{target}: name it NAME.safetensors")
    tensors, metadata = tensors_of(read_pickle(source), source)
    try:
        with writing(target) as partial:
            save_file(tensors, partial, metadata=metadata or None)
    except (OSError, SafetensorError) as error:  # the latter is what safetensors makes of a full disk
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{target}: cannot be written ({reason}); choose another place") from None
    return len(tensors)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m duotok.convert", description=__doc__.splitlines()[0])
    parser.add_argument(
        "checkpoint", type=Path, metavar="CKPT", help="a checkpoint of tensors (.ckpt, .pt, .pyt), or a .th of Demucs"
    )
    parser.add_argument("out", type=Path, metavar="OUT.safetensors")
    parser.add_argument("--force", action="store_true", help="replace OUT when it is there")
    options = parser.parse_args(arguments)
    try:
        if os.path.lexists(options.out) and not options.force:
            raise ConfigError(f"{options.out}: is there already; choose another name, or --force replaces it")
        count = convert(options.checkpoint, options.out)
    except DuoTokError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.out}: {count} tensors")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
