"""A language model to generate with: from a training run, or from an exported folder to share.

    config.json          sizes, the codec's identity, the protocol, the seconds of a piece, how it was trained
    model.safetensors    weights, with the codec's fingerprint
    README.md            the model card: the same for people

No pickle, no optimizer, no paths of the machine that trained it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors.torch import save
from torch import Tensor

from duotok.codec.bundle import CARD_FILE, SEAL, Storage, check_hash, load_weights
from duotok.codec.hub import CONFIG_FILE, PACKAGED
from duotok.codec.limits import check_limits
from duotok.compact import compact
from duotok.config import Config, parse
from duotok.errors import BundleError, ConfigError, DuoTokError
from duotok.files import recover, write_bytes, writing
from duotok.lm.config import LMConfig
from duotok.lm.model import MultiStreamLM
from duotok.lm.protocols import Name, Protocol, protocol_by_name
from duotok.lm.stage import TrainedLM, load_lm
from duotok.lm.streams import CodecField
from duotok.seals import hashes, is_sealed, read_json, seal
from duotok.training.checkpoint import best_so_far, checkpoints, read_state

FORMAT_VERSION = 1
WEIGHTS_FILE = "model.safetensors"
SHORTEST_ROW = 16  # most weights are tables of so many numbers a code
PACKAGED_LM = "lm"
"""Folder inside a bundle of the package."""
CHOSEN = ("tables", "steps", "batch_size", "accumulate", "lr", "warmup", "weight_decay", "betas", "eps", "clip", "seed")


class FolderConfig(Config):
    """`config.json` of a language model's folder."""

    format_version: int = FORMAT_VERSION
    model: LMConfig
    codec: CodecField
    protocol: Name
    source: str = ""
    target: str = ""
    prefix_seconds: float = Field(default=0.0, ge=0)
    seconds: float = Field(gt=0, description="of the pieces that it learned from")
    training: dict[str, Any] = {}


@dataclass(frozen=True)
class LanguageModel:
    """A model, its protocol, and the seconds of the pieces that it learned from. source: where it was read."""

    model: MultiStreamLM
    protocol: Protocol
    seconds: float
    source: Path


def find_lm(name: str | Path) -> Path:
    """The folder `name`, or that of the packaged language model in the bundle of this name ("mini").

    Raises ConfigError when there is neither.
    """
    path, packaged = Path(name), PACKAGED / str(name) / PACKAGED_LM
    recover(path)
    is_packaged = len(path.parts) == 1 and (packaged / WEIGHTS_FILE).is_file()
    # A folder that happens to be called like a bundle is no language model yet.
    if path.is_dir() and (not is_packaged or (path / WEIGHTS_FILE).is_file() or checkpoints(path)):
        return path
    if is_packaged:
        return packaged
    names = sorted(path.parts[-3] for path in PACKAGED.glob(f"*/{PACKAGED_LM}/{WEIGHTS_FILE}"))
    hint = f"; with the package came {', '.join(names)}" if names else ""
    raise ConfigError(f"{name}: no such folder; name the folder of a training run, or an exported language model{hint}")


def open_lm(path: str | Path, device: str | torch.device = "cpu") -> LanguageModel:
    """The model of an exported folder, the best one of a training run (or of one of its checkpoints), or the packaged one by
    the name of its bundle.

    Raises ConfigError when there is none, or a model of another kind, BundleError for damaged weights.
    """
    path = find_lm(path)
    if not (path / WEIGHTS_FILE).is_file():  # a run has a config.json too
        trained = load_lm(path, device=device)
        return LanguageModel(trained.model, trained.protocol, trained.config.seconds, trained.checkpoint)
    config, hashed = _read(path / CONFIG_FILE)
    protocol = protocol_by_name(config.codec, config.protocol, config.source, config.target, config.prefix_seconds)
    check_hash(path / WEIGHTS_FILE, hashed)
    model = MultiStreamLM(config.model, config.codec)
    load_weights(path / WEIGHTS_FILE, model)
    return LanguageModel(model.eval().requires_grad_(False).to(device), protocol, config.seconds, path)


def _read(path: Path, sealed: bool = True) -> tuple[FolderConfig, dict[str, str]]:
    """The config, and the hashes of the files."""
    try:
        values = read_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ConfigError(f"{path}: cannot be read, or no JSON; get the language model again") from None
    if not isinstance(values, dict) or "protocol" not in values:
        raise ConfigError(f"{path}: not the config of a language model; name another folder")
    if values.get("format_version") != FORMAT_VERSION:
        raise ConfigError(
            f"{path}: language model of format {values.get('format_version')}, this DuoTok reads {FORMAT_VERSION}; update it"
        )
    check_limits({key: values.get(key) for key in ("model", "codec")}, path)
    if sealed and not is_sealed(values):
        raise ConfigError(
            f"{path}: not as it was written, or by an earlier DuoTok; get the language model again, or if you trust its "
            f"files: {SEAL} {path.parent}"
        )
    config = parse(FolderConfig, {k: v for k, v in values.items() if k not in ("seal", "sha256")}, str(path))
    return config, dict(values.get("sha256") or {})


def export_lm(run: str | Path, folder: str | Path, storage: Storage = "float32", notes: str = "") -> Path:
    """Write the best model of a run (or one of its checkpoints) as a folder to share; it appears whole or not at all.

    storage: of the weights, as of a bundle's; notes: markdown at the end of the card, e.g. `data_section` of `training/assemble.py`.
    Raises ConfigError when there is no model, DuoTokError when `folder` holds something or cannot be written.
    """
    trained, folder = load_lm(run), Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DuoTokError(f"{folder}: is already there; name a new folder, or an empty one")
    config = _config(trained)
    state = _stored(trained.model, storage)
    try:
        with writing(folder) as partial:
            partial.mkdir()
            (partial / WEIGHTS_FILE).write_bytes(save(state))
            (partial / CARD_FILE).write_text(card(config, trained.model, notes), encoding="utf-8")
            _write_sealed(partial, config)
    except OSError as error:
        raise DuoTokError(f"{folder}: cannot be written ({error.strerror}); choose another place") from None
    return folder


def _write_sealed(folder: Path, config: FolderConfig) -> None:
    values = {**config.model_dump(mode="json"), "sha256": hashes(folder, [WEIGHTS_FILE, CARD_FILE])}
    write_bytes(folder / CONFIG_FILE, (json.dumps(seal(values), indent=1) + "\n").encode())


def seal_lm(folder: str | Path) -> Path:
    """Write the hash of the weights, and the seal, into `config.json`: the caller vouches for the files.

    Raises ConfigError for an invalid config, BundleError when the weights do not fit it or the folder is not writable.
    """
    folder = Path(folder)
    config, _ = _read(folder / CONFIG_FILE, sealed=False)
    load_weights(folder / WEIGHTS_FILE, MultiStreamLM(config.model, config.codec))
    try:
        _write_sealed(folder, config)
    except OSError as error:
        raise BundleError(f"{folder}: cannot be sealed ({error.strerror}); make it writable") from None
    return folder


def _config(trained: TrainedLM) -> FolderConfig:
    """The config of the folder, without paths of this machine."""
    config, protocol = trained.config, trained.protocol
    step = int(read_state(trained.checkpoint)["step"])
    figures = best_so_far(trained.checkpoint.parent)
    held_out = {figures["figure"]: figures["value"]} if figures.get("step") == step else {}
    chosen = {key: value for key, value in config.model_dump(mode="json").items() if key in CHOSEN}
    return FolderConfig(
        model=config.model, codec=protocol.codec, protocol=protocol.name, source=protocol.source, target=protocol.target,
        prefix_seconds=protocol.prefix_seconds, seconds=config.seconds,
        training={**chosen, "step": step, "held_out": held_out},
    )  # fmt: skip


def _stored(model: MultiStreamLM, storage: Storage) -> dict[str, Tensor]:
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if storage == "int8":
        return compact(state, {name for name, _ in model.named_parameters()}, least=SHORTEST_ROW)

    def small(value: Tensor) -> bool:
        return storage == "float16" and value.is_floating_point() and not bool((value.abs() >= 65_000).any())

    return {name: value.half() if small(value) else value.clone() for name, value in state.items()}


def card(config: FolderConfig, model: MultiStreamLM, notes: str = "") -> str:
    """The model card: what the folder holds."""
    codec, c = config.codec, config.model
    streams = ", ".join(f"{s.name} ({' x '.join(f'{n:,}' for n in s.codebook_sizes)} codes)" for s in codec.streams)
    what, arguments = "all streams of music, unconditionally or going on from a beginning", "--seconds 30 "
    if config.protocol != "parallel":
        what = f"{config.target} for given {config.source} (trained with {config.prefix_seconds:g} s of it given)"
        arguments = f"--{config.source} SONG --keep {config.prefix_seconds:g} "
    held_out = config.training.get("held_out", {})
    facts = {key: value for key, value in config.training.items() if key != "held_out"}
    facts |= {f"held-out {key}": f"{value:.4g}" for key, value in held_out.items()}
    lines = [
        f"# Language model over tokens of {codec.name}",
        f"Makes {what}.",
        "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in {
            "codec": f"{codec.name}, {codec.frame_rate:g} frames a second, {codec.sample_rate:,} Hz",
            "codec hash": f"`{codec.hash}`",
            "streams": streams,
            "model": f"Qwen2, {c.hidden} x {c.layers}, codes of {c.code_width}, {sum(p.numel() for p in model.parameters()):,} parameters",
            "pieces": f"{config.seconds:g} s",
            "training": ", ".join(f"{key} {value}" for key, value in facts.items()),
        }.items()),
        "It speaks the tokens of that codec only; those of another are refused.",
        f"```\nduotok generate --lm THIS_FOLDER --model BUNDLE_OF_{codec.name} {arguments}-o out.wav\n```",
    ]  # fmt: skip
    return "\n\n".join([*lines, *([notes.strip()] if notes else [])]) + "\n"
