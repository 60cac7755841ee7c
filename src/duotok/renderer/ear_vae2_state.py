"""The published names and files of the ear-VAE2, and the way from and to the modules of `ear_vae2.py`.

Names are the same but for weight norm, which stands as two tensors (`parametrizations.weight.original0`, the lengths, and
`original1`, the directions), and for windows that the published code keeps among its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Size, Tensor, nn

from duotok.convert import read_pickle, tensors_of
from duotok.renderer.published_state import STATISTICS, check_state, folded, length_of, read_checkpoint

WINDOWS = ("window", "refiner_window")
"""Hann windows in published checkpoints, which are made here."""
LENGTH, DIRECTION = "parametrizations.weight.original0", "parametrizations.weight.original1"
AVERAGED, AVERAGE = "gen_ema", "ema_model."


def model_section(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """The network's section of a JSON, as the published loader looks for it; None when it is none of an ear-VAE2."""
    model = values.get("model")
    section = model.get("gen") if isinstance(model, dict) else values
    section = section.get("config", section) if isinstance(section, dict) else None
    return dict(section) if isinstance(section, dict) and "C0" in section else None


def read_state(checkpoint: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint, averaged ones first (`gen_ema`), else `gen`, else its only tensors. Raises ConfigError."""
    if checkpoint.suffix == ".safetensors":
        return read_checkpoint(checkpoint)
    content = read_pickle(checkpoint)
    if isinstance(content, dict) and isinstance(content.get(AVERAGED), dict):
        averaged = content[AVERAGED].items()
        content = {str(name).removeprefix(AVERAGE): value for name, value in averaged if str(name).startswith(AVERAGE)}
    elif isinstance(content, dict) and isinstance(content.get("gen"), dict):
        content = content["gen"]
    return tensors_of(content, checkpoint)[0]


def normed(vae: nn.Module) -> list[str]:
    """Names of the modules that carry weight norm in the published checkpoint: all convolutions but the refiner's."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)
    return [n for n, part in vae.named_modules() if isinstance(part, kinds) and not n.startswith("refiner.")]


def published_shapes(vae: nn.Module) -> dict[str, Size]:
    """Names and shapes that the published checkpoint of this network has, without the windows."""
    shapes = {name: value.shape for name, value in vae.state_dict().items() if name not in STATISTICS}
    for name in normed(vae):
        weight = shapes.pop(f"{name}.weight")
        shapes |= {f"{name}.{LENGTH}": Size([weight[0], *[1] * (len(weight) - 1)]), f"{name}.{DIRECTION}": weight}
    return shapes


def from_published(state: Mapping[str, Tensor], vae: nn.Module, path: Path) -> dict[str, Tensor]:
    """The published state under our names, float32, without statistics. Raises ConfigError where it does not fit."""
    given = {name: value for name, value in state.items() if name not in WINDOWS}
    check_state(given, published_shapes(vae), path, "give the JSON that was published with it")
    weights = {name: value.float() for name, value in given.items()}
    for name in normed(vae):
        folded(weights, name, DIRECTION, LENGTH, path)
    return weights


def to_published(vae: nn.Module) -> dict[str, Tensor]:
    """The inverse of `from_published`, each tensor with its own memory; windows included."""
    state = {name: value.detach().cpu() for name, value in vae.state_dict().items() if name not in STATISTICS}
    for name in normed(vae):
        weight = state.pop(f"{name}.weight")
        state |= {f"{name}.{LENGTH}": length_of(weight), f"{name}.{DIRECTION}": weight}
    state |= {name: vae.get_buffer("window").cpu() for name in WINDOWS}
    return {name: value.clone().contiguous() for name, value in state.items()}
