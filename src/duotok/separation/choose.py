"""Separators by name. All of them: 48 kHz, `[1 or 2, samples]` in, vocals + accompaniment = mix, streams of any length."""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path

import torch

from duotok.config import parse
from duotok.devices import check_device
from duotok.errors import ConfigError
from duotok.files import PACKAGE
from duotok.separation.bs_roformer import BSRoFormer, BSRoFormerConfig
from duotok.separation.chunked import ACCOMPANIMENT, VOCALS, ChunkedSeparator
from duotok.separation.separator import MiniSeparator
from duotok.separation.weights import load_strict

SEPARATORS = ("mini", "demucs", "bs-roformer")
PACKAGED = PACKAGE / "bundles" / "mini"


def separator_by_name(
    name: str,
    *,
    weights: str | Path | None = None,
    config: str | Path | None = None,
    model: str = "htdemucs",
    device: str | torch.device = "cpu",
    stems: tuple[str, ...] = (VOCALS, ACCOMPANIMENT),
) -> ChunkedSeparator:
    """One of SEPARATORS at 48 kHz.

    weights: for mini the folder of a bundle (None: the one in the package), for demucs a folder of weights (None: from
    the hub), for bs-roformer the converted .safetensors. config: the YAML of bs-roformer (None: the one beside its
    weights). model: which Demucs. Raises ConfigError for an unknown name or weights that are missing or do not fit,
    MissingExtraError where a package is not installed.
    """
    check_device(device)
    if name == "mini":
        return _mini(PACKAGED if weights is None else Path(weights), device, stems)
    if name == "demucs":
        from duotok.separation.demucs import DemucsSeparator

        return DemucsSeparator(model, weights, device, stems)
    if name == "bs-roformer":
        if weights is None:
            raise ConfigError(
                "separator 'bs-roformer' needs weights: the converted .safetensors; see docs/separation.md"
            )
        from duotok.separation.published import load_published

        return load_published(weights, config, device, stems)
    near = difflib.get_close_matches(name, SEPARATORS, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise ConfigError(f"no separator '{name}': use {', '.join(SEPARATORS)}{hint}")


def separator_stamp(
    name: str, *, weights: str | Path | None = None, config: str | Path | None = None, model: str = "htdemucs"
) -> str:
    """Identifies a separator in ledgers: its name, and the SHA-256 of its weights where they are local files."""
    if name == "mini":
        weights = (PACKAGED if weights is None else Path(weights)) / "separator.safetensors"
    paths = [Path(path) for path in (weights, config) if path is not None]
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path]) if file.is_file()]
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    parts = [name, *([model] if name == "demucs" else []), *([digest.hexdigest()[:16]] if files else [])]
    return ":".join(parts)


def _mini(folder: Path, device: str | torch.device, stems: tuple[str, ...]) -> MiniSeparator:
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not valid JSON"
        raise ConfigError(f"{path}: cannot be read ({reason}); give the folder of a bundle") from None
    if not isinstance(values, dict) or not isinstance(values.get("separator"), dict):
        raise ConfigError(f"{path}: this bundle has no separator; use another, or demucs")
    config = parse(BSRoFormerConfig, values["separator"], str(path))
    if config.sample_rate != 48_000:
        raise ConfigError(
            f"{path}: its separator works at {config.sample_rate} Hz, not 48000; use another bundle, or demucs"
        )
    network = BSRoFormer(config)
    load_strict(folder / "separator.safetensors", network)
    return MiniSeparator(network.requires_grad_(False).to(device), stems)
