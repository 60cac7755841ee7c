"""Implements the codec contract with a tokenizer in its own environment. Sound and codes are exchanged in files."""

from __future__ import annotations

import hashlib
import json
import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from torch import Tensor

from duotok.clock import SAMPLE_RATE
from duotok.codec.contract import Source, Stream, StreamTokens, check_tokens
from duotok.codec.entry import EACH_TRACK, TOGETHER, Entry
from duotok.codec.external.known import Known, own
from duotok.codec.external.registry import EXTERNAL
from duotok.codec.external.settings import PATHS, ExternalConfig, read_settings
from duotok.codec.layout import Even
from duotok.codec.sounds import Sounds
from duotok.config import Config
from duotok.errors import BundleError, ConfigError
from duotok.files import naming, sha256, temporary_folder
from duotok.tokens import Tokens, WindowPlan
from duotok.tool_process import ToolError, ToolProcess, interpreter, short
from duotok.tracks import TRACKS

RUNNER = Path(__file__).parent / "runners" / "codec_runner.py"
CHOICES = (*TRACKS, "mix")
FORMAT = 1
"""Part of the hash; raise it when the same weights and settings would give other tokens."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""Several packages download missing weights, but the meaning of codes must be determined by the settings alone."""
RATE_CLOSE = 1e-6


class Facts(Config):
    """The runner's description of its tokenizer. window, context: seconds (window None: the tokenizer cuts the sound itself)."""

    sample_rate: int = Field(ge=1000, le=384_000)
    channels: int = Field(ge=1, le=2)
    block: int = Field(ge=1, le=1 << 22)
    per_block: int = Field(ge=1, le=1 << 16)
    sizes: list[int] = Field(min_length=1, max_length=64)
    window: float | None = Field(gt=0, le=3600)
    context: float = Field(ge=0, le=600)
    joint: bool = False
    encodes: bool = True
    decodes: bool = True


class ExternalCodec:
    """Make one with `open`. A process is started and kept, so that weights load once. It ends with `close`, or when the codec
    is garbage collected.

    checkpoint: file, bytes and sha256 of each weight file, as read by the runner.
    """

    def __init__(
        self,
        config: ExternalConfig,
        known: Known,
        device: str = "cpu",
        codebooks: int | None = None,
        tracks: Sequence[str] | None = None,
    ) -> None:
        """Raises ConfigError when the environment is missing or the tokenizer cannot be loaded there; BundleError when its
        description contradicts the published facts; ToolError when it hangs or dies."""
        self.entry: Entry = known.entry
        self.config, self._known = config, known
        self.device = device
        requested_codebooks = codebooks if codebooks is not None else config.codebooks
        self._settings = {
            "weights": config.weights, "checkout": config.checkout, "options": config.options, "device": device,
            "codebooks": requested_codebooks, "trust_pickle": config.trust_pickle, "sha256": config.sha256,
        }  # fmt: skip
        self._python = interpreter(config.python, known.environment)
        self._process = ToolProcess(known.entry.name, "raise `timeout` in its settings", "is `python` a Python?")
        weakref.finalize(self, self._process.close)
        self.checkpoint: list[dict[str, Any]] = []
        self.facts = self._start()
        self.tracks = self._tracks(tracks)
        self.layout = _layout(self.facts)
        self.codebooks = len(self.facts.sizes)
        if not known.rates:
            self.entry = _described(self.entry, self.facts, self.frame_rate)
        count = f"-{self.codebooks}" if self.entry.codebooks > 1 and isinstance(self.entry.codebook_size, int) else ""
        self.model_id = f"{self.entry.name}{count}"
        settings = [
            FORMAT, self.entry.name, [file["sha256"] for file in self.checkpoint], _contents(config.options), self.facts.sizes,
            self.facts.sample_rate, self.layout.settings(), *([] if known.rates else [sha256(known.adapter)]),
        ]  # fmt: skip
        self.model_hash = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()

    @classmethod
    def open(
        cls, path: str | Path, device: str = "cpu", codebooks: int | None = None, tracks: Sequence[str] | None = None
    ) -> ExternalCodec:
        """The tokenizer that a YAML file describes (`ExternalConfig`); the rest as in `__init__`."""
        config = read_settings(Path(path))
        if config.adapter:
            if config.codec in EXTERNAL:
                raise ConfigError(f"{path}: codec '{config.codec}' is a published one; give your own another name")
            if not Path(config.adapter).is_file():
                raise ConfigError(f"{path}: adapter {config.adapter}: no such file; check the path")
            return cls(config, own(config.codec, Path(config.adapter)), device, codebooks, tracks)
        if config.codec not in EXTERNAL:
            raise ConfigError(
                f"{path}: codec '{config.codec}' is not known; there are {', '.join(EXTERNAL)}; for one of your own name its adapter"
            )
        names = EXTERNAL[config.codec].option_names
        for name in config.options:
            if name not in names:
                raise ConfigError(
                    f"{path}: options.{name}: {config.codec} has {', '.join(names) or 'no options'}; correct or remove it"
                )
        return cls(config, EXTERNAL[config.codec], device, codebooks, tracks)

    # -- the runner --------------------------------------------------------------------------------------------------

    def _start(self) -> Facts:
        name = self.entry.name
        if self._known.checkout and not Path(self.config.checkout or "-").is_dir():
            raise ConfigError(
                f"{name}: checkout '{self.config.checkout}' is no folder; get its repository: {self.entry.get[0]}"
            )
        command = [str(self._python), str(RUNNER), str(self._known.adapter), json.dumps(self._settings)]
        try:
            answer = self._process.start(command, self.config.start_timeout, **OFFLINE)
        except ToolError as error:
            raise ConfigError(f"{self._python}: {name} does not start ({error})") from None
        if "ready" not in answer:
            reason = short(answer.get("fatal", answer))
            self.close()
            remedy = f"; {self._known.environment}" if "ModuleNotFound" in reason or "ImportError" in reason else ""
            raise ConfigError(f"{self._python}: {name} cannot be used there ({reason}){remedy}")
        self._check_checkpoint(answer.get("checkpoint"))
        try:
            facts = Facts.model_validate(answer.get("describe"))
        except ValidationError as error:
            first = error.errors()[0]
            self.close()
            raise BundleError(
                f"{name}: says of itself {'.'.join(map(str, first['loc']))} = {first['input']!r} ({first['msg']}); "
                "its adapter and its code do not fit together"
            ) from None
        self._check_facts(facts)
        asked = self._settings["codebooks"]
        if asked is not None and asked != len(facts.sizes):
            self.close()
            raise ConfigError(
                f"{name}: {asked} codebooks; it has {len(facts.sizes)} and gives no others; leave the number out"
            )
        return facts

    def _check_checkpoint(self, files: Any) -> None:
        """Raises BundleError when the runner does not report what it loaded, or reports other weights than before."""
        whole = isinstance(files, list) and files and all(
            isinstance(file, dict) and {"file", "sha256", "bytes"} <= file.keys() and len(str(file["sha256"])) == 64
            for file in files
        )  # fmt: skip
        if not whole:
            self.close()
            raise BundleError(f"{self.entry.name}: does not say which weights it loaded; they could be random")
        if self.checkpoint and [f["sha256"] for f in self.checkpoint] != [f["sha256"] for f in files]:
            self.close()
            raise BundleError(f"{files[0]['file']}: other weights than when the codec was opened; open it again")
        self.checkpoint = files

    def _check_facts(self, facts: Facts) -> None:
        """Raises BundleError when the description contradicts the published facts: another model, or other code."""
        entry, frame_rate = self.entry, facts.sample_rate * facts.per_block / facts.block
        problem = ""
        if self._known.rates and facts.sample_rate not in self._known.rates:
            problem = f"{facts.sample_rate} Hz; it has {' or '.join(map(str, self._known.rates))}"
        elif self._known.hops and not any(
            abs(frame_rate / rate - 1) < RATE_CLOSE for rate in self._known.frame_rates(facts.sample_rate)
        ):
            problem = f"{frame_rate:g} frames a second; published are {', '.join(f'{r:g}' for r in self._known.frame_rates(facts.sample_rate))}"
        elif min(facts.sizes) < 2 or len(facts.sizes) > entry.codebooks:
            problem = f"{len(facts.sizes)} codebooks of {facts.sizes[:3]} codes; it has {entry.sizes}"
        if problem:
            self.close()
            raise BundleError(f"{entry.name}: says {problem}; check the weights and options in its settings")

    def _tracks(self, tracks: Sequence[str] | None) -> tuple[str, ...]:
        chosen = TRACKS if tracks is None else tuple(tracks)
        unknown = [track for track in chosen if track not in CHOICES]
        if unknown or not chosen or len(set(chosen)) != len(chosen):
            raise ConfigError(f"tracks {', '.join(chosen) or 'none'}: choose among {', '.join(CHOICES)}, each once")
        if self.facts.joint and chosen != TRACKS:
            raise ConfigError(
                f"tracks {', '.join(chosen)}: {self.entry.name} codes {' and '.join(TRACKS)} together; leave them out"
            )
        return chosen

    def _request(self, do: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The runner's output for arrays, by stream. Raises BundleError when it fails, ToolError when it hangs or dies."""
        if not self._process.runs:  # it died in an earlier request
            self._start()
        with temporary_folder("duotok-codec-") as folder:
            input_paths = {}
            for stream, array in arrays.items():
                place = folder / f"{stream}.npy"
                with naming(place):
                    np.save(place, array, allow_pickle=False)
                input_paths[stream] = str(place)
            key = "sounds" if do == "encode" else "codes"
            answer = self._process.ask({"do": do, key: input_paths, "out": str(folder)}, self.config.timeout)
            if not isinstance(answer.get("done"), dict):
                raise BundleError(f"{self.entry.name}: cannot {do} ({short(answer.get('error', answer))})")
            outputs = {}
            for stream, place in answer["done"].items():
                try:
                    outputs[stream] = np.load(place, allow_pickle=False)
                except (OSError, ValueError, TypeError) as error:
                    raise BundleError(f"{self.entry.name}: left no array for {stream} ({short(error)})") from None
            return outputs

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def __enter__(self) -> ExternalCodec:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- the contract ------------------------------------------------------------------------------------------------

    @property
    def sample_rate(self) -> int:
        return self.facts.sample_rate

    @property
    def frame_rate(self) -> float:
        return self.facts.sample_rate / self.layout.samples_per_frame

    @property
    def streams(self) -> tuple[Stream, ...]:
        return tuple(Stream(track, tuple(self.facts.sizes)) for track in self.tracks)

    @property
    def joint(self) -> bool:
        """Whether its streams decode to the mix together, and to nothing by themselves."""
        return self.facts.joint

    def n_frames(self, n_samples: int) -> int:
        """Frames of whole blocks: `per_block * ceil(n_samples / block)`. Raises ValueError for less than one sample."""
        return self.layout.n_frames(n_samples)

    def encode(
        self,
        audio: Source | None = None,
        rate: int = SAMPLE_RATE,
        *,
        vocals: Source | None = None,
        accompaniment: Source | None = None,
        batch_size: int = 1,
    ) -> Tokens:
        """As `TransformersCodec.encode`; batch_size has no effect, as the runner takes one sound at a time."""
        if not self.facts.encodes:
            raise BundleError(
                f"{self.entry.name}: decodes only, no encoder of it was published; give it codes of its language model"
            )
        sources = {"mix": audio, "vocals": vocals, "accompaniment": accompaniment}
        with Sounds(sources, rate, self.tracks, self.sample_rate, self.facts.channels) as sounds:
            frames = self.n_frames(sounds.n_samples)
            code_parts: dict[str, list[Tensor]] = {track: [] for track in self.tracks}
            for piece in self.layout.pieces(frames):
                windows = {track: sounds.window(track, piece.start, piece.stop).numpy() for track in self.tracks}
                codes_by_track = self._request("encode", windows)
                for track in self.tracks:
                    codes = self._codes(codes_by_track.get(track), track, piece.frames)
                    code_parts[track].append(codes[:, piece.keep_start : piece.keep_stop])
            return StreamTokens({track: torch.cat(rows, dim=1) for track, rows in code_parts.items()}, sounds.n_samples)

    def _codes(self, array: NDArray[Any] | None, track: str, frames: int) -> Tensor:
        """int64 `[codebooks, frames]`. Raises BundleError for other shapes, and for codes outside their codebook."""
        expected_shape = (self.codebooks, frames)
        if array is None or array.shape != expected_shape or array.dtype.kind not in "iu":
            shape = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
            raise BundleError(
                f"{self.entry.name}: {shape} of {track} where {list(expected_shape)} was expected; its code is another than was read"
            )
        codes = torch.from_numpy(array.astype(np.int64))
        for k, (row, size) in enumerate(zip(codes, self.facts.sizes, strict=True)):
            if int(row.min()) < 0 or int(row.max()) >= size:
                raise BundleError(
                    f"{self.entry.name}: code {int(row.max())} of {track}, codebook {k}, which ends at {size - 1}"
                )
        return codes

    def decode(self, tokens: Mapping[str, Tensor], track: str = "mix") -> Tensor:
        """As `TransformersCodec.decode`. Raises BundleError for a tokenizer that cannot decode, or not one track alone."""
        frames = check_tokens(self, tokens)
        if track != "mix" and track not in self.tracks:
            raise ConfigError(
                f"track '{track}' does not exist; choose {', '.join(dict.fromkeys((*self.tracks, 'mix')))}"
            )
        if not self.facts.decodes:
            raise BundleError(f"{self.entry.name}: encodes only here; {self.entry.windows}")
        if self.facts.joint and track != "mix":
            raise BundleError(f"{self.entry.name}: makes the mix of both streams, no track by itself; decode the mix")
        codes = {name: np.ascontiguousarray(tokens[name].numpy().astype(np.int32)) for name in self.tracks}
        whole = self.layout.n_samples(frames)
        if self.facts.joint:
            sound = self._sound(codes, whole)
        else:
            names = (track,) if track in self.tracks else self.tracks
            sound = torch.stack([self._sound({name: codes[name]}, whole) for name in names]).sum(0)
        known = tokens.n_samples if isinstance(tokens, Tokens) else 0
        return sound[:, : known if 0 < known <= whole else None]

    def _sound(self, codes: dict[str, NDArray[np.int32]], samples: int) -> Tensor:
        samples_array = self._request("decode", codes).get("sound")
        if (
            samples_array is None
            or samples_array.ndim != 2
            or samples_array.shape[0] > 2
            or not np.isfinite(samples_array).all()
        ):
            shape = "nothing" if samples_array is None else list(samples_array.shape)
            raise BundleError(f"{self.entry.name}: {shape} where sound [channels, samples], all finite, was expected")
        sound = torch.from_numpy(samples_array.astype(np.float32))
        return torch.nn.functional.pad(sound[:, :samples], (0, max(0, samples - sound.shape[1])))

    def embeddings(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The quantizer's output for the codes of each stream: float32 `[frames, width]`."""
        check_tokens(self, tokens)
        return self._vectors(
            {name: np.ascontiguousarray(tokens[name].numpy().astype(np.int32)) for name in self.tracks}
        )

    def codebook_vectors(self) -> dict[str, list[Tensor]]:
        """The vector of each code in the quantizer's sum, minus that of code 0: `[codes, width]` for each codebook."""
        per_block, sizes = self.facts.per_block, self.facts.sizes
        tables: dict[str, list[Tensor]] = {track: [] for track in self.tracks}
        for k, size in enumerate(sizes):
            codes = np.zeros((len(sizes), -(-size // per_block) * per_block), dtype=np.int32)
            codes[k, :size] = np.arange(size)
            vectors = self._vectors(dict.fromkeys(self.tracks, codes))
            for track in self.tracks:
                tables[track].append(vectors[track][:size] - vectors[track][0])
        return tables

    def _vectors(self, codes: dict[str, NDArray[np.int32]]) -> dict[str, Tensor]:
        arrays = self._request("vectors", codes)
        for name, stream_codes in codes.items():
            vectors = arrays.get(name)
            if (
                vectors is None
                or vectors.ndim != 2
                or len(vectors) != stream_codes.shape[1]
                or not np.isfinite(vectors).all()
            ):
                shape = "nothing" if vectors is None else list(vectors.shape)
                raise BundleError(
                    f"{self.entry.name}: {shape} of {name} where [{stream_codes.shape[1]}, width], all finite, was expected"
                )
        return {name: torch.from_numpy(arrays[name].astype(np.float32)) for name in codes}


def _described(entry: Entry, facts: Facts, frame_rate: float) -> Entry:
    """What a tokenizer of one's own says of itself."""
    size = facts.sizes[0] if len({*facts.sizes}) == 1 else tuple(facts.sizes)
    return replace(
        entry, sample_rate=facts.sample_rate, channels=facts.channels, frame_rate=frame_rate, codebooks=len(facts.sizes), codebook_size=size,
        streams=TOGETHER if facts.joint else EACH_TRACK, encodes=facts.encodes, decodes=facts.decodes,
    )  # fmt: skip


def _contents(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the hashes of their files in place of the paths."""
    contents = dict(options)
    for key in PATHS:
        if Path(str(contents.get(key) or "-")).is_file():
            contents[key] = sha256(Path(str(contents[key])))
    return contents


def _layout(facts: Facts) -> Even:
    if facts.window is None:
        return Even(facts.block, facts.per_block)
    blocks = facts.sample_rate / facts.block
    context = math.ceil(facts.context * blocks)
    return Even(facts.block, facts.per_block, WindowPlan(max(2 * context + 1, round(facts.window * blocks)), context))
