"""DuoTok: sound to two token streams and back, with all parts of a bundle.

`DuoTok` is a `Codec` (`contract.py`), as other tokenizers are.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from duotok.audio.features import LogMel
from duotok.audio.io import Writer
from duotok.audio.marks import MARK
from duotok.clock import ANALYSIS_RATE, FRAME_RATE, FRAME_SAMPLES, SAMPLE_RATE, n_frames
from duotok.codec.bundle import Bundle, BundleConfig, Storage, model_hash, sound_hash, write_bundle
from duotok.codec.contract import Source, Stream, check_gain, check_tokens
from duotok.codec.hub import find_bundle, push
from duotok.codec.spool import AudioSource, Spool, StemSeparator, tracks_of
from duotok.codec.streaming import DuoTokStream
from duotok.devices import check_device
from duotok.errors import AudioError, BundleError, ConfigError
from duotok.files import temporary_folder, text_of
from duotok.model.int8 import check_int8, int8_encoder
from duotok.model.tokenizer import Tokenizer
from duotok.nn.torch_settings import building_modules, with_own_settings
from duotok.renderer.contract import LatentAutoencoder, LatentDiffusion
from duotok.renderer.render import RenderSettings, stream_track
from duotok.separation.bs_roformer import BSRoFormer
from duotok.separation.identity import separator_identity
from duotok.separation.separator import MiniSeparator
from duotok.tokens import SEPARATOR, DualTokens, SourceFile, WindowPlan
from duotok.tracks import TRACKS

log = logging.getLogger(__name__)

CHOICES = (*TRACKS, "mix")
Progress = Callable[[float], None]
FULL_PRECISION = "fp32"
PRECISIONS = (FULL_PRECISION, "bf16", "int8")


class DuoTok:
    """A whole model. Make one with `from_pretrained`, or from trained modules with `from_modules`.

    separator: splits a mix into stems; the bundle's own, unless another object with `sample_rate` and `separate` is set.
    precision: number format of the tokenizer's blocks while encoding: "fp32", "bf16" (faster on a GPU) or "int8" (faster on
    a CPU). With the last two some tokens differ (docs/tokens.md).
    """

    sample_rate = SAMPLE_RATE
    frame_rate = FRAME_RATE

    def __init__(
        self,
        config: BundleConfig,
        load: Callable[[str], nn.Module],
        values: Mapping[str, Any] | None = None,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
    ) -> None:
        """`load(part)` gives a part by its name in `config.parts`; `values` is `config.json` as written."""
        if precision not in PRECISIONS:
            raise ConfigError(f"precision '{precision}' does not exist; choose {', '.join(PRECISIONS)}")
        self.config, self.precision = config, precision
        try:
            self.device = torch.device(device)
        except RuntimeError:  # no name of a device
            check_device(device)
            raise
        if precision == "int8":
            check_int8(self.device)
        check_device(self.device)
        self._encoder: Tokenizer | None = None
        self._load = load
        self._values = config.model_dump(mode="json") if values is None else values
        self._parts: dict[str, nn.Module] = {}
        self._hash = ""
        self._card: Callable[[], str] = str
        self._separator: StemSeparator | None = None
        self._identity: tuple[StemSeparator, SourceFile] | None = None
        with building_modules():
            self.mel = LogMel(config.codec.mel_mean, config.codec.mel_std).to(self.device)

    def __repr__(self) -> str:
        entries = " and ".join(f"{size:,}" for size in dict.fromkeys(self.codebook_sizes))
        does = "encodes and decodes" if self.config.renders else "encodes"
        return f"DuoTok({self.model_id!r}: {' and '.join(TRACKS)}, {FRAME_RATE:g} tokens a second of {entries}, {does}, on {self.device})"

    def __getstate__(self) -> dict[str, Any]:
        """For copies and other processes. Weights packed into 8 bits cannot be copied; they are packed again when they are needed."""
        return {**self.__dict__, "_encoder": None}

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "mini",
        device: str | torch.device = "cpu",
        precision: str = "fp32",
        *,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> DuoTok:
        """Open a bundle: "mini" (comes with the package), a folder, or `owner/name` on the Hugging Face hub.

        revision: branch, tag or commit of the repository; local_files_only: use the hub's local cache alone, without the network.
        Weights are read when first needed. Raises BundleError when the bundle is not found, incomplete or damaged, and
        ConfigError for a precision or device that does not exist or is not available on this machine.
        """
        bundle = Bundle(find_bundle(name, revision, local_files_only))
        model = cls(bundle.config, bundle.load, bundle.values, device, precision)
        model._card = partial(getattr, bundle, "card")
        return model

    @classmethod
    def from_modules(cls, config: BundleConfig, modules: Mapping[str, nn.Module]) -> DuoTok:
        """From modules in memory, by the names of `config.parts`. Raises BundleError when one is missing."""
        missing = [part for part in config.parts if part not in modules]
        if missing:
            raise BundleError(f"model '{config.name}': these parts were not given: {', '.join(missing)}")
        return cls(config, dict(modules).__getitem__)

    def save_pretrained(self, folder: str | Path, card: str = "", storage: Storage = "float32") -> Path:
        """Write a bundle folder. storage: number format of its matrices; card: text of README.md, by default the opened bundle's.

        Raises BundleError when it cannot be written, ConfigError for another storage.
        """
        modules = {part: self._part(part) for part in self.config.parts}
        # The values as they were written: with keys that were added to DuoTok since, the same model would have another hash.
        return write_bundle(folder, self.config, modules, card or self._card(), storage, values=self._values)

    def push_to_hub(
        self,
        repository: str,
        *,
        card: str = "",
        storage: Storage = "float32",
        private: bool | None = None,
        revision: str | None = None,
        message: str = "",
        token: str | None = None,
    ) -> str:
        """Upload the model as a bundle with its card to a repository (`owner/name`) of the Hugging Face hub. Returns the address of
        the commit.

        The repository is created if necessary. revision: a branch other than the main one. Raises BundleError when the upload
        fails. To upload an existing bundle folder unchanged: `huggingface_hub.upload_folder`.
        """
        with temporary_folder() as place:
            folder = self.save_pretrained(place / self.model_id.replace("/", "-"), card, storage)
            files = [path.name for path in folder.iterdir()]
            return push(folder, repository, files, private=private, revision=revision, message=message, token=token)

    def _part(self, name: str) -> nn.Module:
        if name not in self._parts:
            with building_modules():
                self._parts[name] = self._load(name).eval().to(self.device)
        return self._parts[name]

    @property
    def tokenizer(self) -> Tokenizer:
        return cast(Tokenizer, self._part("tokenizer"))

    @property
    def encoder(self) -> Tokenizer:
        """The tokenizer that encodes: in 8 bits if `precision` is "int8"."""
        if self._encoder is None:
            with building_modules():
                self._encoder = int8_encoder(self.tokenizer) if self.precision == "int8" else self.tokenizer
        return self._encoder

    @property
    def autoencoder(self) -> LatentAutoencoder:
        return cast(LatentAutoencoder, self._part("autoencoder"))

    def dit(self, track: str) -> LatentDiffusion:
        """The renderer of a track."""
        return cast(LatentDiffusion, self._part(f"dit.{_check_track(track)}"))

    @property
    def separator(self) -> StemSeparator | None:
        """The separator that splits a mix; None when the bundle has no separator and none was set."""
        if self._separator is None and self.config.separator is not None:
            with building_modules():
                self._separator = MiniSeparator(cast(BSRoFormer, self._part("separator")))
        return self._separator

    @separator.setter
    def separator(self, separator: StemSeparator | None) -> None:
        self._separator = separator

    @property
    def separator_source(self) -> SourceFile | None:
        """The identity of the separator in token files (see `duotok.separation.identity`); None without a separator."""
        separator = self.separator
        if separator is None:
            return None
        if self._identity is None or self._identity[0] is not separator:
            self._identity = separator, SourceFile(*separator_identity(separator), 0)
        return self._identity[1]

    @property
    def model_id(self) -> str:
        return self.config.name

    @property
    def model_hash(self) -> str:
        """sha256 of what gives the tokens their meaning (see `duotok.codec.bundle.model_hash`)."""
        if not self._hash:
            self._hash = model_hash(self._values, self.tokenizer)
        return self._hash

    @cached_property
    def sound_hash(self) -> str:
        """sha256 of what gives the tokens their sound: renderer, autoencoder and their settings; "" where there is none."""
        if not self.config.renders:
            return ""
        return sound_hash(
            self._values, {p: self._part(p) for p in self.config.parts if p not in ("tokenizer", "separator")}
        )

    @property
    def codebook_sizes(self) -> tuple[int, int]:
        size = self.config.tokenizer.codebook_size
        return size, size

    @property
    def streams(self) -> tuple[Stream, ...]:
        """One stream a track, of one codebook each."""
        return tuple(Stream(track, (size,)) for track, size in zip(TRACKS, self.codebook_sizes, strict=True))

    @staticmethod
    def n_frames(n_samples: int) -> int:
        """Frames of `n_samples` samples at 48 kHz: `ceil(n_samples / 1920)`."""
        return n_frames(n_samples)

    def n_windows(self, frames: int) -> int:
        """Windows in which `encode` takes so many frames."""
        return len(self.config.codec.plan.windows(frames))

    # -- sound to tokens ---------------------------------------------------------------------------------------------

    @with_own_settings
    def encode(
        self,
        audio: Source | None = None,
        rate: int = SAMPLE_RATE,
        *,
        vocals: Source | None = None,
        accompaniment: Source | None = None,
        plan: WindowPlan | None = None,
        batch_size: int = 1,
        gain_db: float | None = None,
        progress: Progress | None = None,
    ) -> DualTokens:
        """Tokens of a song: a path, or samples at `rate`: a tensor or array `[samples]`, `[channels, samples]` or
        `[samples, channels]`, or any other input of `duotok.audio.arrays.sound_of`.

        The mix alone is separated; both stems, or one stem and the mix, are used as they are. One gain for both tracks
        brings the mix to the bundle's loudness and is kept with the tokens; gain_db gives another. A token depends on the sound, the
        gain and `plan` alone. batch_size > 1 runs several windows at once, which pays on a GPU, where rounding may then change a code that
        was near a tie. progress(fraction) is called during encoding. Raises AudioError for sound that cannot be used.
        """
        if not isinstance(plan, WindowPlan | None) or not isinstance(batch_size, int):
            raise ConfigError(f"plan {plan!r}, batch_size {batch_size!r}: give a WindowPlan and a whole number")
        if gain_db is not None:
            check_gain(gain_db)
        sounds = [
            None if source is None else AudioSource(source, rate, name, self.config.codec.highpass_hz)
            for source, name in ((audio, "audio"), (vocals, "vocals"), (accompaniment, "accompaniment"))
        ]
        mix, voice, band = sounds
        leader = mix or voice
        if leader is None:
            raise AudioError("nothing to encode; give a song, or both stems")
        sounds_by_role = {
            role: sound for role, sound in zip(("mix", *TRACKS), sounds, strict=True) if sound is not None
        }
        sources = {role: file for role, sound in sounds_by_role.items() if (file := sound.file()) is not None}
        separator = self.separator if mix is not None and voice is None and band is None else None
        if separator is not None and sources and (identity := self.separator_source) is not None:
            sources[SEPARATOR] = identity
        # A separator takes several times as long as the tokenizer; the split of the progress bar follows.
        first_share = 0.4 if separator is None else 0.85
        expected = max(1, leader.expected_samples) if progress else 1

        def read(done: int) -> None:
            if progress is not None:
                progress(first_share * min(1.0, done / expected))

        with Spool() as spool, closing(tracks_of(mix, voice, band, separator)) as pairs:
            spool.fill(pairs, progress=read)
            plan = plan or self.config.codec.plan

            def encoded(fraction: float) -> None:
                if progress is not None:
                    progress(first_share + (1 - first_share) * fraction)

            codes, gain_db = self.encode_spool(spool, leader.name, plan, batch_size, encoded, gain_db=gain_db)
            return DualTokens(
                vocals=codes[0],
                accompaniment=codes[1],
                n_samples=spool.n_samples,
                gain_db=gain_db,
                model_id=self.model_id,
                model_hash=self.model_hash,
                codebook_sizes=self.codebook_sizes,
                plan=plan,
                source="" if leader.path is None else text_of(leader.path.name),
                sources=sources,
                precision=self.precision,
            )

    @with_own_settings
    def encode_spool(
        self,
        spool: Spool,
        name: str,
        plan: WindowPlan | None = None,
        batch_size: int = 1,
        progress: Progress | None = None,
        run: Callable[[Tensor, Tensor], Tensor] | None = None,
        gain_db: float | None = None,
    ) -> tuple[list[Tensor], float]:
        """The codes of a filled spool, int64 `[frames]` for each track, and the gain in dB that was applied.

        name: of the song, for warnings; run: what takes the place of `encode_mel`, with its arguments and result.
        """
        if not math.isfinite(spool.loudness):
            self._warn_too_quiet(name, spool.peak)
        gain_db = self.gain_for(spool.loudness) if gain_db is None else gain_db
        codes = self._encode_windows(
            spool,
            10 ** (gain_db / 20),
            plan or self.config.codec.plan,
            max(1, batch_size),
            progress,
            run or self.encode_mel,
        )
        return codes, gain_db

    @with_own_settings
    @torch.no_grad()
    def encode_mel(self, mel: Tensor, routes: Tensor) -> Tensor:
        """Codes `[batch, frames]` of mel frames `[batch, frames, bins]`, on the CPU; routes: int64 `[batch]`, the track of each."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.encoder.encode(mel, routes).cpu()

    @staticmethod
    def _warn_too_quiet(name: str, peak: float) -> None:
        """Warn of a song that is entirely below the gate (-70 LUFS) of the loudness meter."""
        if peak == 0:
            log.warning("%s: silent; its tokens are those of silence", name)
        else:
            log.warning(
                "%s: softer than the gate of the loudness meter (peak %.1f dBFS); it is encoded as it is, without a gain",
                name,
                20 * math.log10(peak),
            )

    def gain_for(self, loudness: float) -> float:
        """The gain in dB that brings `loudness` (LUFS) to the bundle's, to hundredths; 0 for silence.

        It is rounded because the last bits of a separator's sum depend on the number of threads, and must change no token.
        """
        if not math.isfinite(loudness):
            return 0.0
        limit = self.config.codec.max_gain_db
        return round(min(limit, max(-limit, self.config.codec.loudness - loudness)), 2)

    @torch.no_grad()
    def _encode_windows(
        self,
        spool: Spool,
        gain: float,
        plan: WindowPlan,
        batch_size: int,
        progress: Progress | None,
        run: Callable[[Tensor, Tensor], Tensor],
    ) -> list[Tensor]:
        """int64 `[frames]` for each track. Both tracks of a window always go through the lower blocks together."""
        windows = plan.windows(spool.frames)
        parts_by_track: list[list[Tensor]] = [[] for _ in TRACKS]
        for first in range(0, len(windows), batch_size):
            batch = windows[first : first + batch_size]
            sound = torch.stack(
                [spool.window(track, w.start, w.stop, self.mel.margin) for w in batch for track in TRACKS]
            )
            mel = self.mel((sound * gain).to(self.device), margins=True)
            routes = torch.arange(len(TRACKS), device=self.device).repeat(len(batch))
            codes = run(mel, routes)
            for row, window in enumerate(batch):
                keep = slice(window.keep_start - window.start, window.keep_stop - window.start)
                for index in range(len(TRACKS)):
                    parts_by_track[index].append(codes[row * len(TRACKS) + index, keep])
            if progress is not None:
                progress((first + len(batch)) / len(windows))
        return [torch.cat(parts) for parts in parts_by_track]

    def stream(self, plan: WindowPlan | None = None, settings: RenderSettings | None = None) -> DuoTokStream:
        """Encoding of sound that is still arriving, and decoding of tokens that are still being made (`duotok.codec.streaming`).

        Raises ConfigError for a plan or settings that are none.
        """
        if not isinstance(plan, WindowPlan | None):
            raise ConfigError(f"plan {plan!r}: give a WindowPlan")
        return DuoTokStream(self, plan or self.config.codec.plan, self.render_settings(settings))

    # -- sound to its stems ------------------------------------------------------------------------------------------

    @with_own_settings
    def separate_blocks(self, audio: Source, rate: int = SAMPLE_RATE) -> Iterator[dict[str, Tensor]]:
        """Vocals and accompaniment of a song as sound: blocks `[2, samples]` at 48 kHz, in bounded memory.

        Raises AudioError for sound that cannot be used, or when there is no separator.
        """
        with closing(tracks_of(AudioSource(audio, rate, "audio"), None, None, self.separator)) as pairs:
            for pair in pairs:
                yield dict(zip(TRACKS, pair, strict=True))

    # -- tokens to sound ---------------------------------------------------------------------------------------------

    @with_own_settings
    def dual(self, tokens: Mapping[str, Tensor]) -> DualTokens:
        """Tokens of this model as `DualTokens`, from any mapping from tracks to integers `[1, frames]`.

        Raises ConfigError for what is no such mapping, BundleError for tokens of another model.
        """
        if isinstance(tokens, DualTokens):
            self.check(tokens)
            return tokens
        if not isinstance(tokens, Mapping):
            raise ConfigError(
                f"{type(tokens).__name__} is no tokens; read a file with DualTokens.load(path), or give a mapping from tracks to codes"
            )
        frames = check_tokens(self, tokens)
        check_gain(getattr(tokens, "gain_db", 0.0))
        return DualTokens.from_codes(
            *(tokens[track][0] for track in TRACKS),
            n_samples=getattr(tokens, "n_samples", 0) or frames * FRAME_SAMPLES,
            gain_db=getattr(tokens, "gain_db", 0.0), codebook_sizes=self.codebook_sizes, model_id=self.model_id,
            model_hash=self.model_hash,
        )  # fmt: skip

    def check(self, tokens: DualTokens, name: str = "tokens") -> None:
        """Raises BundleError, beginning with `name`, when `tokens` were not made for this model."""
        if tokens.codebook_sizes != self.codebook_sizes:
            raise BundleError(
                f"{name}: tokens of codebooks of {tokens.codebook_sizes}, {self.model_id} has {self.codebook_sizes}; "
                "give the bundle that made them"
            )
        if tokens.model_hash and tokens.model_hash != self.model_hash:
            raise BundleError(
                f"{name}: tokens of {tokens.model_id or 'another model'} ({tokens.model_hash[:8]}), this is "
                f"{self.model_id} ({self.model_hash[:8]}); give the bundle that made them, or encode the song again"
            )

    def check_renders(self) -> None:
        """Raises BundleError when tokens cannot be decoded, as with a bundle of a tokenizer alone."""
        if not self.config.renders:
            raise BundleError(
                f"model '{self.model_id}' has no renderer, it only encodes; train stage 4 and bundle it without --tokens-only"
            )

    def render_settings(self, settings: RenderSettings | None = None, **changes: Any) -> RenderSettings:
        """The settings of rendering: `settings`, or the bundle's own, with `changes`; those that are None change nothing.

        Raises ConfigError for an unknown setting or an invalid value.
        """
        if not isinstance(settings, RenderSettings | None):
            raise ConfigError(f"settings {settings!r}: give RenderSettings, or single ones by name, as steps=8")
        defaults = self.config.codec
        chosen = settings or RenderSettings(
            defaults.steps, defaults.sampler, temperature=defaults.temperature, plan=defaults.render
        )
        return chosen.changed(**changes)

    @with_own_settings
    def decode_blocks(
        self,
        tokens: Mapping[str, Tensor],
        track: str = "mix",
        settings: RenderSettings | None = None,
        *,
        progress: Progress | None = None,
        **changes: Any,
    ) -> Iterator[Tensor]:
        """The sound of `decode` in blocks `[channels, samples]`, in bounded memory."""
        if track not in CHOICES:
            raise ConfigError(f"track '{track}' does not exist; choose {', '.join(CHOICES)}")
        tracks = TRACKS if track == "mix" else (track,)
        for blocks in self.decode_tracks(tokens, tracks, settings, progress=progress, **changes):
            yield torch.stack(list(blocks.values())).sum(0)

    @with_own_settings
    def decode_tracks(
        self,
        tokens: Mapping[str, Tensor],
        tracks: Sequence[str] = TRACKS,
        settings: RenderSettings | None = None,
        *,
        progress: Progress | None = None,
        **changes: Any,
    ) -> Iterator[dict[str, Tensor]]:
        """Blocks `[channels, samples]` of several tracks side by side, settings as for `decode`."""
        chosen = self.render_settings(settings, **changes)
        self.check_renders()
        dual = self.dual(tokens)
        parts = dict.fromkeys(tracks, 0.0)

        def follow(name: str) -> Callable[[int, int], None]:
            def advance(done: int, total: int) -> None:
                parts[name] = done / total
                if progress is not None:
                    progress(sum(parts.values()) / len(parts))

            return advance

        streams = [
            stream_track(
                self.dit(name), self.autoencoder, self.code_vectors(dual, name), dual.n_samples, chosen, track=name,
                progress=follow(name),
            )
            for name in tracks
        ]  # fmt: skip
        gain = 10 ** (-dual.gain_db / 20)
        # All tracks are cut into the same blocks.
        for blocks in zip(*streams, strict=True):
            yield {name: block * gain for name, block in zip(tracks, blocks, strict=True)}

    def decode(
        self,
        tokens: Mapping[str, Tensor],
        track: str = "mix",
        settings: RenderSettings | None = None,
        *,
        progress: Progress | None = None,
        **changes: Any,
    ) -> Tensor:
        """Sound `[channels, n_samples]` at 48 kHz of "vocals", "accompaniment" or their sum, the "mix".

        tokens: `DualTokens`, or any mapping from the two tracks to integers `[1, frames]`. settings: how to render, the bundle's own
        unless given; changes: single ones of them (steps, sampler, seed, temperature). The same seed gives the same sound. The gain
        of encoding is undone. Raises BundleError for tokens of another model, ConfigError for settings that do not exist.
        """
        return torch.cat(list(self.decode_blocks(tokens, track, settings, progress=progress, **changes)), dim=1)

    def decode_to(
        self,
        path: str | Path,
        tokens: Mapping[str, Tensor],
        track: str = "mix",
        settings: RenderSettings | None = None,
        *,
        progress: Progress | None = None,
        **changes: Any,
    ) -> None:
        """`decode` straight into a .wav or .flac file, in bounded memory, atomically."""
        blocks = self.decode_blocks(tokens, track, settings, progress=progress, **changes)
        first = next(blocks)
        length = getattr(tokens, "n_samples", 0) or None
        with Writer(path, SAMPLE_RATE, first.shape[0], n_samples=length, comment=f"{MARK}decoded") as writer:
            writer.write(first)
            for block in blocks:
                writer.write(block)

    # -- what the tokens stand for -----------------------------------------------------------------------------------

    @with_own_settings
    @torch.no_grad()
    def code_vectors(self, tokens: DualTokens, track: str) -> Tensor:
        """The condition of a track's renderer `[frames, condition_dim]`: code vectors or proj out, by `DiTConfig.condition`."""
        kind = self.dit(_check_track(track)).config.condition
        return self.tokenizer.condition(tokens[track].to(self.device), track, kind)[0]

    @with_own_settings
    @torch.no_grad()
    def embeddings(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Post-quantization vectors of each track after its proj out: `{track: [frames, width]}`."""
        dual = self.dual(tokens)
        return {track: self.tokenizer.embeddings(dual[track].to(self.device), track)[0].cpu() for track in TRACKS}

    @with_own_settings
    @torch.no_grad()
    def silence(self, track: str) -> Tensor:
        """What digital silence encodes to away from its edges: int64 `[1]`."""
        frames = self.config.codec.plan.window
        sound = torch.zeros(1, frames * FRAME_SAMPLES * ANALYSIS_RATE // SAMPLE_RATE + 2 * self.mel.margin)
        route = torch.tensor([TRACKS.index(_check_track(track))], device=self.device)
        codes = self.encoder.encode(self.mel(sound.to(self.device), margins=True), route)[0].cpu()
        return codes[frames // 2][None]

    @with_own_settings
    @torch.no_grad()
    def codebook_vectors(self) -> dict[str, list[Tensor]]:
        """The vectors of all codes of each track, one table `[codes, code_dim]` a codebook."""
        every = torch.arange(self.config.tokenizer.codebook_size, device=self.device)[None]
        return {track: [self.tokenizer.code_vectors(every, track)[0].float().cpu()] for track in TRACKS}


def _check_track(track: str) -> str:
    if track not in TRACKS:
        raise ConfigError(f"track '{track}' does not exist; choose {' or '.join(TRACKS)}")
    return track
