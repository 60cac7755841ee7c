"""The published layouts written out by hand, apart from the modules that they are checked against: names, shapes, formulas."""

from __future__ import annotations

import copy
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

V2: dict[str, Any] = json.loads("""{
  "encoder": {"config": {"in_channels": 2, "channels": 128, "c_mults": [1, 2, 4, 8, 16], "strides": [2, 2, 4, 6, 10],
                         "latent_dim": 128, "use_snake": true}},
  "decoder": {"config": {"out_channels": 2, "channels": 128, "c_mults": [1, 2, 4, 8, 16], "strides": [2, 2, 4, 6, 10],
                         "latent_dim": 64, "use_nearest_upsample": false, "use_snake": true, "final_tanh": false}},
  "latent_dim": 64, "downsampling_ratio": 960, "io_channels": 2}""")
"""config/ear_vae_v2.json of the public repository."""
V1: dict[str, Any] = json.loads("""{
  "transformer": {"depth": 2, "config": {"rotary_pos_emb": true, "dim_heads": 32}},
  "encoder": {"config": {"in_channels": 2, "channels": 128, "c_mults": [1, 2, 4, 8, 16], "strides": [2, 4, 4, 4, 8],
                         "latent_dim": 128, "use_snake": true}},
  "decoder": {"config": {"out_channels": 2, "channels": 128, "c_mults": [1, 2, 4, 8, 16], "strides": [2, 4, 4, 4, 8],
                         "latent_dim": 64, "use_nearest_upsample": false, "use_snake": true, "final_tanh": false}},
  "latent_dim": 64, "downsampling_ratio": 1024, "io_channels": 2}""")
"""config/model_config.json of the public repository."""


def small(values: dict[str, Any], channels: int = 4, latent_dim: int = 4, mults: int = 1) -> dict[str, Any]:
    """The same with few channels; strides, so rates and fields, stay. With a transformer latents are at least a head wide."""
    made = copy.deepcopy(values)
    latent_dim = max(latent_dim, 32) if "transformer" in made else latent_dim
    for part, width in (("encoder", 2 * latent_dim), ("decoder", latent_dim)):
        config = made[part]["config"]
        config |= {"channels": channels, "latent_dim": width, "c_mults": [mults] * len(config["strides"])}
    made["latent_dim"] = latent_dim
    return made


def layer_shapes(width: int) -> dict[str, list[int]]:
    """One layer of stable-audio-tools' transformer."""
    return {
        "pre_norm.gamma": [width], "pre_norm.beta": [width], "self_attn.to_qkv.weight": [3 * width, width],
        "self_attn.to_out.weight": [width, width], "ff_norm.gamma": [width], "ff_norm.beta": [width],
        "ff.ff.0.proj.weight": [8 * width, width], "ff.ff.0.proj.bias": [8 * width], "ff.ff.2.weight": [width, 4 * width],
        "ff.ff.2.bias": [width],
    }  # fmt: skip


def ear_vae_shapes(values: dict[str, Any]) -> dict[str, list[int]]:
    """Every name and shape of the flat state dict that belongs to a published JSON."""
    shapes: dict[str, list[int]] = {}

    def conv(name: str, out: int, inside: int, kernel: int, bias: int | None = None) -> None:
        shapes[f"{name}.weight_g"], shapes[f"{name}.weight_v"] = [out, 1, 1], [out, inside, kernel]
        if bias != 0:
            shapes[f"{name}.bias"] = [bias or out]

    def snake(name: str, width: int) -> None:
        shapes[f"{name}.alpha"] = shapes[f"{name}.beta"] = [width]

    def units(name: str, width: int, first: int) -> None:
        for unit in range(3):
            place = f"{name}.layers.{first + unit}.layers"
            snake(f"{place}.0", width)
            conv(f"{place}.1", width, width, 7)
            snake(f"{place}.2", width)
            conv(f"{place}.3", width, width, 1)

    encoder, decoder = values["encoder"]["config"], values["decoder"]["config"]
    widths = [encoder["channels"], *(m * encoder["channels"] for m in encoder["c_mults"])]
    conv("encoder.layers.0", widths[0], encoder["in_channels"], 7)
    for i, ((a, b), s) in enumerate(zip(pairwise(widths), encoder["strides"], strict=True), 1):
        units(f"encoder.layers.{i}", a, 0)
        snake(f"encoder.layers.{i}.layers.3", a)
        conv(f"encoder.layers.{i}.layers.4", b, a, 2 * s)
    end = len(widths)
    snake(f"encoder.layers.{end}", widths[-1])
    conv(f"encoder.layers.{end + 1}", encoder["latent_dim"], widths[-1], 3)
    conv("decoder.layers.0", widths[-1], decoder["latent_dim"], 7)
    for i, ((a, b), s) in enumerate(zip(pairwise(widths[::-1]), decoder["strides"][::-1], strict=True), 1):
        snake(f"decoder.layers.{i}.layers.0", a)
        conv(f"decoder.layers.{i}.layers.1", a, b, 2 * s, bias=b)  # transposed: [in, out, kernel]
        units(f"decoder.layers.{i}", b, 2)
    snake(f"decoder.layers.{end}", widths[0])
    conv(f"decoder.layers.{end + 1}", decoder["out_channels"], widths[0], 7, bias=0)
    if values.get("transformer"):
        width, head = values["latent_dim"], values["transformer"]["config"]["dim_heads"]
        for i in range(values["transformer"]["depth"]):
            shapes |= {f"transformers.layers.{i}.{name}": shape for name, shape in layer_shapes(width).items()}
        shapes["transformers.rotary_pos_emb.inv_freq"] = [max(head // 2, 32) // 2]
    return shapes


def frequencies(head_dim: int) -> Tensor:
    dim = max(head_dim // 2, 32)
    return 1 / 10_000 ** (torch.arange(0, dim, 2) / dim)


def random_state(shapes: dict[str, list[int]], head_dim: int = 32, seed: int = 0) -> dict[str, Tensor]:
    """A made checkpoint: random weights that keep sound at sound's size; the second Snake of a unit is the first."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        if name.endswith("weight_g"):
            value = 0.6 + 0.2 * value.abs()
        elif name.endswith("gamma"):
            value = 1 + 0.1 * value
        elif name.endswith("inv_freq"):
            value = frequencies(head_dim)
        elif len(shape) == 2 and shape[1] > 1:
            value *= shape[1] ** -0.5
        elif not name.endswith("weight_v"):
            value *= 0.2
        state[name] = value
    for name in state:
        found = re.fullmatch(r"(.*\.layers\.\d+\.layers\.\d+\.layers\.)2\.(alpha|beta)", name)
        if found:
            state[name] = state[f"{found[1]}0.{found[2]}"].clone()
    return state


def weight(state: dict[str, Tensor], name: str) -> Tensor:
    """Weight norm: length times direction, of each first index."""
    v = state[f"{name}.weight_v"]
    return state[f"{name}.weight_g"] * v / v.flatten(1).norm(dim=1)[:, None, None]


def _snake(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    alpha, beta = state[f"{name}.alpha"].exp()[:, None], state[f"{name}.beta"].exp()[:, None]
    return x + torch.sin(alpha * x) ** 2 / (beta + 1e-9)


def _conv(state: dict[str, Tensor], name: str, x: Tensor, **options: int) -> Tensor:
    return F.conv1d(x, weight(state, name), state.get(f"{name}.bias"), **options)


def _unit(state: dict[str, Tensor], name: str, x: Tensor, dilation: int) -> Tensor:
    y = _conv(state, f"{name}.layers.1", _snake(state, f"{name}.layers.0", x), dilation=dilation, padding=3 * dilation)
    return x + _conv(state, f"{name}.layers.3", _snake(state, f"{name}.layers.2", y))


def posterior_mean(state: dict[str, Tensor], values: dict[str, Any], audio: Tensor) -> Tensor:
    """`[batch, channels, samples]` to `[batch, latent_dim, frames]`, formula by formula."""
    x = _conv(state, "encoder.layers.0", audio, padding=3)
    strides = values["encoder"]["config"]["strides"]
    for i, s in enumerate(strides, 1):
        for unit, dilation in enumerate((1, 3, 9)):
            x = _unit(state, f"encoder.layers.{i}.layers.{unit}", x, dilation)
        x = _snake(state, f"encoder.layers.{i}.layers.3", x)
        x = _conv(state, f"encoder.layers.{i}.layers.4", x, stride=s, padding=-(-s // 2))
    end = len(strides) + 1
    x = _conv(state, f"encoder.layers.{end + 1}", _snake(state, f"encoder.layers.{end}", x), padding=1)
    return x[:, : values["latent_dim"]]


def turned_by_hand(x: Tensor, freqs: Tensor) -> Tensor:
    """Rotary positions of `[batch, heads, frames, head_dim]`, one frame and pair at a time in complex numbers."""
    turned, half = x.clone(), len(freqs)
    pairs = torch.complex(x[..., :half].double(), x[..., half : 2 * half].double())
    angle = torch.arange(x.shape[-2])[:, None] * freqs[None].double()
    moved = pairs * torch.exp(1j * angle)
    turned[..., :half], turned[..., half : 2 * half] = moved.real.float(), moved.imag.float()
    return turned


def transformer_layer(state: dict[str, Tensor], name: str, x: Tensor, freqs: Tensor, head_dim: int) -> Tensor:
    """Attention and SwiGLU, `x [batch, frames, width]`, formula by formula."""
    batch, frames, width = x.shape
    h = F.layer_norm(x, (width,), state[f"{name}.pre_norm.gamma"], state[f"{name}.pre_norm.beta"])
    q, k, v = (
        part.view(batch, frames, -1, head_dim).transpose(1, 2)
        for part in (h @ state[f"{name}.self_attn.to_qkv.weight"].T).chunk(3, dim=-1)
    )
    scores = turned_by_hand(q, freqs) @ turned_by_hand(k, freqs).transpose(2, 3) / head_dim**0.5
    y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, frames, width)
    x = x + y @ state[f"{name}.self_attn.to_out.weight"].T
    h = F.layer_norm(x, (width,), state[f"{name}.ff_norm.gamma"], state[f"{name}.ff_norm.beta"])
    value, gate = (h @ state[f"{name}.ff.ff.0.proj.weight"].T + state[f"{name}.ff.ff.0.proj.bias"]).chunk(2, dim=-1)
    return x + (value * gate * gate.sigmoid()) @ state[f"{name}.ff.ff.2.weight"].T + state[f"{name}.ff.ff.2.bias"]


def decoded(state: dict[str, Tensor], values: dict[str, Any], z: Tensor) -> Tensor:
    """`[batch, latent_dim, frames]` to `[batch, channels, samples]`, formula by formula."""
    if values.get("transformer"):
        x = z.transpose(1, 2)
        freqs = state["transformers.rotary_pos_emb.inv_freq"]
        for i in range(values["transformer"]["depth"]):
            x = transformer_layer(
                state, f"transformers.layers.{i}", x, freqs, values["transformer"]["config"]["dim_heads"]
            )
        z = x.transpose(1, 2)
    x = _conv(state, "decoder.layers.0", z, padding=3)
    strides = values["decoder"]["config"]["strides"]
    for i, s in enumerate(strides[::-1], 1):
        x = _snake(state, f"decoder.layers.{i}.layers.0", x)
        name = f"decoder.layers.{i}.layers.1"
        x = F.conv_transpose1d(x, weight(state, name), state[f"{name}.bias"], stride=s, padding=-(-s // 2))
        for unit, dilation in enumerate((1, 3, 9), 2):
            x = _unit(state, f"decoder.layers.{i}.layers.{unit}", x, dilation)
    end = len(strides) + 1
    x = _conv(state, f"decoder.layers.{end + 1}", _snake(state, f"decoder.layers.{end}", x), padding=3)
    return x.tanh() if values["decoder"]["config"].get("final_tanh", True) else x


def published_files(folder: Path, values: dict[str, Any], state: dict[str, Tensor] | None = None) -> tuple[Path, Path]:
    """A made checkpoint (.pyt, as it is published) and its JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(random_state(ear_vae_shapes(values)) if state is None else state, folder / "ear_vae.pyt")
    (folder / "ear_vae.json").write_text(json.dumps(values))
    return folder / "ear_vae.pyt", folder / "ear_vae.json"
