"""Demucs behind the separator's interface (extra `demucs`): the stems of the paper's data (docs/parameters.md, data).

`htdemucs`, shifts 1, overlap 0.25; vocals are its vocals source, accompaniment = mix - vocals. Weights are read as the
package publishes them today: a folder with `NAME.yaml` (which networks, how weighed) and one `SIGNATURE.safetensors` each.
The package's own chunking needs the whole song in memory and shifts it at random; this one streams, and its shifts are the
same in every run. Chunks, overlap and crossfade are those of the package.
"""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor

from duotok.errors import ConfigError, MissingExtraError, one_line
from duotok.separation.chunked import ACCOMPANIMENT, VOCALS, ChunkedSeparator
from duotok.separation.weights import REMEDY, check_weights_file

NAMESPACE = "adefossez"
# The classes that a weight file may name. (The package itself would import any name in the file.)
NETWORKS = ("demucs.htdemucs.HTDemucs", "demucs.hdemucs.HDemucs", "demucs.demucs.Demucs")
LONGEST_SHIFT = 0.5  # seconds


class DemucsSeparator(ChunkedSeparator):
    """A Demucs model (one network, or several averaged) at 48 kHz outside, 44.1 kHz inside.

    model: a published name (htdemucs, htdemucs_ft, hdemucs_mmi, ...). repo: a folder with its weights; None takes them
    from the Hugging Face hub, once. shifts: runs over the song, each displaced by up to half a second, and averaged;
    each costs the whole time again; 0 is one run that starts with the song. overlap: share of a chunk, below a half.
    """

    def __init__(
        self,
        model: str = "htdemucs",
        repo: str | Path | None = None,
        device: str | torch.device = "cpu",
        stems: tuple[str, ...] = (VOCALS, ACCOMPANIMENT),
        shifts: int = 1,
        overlap: float = 0.25,
    ) -> None:
        if shifts < 0 or not 0.0 <= overlap <= 0.5:
            raise ConfigError(f"demucs: shifts = {shifts}, overlap = {overlap}; at least 0, and from 0 to 0.5")
        self.network = load_network(model, repo).to(device)
        rate = int(self.network.samplerate)
        chunk = min(int(part.segment * rate) for part in self.network.models)
        covered = chunk - int((1 - overlap) * chunk)
        rise = torch.arange(1, covered + 1, dtype=torch.float32) / (covered + 1)
        draw = random.Random(0)
        super().__init__(
            tuple(self.network.sources),
            stems,
            chunk,
            rise,
            rate=rate,
            sample_rate=48_000,
            shifts=tuple(draw.randint(0, int(LONGEST_SHIFT * rate)) for _ in range(shifts)) or (0,),
        )

    def estimate(self, mix: Tensor, stems: tuple[str, ...]) -> Tensor:
        from demucs.apply import apply_model

        device = next(self.network.parameters()).device
        out = apply_model(self.network, mix[None].to(device), shifts=0, split=False, device=device)
        return torch.stack([out[0, self.network.sources.index(stem)] for stem in stems]).cpu()


def load_network(model: str, repo: str | Path | None = None) -> Any:
    """The networks of a published name as Demucs's bag of models, in evaluation mode.

    Raises MissingExtraError without the package, ConfigError when weights are missing, damaged or of anything else than a
    Demucs network.
    """
    try:
        from demucs.apply import BagOfModels
    except ImportError:
        raise MissingExtraError("Demucs is not installed; pip install 'duotok[demucs]'") from None
    folder = _from_hub(model) if repo is None else Path(repo)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give the folder with {model}.yaml and its .safetensors")
    recipe = folder / f"{model}.yaml"
    try:
        bag = yaml.safe_load(recipe.read_text(encoding="utf-8"))
        signatures, weights = [str(name) for name in bag["models"]], bag.get("weights")
        parts = [_network(_weights_file(folder, signature)) for signature in signatures]
        return BagOfModels(parts, weights, bag.get("segment")).eval()
    except FileNotFoundError:
        available = ", ".join(sorted(path.stem for path in folder.glob("*.yaml"))) or "none"
        raise ConfigError(f"{recipe}: no such model; the folder has {available}") from None
    except (yaml.YAMLError, TypeError, KeyError, AttributeError, AssertionError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{recipe}: not the recipe of a Demucs model ({type(error).__name__}: {error}); {REMEDY}"
        ) from None


def _weights_file(folder: Path, signature: str) -> Path:
    path = folder / f"{signature}.safetensors"
    if not path.is_file():
        pickles = sorted(folder.glob(f"{signature}*.th"))
        if pickles:
            check_weights_file(pickles[0])  # raises, with the command that converts it
    check_weights_file(path)
    return path


def _network(path: Path) -> Any:
    """One network from safetensors whose metadata states its class and arguments."""
    from demucs.hf import load_safetensors_model

    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("klass") not in NETWORKS:
            raise ConfigError(
                f"{path}: its metadata names no Demucs network (klass = {metadata.get('klass')}); {REMEDY}"
            )
        if "structure" in metadata:
            raise ConfigError(f"{path}: quantized weights, which are not read; take the model without _q")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # arguments that only training uses
            return load_safetensors_model(path)
    except (OSError, SafetensorError, RuntimeError, TypeError, KeyError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: damaged weights ({one_line(error, 160)}); {REMEDY}") from None


def _from_hub(model: str) -> Path:
    from demucs.hf import hf_repo_name
    from huggingface_hub import snapshot_download

    name = f"{NAMESPACE}/{hf_repo_name(model)}"
    try:
        return Path(snapshot_download(name, allow_patterns=["*.yaml", "*.safetensors"]))
    except Exception as error:  # the hub client has dozens of error classes, all with long texts
        raise ConfigError(
            f"demucs: '{model}' was not fetched from the hub, {name} ({one_line(error)}); check the name, or give a folder that "
            f"has {model}.yaml and its .safetensors"
        ) from None
