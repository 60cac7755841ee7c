"""The folder of a transformers model: found, checked, hashed, loaded; safetensors only."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from duotok.codec.families import FAMILIES, WANT_TORCHAUDIO, Family
from duotok.codec.hub import fetch
from duotok.errors import BundleError, MissingExtraError
from duotok.weights import PICKLES

PREFIX = "transformers:"
CONFIG_FILE = "config.json"
INDEX_FILE = "model.safetensors.index.json"
WEIGHTS_FILE = "model.safetensors"
LARGEST_NUMBER = 1 << 24
LARGEST_COUNT = 1024
DEEPEST = 16
ROOM = 2
"""Most parameters of a configuration per stored weight: some weights are shared by encoder and decoder, or stored as buffers."""
NOT_HASHED = ("transformers_version", "_name_or_path", "architectures", "torch_dtype", "dtype")
"""Keys that say who wrote the file and how, and not what the model is."""


def find_folder(name: str | Path) -> Path:
    """A local folder, or `owner/name` on the Hugging Face hub, fetched into its cache without any pickle.

    Raises BundleError when there is no such thing.
    """
    text = str(name)
    if text and Path(name).is_dir():
        return Path(name)
    if text.count("/") != 1 or text.startswith(("/", ".", "~")) or text.endswith("/"):
        raise BundleError(f"{text or PREFIX}: no such folder; name the folder of a model, or owner/name on the hub")
    return fetch(text, ("*.json", "*.safetensors"))


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json`. Raises BundleError when it is missing or no JSON object."""
    path = folder / CONFIG_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{folder}: no model of transformers, it has no {CONFIG_FILE}; name another") from None
    except (OSError, ValueError, RecursionError):
        raise BundleError(f"{path}: not valid JSON; get the model again") from None
    if not isinstance(values, dict):
        raise BundleError(f"{path}: not the configuration of a model; get the model again")
    _check_sizes(values, str(path))
    return values


def _check_sizes(value: Any, where: str, key: str = "", depth: int = 0) -> None:
    """Raises BundleError for numbers that no model has, before anything of that size is built. A stricter limit holds for
    counts of layers, codebooks, quantizers, heads and blocks (`num_...` or `n_...`)."""
    if depth > DEEPEST:
        raise BundleError(f"{where}: nested {DEEPEST} deep and more; no configuration of a codec; get the model again")
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_sizes(inner, where, str(name), depth + 1)
    elif isinstance(value, list):
        if len(value) > LARGEST_COUNT:
            raise BundleError(
                f"{where}: {key} has {len(value)} entries, at most {LARGEST_COUNT} are sensible; get the model again"
            )
        for inner in value:
            _check_sizes(inner, where, key, depth + 1)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        most = (
            LARGEST_COUNT
            if re.match(r"(num|n)_\w*(layers|codebooks|quantizers|heads|blocks)$", key)
            else LARGEST_NUMBER
        )
        if not abs(value) <= most and abs(value) != float("inf"):
            raise BundleError(f"{where}: {key} = {str(value)[:24]}, more than {most} is no model; get the model again")


def family_of(values: dict[str, Any], folder: Path) -> Family:
    """The family of a model, from its configuration. Raises BundleError when it is not a known codec."""
    kind = values.get("model_type")
    if kind in WANT_TORCHAUDIO:
        raise BundleError(
            f"{folder}: model_type '{kind}' wants torchaudio, which DuoTok does not use; take another codec"
        )
    if not isinstance(kind, str) or kind not in FAMILIES:
        known = ", ".join(FAMILIES)
        if {"codec", "tokenizer"} <= set(values):
            raise BundleError(f"{folder}: a DuoTok bundle; open it without '{PREFIX}'")
        raise BundleError(f"{folder}: model_type '{kind}' is no codec known here; there are {known}")
    return FAMILIES[kind]


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model. Raises BundleError when there are none or one is missing."""
    index = folder / INDEX_FILE
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    if not index.is_file():
        pickles = sorted(path.name for ending in PICKLES for path in folder.glob(f"*{ending}"))
        available = f"only {pickles[0]}, a pickle that could run code" if pickles else "no weights at all"
        raise BundleError(f"{folder}: no {WEIGHTS_FILE} ({available}); get the model as safetensors")
    try:
        names = sorted({str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise BundleError(f"{index}: damaged; get the model again") from None
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise BundleError(f"{folder}: {missing[0] if missing else WEIGHTS_FILE} is missing; get the model again")
    return [folder / name for name in names]


def content_hash(values: dict[str, Any], files: list[Path]) -> str:
    """sha256 of a configuration and of every tensor of the weight files, however they are split into files.

    Read from the files, so that a new release of transformers, which may rename weights, changes no hash. Raises
    BundleError for a damaged file.
    """
    config = {key: value for key, value in values.items() if key not in NOT_HASHED}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, separators=(",", ":")).encode())
    digests: dict[str, bytes] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    tensor = file.get_tensor(name)
                    tensor_digest = hashlib.sha256(f"\0{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
                    tensor_digest.update(tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
                    digests[name] = tensor_digest.digest()
        except (SafetensorError, OSError, ValueError):
            raise BundleError(f"{path}: damaged; get the model again") from None
    for name in sorted(digests):
        digest.update(digests[name])
    return digest.hexdigest()


def load_model(folder: Path, family: Family) -> nn.Module:
    """The model in float32, in evaluation mode. Raises MissingExtraError without transformers, and BundleError when the files
    lack weights of the model, which would be random, or hold values that are no numbers."""
    model_class = _model_class(family.model_class)
    try:
        with _silenced():
            _check_parameters(model_class, folder)
            model, report = model_class.from_pretrained(
                folder, use_safetensors=True, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
    except BundleError:
        raise
    except Exception as error:  # transformers raises exceptions of many kinds
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise BundleError(
            f"{folder}: cannot be loaded as {family.model_class} ({reason}); get the model again"
        ) from None
    missing = sorted(map(str, {*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])}))
    if missing:
        raise BundleError(
            f"{folder}: {len(missing)} weights of {family.model_class} are missing or of another shape ({missing[0]}); "
            "get the model again"
        )
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise BundleError(f"{folder}: '{name}' holds NaN or infinite values; get the model again")
    ready: nn.Module = model.eval().requires_grad_(False)
    return ready


def _check_parameters(model_class: Any, folder: Path) -> None:
    """Raises BundleError when the configuration asks for far more parameters than the weights hold. Nothing is allocated."""
    stored = 0
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            stored += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    config = model_class.config_class.from_pretrained(folder)
    with torch.device("meta"):
        configured = sum(parameter.numel() for parameter in model_class(config).parameters())
    if configured > ROOM * stored:
        raise BundleError(
            f"{folder / CONFIG_FILE}: asks for {configured:,} parameters, the weights beside it hold {stored:,}; they do not belong "
            "together; get the model again"
        )


def _model_class(name: str) -> Any:
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("codecs of transformers need it: pip install 'duotok[lm]'") from None
    try:
        return getattr(transformers, name)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        # A torchaudio that does not fit torch breaks the import of several models of transformers.
        reason = " ".join(str(error).split())[:160]
        raise MissingExtraError(
            f"transformers has no usable {name} ({reason}); pip install -U 'duotok[lm]', and pip uninstall torchaudio "
            "where it does not fit torch"
        ) from None


@contextmanager
def _silenced() -> Iterator[None]:
    """Turn off the progress bars and reports of transformers."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
