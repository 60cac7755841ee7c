"""Training of the language model on the engine (paper B.1; settings of the published baseline rows, docs/parameters.md, language model)."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from duotok.clock import FRAME_RATE
from duotok.config import parse
from duotok.distributed import mean_divisor, rank
from duotok.errors import ConfigError
from duotok.lm.config import LMConfig
from duotok.lm.corpus import TokenCorpus
from duotok.lm.evaluate import score_pieces
from duotok.lm.model import MultiStreamLM
from duotok.lm.pieces import SHORTEST, Piece, check_lengths, pieces
from duotok.lm.protocols import PREFIX_SECONDS, Name, Protocol, batched, protocol_by_name
from duotok.lm.song import TokenizedSong
from duotok.lm.start import start_from_codec
from duotok.lm.streams import CodecField
from duotok.lm.token_store import OPEN_SHARDS, LazySongs, TokenStore, frames_of, open_tokens
from duotok.lm.unigram import count_songs
from duotok.random import ItemRandom
from duotok.records import Split
from duotok.training.checkpoint import best, latest, load_module, read_state
from duotok.training.stage import Batch, Beta, Stage, StageConfig

log = logging.getLogger(__name__)


class LMStageConfig(StageConfig):
    """The learning rate is nearly constant: half a cosine down to .99 of it, after 50 steps of warm-up."""

    batch_size: int = Field(default=10, gt=0, description="pieces of one optimizer step, over all processes")
    lr: float = Field(default=1e-4, gt=0)
    warmup: int = Field(default=50, ge=0)
    floor: float = Field(default=0.99, ge=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0)
    betas: tuple[Beta, Beta] = (0.8, 0.99)
    eps: float = Field(default=1e-5, gt=0, description="AdamW's epsilon")

    data: Annotated[str, BeforeValidator(str)] = Field(
        description="tokens: a file of `duotok pack`, or a store of `duotok tokenize` (a folder or URL)"
    )
    cache: Path | None = Field(
        default=None,
        description="of a store at a URL: a folder where its shards are kept, so that each is fetched once",
    )
    codec: CodecField | None = Field(
        default=None, description="the only codec whose tokens will do; filled in from data"
    )
    model: LMConfig = Field(default=LMConfig.model_validate({}), description="e.g. {preset: 100m}")
    tables: Literal["random", "codec"] = Field(
        default="random",
        description="what codes start as; codec: the quantizer's vectors, for little data (not the paper's)",
    )
    protocol: Name = "parallel"
    source: str = Field(default="vocals", description="track_to_track, aligned: what is given")
    target: str = Field(default="accompaniment", description="track_to_track, aligned: what is predicted")
    prefix_seconds: float = Field(
        default=PREFIX_SECONDS, ge=0, description="track_to_track: of the target, given; aligned: not scored"
    )
    seconds: float = Field(default=30.0, gt=0, description="of a piece, in training and held out")
    shortest: float = Field(default=SHORTEST, gt=0, description="seconds; shorter songs and ends of songs are left out")
    loss_share: float = Field(
        default=1.0, gt=0, le=1, description="share of the target steps that a training step is asked for, drawn anew: an "
        "unbiased estimate of the loss, for machines where the heads cost most",
    )  # fmt: skip
    held_out_pieces: int = Field(default=32, gt=0, description="of validation songs, spread over them")
    held_out_batch: int = Field(default=4, gt=0)


class LMStage(Stage):
    """Pieces of random songs, a song as likely as it is long; cross-entropy, averaged over steps and codebooks (B.1.3)."""

    def __init__(self, config: LMStageConfig, corpus: TokenCorpus | TokenStore | None = None) -> None:
        if corpus is None:
            corpus = open_tokens(config.data, config.codec, config.cache)
            _warn_of_fetching(corpus)
        codec = corpus.identity
        if config.codec is not None:
            config.codec.require(codec, str(corpus.path))
        self.config: LMStageConfig = config.model_copy(update={"codec": codec})
        self.songs_hashes = corpus.split_hashes()
        self.protocol = protocol_of(self.config)
        check_lengths(self.protocol, config.seconds, config.shortest)
        between = {"track_to_track": "to", "aligned": "beside"}.get(config.protocol)
        self.name = "lm" if between is None else f"lm.{config.source}-{between}-{config.target}"
        least = codec.frames(min(config.shortest, config.seconds))
        self.songs, self.held_songs = (self._songs(corpus, split, least) for split in ("train", "validation"))
        torch.manual_seed(config.seed)
        self.lm = MultiStreamLM(config.model, codec)
        if config.tables == "codec":
            if corpus.vectors is None:
                raise ConfigError(
                    f"{corpus.path}: packed without code vectors; pack again with the --model that made the tokens, or --set tables=random"
                )
            counts = count_songs(codec, corpus.songs("train"))
            start_from_codec(self.lm, corpus.vectors, {c.name: counts[c.stream][c.codebook] for c in codec.columns})
        for part in (self.lm.outputs.heads, self.lm.outputs.narrow):
            for k, layer in enumerate(part):
                layer.requires_grad_(k in self.protocol.scored)  # the other heads get no loss
        self.modules = {"lm": self.lm}
        self.blocks = self.lm.blocks

        self.ends = np.cumsum(frames_of(self.songs))
        self.length = codec.frames(config.seconds)
        self.held_pieces = _spread(
            pieces(self.held_songs, codec, config.seconds, config.shortest), config.held_out_pieces
        )

    def _songs(self, corpus: TokenCorpus | TokenStore, split: Split, least: int) -> Sequence[TokenizedSong]:
        if split not in corpus.counts:
            available = ", ".join(f"{count} {name}" for name, (count, _) in corpus.counts.items())
            if isinstance(corpus, TokenStore):
                remedy = (
                    "add songs that it has not yet with duotok tokenize: a column 'split' in a list, a folder of that name, "
                    f"--split {split}, or more songs"
                )
            elif split != "train":
                remedy = "pack more songs, or put some token files into a folder of that name"
            else:
                remedy = "pack some"
            raise ConfigError(f"{corpus.path}: no songs of split '{split}' (it has {available}); {remedy}")
        songs: Sequence[TokenizedSong]
        if isinstance(corpus, TokenStore):
            songs = LazySongs(corpus, split, least)
        else:
            songs = [song for song in corpus.songs(split) if song.frames >= least]
        if not songs:
            raise ConfigError(
                f"{corpus.path}: no {split} song of {least / corpus.identity.frame_rate:g} s; lower shortest or seconds"
            )
        return songs

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{**group, "eps": self.config.eps} for group in super().parameter_groups()]

    def pick(self, step: int, items: Sequence[int]) -> list[Piece]:
        """The pieces for the items of a step: one random number chooses the song, by duration, another the place in it.

        Both are fractions of a length, so codecs of any frame rate learn from the same moments of the same songs.
        """
        random, whole = ItemRandom(self.seeds(step, items)), torch.full((len(items),), 2**53)
        moments = random.integers(whole).numpy() / 2**53 * self.ends[-1]
        chosen = np.searchsorted(self.ends, moments, side="right").tolist()
        places = (random.integers(whole).numpy() / 2**53).tolist()
        picked = []
        for index, place in zip(chosen, places, strict=True):
            frames = self.songs[index].frames
            start = int(place * max(1, frames - self.length + 1))
            picked.append(Piece(index, start, min(frames, start + self.length)))
        return picked

    def batch(self, step: int, items: Sequence[int]) -> Batch:
        chosen = self.pick(step, items)
        examples = [self.protocol.example(piece.tokens(self.songs)) for piece in chosen]
        inputs, targets, mask = batched(examples, self.lm.codec)
        if self.config.loss_share < 1:
            lengths = torch.tensor([len(example.inputs) for example in examples])
            draws = ItemRandom(self.seeds(step, items) + 1).uniform(mask.shape[1], 1, lengths=lengths)
            mask &= draws < self.config.loss_share
        ids = [f"{self.songs[piece.song].id} {piece.start}" for piece in chosen]
        return {"inputs": inputs, "targets": targets, "mask": mask, "ids": ids}

    def lengths_of(self, batch: Batch) -> tuple[float, float]:
        """The frames of music, of which track-to-track writes each twice, in its source and in its target."""
        ends = torch.tensor([column.size + 2 for column in self.lm.codec.columns])
        real = (batch["inputs"] != ends).any(-1)
        frames = float(real.sum()) - len(real)  # one step of each is SOS
        if self.protocol.name == "track_to_track":
            frames /= 2
        return frames * FRAME_RATE / self.lm.codec.frame_rate, 1.0 - float(real.float().mean())

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Target tokens, EOS included, and codes of each stream."""
        codes = (batch["mask"] & (batch["targets"] < batch["targets"].new_tensor(self.lm.sizes))).sum((0, 1))
        of_streams = {f"bits.{stream}": codes[codebooks].sum() for stream, codebooks in self._codebooks().items()}
        return {"loss": batch["mask"].sum(), **of_streams}

    def _codebooks(self) -> dict[str, list[int]]:
        """The predicted columns of each stream that has some."""
        codebooks: dict[str, list[int]] = {}
        for k in self.protocol.scored:
            codebooks.setdefault(self.lm.codec.columns[k].stream, []).append(k)
        return codebooks

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """`loss`: nats a target token, EOS included; `bits.STREAM`: bits a code of that stream (BPT, but over V + 3)."""
        by_codebook = self.lm.losses(batch["inputs"], batch["targets"], batch["mask"])
        codes = torch.stack([losses.codes for losses in by_codebook])
        divisors = mean_divisor(torch.cat([batch["mask"].sum()[None], codes]).float())
        result = {"loss": torch.stack([by_codebook[k].nats for k in self.protocol.scored]).sum() / divisors[0]}
        for stream, codebooks in self._codebooks().items():
            nats = torch.stack([by_codebook[k].code_nats for k in codebooks]).sum()
            result[f"bits.{stream}"] = nats / divisors[1:][codebooks].sum() / math.log(2)
        shares = batch.get("shares", {})  # of a part of a batch: see `Stage.counts`
        return {name: value * shares.get(name, 1.0) for name, value in result.items()}

    def held_out(self) -> dict[str, float]:
        """Figures on fixed pieces of validation songs, scored as in the evaluation: `bits.STREAM` (BPT), `cnbpt` (mean over
        streams of BPT / B_fix, equation 15) and `loss`, nats a code."""
        bits: dict[str, list[float]] = {}
        fixed: dict[str, float] = {}
        nats, count = 0.0, 0
        for start in range(0, len(self.held_pieces), self.config.held_out_batch):
            part = self.held_pieces[start : start + self.config.held_out_batch]
            for scores in score_pieces(self.lm, self.held_songs, self.protocol, part):
                for score in scores:
                    sums = bits.setdefault(score.stream, [0.0, 0.0, 0.0])
                    sums[0] += float(score.bits.sum(dtype=np.float64))
                    sums[1] += len(score.bits)
                    sums[2] += len(score.bits) * math.log2(score.size)
        for stream, (total, tokens, at_most) in bits.items():
            fixed[stream] = total / at_most
            nats, count = nats + total * math.log(2), count + int(tokens)
        result = {"loss": nats / count, "cnbpt": sum(fixed.values()) / len(fixed)}
        return result | {f"bits.{stream}": sums[0] / sums[1] for stream, sums in bits.items()}


def protocol_of(config: LMStageConfig) -> Protocol:
    """The protocol that a resolved config names."""
    assert config.codec is not None
    return protocol_by_name(config.codec, config.protocol, config.source, config.target, config.prefix_seconds)


def _warn_of_fetching(corpus: TokenCorpus | TokenStore) -> None:
    """Warn of a store of which nearly every piece would be the fetch of a whole shard."""
    if (
        rank()
        or not isinstance(corpus, TokenStore)
        or corpus.ranges.local is not None
        or corpus.ranges.cache is not None
    ):
        return
    if len(corpus.shards) > OPEN_SHARDS:
        log.warning(
            "%s: pieces come from its %d shards at random, and those are fetched whole, again and again; keep them with "
            "--set cache=FOLDER", corpus.path, len(corpus.shards),
        )  # fmt: skip


def _spread(candidates: Sequence[Piece], count: int) -> list[Piece]:
    """`count` of the candidates, evenly spaced."""
    if len(candidates) <= count:
        return list(candidates)
    return [candidates[(i * len(candidates)) // count] for i in range(count)]


@dataclass(frozen=True)
class TrainedLM:
    """A trained model, what it was trained with (codec and protocol too), and the checkpoint that it comes from."""

    model: MultiStreamLM
    config: LMStageConfig
    protocol: Protocol
    checkpoint: Path


def load_lm(run: str | Path, newest: bool = False, device: str | torch.device = "cpu") -> TrainedLM:
    """The best model of a run (by its held-out figure), or its newest; `run` may also be one checkpoint.

    Raises ConfigError when there is no checkpoint, or one of another stage.
    """
    run = Path(run)
    checkpoint = run if (run / "state.json").is_file() else latest(run) if newest else best(run)
    state = read_state(checkpoint)
    if not str(state.get("stage", "")).startswith("lm"):
        raise ConfigError(
            f"{checkpoint}: a checkpoint of {state.get('stage')}, not of a language model; name another run"
        )
    config = parse(LMStageConfig, state["config"], str(checkpoint))
    if config.codec is None:
        raise ConfigError(f"{checkpoint}: its config names no codec; train the language model again")
    model = MultiStreamLM(config.model, config.codec)
    load_module(checkpoint / "lm.safetensors", model)
    return TrainedLM(model.eval().requires_grad_(False).to(device), config, protocol_of(config), checkpoint)
