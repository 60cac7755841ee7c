"""DAC, EnCodec, Mimi and X-Codec of the transformers library behind the codec contract.

These codecs have a single stream. Each track of a song is coded separately, with the same model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from duotok.clock import SAMPLE_RATE
from duotok.codec.checkpoint_folder import content_hash, family_of, find_folder, load_model, read_config, weight_files
from duotok.codec.contract import Source, Stream, StreamTokens, check_tokens
from duotok.codec.families import Family, Shape
from duotok.codec.families.base import ChunkedFamily
from duotok.codec.layout import Chunks, Even, Piece
from duotok.codec.sounds import Sounds
from duotok.devices import check_device
from duotok.errors import BundleError, ConfigError
from duotok.tokens import Tokens, WindowPlan
from duotok.tracks import TRACKS

CHOICES = (*TRACKS, "mix")
WINDOW_SECONDS = 20.0
SCALE = "scale"
FORMAT = 1
"""Part of the hash; raise it when the same model and plan would give other tokens."""


class TransformersCodec:
    """Make one with `from_pretrained`.

    plan: windows in frames of this codec. Long sound is cut into windows, each with the plan's context around the part that is
    kept, and a token depends on the sound and the plan alone. The loudness of the sound is not changed. Models that code
    overlapping chunks use these instead of a plan, and their tokens have `scale`, float32 `[1, chunks]`, beside the codes of
    each stream.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        family: Family,
        shape: Shape,
        content: str,
        codebooks: int,
        tracks: Sequence[str] = TRACKS,
        plan: WindowPlan | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        """content: hash of configuration and weights, to which codebooks and plan are added. Raises ConfigError for unknown
        codebooks or tracks, or a plan for a model with chunks."""
        if type(codebooks) is not int or not shape.least <= codebooks <= shape.codebooks:
            raise ConfigError(f"{name}: {codebooks} codebooks; it can give {shape.least} to {shape.codebooks}")
        unknown = [track for track in tracks if track not in CHOICES]
        if unknown or not tracks or len(set(tracks)) != len(tracks):
            raise ConfigError(f"tracks {', '.join(tracks) or 'none'}: choose among {', '.join(CHOICES)}, each once")
        self.model_id = f"{name}-{codebooks}"
        self.device = torch.device(device)
        self.model: Any = model.to(self.device)
        self.family = family
        self.shape = shape
        self.tracks = tuple(tracks)
        self.codebooks = codebooks
        self.layout: Even | Chunks
        if shape.chunk:
            if plan is not None:
                raise ConfigError(f"{name}: codes chunks of its own; leave the window plan out")
            self.layout = Chunks(shape.chunk, shape.stride, shape.hop)
        else:
            self.layout = Even(shape.hop, plan=plan or _plan(shape, family))
        settings = [FORMAT, content, codebooks, *self.layout.settings()]
        self.model_hash = hashlib.sha256(json.dumps(settings).encode()).hexdigest()

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        device: str | torch.device = "cpu",
        codebooks: int | None = None,
        tracks: Sequence[str] | None = None,
        plan: WindowPlan | None = None,
    ) -> TransformersCodec:
        """Open a folder, or `owner/name` on the hub; `model_type` in its config.json says which family it is.

        codebooks: how many are used, from the first (default: all); tracks: among vocals, accompaniment, mix (default: the first
        two). Raises BundleError for a model that is missing, damaged, not a codec, or only available as a pickle;
        MissingExtraError without transformers; ConfigError for unknown codebooks, tracks or devices.
        """
        check_device(device)
        folder = find_folder(name)
        values = read_config(folder)
        family = family_of(values, folder)
        files = weight_files(folder)
        model: Any = load_model(folder, family)
        shape = family.shape(model.config, str(folder))
        sizes = (shape.sample_rate, shape.hop, shape.channels, shape.codebooks, shape.codebook_size)
        if min(sizes) < 1 or shape.channels > 2 or shape.hop > shape.sample_rate:
            raise BundleError(
                f"{folder}: {shape.channels} channels at {shape.sample_rate} Hz in frames of {shape.hop} samples, {shape.codebooks} codebooks "
                f"of {shape.codebook_size} codes; no codec has these; get the model again"
            )
        # Independent of the folder: the same weights are the same codec anywhere.
        title = f"{values['model_type']}-{shape.sample_rate / 1000:g}khz"
        chosen = shape.codebooks if codebooks is None else codebooks
        content = content_hash(values, files)
        return cls(title, model, family, shape, content, chosen, TRACKS if tracks is None else tracks, plan, device)

    @property
    def sample_rate(self) -> int:
        return self.shape.sample_rate

    @property
    def frame_rate(self) -> float:
        """Exact; the configurations of transformers round it."""
        return self.shape.sample_rate / self.layout.samples_per_frame

    @property
    def plan(self) -> WindowPlan | None:
        """The windows, in frames; None for a model with chunks."""
        return self.layout.plan if isinstance(self.layout, Even) else None

    @property
    def streams(self) -> tuple[Stream, ...]:
        sizes = (self.shape.codebook_size,) * self.codebooks
        return tuple(Stream(track, sizes) for track in self.tracks)

    def n_frames(self, n_samples: int) -> int:
        """`ceil(n_samples / hop)`, samples at `sample_rate`; with chunks, the sum of that over the chunks (`Chunks`). Raises
        ValueError for less than one sample."""
        return self.layout.n_frames(n_samples)

    def n_windows(self, frames: int) -> int:
        """Windows or chunks in which `encode` takes so many frames."""
        return len(self.layout.pieces(frames))

    # -- sound to tokens ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(
        self,
        audio: Source | None = None,
        rate: int = SAMPLE_RATE,
        *,
        vocals: Source | None = None,
        accompaniment: Source | None = None,
        batch_size: int = 1,
    ) -> Tokens:
        """Tokens of a song: paths, or float tensors `[samples]` or `[channels, samples]` at `rate`.

        Vocals and accompaniment are the stems, or one of them and the mix; the mix is as given, or the sum of both stems.
        Silence fills the last frame, and the shorter of two stems. Raises AudioError for sound that cannot be used or does
        not suffice.
        """
        sources = {"mix": audio, "vocals": vocals, "accompaniment": accompaniment}
        with Sounds(sources, rate, self.tracks, self.shape.sample_rate, self.shape.channels) as sounds:
            pieces = self.layout.pieces(self.n_frames(sounds.n_samples))
            if self.shape.chunk:  # the model pads its chunks itself; silence added here would change their loudness
                pieces = [piece._replace(stop=min(piece.stop, sounds.n_samples)) for piece in pieces]
            codes: dict[str, Tensor] = {}
            beside: dict[str, dict[str, Tensor]] = {}
            for track in self.tracks:
                code_parts, scales = [], []
                for batch in batches(pieces, max(1, batch_size)):
                    sound = torch.stack([sounds.window(track, piece.start, piece.stop) for piece in batch])
                    window_codes, scale = self._codes(sound, batch[0].frames)
                    code_parts += [
                        row[:, p.keep_start : p.keep_stop] for row, p in zip(window_codes, batch, strict=True)
                    ]
                    scales.append(scale)
                codes[track] = torch.cat(code_parts, dim=1)
                if self.shape.chunk:
                    beside[track] = {SCALE: torch.cat(scales)[None]}
            return StreamTokens(codes, sounds.n_samples, beside=beside)

    def _codes(self, sound: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """Codes of `[batch, channels, samples]`, int64 `[batch, codebooks, frames]`, and a scale of each (none without chunks)."""
        expected_shape = [len(sound), self.codebooks, frames]
        # The precision of the model may have been changed by the user.
        sound = sound.to(self.device, next(self.model.parameters()).dtype)
        if isinstance(self.family, ChunkedFamily) and self.shape.chunk:
            raw_codes, scales = self.family.encode_chunk(self.model, sound, self.codebooks)
        else:
            raw_codes, scales = self.family.encode(self.model, sound, self.codebooks), torch.empty(0)
        codes = raw_codes.long().cpu()
        if list(codes.shape) != expected_shape:
            raise BundleError(
                f"{self.model_id}: codes {list(codes.shape)} where its configuration promises {expected_shape}; its frames cannot be "
                "told exactly; take another model"
            )
        return codes, scales

    # -- tokens to sound ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def decode(self, tokens: Mapping[str, Tensor], track: str = "mix") -> Tensor:
        """Sound `[channels, samples]` at `sample_rate` of one stream; "mix", unless it is a stream, is the sum of all.

        As many samples as were encoded if the tokens record that, otherwise whole frames. Decodes in the windows of encoding.
        Raises BundleError for tokens of another codec, ConfigError for a stream that this codec does not have.
        """
        frames = check_tokens(self, tokens)
        if track != "mix" and track not in self.tracks:
            raise ConfigError(
                f"track '{track}' does not exist; choose {', '.join(dict.fromkeys((*self.tracks, 'mix')))}"
            )
        names = (track,) if track in self.tracks else self.tracks
        sound = torch.stack([self._sound(tokens, name, frames) for name in names]).sum(0)
        known = tokens.n_samples if isinstance(tokens, Tokens) else 0
        return sound[:, : known if 0 < known <= self.layout.n_samples(frames) else None]

    def _sound(self, tokens: Mapping[str, Tensor], name: str, frames: int) -> Tensor:
        hop, codes, pieces = self.shape.hop, tokens[name], self.layout.pieces(frames)
        if isinstance(self.family, ChunkedFamily) and self.shape.chunk:
            scales = self._scales(tokens, name, len(pieces)).to(self.device)
            chunks = torch.split(codes.to(self.device), self.shape.chunk // hop, dim=1)
            whole = self.family.decode_chunks(self.model, chunks, scales).float().cpu()
            return torch.nn.functional.pad(whole, (0, max(0, self.layout.n_samples(frames) - whole.shape[1])))
        blocks = []
        for piece in pieces:
            window_codes = codes[None, :, piece.start // hop : piece.stop // hop].to(self.device)
            decoded = self.family.decode(self.model, window_codes).float().cpu()[0]
            # Models with odd strides lose a few samples at the end.
            whole = torch.nn.functional.pad(decoded, (0, max(0, piece.frames * hop - decoded.shape[1])))
            blocks.append(whole[:, piece.keep_start * hop : piece.keep_stop * hop])
        return torch.cat(blocks, dim=1)

    def _scales(self, tokens: Mapping[str, Tensor], name: str, chunks: int) -> Tensor:
        """The loudness of each chunk, float32 `[chunks]`. Raises BundleError when the tokens lack it: codes do not contain it."""
        scales = tokens.beside.get(name, {}).get(SCALE) if isinstance(tokens, StreamTokens) else None
        if scales is None:
            raise BundleError(
                f"tokens of {name}: without `{SCALE}`, the loudness of each chunk, which {self.model_id} needs to decode; give "
                f"those of encode, or StreamTokens(codes, beside={{'{name}': {{'{SCALE}': torch.ones(1, {chunks})}}}})"
            )
        if list(scales.shape) != [1, chunks] or not scales.isfinite().all():
            raise BundleError(
                f"tokens of {name}: `{SCALE}` {list(scales.shape)} where {chunks} chunks want [1, {chunks}], all finite; give those of encode"
            )
        return scales[0].float()

    @torch.no_grad()
    def embeddings(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The quantizer's output for the codes of each stream, before the decoder: float32 `[frames, width]`."""
        check_tokens(self, tokens)
        return {
            track: self.family.vectors(self.model, tokens[track][None].to(self.device))[0].T.float().cpu()
            for track in self.tracks
        }

    @torch.no_grad()
    def codebook_vectors(self) -> dict[str, list[Tensor]]:
        """The vector of each code in the quantizer's sum, minus that of code 0: `[codes, width]` for each codebook."""
        size = self.shape.codebook_size
        codes = torch.zeros(1, self.codebooks, size, dtype=torch.int64, device=self.device)
        nothing = self.family.vectors(self.model, codes[..., :1])
        tables = []
        for k in range(self.codebooks):
            varied = codes.clone()
            varied[0, k] = torch.arange(size, device=self.device)
            tables.append((self.family.vectors(self.model, varied) - nothing)[0].T.float().cpu())
        return dict.fromkeys(self.tracks, tables)


def batches(pieces: Sequence[Piece], size: int) -> Iterator[list[Piece]]:
    """Successive pieces in batches of up to `size`, all of one length within a batch."""
    batch: list[Piece] = []
    for piece in pieces:
        if batch and (len(batch) >= size or piece.stop - piece.start != batch[0].stop - batch[0].start):
            yield batch
            batch = []
        batch.append(piece)
    yield batch


def _plan(shape: Shape, family: Family) -> WindowPlan:
    """Windows of 20 s, and the family's context."""
    rate = shape.sample_rate / shape.hop
    return WindowPlan(round(WINDOW_SECONDS * rate), round(family.context * rate))
