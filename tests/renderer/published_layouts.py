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


# -- ear-VAE2 --------------------------------------------------------------------------------------------------------

EAR2: dict[str, Any] = json.loads("""{"model": {"gen": {"config": {"C0": 64, "D": 128, "use_vae": true, "refiner": {
  "type": "banded", "dim": 256, "intermediate_dim": 1024, "num_layers": 12, "layer_norm_eps": 1e-5}}}}}""")
"""configs/ear_vae2.json of the public repository (a0410ec)."""
EAR2_STREAM = [
    (1, 2, 1, 2, 480), (2, 2, 1, 2, 240), (2, 4, 1, 3, 120), (4, 4, 1, 2, 40), (4, 4, 1, 2, 20), (4, 8, 2, 2, 10),
    (8, 8, 2, 1, 5),
]  # fmt: skip
"""Channels in and out (times C0), strides in time and frequency, bins that come in."""


def small_ear2(width: int = 1, latent_dim: int = 4, refiner: dict[str, Any] | None = None) -> dict[str, Any]:
    """The same with few channels; strides and bins, so rates and fields, stay."""
    refiner = refiner or {"dim": 4, "intermediate_dim": 8, "num_layers": 2, "layer_norm_eps": 1e-5}
    config = {"C0": width, "D": latent_dim, "use_vae": True, "refiner": {"type": "banded", **refiner}}
    return {"model": {"gen": {"config": config}}}


def ear2_shapes(values: dict[str, Any]) -> dict[str, list[int]]:
    """Every name and shape of the state dict that belongs to a published JSON."""
    config = values["model"]["gen"]["config"]
    c, d, shapes = config["C0"], config["D"], dict[str, list[int]]()

    def conv(name: str, first: int, *rest: int, bias: int | None = None) -> None:
        place = f"{name}.parametrizations.weight"
        shapes[f"{place}.original0"] = [first, *[1] * len(rest)]
        shapes[f"{place}.original1"] = [first, *rest]
        shapes[f"{name}.bias"] = [bias or first]

    def snake(name: str, width: int) -> None:
        shapes[f"{name}.alpha"] = shapes[f"{name}.beta"] = [width]

    def kernel(stride: int) -> int:
        return 3 if stride == 1 else 2 * stride

    def bottleneck(name: str, inside: int, outside: int) -> None:
        middle = max(inside, outside)
        snake(f"{name}.act", inside)
        snake(f"{name}.act2", middle)
        conv(f"{name}.conv1", middle, inside, 1)
        conv(f"{name}.conv2", outside, middle, 1)
        conv(f"{name}.shortcut", outside, inside, 1)

    def encoding(name: str, a: int, b: int, t: int, f: int, bins: int) -> None:
        snake(f"{name}.act", bins)
        conv(f"{name}.conv1", a, a, 3, 3)
        conv(f"{name}.conv2", b, a, kernel(t), kernel(f))
        conv(f"{name}.projection", b, a, 1, 1)

    def decoding(name: str, a: int, b: int, t: int, f: int, bins: int) -> None:
        snake(f"{name}.act", bins)
        conv(f"{name}.conv1", b, a, 3, 3)
        conv(f"{name}.transposed_conv", b, b, kernel(t), kernel(f))
        conv(f"{name}.projection", b, a, 1, 1)

    conv("encoder.input_conv", c, 2, 7, 7)
    for i, (a, b, t, f, bins) in enumerate(EAR2_STREAM):
        encoding(f"encoder.encoder_stream.{i}", a * c, b * c, t, f, bins)
    encoding("encoder.post_concat_block", 16 * c, 8 * c, 1, 1, 5)
    bottleneck("encoder.bottleneck_block", 40 * c, 2 * d)
    c *= 2
    bottleneck("decoder.bottleneck_block", d, 40 * c)
    decoding("decoder.pre_split_block", 8 * c, 16 * c, 1, 1, 5)
    for i, (b, a, t, f, bins) in enumerate(EAR2_STREAM[::-1]):
        decoding(f"decoder.decoder_stream.{i}", a * c, b * c, t, f, bins // f)
    conv("decoder.output_conv", 2, c, 7, 7)
    refiner = config["refiner"]
    w, inner = refiner["dim"], refiner["intermediate_dim"]
    shapes |= {"refiner.embed.weight": [w, 960, 7], "refiner.embed.bias": [w]}
    for name in ("refiner.norm", "refiner.final_norm"):
        shapes |= {f"{name}.weight": [w], f"{name}.bias": [w]}
    for i in range(refiner["num_layers"]):
        place = f"refiner.convnext.{i}"
        shapes |= {
            f"{place}.gamma": [w], f"{place}.dwconv.weight": [w, 1, 7], f"{place}.dwconv.bias": [w], f"{place}.norm.weight": [w],
            f"{place}.norm.bias": [w], f"{place}.pwconv1.weight": [inner, w], f"{place}.pwconv1.bias": [inner],
            f"{place}.pwconv2.weight": [w, inner], f"{place}.pwconv2.bias": [w],
        }  # fmt: skip
    # 30 bins of phase, 50 of magnitude, 50 of phase, 400 of magnitude, and the last bin
    shapes |= {"refiner.out.weight": [532, w], "refiner.out.bias": [532]}
    return shapes | {"window": [960], "refiner_window": [960]}


def ear2_state(values: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """A made checkpoint of random weights that keep sound at sound's size."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in ear2_shapes(values).items():
        value = torch.randn(shape, generator=generator)
        if name.endswith("window"):
            value = torch.hann_window(960)
        elif name.endswith("original0"):
            value = 0.6 + 0.2 * value.abs()
        elif name.endswith("norm.weight"):
            value = 1 + 0.1 * value
        elif not name.endswith("original1"):
            value = 0.2 * value
        state[name] = value
    return state


def ear2_files(folder: Path, values: dict[str, Any], state: dict[str, Tensor] | None = None) -> tuple[Path, Path]:
    """A checkpoint as it is published, and its JSON."""
    checkpoint, settings = folder / "ear_vae2.pt", folder / "ear_vae2.json"
    torch.save({"gen": ear2_state(values) if state is None else state, "step": 7}, checkpoint)
    settings.write_text(json.dumps(values))
    return checkpoint, settings


def _ear2_conv(state: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    place = f"{name}.parametrizations.weight"
    v = state[f"{place}.original1"]
    length = v.flatten(1).norm(dim=1).view(-1, *[1] * (v.dim() - 1))
    return state[f"{place}.original0"] * v / length, state[f"{name}.bias"]


def _bin_snake(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """`[batch, channels, frames, bins]`, as published: bins in the third place, then back."""
    alpha, beta = (state[f"{name}.{key}"].exp().view(1, 1, -1, 1) for key in ("alpha", "beta"))
    x = x.permute(0, 1, 3, 2)
    return (x + torch.sin(x * alpha) ** 2 / (beta + 1e-9)).permute(0, 1, 3, 2)


def _ear2_bottleneck(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    y = F.conv1d(_snake(state, f"{name}.act", x), *_ear2_conv(state, f"{name}.conv1"))
    y = F.conv1d(_snake(state, f"{name}.act2", y), *_ear2_conv(state, f"{name}.conv2"))
    return y + F.conv1d(x, *_ear2_conv(state, f"{name}.shortcut"))


def ear2_mean(state: dict[str, Tensor], values: dict[str, Any], audio: Tensor) -> Tensor:
    """`[batch, 2, samples]` to the posterior's mean `[batch, latent_dim, latent_frames]`, formula by formula."""

    def block(name: str, x: Tensor, t: int, f: int) -> Tensor:
        shortcut = F.conv2d(F.avg_pool2d(x, (t, f)), *_ear2_conv(state, f"{name}.projection"))
        y = F.conv2d(F.pad(_bin_snake(state, f"{name}.act", x), (1, 1, 1, 1)), *_ear2_conv(state, f"{name}.conv1"))
        wide = {1: (1, 1), 2: (1, 1), 3: (2, 2)}[f]
        y = F.pad(_bin_snake(state, f"{name}.act", y), (*wide, 1, 1))
        return shortcut + F.conv2d(y, *_ear2_conv(state, f"{name}.conv2"), stride=(t, f))

    streams = []
    for channel in audio.unbind(1):
        spectrum = torch.stft(
            F.pad(channel, (480, 240)), 960, 480, 960, torch.hann_window(960), center=False, return_complex=True
        )[:, :-1]
        x = F.pad(torch.stack([spectrum.real, spectrum.imag], 1).permute(0, 1, 3, 2), (3, 3, 3, 3))
        x = F.conv2d(x, *_ear2_conv(state, "encoder.input_conv"))
        for i, (_, _, t, f, _) in enumerate(EAR2_STREAM):
            x = block(f"encoder.encoder_stream.{i}", x, t, f)
        streams.append(x)
    x = block("encoder.post_concat_block", torch.cat(streams, 1), 1, 1)
    x = x.permute(0, 2, 1, 3).flatten(2).permute(0, 2, 1)
    return _ear2_bottleneck(state, "encoder.bottleneck_block", x)[:, : values["model"]["gen"]["config"]["D"]]


def ear2_decoded(state: dict[str, Tensor], values: dict[str, Any], z: Tensor) -> Tensor:
    """`[batch, latent_dim, latent_frames]` to `[batch, 2, samples]`, formula by formula; the last 480 samples as published."""
    config = values["model"]["gen"]["config"]

    def block(name: str, x: Tensor, t: int, f: int) -> Tensor:
        shortcut = F.interpolate(x, scale_factor=(t, f), mode="nearest")
        shortcut = F.conv2d(shortcut, *_ear2_conv(state, f"{name}.projection"))
        y = F.conv2d(F.pad(_bin_snake(state, f"{name}.act", x), (1, 1, 1, 1)), *_ear2_conv(state, f"{name}.conv1"))
        y = F.conv_transpose2d(
            _bin_snake(state, f"{name}.act", y), *_ear2_conv(state, f"{name}.transposed_conv"), stride=(t, f), padding=1
        )
        return shortcut + y[..., : shortcut.shape[-1]]

    x = _ear2_bottleneck(state, "decoder.bottleneck_block", z).permute(0, 2, 1)
    x = x.reshape(*x.shape[:2], 16 * config["C0"], 5).permute(0, 2, 1, 3)
    x = block("decoder.pre_split_block", x, 1, 1)
    sounds = []
    for half in x.chunk(2, dim=1):
        y = half
        for i, (_, _, t, f, _) in enumerate(EAR2_STREAM[::-1]):
            y = block(f"decoder.decoder_stream.{i}", y, t, f)
        y = F.conv2d(F.pad(y, (3, 3, 3, 3)), *_ear2_conv(state, "decoder.output_conv")).permute(0, 1, 3, 2)
        spectrum = ear2_refined(state, config["refiner"], torch.complex(y[:, 0], y[:, 1]))
        samples = 480 * spectrum.shape[2]
        sounds.append(torch.istft(spectrum, 960, 480, 960, torch.hann_window(960), center=True, length=samples))
    return torch.stack(sounds, 1)


def ear2_refined(state: dict[str, Tensor], refiner: dict[str, Any], spectrum: Tensor) -> Tensor:
    """`[batch, 480, frames]` to `[batch, 481, frames]`: phases up to bin 30, magnitudes from bin 80, both between."""

    def norm(name: str, x: Tensor, eps: float) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), state[f"{name}.weight"], state[f"{name}.bias"], eps)

    eps = refiner["layer_norm_eps"]
    h = F.conv1d(
        torch.cat([spectrum.real, spectrum.imag], 1),
        state["refiner.embed.weight"],
        state["refiner.embed.bias"],
        padding=3,
    )
    h = norm("refiner.norm", h.mT, eps).mT
    for i in range(refiner["num_layers"]):
        place = f"refiner.convnext.{i}"
        weight, bias = state[f"{place}.dwconv.weight"], state[f"{place}.dwconv.bias"]
        y = norm(f"{place}.norm", F.conv1d(h, weight, bias, padding=3, groups=len(bias)).mT, 1e-6)
        y = F.gelu(y @ state[f"{place}.pwconv1.weight"].T + state[f"{place}.pwconv1.bias"])
        y = y @ state[f"{place}.pwconv2.weight"].T + state[f"{place}.pwconv2.bias"]
        h = h + (state[f"{place}.gamma"] * y).mT
    o = (norm("refiner.final_norm", h.mT, eps) @ state["refiner.out.weight"].T + state["refiner.out.bias"]).mT
    size, phase = spectrum.abs(), spectrum.angle()
    low = torch.polar(size[:, :30], phase[:, :30] + o[:, :30])
    middle = torch.polar((size[:, 30:80] + o[:, 30:80]).clamp_min(1e-8), phase[:, 30:80] + o[:, 80:130])
    high = torch.polar((size[:, 80:] + o[:, 130:530]).clamp_min(1e-8), phase[:, 80:])
    return torch.cat([low, middle, high, torch.complex(o[:, 530:531], o[:, 531:])], 1)
