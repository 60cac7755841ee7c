"""`python -m duotok.renderer.ear_vae_files CKPT CONFIG.json FOLDER`: a published ear-VAE made ready for use.

Reads the checkpoint once (tensors only, nothing in it is run) and its JSON, checks one against the other, and writes FOLDER:

    config.json               EarVAEConfig: the published JSON, rate, licence, where it is from; sealed, with the sha256 of the weights
    autoencoder.safetensors   the weights, weight norm folded in, as a bundle has them

Published names are those of our modules, but for the old form of weight norm (`weight_g`, `weight_v` for `weight`), and the
Snake of a residual unit, which is one module at two places of a list and therefore stands twice. A JSON of the ear-VAE2 is told by
its keys; what is different there stands in `ear_vae2_state.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Size, Tensor, nn

from duotok.clock import SAMPLE_RATE
from duotok.config import Config, parse
from duotok.errors import ConfigError, DuoTokError
from duotok.files import sha256, writing
from duotok.renderer import ear_vae2_state
from duotok.renderer.ear_vae import EarVAE, EarVAEConfig, PublishedConfig, ResidualUnit
from duotok.renderer.ear_vae2 import EarVAE2, EarVAE2Config, PublishedConfig2
from duotok.renderer.published_state import (
    STATISTICS,
    check_state,
    folded,
    length_of,
    read_checkpoint,
    read_published_json,
)
from duotok.seals import hashes, is_sealed, seal, unsealed

CONFIG, WEIGHTS = "config.json", "autoencoder.safetensors"
TRANSFORMER = "transformers."

AnyEarVAE = EarVAE | EarVAE2
AnyEarVAEConfig = Annotated[EarVAEConfig | EarVAE2Config, Field(discriminator="kind")]


class _Kept(Config):
    """The configuration in `config.json`, whichever of the two it is."""

    config: AnyEarVAEConfig


def convolutions(vae: nn.Module) -> list[str]:
    """Names of the modules that carry weight norm in the published checkpoint."""
    return [name for name, part in vae.named_modules() if isinstance(part, nn.Conv1d | nn.ConvTranspose1d)]


def snakes_twice(vae: nn.Module) -> dict[str, str]:
    """Name of the second appearance of each Snake in the published list -> name of the first."""
    units = [name for name, part in vae.named_modules() if isinstance(part, ResidualUnit)]
    return {f"{unit}.layers.2.{key}": f"{unit}.layers.0.{key}" for unit in units for key in ("alpha", "beta")}


def published_shapes(vae: nn.Module) -> dict[str, Size]:
    """Names and shapes that the published checkpoint of this network has."""
    shapes = {name: value.shape for name, value in vae.state_dict().items() if name not in STATISTICS}
    for name in convolutions(vae):
        weight = shapes.pop(f"{name}.weight")
        shapes |= {f"{name}.weight_g": Size([weight[0], 1, 1]), f"{name}.weight_v": weight}
    return shapes | {second: shapes[first] for second, first in snakes_twice(vae).items()}


def from_published(state: Mapping[str, Tensor], vae: nn.Module, path: Path) -> dict[str, Tensor]:
    """The published state under our names, float32, without statistics. Raises ConfigError where it does not fit."""
    remedy = "give the JSON that was published with it"
    check_state(state, published_shapes(vae), path, remedy)
    weights = {name: value.float() for name, value in state.items()}
    for second, first in snakes_twice(vae).items():
        if not torch.equal(weights.pop(second), weights[first]):
            raise ConfigError(
                f"{path}: {second} differs from {first}, and they are one weight; get the checkpoint again"
            )
    for name in convolutions(vae):
        folded(weights, name, "weight_v", "weight_g", path)
    return weights


def to_published(vae: EarVAE) -> dict[str, Tensor]:
    """The inverse of `from_published`: the weights of `vae` under the published names, each with its own memory."""
    state = {name: value.detach().cpu() for name, value in vae.state_dict().items() if name not in STATISTICS}
    for name in convolutions(vae):
        weight = state.pop(f"{name}.weight")
        state |= {f"{name}.weight_g": length_of(weight), f"{name}.weight_v": weight}
    state |= {second: state[first] for second, first in snakes_twice(vae).items()}
    return {name: value.clone().contiguous() for name, value in state.items()}


def read_published(
    checkpoint: Path, config: Path, sample_rate: int = SAMPLE_RATE, licence: str = "Apache-2.0"
) -> AnyEarVAE:
    """An ear-VAE from its published files. Raises ConfigError when one cannot be read, or they contradict each other.

    A JSON that declares a transformer beside a checkpoint without one (some loaders' do) is read without it. sample_rate: of v1
    and v2, whose JSON does not tell it.
    """
    values = read_published_json(config)
    section = ear_vae2_state.model_section(values)
    if section is not None:
        return _read_ear_vae2(checkpoint, config, section, licence)
    published = parse(PublishedConfig, values, str(config))
    state = read_checkpoint(checkpoint)
    attends = any(name.startswith(TRANSFORMER) for name in state)
    if attends and published.transformer is None:
        raise ConfigError(
            f"{checkpoint}: has a transformer, and {config} tells none; give the JSON that was published with it"
        )
    if not attends:
        published = published.model_copy(update={"transformer": None})
    chosen = {
        "kind": "ear-vae", "model": published, "sample_rate": sample_rate, "licence": licence,
        "source": _source(checkpoint, config),
    }  # fmt: skip
    return built(parse(EarVAEConfig, chosen, str(config)), lambda empty: from_published(state, empty, checkpoint))


def _read_ear_vae2(checkpoint: Path, config: Path, section: dict[str, Any], licence: str) -> EarVAE2:
    published = parse(PublishedConfig2, section, str(config))
    state = ear_vae2_state.read_state(checkpoint)
    chosen = EarVAE2Config(kind="ear-vae2", model=published, licence=licence, source=_source(checkpoint, config))
    vae = built(chosen, lambda empty: ear_vae2_state.from_published(state, empty, checkpoint))
    assert isinstance(vae, EarVAE2)
    return vae


def _source(checkpoint: Path, config: Path) -> str:
    return f"{checkpoint.name} (sha256 {sha256(checkpoint)[:16]}), {config.name} (sha256 {sha256(config)[:16]})"


def built(config: EarVAEConfig | EarVAE2Config, fill: Callable[[nn.Module], dict[str, Tensor]]) -> AnyEarVAE:
    """An ear-VAE with the weights that `fill` returns for an empty one. No random weights are drawn first."""
    with torch.device("meta"):
        vae: AnyEarVAE = EarVAE2(config) if isinstance(config, EarVAE2Config) else EarVAE(config)
    state = {"mean": torch.zeros(config.latent_dim), "std": torch.ones(config.latent_dim), **fill(vae)}
    vae.load_state_dict(state, assign=True)
    return vae.eval().requires_grad_(False)


def save_ear_vae(vae: AnyEarVAE, folder: Path) -> None:
    """Write the folder, whole or not at all. Raises ConfigError when it cannot be written."""
    try:
        with writing(folder, (CONFIG, WEIGHTS)) as partial:
            partial.mkdir()
            save_file({k: v.detach().cpu().contiguous() for k, v in vae.state_dict().items()}, partial / WEIGHTS)
            values = seal({**vae.config.model_dump(mode="json"), "sha256": hashes(partial, [WEIGHTS])})
            (partial / CONFIG).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror or error}); choose another place") from None


def load_ear_vae(folder: str | Path) -> AnyEarVAE:
    """What `save_ear_vae` wrote. Raises ConfigError when a file is missing, or not as it was written."""
    folder = Path(folder)
    values = read_published_json(folder / CONFIG)
    remedy = "make it anew: python -m duotok.renderer.ear_vae_files CKPT CONFIG.json FOLDER"
    if not is_sealed(values):
        raise ConfigError(f"{folder / CONFIG}: not as it was written; {remedy}")
    sha256_by_name = unsealed(values).get("sha256", {})
    kept = {"config": {k: v for k, v in unsealed(values).items() if k != "sha256"}}
    config = parse(_Kept, kept, str(folder / CONFIG)).config
    try:
        same = sha256_by_name.get(WEIGHTS) == sha256(folder / WEIGHTS)
    except OSError as error:
        raise ConfigError(f"{folder / WEIGHTS}: cannot be read ({error.strerror}); {remedy}") from None
    if not same:
        raise ConfigError(f"{folder / WEIGHTS}: not as it was written; {remedy}")

    def fill(empty: nn.Module) -> dict[str, Tensor]:
        state = read_checkpoint(folder / WEIGHTS)
        check_state(state, {name: value.shape for name, value in empty.state_dict().items()}, folder / WEIGHTS, remedy)
        return state

    return built(config, fill)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m duotok.renderer.ear_vae_files", description=__doc__.splitlines()[0].split(": ")[1]
    )
    parser.add_argument(
        "checkpoint", type=Path, metavar="CKPT", help="ear_vae_v2_48k.pyt, ear_vae_44k.pyt or ear_vae2.pt"
    )
    parser.add_argument("config", type=Path, metavar="CONFIG.json", help="the JSON that was published with it")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what is written")
    parser.add_argument(
        "--rate",
        type=int,
        default=SAMPLE_RATE,
        help="Hz of its sound, which no JSON tells; v1: 44100; ear-VAE2: always 48000",
    )
    parser.add_argument("--licence", default="Apache-2.0", help="of the weights, for bundles and model cards")
    options = parser.parse_args(arguments)
    try:
        if os.path.lexists(options.folder):
            raise ConfigError(f"{options.folder}: is there already; name a folder that is not")
        vae = read_published(options.checkpoint, options.config, options.rate, options.licence)
        save_ear_vae(vae, options.folder)
    except DuoTokError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    count = sum(value.numel() for value in vae.parameters())
    print(f"{options.folder}: {count / 1e6:.2f}M weights, {vae.config.sample_rate} Hz, hop {vae.config.hop}")
    if vae.config.misfit:
        print(f"note: {vae.config.misfit}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
