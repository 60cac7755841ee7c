"""Music out of a language model: frame by frame with a cache of keys and values, one song for each seed.

A model has been trained on pieces of limited length. Longer songs are generated in windows of that length: each begins with the
last half of the one before, laid out exactly as a piece in training, so that no position is beyond those of training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duotok.errors import ConfigError, TokenFileError
from duotok.lm.model import MultiStreamLM
from duotok.lm.protocols import Protocol
from duotok.lm.sampling import Draws, TokenSampling, chance, choose, uniform
from duotok.lm.saved import LanguageModel

Given = Mapping[str, NDArray[np.integer[Any]]]
Progress = Callable[[float], None]


@dataclass(frozen=True, eq=False)
class GeneratedTokens:
    """Tokens of one song: stream -> int32 `[codebooks, frames]`, given ones included. ended: whether the model ended the song."""

    seed: int
    tokens: dict[str, NDArray[np.int32]]
    ended: bool


class GenerationWindow(NamedTuple):
    """The model reads the known ones of frames `[start, stop)` and generates frames `[first, last)` of them."""

    start: int
    stop: int
    first: int
    last: int


def windows(protocol: Protocol, frames: int, known: int, piece: int) -> list[GenerationWindow]:
    """The windows that generate frames `[known, frames)`, each at most `piece` long."""
    plan = []
    prefix = min(protocol.prefix, frames)
    if known < prefix:  # training always gave the prefix, so generate it first, alone
        plan.append(GenerationWindow(0, min(piece, frames), known, prefix))
        known = prefix
    while known < frames:
        start = max(0, min(known - piece // 2, frames - piece))
        stop = min(start + piece, frames)
        plan.append(GenerationWindow(start, stop, known, stop))
        known = stop
    return plan


def generate(
    lm: LanguageModel,
    seeds: Sequence[int],
    seconds: float,
    given: Given | None = None,
    *,
    sampling: TokenSampling | None = None,
    at_least: float | None = None,
    cache: bool = True,
    progress: Progress | None = None,
) -> list[GeneratedTokens]:
    """One song of `seconds` for each of `seeds`, side by side.

    given: stream -> codes `[codebooks, frames]` that stay as they are. A track-to-track or aligned model needs its source for the
    whole length, and continues the given part of the target. A parallel model continues from the end of the shortest given stream,
    and conditions on the further frames of longer ones.
    at_least: seconds from which on the model may end the song, at most `seconds`; by default it never does. cache: False reads
    the whole sequence again at every step, for tests and measurements: the same codes, many times slower. progress(fraction) is
    called after each frame.
    Raises ConfigError for lengths that do not fit, TokenFileError for codes that the codec does not have.
    """
    run = _Run(lm, seeds, seconds, given or {}, sampling or TokenSampling(), at_least)
    for frame in run.steps(cache):
        if progress is not None:
            progress((frame + 1 - run.known) / (run.frames - run.known))
    return run.songs_made()


def generate_pieces(
    lm: LanguageModel,
    seed: int,
    seconds: float,
    given: Given | None = None,
    *,
    sampling: TokenSampling | None = None,
    at_least: float | None = None,
    frames: int = 25,
) -> Iterator[dict[str, Tensor]]:
    """The song of `generate` while it is made, in pieces of `frames`: stream -> int64 `[codebooks, frames]`, given ones included.

    `DuoTok.stream().decode` makes sound of the pieces as they come. Raises what `generate` raises.
    """
    run = _Run(lm, [seed], seconds, given or {}, sampling or TokenSampling(), at_least)
    done = 0
    for frame in run.steps(cache=True):
        if frame + 1 - done >= frames:
            yield run.piece(done, frame + 1)
            done = frame + 1
    if run.ends[0] > done:
        yield run.piece(done, run.ends[0])


class _Run:
    """One generation of several songs, frame by frame. ends: of each song, in frames, as far as it is known."""

    def __init__(
        self,
        lm: LanguageModel,
        seeds: Sequence[int],
        seconds: float,
        given: Given,
        sampling: TokenSampling,
        at_least: float | None,
    ) -> None:
        codec = lm.protocol.codec
        self.lm, self.seeds, self.frames = lm, seeds, codec.frames(seconds)
        if self.frames < 1 or not seeds:
            raise ConfigError(
                f"{seconds:g} s for {len(seeds)} seeds: nothing to make; take at least a frame and one seed"
            )
        check_end(at_least, seconds)
        given_frames = check_given(lm.protocol, given, self.frames)
        self.known = min(given_frames[k] for k in lm.protocol.scored)
        self.earliest = self.frames if at_least is None else max(1, codec.frames(at_least), self.known)
        song = _initial_song(lm.protocol, given, self.frames, len(seeds))
        self.songs = _Songs(lm, Draws(tuple(seeds)), sampling, song, given_frames)
        self.ends = [self.frames] * len(seeds)

    @torch.inference_mode()
    def steps(self, cache: bool) -> Iterator[int]:
        """Generates frame by frame; yields the number of each when it is there."""
        songs = self.songs
        for window in windows(
            self.lm.protocol, self.frames, self.known, max(1, self.lm.protocol.codec.frames(self.lm.seconds))
        ):
            reader = _Reader(self.lm.model, songs.prompt(window), cache)
            for frame in range(window.first, window.last):
                logits = songs.logits(reader.state, frame)
                if frame >= self.earliest:
                    ended = songs.over(logits, frame)
                    self.ends = [min(end, frame) if now else end for end, now in zip(self.ends, ended, strict=True)]
                    if max(self.ends) <= frame:
                        return
                songs.take(logits, frame)
                if frame + 1 < window.last:
                    reader.read(songs.step(frame))
                yield frame

    def piece(self, start: int, stop: int) -> dict[str, Tensor]:
        """Frames `[start, stop)` of the first song."""
        song = self.songs.song[0, start:stop].cpu()
        return {s.name: song.T[self.songs.columns_of(s.name)].clone() for s in self.lm.protocol.codec.streams}

    def songs_made(self) -> list[GeneratedTokens]:
        """All songs as they are now."""
        song = self.songs.song.cpu().numpy().astype(np.int32)
        return [
            GeneratedTokens(
                seed,
                {s.name: song[i, :end].T[self.songs.columns_of(s.name)] for s in self.lm.protocol.codec.streams},
                end < self.frames,
            )
            for i, (seed, end) in enumerate(zip(self.seeds, self.ends, strict=True))
        ]


def check_end(at_least: float | None, seconds: float) -> None:
    """Raises ConfigError when the model could never end the song."""
    if at_least is not None and at_least > seconds:
        raise ConfigError(
            f"at least {at_least:g} s of {seconds:g} s: the model could never end the song; lower it, or raise the seconds"
        )


def check_given(protocol: Protocol, given: Given, frames: int) -> dict[int, int]:
    """How many frames are given of each column. Raises ConfigError or TokenFileError, see `generate`."""
    codec, rate = protocol.codec, protocol.codec.frame_rate
    given_frames = dict.fromkeys(range(len(codec.columns)), 0)
    names = [stream.name for stream in codec.streams]
    for name, codes in given.items():
        if name not in names:
            raise ConfigError(f"given: {codec} has no stream '{name}'; it has {', '.join(names)}")
        sizes = codec.stream(name).codebook_sizes
        if codes.ndim != 2 or len(codes) != len(sizes) or codes.dtype.kind not in "iu":
            raise TokenFileError(
                f"given: {name} is {codes.dtype} {list(codes.shape)}, not integers [{len(sizes)}, frames]"
            )
        for k, (row, size) in enumerate(zip(codes, sizes, strict=True)):
            bad = row[(row < 0) | (row >= size)]
            if len(bad):
                raise TokenFileError(f"given: {name}.{k} holds token {int(bad[0])}, its codebook ends at {size - 1}")
        given_frames |= {k: codes.shape[1] for k, column in enumerate(codec.columns) if column.stream == name}
    if protocol.directed:
        source = min(n for k, n in given_frames.items() if codec.columns[k].stream == protocol.source)
        if source < frames:
            raise ConfigError(
                f"{source / rate:g} s of {protocol.source} are given, {frames / rate:g} s of {protocol.target} are wanted; "
                "the source must be as long"
            )
    known = min(given_frames[k] for k in protocol.scored)
    if known >= frames:
        raise ConfigError(
            f"a prefix of {known / rate:g} s leaves nothing to make of {frames / rate:g} s; make it longer"
        )
    return given_frames


def _initial_song(protocol: Protocol, given: Given, frames: int, rows: int) -> Tensor:
    """int64 `[rows, frames, K]`: the given codes, and PAD elsewhere."""
    pads = torch.tensor([column.size + 2 for column in protocol.codec.columns])
    song = pads.repeat(rows, frames, 1)
    for k, column in enumerate(protocol.codec.columns):
        if column.stream in given:
            codes = torch.from_numpy(np.array(given[column.stream][column.codebook][:frames], dtype=np.int64))
            song[:, : len(codes), k] = codes
    return song


class _Songs:
    """The songs that are being generated. song: int64 `[rows, frames, K]`; given_frames: of each column."""

    def __init__(
        self, lm: LanguageModel, draws: Draws, sampling: TokenSampling, song: Tensor, given_frames: dict[int, int]
    ) -> None:
        self.lm, self.draws, self.sampling, self.given_frames = lm, draws, sampling, given_frames
        self.columns = lm.protocol.codec.columns
        self.song = song.to(lm.model.device)
        self.scored = list(lm.protocol.scored)

    def columns_of(self, stream: str) -> list[int]:
        return [k for k, column in enumerate(self.columns) if column.stream == stream]

    def prompt(self, window: GenerationWindow) -> Tensor:
        """What the model reads before it generates the window's first frame, `[rows, steps, K]`: see `protocols.py`."""
        start, stop, first, _ = window
        sizes = self.song.new_tensor([column.size for column in self.columns])
        sos = sizes.expand(len(self.song), 1, -1)
        if self.lm.protocol.name == "parallel":
            return torch.cat([sos, self.song[:, start:first]], dim=1)
        if self.lm.protocol.name == "aligned":
            return self._beside(torch.cat([sos, self.song[:, start:first]], dim=1), slice(start, first + 1))
        begin = min(start + self.lm.protocol.prefix, first)
        target = self._only(self.scored, slice(start, first))
        source = self._only(self.columns_of(self.lm.protocol.source), slice(start, stop))
        return torch.cat([source, target[:, : begin - start], sos, target[:, begin - start :]], dim=1)

    def step(self, frame: int) -> Tensor:
        """What the model reads after a frame was generated, `[rows, 1, K]`."""
        if self.lm.protocol.name == "aligned":
            return self._beside(self.song[:, frame : frame + 1], slice(frame + 1, frame + 2))
        return self._only(self.scored, slice(frame, frame + 1))

    def _beside(self, target: Tensor, frames: slice) -> Tensor:
        """Steps `[rows, steps, K]` of the target, each beside a frame of the source."""
        steps = self._only(self.columns_of(self.lm.protocol.source), frames)
        steps[..., self.scored] = target[..., self.scored]
        return steps

    def _only(self, columns: list[int], frames: slice) -> Tensor:
        """Frames of some columns; the others are PAD."""
        part = self.song[:, frames]
        alone = part.new_tensor([column.size + 2 for column in self.columns]).repeat(*part.shape[:2], 1)
        alone[..., columns] = part[..., columns]
        return alone

    def logits(self, state: Tensor, frame: int) -> dict[int, Tensor]:
        """Logits `[rows, V_k + 3]` of each column that is not given at this frame."""
        columns = [k for k in self.scored if frame >= self.given_frames[k]]
        return {k: values.float() for k, values in zip(columns, self.lm.model.logits(state, columns), strict=True)}

    def over(self, logits: dict[int, Tensor], frame: int) -> list[bool]:
        """Which songs end before this frame. All heads predict the same EOS, so its probability is their mean."""
        chances = []
        for k, values in logits.items():
            size = self.columns[k].size
            here = torch.cat([values[:, :size], values[:, size + 1 : size + 2]], dim=1)
            chances.append(chance(here, size, self.sampling))
        mean = torch.stack(chances).mean(0)
        if self.sampling.temperature == 0:
            return (mean > 0.5).tolist()
        draws = uniform(self.draws.keys("end", frame), torch.zeros(len(mean), 1, dtype=torch.int64, device=mean.device))
        return (draws[:, 0] < mean).tolist()

    def take(self, logits: dict[int, Tensor], frame: int) -> None:
        """Choose the codes of a frame; special tokens are excluded."""
        for k, values in logits.items():
            column = self.columns[k]
            keys = self.draws.keys(column.name, frame)
            self.song[:, frame, k] = choose(values[:, : column.size], self.sampling, keys)


class _Reader:
    """The model and the sequence that it has read. state: `[rows, hidden]` after the last step."""

    def __init__(self, model: MultiStreamLM, prompt: Tensor, cached: bool) -> None:
        self.model, self.rows = model, len(prompt)
        self.cache = model.cache() if cached else None
        self.sequence = prompt
        alike = cached and bool((prompt == prompt[:1]).all())
        self.state = model.hidden(prompt[:1] if alike else prompt, self.cache)[:, -1]
        if alike and self.cache is not None:  # equal prompts are read once
            self.cache.batch_repeat_interleave(self.rows)
            self.state = self.state.expand(self.rows, -1)

    def read(self, step: Tensor) -> None:
        if self.cache is None:
            self.sequence = step = torch.cat([self.sequence, step], dim=1)
        self.state = self.model.hidden(step, self.cache)[:, -1]
