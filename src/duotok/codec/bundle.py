"""A bundle is the folder that holds a whole model: `config.json`, safetensors weights, and a model card.

    config.json                     the configuration of every part (BundleConfig), the sha256 of the other files, and a seal
    tokenizer.safetensors           sound to tokens
    autoencoder.safetensors         latents to sound
    dit.vocals.safetensors          tokens to latents, one for each track
    dit.accompaniment.safetensors
    separator.safetensors           a mix to its stems
    README.md                       the model card

The renderer (autoencoder and both dit) and the separator are left out where `config.json` has null for them. A bundle of a
tokenizer alone encodes but cannot decode.

Weights are loaded when they are first needed, so that encoding does not read the renderer. A file that was changed since it
was written is refused; after a deliberate change, seal the folder again (`duotok bundle --seal FOLDER`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from pydantic import Field, model_validator
from safetensors.torch import save
from torch import Tensor, nn

from duotok.audio.features import HIGHPASS_HZ, MEL_MEAN, MEL_STD
from duotok.codec.hub import CONFIG_FILE
from duotok.codec.limits import check_limits
from duotok.compact import SCALE, compact
from duotok.config import Config, parse
from duotok.errors import BundleError, ConfigError
from duotok.files import sha256, write_bytes, writing
from duotok.lineage import Origin
from duotok.model.config import TokenizerConfig
from duotok.model.tokenizer import Tokenizer
from duotok.renderer.autoencoder import AutoencoderConfig
from duotok.renderer.dit import DiTConfig
from duotok.renderer.ear_vae import EarVAEConfig
from duotok.renderer.kinds import AnyAutoencoderConfig, AnyDiTConfig, make_autoencoder, make_dit
from duotok.renderer.render import RenderPlan
from duotok.renderer.samplers import SamplerName
from duotok.seals import hashes, is_sealed, read_json, seal, unsealed
from duotok.separation.bs_roformer import BSRoFormer, BSRoFormerConfig
from duotok.tokens import LARGEST_GAIN_DB, WindowPlan
from duotok.tracks import TRACKS
from duotok.weights import Misfit
from duotok.weights import load_weights as load_strict

FORMAT_VERSION = 1
SEAL = "duotok bundle --seal"
CARD_FILE = "README.md"
Storage = Literal["float32", "float16", "int8"]
_PARTS = ("tokenizer", "autoencoder", "separator", *(f"dit.{track}" for track in TRACKS))
OWN_FILES = (CONFIG_FILE, CARD_FILE, *(f"{part}.safetensors" for part in _PARTS))
SAID = ("kind", "licence", "source")
"""Keys of a part's configuration that do not describe its shape; licence and source are set for parts trained elsewhere."""


class DiTConfigs(Config):
    """One renderer for each track."""

    vocals: AnyDiTConfig = DiTConfig()
    accompaniment: AnyDiTConfig = DiTConfig()


class CodecConfig(Config):
    """How sound is prepared for the models, which is fixed at training time, and the defaults of rendering."""

    loudness: float = Field(default=-18.0, ge=-60, le=0, description="LUFS that the mix is brought to")
    max_gain_db: float = Field(default=40.0, ge=0, le=LARGEST_GAIN_DB, description="no louder and no softer than this")
    highpass_hz: float = Field(
        default=HIGHPASS_HZ,
        ge=0,
        le=100,
        description="high-pass before everything; 0, or no such key in a bundle: none",
    )
    mel_mean: float = MEL_MEAN
    mel_std: float = Field(default=MEL_STD, gt=0)
    window: int = Field(default=500, gt=0, description="token frames of an encoder window")
    context: int = Field(default=50, ge=0, description="frames discarded at every inner edge")
    steps: int = Field(default=16, gt=0)
    sampler: SamplerName = "dpmpp-2m"
    temperature: float = Field(default=1.0, ge=0)
    render: RenderPlan = RenderPlan()

    @model_validator(mode="after")
    def _fits(self) -> CodecConfig:
        if self.window <= 2 * self.context:
            raise ValueError(f"window {self.window} must be over twice the context {self.context}")
        return self

    @property
    def plan(self) -> WindowPlan:
        return WindowPlan(self.window, self.context)


class BundleConfig(Config):
    """The `config.json` of a bundle."""

    format_version: int = FORMAT_VERSION
    name: str = "duotok"
    codec: CodecConfig = CodecConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    autoencoder: AnyAutoencoderConfig | None = AutoencoderConfig()
    dit: DiTConfigs | None = DiTConfigs()
    separator: BSRoFormerConfig | None = None
    lineage: dict[str, Origin] = Field(
        default={}, description="part -> the checkpoint it is from; none in bundles of an earlier DuoTok"
    )

    @model_validator(mode="after")
    def _check_renderer(self) -> BundleConfig:
        if (self.autoencoder is None) != (self.dit is None):
            raise ValueError("autoencoder and dit make the renderer together; give both, or null for both")
        if isinstance(self.autoencoder, EarVAEConfig) and self.autoencoder.misfit:
            raise ValueError(f"autoencoder: {self.autoencoder.misfit}")
        if self.autoencoder is not None:
            for track in TRACKS:
                dit = getattr(self.dit, track)
                makes, reads = dit.latent_dim, self.autoencoder.latent_dim
                if makes != reads:
                    raise ValueError(f"dit.{track} makes latents of {makes} numbers, the autoencoder reads {reads}")
                if dit.latents_per_frame != self.autoencoder.latents_per_frame:
                    raise ValueError(
                        f"dit.{track} makes {dit.latents_per_frame} latents for each token frame, the autoencoder reads "
                        f"{self.autoencoder.latents_per_frame}"
                    )
        return self

    @property
    def renders(self) -> bool:
        """Whether tokens can be decoded to sound."""
        return self.dit is not None

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the weight files without their ending."""
        renderer = ("autoencoder", *(f"dit.{track}" for track in TRACKS)) if self.renders else ()
        return ("tokenizer", *renderer, *(() if self.separator is None else ("separator",)))


def build(config: BundleConfig, part: str) -> nn.Module:
    """One part of a bundle with random weights, in evaluation mode."""
    module: nn.Module
    if part == "tokenizer":
        module = Tokenizer(config.tokenizer)
    elif part == "autoencoder" and config.autoencoder is not None:
        module = make_autoencoder(config.autoencoder)
    elif part == "separator" and config.separator is not None:
        module = BSRoFormer(config.separator)
    elif config.dit is not None and part.startswith("dit.") and part[4:] in TRACKS:
        module = make_dit(getattr(config.dit, part[4:]))
    else:
        raise BundleError(f"bundle '{config.name}' has no part '{part}'; it has {', '.join(config.parts)}")
    return module.eval().requires_grad_(False)


def model_hash(values: Mapping[str, Any], tokenizer: nn.Module) -> str:
    """sha256, in 64 hex digits, of what gives tokens their meaning: tokenizer weights and config, and the analysis settings.

    values: the content of `config.json` as it was written, so that a key added to DuoTok later changes no hash. The
    weights count as float32, so that the precision of storage alone does not either.
    """
    analysis = {key: values["codec"].get(key) for key in ("loudness", "max_gain_db", "mel_mean", "mel_std")}
    if values["codec"].get("highpass_hz"):  # bundles older than the high-pass keep their hash
        analysis["highpass_hz"] = values["codec"]["highpass_hz"]
    settings = {"tokenizer": values["tokenizer"], "codec": analysis}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, separators=(",", ":")).encode())
    _add_weights(digest, tokenizer)
    return digest.hexdigest()


def sound_hash(values: Mapping[str, Any], parts: Mapping[str, nn.Module]) -> str:
    """sha256, in 64 hex digits, of what gives tokens their sound: `parts` (autoencoder and renderers) and settings, both as in `model_hash`."""
    settings = {key: values[key] for key in ("format_version", "codec", "autoencoder", "dit") if key in values}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, module in sorted(parts.items()):
        digest.update(f"\0{name}\0".encode())
        _add_weights(digest, module)
    return digest.hexdigest()


def _add_weights(digest: hashlib._Hash, module: nn.Module) -> None:
    for name, tensor in sorted(module.state_dict().items()):
        value = tensor.detach().cpu()
        value = value.float() if value.is_floating_point() else value
        digest.update(f"\0{name}\0{value.dtype}\0{list(value.shape)}\0".encode())
        digest.update(value.contiguous().numpy().tobytes())


def _for_storage(state: dict[str, Tensor], learned: set[str], storage: Storage) -> dict[str, Tensor]:
    if storage == "float32":
        return {name: value.clone() for name, value in state.items()}
    small = compact(state, learned) if storage == "int8" else state
    return {name: value if name.endswith(SCALE) else _half(value, name in learned) for name, value in small.items()}


def _half(tensor: Tensor, learned: bool) -> Tensor:
    # Statistics (buffers of one dimension) and tensors that would overflow stay float32.
    if tensor.dtype != torch.float32 or not (learned or tensor.ndim > 1) or bool((tensor.abs() >= 65_000).any()):
        return tensor
    return tensor.half()


def write_bundle(
    folder: str | Path,
    config: BundleConfig,
    modules: Mapping[str, nn.Module],
    card: str = "",
    storage: Storage = "float32",
    force: bool = False,
    values: Mapping[str, Any] | None = None,
) -> Path:
    """Write a bundle; `modules` maps the names of `config.parts` to the trained modules.

    storage: number format of the matrices. int8 has a scale for each row (compact.py), and other large tensors are float16
    then. The folder is written whole or not at all. An existing bundle is replaced; other files in its folder stay. force:
    write also into a folder that holds other files and no bundle. values: `config` as it was written once, which `model_hash`
    is taken over.
    Raises BundleError when a part is missing or has weights that are no numbers, or the folder cannot be written; ConfigError for
    another storage.
    """
    folder = Path(folder)
    if storage not in get_args(Storage):
        raise ConfigError(f"storage '{storage}' does not exist; choose {', '.join(get_args(Storage))}")
    missing = [part for part in config.parts if part not in modules]
    if missing:
        raise BundleError(f"{folder}: bundle not written, these parts were not given: {', '.join(missing)}")
    if folder.exists() and not folder.is_dir():
        raise BundleError(f"{folder}: is a file; name a folder for the bundle")
    if folder.is_dir() and any(folder.iterdir()) and not force and not is_bundle(folder):
        raise BundleError(f"{folder}: holds other files and no bundle; name a new or an empty folder")
    try:
        with writing(folder, OWN_FILES) as partial:
            partial.mkdir()
            for part in config.parts:
                state = {k: v.detach().cpu().contiguous() for k, v in modules[part].state_dict().items()}
                if bad := [k for k, v in state.items() if v.is_floating_point() and not bool(v.isfinite().all())]:
                    raise BundleError(
                        f"{folder}: bundle not written, '{bad[0]}' of {part} holds NaN or infinite values; train it again"
                    )
                learned = {name for name, _ in modules[part].named_parameters()}
                # Parts that were trained elsewhere are never stored in 8 bits, whose rounding is noise 40 dB below the weights.
                foreign = bool(getattr(getattr(modules[part], "config", None), "source", ""))
                part_storage: Storage = "float16" if foreign and storage == "int8" else storage
                (partial / f"{part}.safetensors").write_bytes(save(_for_storage(state, learned, part_storage)))
            (partial / CARD_FILE).write_text(card or f"# {config.name}\n", encoding="utf-8")
            _write_sealed(partial, dict(values or config.model_dump(mode="json")), list(config.parts))
    except OSError as error:
        raise BundleError(f"{folder}: cannot be written ({error.strerror}); choose another place") from None
    return folder


def is_bundle(folder: Path) -> bool:
    """Whether a folder holds a bundle, which may be damaged or without seals."""
    try:
        return bool(_json(folder / CONFIG_FILE))
    except BundleError:
        return False


def _write_sealed(folder: Path, values: dict[str, Any], parts: Sequence[str]) -> None:
    files = [f"{part}.safetensors" for part in parts] + ([CARD_FILE] if (folder / CARD_FILE).is_file() else [])
    text = json.dumps(seal({**values, "sha256": hashes(folder, files)}), indent=1) + "\n"
    write_bytes(folder / CONFIG_FILE, text.encode())


def seal_bundle(folder: str | Path) -> Path:
    """Write the hashes of a bundle's files, and the seal, into its `config.json`. The caller vouches for the files.

    Raises BundleError when the config is not that of a bundle, or the weights do not fit it.
    """
    folder = Path(folder)
    values = _json(folder / CONFIG_FILE)
    config = parse_config(values, folder / CONFIG_FILE)
    try:
        for part in config.parts:
            load_weights(folder / f"{part}.safetensors", build(config, part))
        _write_sealed(folder, values, list(config.parts))
    except OSError as error:
        raise BundleError(f"{folder}: cannot be sealed ({error.strerror}); make it writable") from None
    return folder


def _json(path: Path) -> dict[str, Any]:
    """`config.json` without a check of its seal. Raises BundleError when it is not that of a bundle, or its values are too large."""
    try:
        values = read_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not valid JSON"
        raise BundleError(f"{path}: cannot be read ({reason}); get the bundle again") from None
    if not isinstance(values, dict) or not all(isinstance(values.get(k), dict) for k in ("codec", "tokenizer")):
        raise BundleError(f"{path}: not the config of a DuoTok bundle; get the bundle again")
    version = values.get("format_version")
    if version != FORMAT_VERSION:
        raise BundleError(f"{path}: bundle format {version}, this DuoTok reads {FORMAT_VERSION}; update DuoTok")
    check_limits(values, path)
    return values


def read_values(folder: Path) -> dict[str, Any]:
    """`config.json` as it was written. Raises BundleError when it cannot be read, is of another version, or was changed."""
    path = folder / CONFIG_FILE
    values = _json(path)
    if "seal" not in values:
        raise BundleError(
            f"{path}: a bundle of an earlier DuoTok, without seals; get it again, or if you trust its files: {SEAL} {folder}"
        )
    if not is_sealed(values):
        raise BundleError(
            f"{path}: not as it was written; get the bundle again, or if you changed it yourself: {SEAL} {folder}"
        )
    return unsealed(values)


def parse_config(values: dict[str, Any], path: Path) -> BundleConfig:
    """Validate the values of `path` other than seal and hashes. Raises BundleError naming the key that is wrong.

    A bundle without `codec.highpass_hz` was trained before that key existed, without a high-pass.
    """
    codec = values.get("codec")
    if isinstance(codec, dict):
        values = {**values, "codec": {"highpass_hz": 0.0, **codec}}
    try:
        return parse(BundleConfig, {k: v for k, v in values.items() if k not in ("seal", "sha256")}, str(path))
    except ConfigError as error:
        raise BundleError(f"{error}; get the bundle again") from None


def check_hash(path: Path, sha256_by_name: Mapping[str, str]) -> None:
    """Raises BundleError unless a file has the hash that is recorded in the config of its folder."""
    try:
        same = sha256_by_name.get(path.name) == sha256(path)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); get the bundle again") from None
    if not same:
        raise BundleError(
            f"{path}: not as it was written; get the bundle again, or if you changed it yourself: {SEAL} {path.parent}"
        )


class Bundle:
    """An open bundle folder. Raises BundleError on opening when a file is missing, and on use when one is damaged."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.values = read_values(self.folder)
        self.config = parse_config(self.values, self.folder / CONFIG_FILE)
        self.sha256: dict[str, str] = dict(self.values.get("sha256") or {})
        self._loaded: dict[str, nn.Module] = {}
        for part in self.config.parts:
            path = self.weights(part)
            if not path.is_file() or path.stat().st_size == 0:
                raise BundleError(f"{path}: missing from the bundle; copy it there or get the bundle again")

    def weights(self, part: str) -> Path:
        return self.folder / f"{part}.safetensors"

    @property
    def card(self) -> str:
        path = self.folder / CARD_FILE
        if CARD_FILE in self.sha256:
            check_hash(path, self.sha256)
        try:
            return path.read_text(encoding="utf-8") if path.is_file() else ""
        except UnicodeDecodeError:
            raise BundleError(f"{path}: is no UTF-8; save it so, and then: {SEAL} {self.folder}") from None

    def load(self, part: str) -> nn.Module:
        """One part with its weights as float32, in evaluation mode; loaded once."""
        if part not in self._loaded:
            check_hash(self.weights(part), self.sha256)
            module = build(self.config, part)
            load_weights(self.weights(part), module)
            self._loaded[part] = module
        return self._loaded[part]


def load_weights(path: Path, module: nn.Module) -> None:
    """Load safetensors strictly into `module`, smaller storage widened. Raises BundleError in one line."""
    remedy = "get the bundle again"

    def unfit(problems: Sequence[Misfit]) -> str:
        return f"weights do not fit {CONFIG_FILE} ({problems[0].description}); {remedy}"

    load_strict(path, module, BundleError, remedy, unfit)


def facts(bundle: Bundle) -> dict[str, Any]:
    """What `duotok info` prints about a bundle. Raises BundleError when any of its files was changed since it was written."""
    _ = bundle.card
    tokenizer = bundle.load("tokenizer")
    parts = {
        part: {
            **{
                name: getattr(bundle.load(part).config, name)
                for name in SAID
                if hasattr(bundle.load(part).config, name)
            },
            "parameters": sum(p.numel() for p in bundle.load(part).parameters()),
            "bytes": bundle.weights(part).stat().st_size,
        }
        for part in bundle.config.parts
    }
    return {
        "name": bundle.config.name,
        "folder": str(bundle.folder),
        "model_hash": model_hash(bundle.values, tokenizer),
        "bytes": sum(p["bytes"] for p in parts.values()),
        "parts": parts,
        "lineage": {part: origin.model_dump(mode="json") for part, origin in bundle.config.lineage.items()},
        "config": bundle.config.model_dump(mode="json", exclude={"lineage"}),
    }
