"""Encoding while a song is still arriving, decoding while its tokens are still being made.

Both give what the whole gives with the same windows; what they must wait for is stated (`look_ahead`). All state is in the objects
here: `TrackEncoder` holds the last windows of sound, `renderer.arriving.ArrivingVectors` the last windows of code vectors. One thing
of a whole song cannot be known early, its loudness: the gain is given, or measured on the first seconds and then kept.
"""

from __future__ import annotations

import contextlib
import itertools
import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duotok.audio.arrays import Layout, check_rate, samples_of, tells
from duotok.audio.channels import remix
from duotok.audio.decoders import default_layout
from duotok.audio.loudness import LoudnessMeter
from duotok.audio.resampling import Resampler
from duotok.clock import ANALYSIS_RATE, FRAME_RATE, FRAME_SAMPLES, SAMPLE_RATE, n_frames
from duotok.codec.contract import Stream, check_codes, check_gain
from duotok.codec.spool import BLOCK_SECONDS, MONO_FRAME, AudioSource, StemSeparator, tracks_of
from duotok.errors import AudioError, ConfigError
from duotok.nn.torch_settings import callers_settings, each, with_own_settings
from duotok.renderer.arriving import arriving_track, look_ahead
from duotok.renderer.contract import LatentAutoencoder, LatentDiffusion
from duotok.renderer.render import RenderSettings
from duotok.tokens import EncoderWindow, WindowPlan
from duotok.tracks import TRACKS

Piece = dict[str, Tensor]
"""Track -> int64 `[1, frames]`, the next codes of a song."""
LISTEN_SECONDS = BLOCK_SECONDS
HELD_BLOCKS = 100
"""Blocks at the beginning of a stream that may wait for one that tells which axis is time; such are short."""


class Streamable(Protocol):
    """What streaming needs of `DuoTok`."""

    mel: Any
    config: Any
    device: torch.device

    @property
    def model_id(self) -> str: ...
    @property
    def streams(self) -> tuple[Stream, ...]: ...
    @property
    def separator(self) -> StemSeparator | None: ...
    @property
    def autoencoder(self) -> LatentAutoencoder: ...
    @property
    def tokenizer(self) -> Any: ...
    def dit(self, track: str) -> LatentDiffusion: ...
    def gain_for(self, loudness: float) -> float: ...
    def encode_mel(self, mel: Tensor, routes: Tensor) -> Tensor: ...
    def check_renders(self) -> None: ...


class LookAhead(NamedTuple):
    """Seconds that must be there beyond a moment before what belongs to it comes out, at most."""

    encoding: float
    decoding: float


class _Arriving(AudioSource):
    """Blocks from an iterable, as an `AudioSource` gives those of a file."""

    def __init__(self, blocks: Iterable[Any], rate: int, highpass_hz: float) -> None:
        self._arriving, self._highpass_hz, self.name = blocks, highpass_hz, "stream"
        self._rate = check_rate(rate, self.name)
        if (
            not isinstance(blocks, Iterable)
            or isinstance(blocks, str | bytes | Mapping)
            or getattr(blocks, "ndim", 3) < 3
        ):
            raise AudioError(
                f"{self.name}: {type(blocks).__name__} is no row of blocks; give an iterable of sound, such as [samples]"
            )

    def _blocks(self) -> Iterator[Tensor]:
        """What arrives, as `[channels, samples]`. The first blocks wait for one that tells which axis is time; where none does, the
        longest axis of them is."""
        held: list[Tensor] = []
        layout: Layout | None = None
        end = object()
        for block in itertools.chain(each(callers_settings, self._arriving), [end]):
            if block is not end:
                if 0 in tuple(getattr(block, "shape", ())):  # nothing came this time
                    continue
                sound, rate = samples_of(block, self._rate, self.name)
                if rate != self._rate:
                    raise AudioError(f"{self.name}: a block at {rate} samples a second; give rate={rate}")
                held.append(sound)
                if layout is None and not tells(sound) and len(held) < HELD_BLOCKS:
                    continue
            if held:
                layout = layout or Layout(max(held, key=lambda sound: (sound.ndim, max(sound.shape))))
                yield from [layout.channels_first(sound, self.name) for sound in held]
                held = []

    def _blocks_at_48_khz(self) -> Iterator[Tensor]:
        size = round(BLOCK_SECONDS * SAMPLE_RATE)
        waiting: NDArray[np.float32] = np.zeros((0, 2), np.float32)
        resampler = Resampler(self._rate, SAMPLE_RATE, 2)
        for sound in itertools.chain(self._blocks(), [None]):
            stereo: NDArray[np.float32] = np.zeros((0, 2), np.float32)
            if sound is not None:
                stereo = remix(sound.numpy().T, default_layout(sound.shape[0]), 2)
            waiting = np.concatenate([waiting, resampler.push(stereo, last=sound is None)])
            while len(waiting) >= size or (sound is None and len(waiting)):
                yield torch.from_numpy(np.ascontiguousarray(waiting[:size].T))
                waiting = waiting[size:]


class TrackEncoder:
    """The state of one song that is being encoded: push its two tracks, and take the codes that are sure."""

    def __init__(self, model: Streamable, plan: WindowPlan, gain_db: float | None = None) -> None:
        """gain_db: of the whole song, as a token file has it; None measures the first `LISTEN_SECONDS`. Raises ConfigError for what is none."""
        if gain_db is not None:
            check_gain(gain_db)
        self.model, self.plan, self.gain_db = model, plan, gain_db
        self.n_samples, self.covered, self.ended = 0, 0, False
        self._meter = LoudnessMeter(SAMPLE_RATE)
        self._resamplers = [Resampler(SAMPLE_RATE, ANALYSIS_RATE, 1) for _ in TRACKS]
        self._sound: list[NDArray[np.float32]] = [np.zeros(0, np.float32) for _ in TRACKS]
        self._first = 0
        """The sample at 24 kHz that the buffers begin with."""

    @with_own_settings
    def push(self, vocals: Tensor, accompaniment: Tensor) -> Iterator[Piece]:
        """Take the next `[2, samples]` of both at 48 kHz, filtered as `AudioSource` does; yields the codes that no later sound can
        change. Raises ConfigError once the song has ended."""
        self._check_open()
        pair = (vocals, accompaniment)
        self.n_samples += vocals.shape[1]
        if self.gain_db is None:
            self._meter.push(vocals + accompaniment)
            if self.n_samples >= LISTEN_SECONDS * SAMPLE_RATE:
                self.gain_db = self.model.gain_for(self._meter.integrated())
        self._take([block.mean(0, keepdim=True).numpy().T for block in pair], last=False)
        yield from self._sure()

    @with_own_settings
    def finish(self) -> Iterator[Piece]:
        """The song has ended: yields all codes that are left. Raises AudioError when no sound came, ConfigError when it had ended before."""
        self._check_open()
        self.ended = True
        if not self.n_samples:
            raise AudioError("nothing to encode; no sound came before the end of the stream")
        if self.gain_db is None:
            self.gain_db = self.model.gain_for(self._meter.integrated())
        rest = np.zeros((-self.n_samples % FRAME_SAMPLES, 1), np.float32)
        self._take([rest for _ in TRACKS], last=True)
        yield from self._sure()
        for window in self.plan.windows(n_frames(self.n_samples)):
            if window.keep_start >= self.covered:
                yield self._encode(window)

    def _check_open(self) -> None:
        if self.ended:
            raise ConfigError("state: its song has ended; give a new one for each song, stream.encoder()")

    def _take(self, blocks: list[NDArray[Any]], last: bool) -> None:
        for k, block in enumerate(blocks):
            new = self._resamplers[k].push(block, last=last)[:, 0]
            self._sound[k] = np.concatenate([self._sound[k], new])

    def _sure(self) -> Iterator[Piece]:
        """Windows that are there with their margin, so that the song is known to go on beyond them."""
        while self.gain_db is not None:
            start = max(0, self.covered - self.plan.context)
            stop = start + self.plan.window
            if self._first + len(self._sound[0]) < stop * MONO_FRAME + max(1, self.model.mel.margin):
                return
            yield self._encode(EncoderWindow(start, stop, self.covered, stop - self.plan.context))
            # The last window may begin a whole one before the end.
            earliest = max(0, (self.covered - self.plan.window) * MONO_FRAME - self.model.mel.margin)
            if earliest > self._first:
                self._sound = [sound[earliest - self._first :] for sound in self._sound]
                self._first = earliest

    @torch.no_grad()
    def _encode(self, window: EncoderWindow) -> Piece:
        assert self.gain_db is not None
        margin, gain = self.model.mel.margin, 10 ** (self.gain_db / 20)
        sound = torch.stack([torch.from_numpy(self._window(s, window.start, window.stop, margin)) for s in self._sound])
        mel = self.model.mel((sound * gain).to(self.model.device), margins=True)
        codes = self.model.encode_mel(mel, torch.arange(len(TRACKS), device=self.model.device))
        self.covered = window.keep_stop
        keep = slice(window.keep_start - window.start, window.keep_stop - window.start)
        return {track: codes[k, keep][None].clone() for k, track in enumerate(TRACKS)}

    def _window(self, sound: NDArray[np.float32], start: int, stop: int, margin: int) -> NDArray[np.float32]:
        """As `Spool.window`."""
        first, last = start * MONO_FRAME - margin, stop * MONO_FRAME + margin
        begin, end = max(0, first), min(last, self._first + len(sound))
        return np.pad(sound[begin - self._first : end - self._first], (begin - first, last - end))


class DuoTokStream:
    """What `DuoTok.stream` gives: both directions, piece by piece. It holds settings only; each song has a state of its own."""

    def __init__(self, model: Streamable, plan: WindowPlan, settings: RenderSettings) -> None:
        self.model, self.plan, self.settings = model, plan, settings

    @property
    def look_ahead(self) -> LookAhead:
        """Encoding: a block of 10 s, in which polarity is checked, then a window; of a mix also a chunk of the separator (4 s)."""
        separator = getattr(self.model.separator, "chunk", 0) / SAMPLE_RATE
        encoding = BLOCK_SECONDS + separator + (self.plan.window - self.plan.context) / FRAME_RATE
        autoencoder = self.model.autoencoder if self.model.config.renders else None
        field, per_frame = (autoencoder.receptive_field, autoencoder.latents_per_frame) if autoencoder else (0, 2)
        return LookAhead(encoding, look_ahead(self.settings.plan, field, per_frame))

    def encoder(self, gain_db: float | None = None) -> TrackEncoder:
        """The state of a song whose two tracks are pushed."""
        return TrackEncoder(self.model, self.plan, gain_db)

    @with_own_settings
    def encode(
        self,
        mix: Iterable[Any] | None = None,
        rate: int = SAMPLE_RATE,
        *,
        vocals: Iterable[Any] | None = None,
        accompaniment: Iterable[Any] | None = None,
        gain_db: float | None = None,
        state: TrackEncoder | None = None,
    ) -> Iterator[Piece]:
        """Codes of a song that comes in blocks of any size: what `duotok.audio.arrays.sound_of` takes, at `rate`.

        Blocks are `[samples]`, `[channels, samples]` or `[samples, channels]`: an axis over 32 is time; where a block has none, time is the
        axis that is not as long as the song has channels by its other blocks; where no block has one, it is the longest axis of the first
        blocks, and squares are `[channels, samples]`. Mix and stems as for `DuoTok.encode`. state: a new encoder of this stream, which has
        the gain and keeps gain and length for the caller. Together the pieces are what `DuoTok.encode` gives with this plan and gain.
        Raises AudioError for sound that cannot be used, ConfigError for a state that is none or has taken sound already.
        """
        if state is not None:
            if not isinstance(state, TrackEncoder):
                raise ConfigError(f"state: {type(state).__name__} is no encoder; give a new one, stream.encoder()")
            if state.n_samples or state.ended:
                raise ConfigError("state: has taken sound already; give a new one for each song, stream.encoder()")
            if gain_db is not None:
                raise ConfigError(f"gain_db {gain_db!r}: the state has a gain; give it to stream.encoder(gain_db)")
        encoder = state or self.encoder(gain_db)
        highpass = self.model.config.codec.highpass_hz
        whole, voice, band = (
            None if blocks is None else _Arriving(blocks, rate, highpass) for blocks in (mix, vocals, accompaniment)
        )
        with contextlib.closing(tracks_of(whole, voice, band, self.model.separator)) as pairs:
            for pair in pairs:
                yield from encoder.push(*pair)
        yield from encoder.finish()

    @with_own_settings
    def decode(
        self,
        pieces: Iterable[Mapping[str, Tensor]],
        track: str = "mix",
        *,
        gain_db: float = 0.0,
        n_samples: int | None = None,
    ) -> Iterator[Tensor]:
        """Sound `[channels, samples]` at 48 kHz of codes that come piece by piece: each maps tracks to integers `[1, frames]`.

        gain_db, n_samples: as the tokens of the song have them (0 samples: not known, whole frames). Together the blocks are what
        `DuoTok.decode` gives with these settings. Raises ConfigError for a track that does not exist, pieces that lack one or are not equally
        long, a gain or length that is none or more than the pieces have; BundleError for codes of another model, or one without renderer.
        """
        check_gain(gain_db)
        whole = isinstance(n_samples, numbers.Integral) and not isinstance(n_samples, bool)
        if n_samples is not None and not (whole and n_samples >= 0):
            raise ConfigError(
                f"n_samples {n_samples!r}: give the whole number of samples that the tokens have, or None"
            )
        if track not in (*TRACKS, "mix"):
            raise ConfigError(f"track '{track}' does not exist; choose {', '.join((*TRACKS, 'mix'))}")
        self.model.check_renders()
        names = TRACKS if track == "mix" else (track,)
        tracks = [
            arriving_track(
                self.model.dit(name), self.model.autoencoder, self._vectors(copy, name), self.settings, track=name
            )
            for copy, name in zip(itertools.tee(self._whole(pieces, names), len(names)), names, strict=True)
        ]
        left = n_samples or None
        for blocks in zip(*tracks, strict=True):
            sound = torch.stack(blocks).sum(0) * 10 ** (-gain_db / 20) if gain_db else torch.stack(blocks).sum(0)
            sound = sound if left is None else sound[:, :left]
            left = None if left is None else left - sound.shape[1]
            if sound.shape[1]:
                yield sound
        if left:
            raise ConfigError(
                f"n_samples {n_samples}: the pieces have {(n_samples or 0) - left}, {FRAME_SAMPLES} a frame; give the length that the tokens have"
            )

    def _vectors(self, pieces: Iterable[Mapping[str, Tensor]], track: str) -> Iterator[Tensor]:
        kind = self.model.dit(track).config.condition
        for piece in pieces:
            with torch.no_grad():  # over before the piece is handed on: the caller may want gradients
                vectors = self.model.tokenizer.condition(piece[track].long().to(self.model.device), track, kind)[0]
            yield vectors

    def _whole(self, pieces: Iterable[Mapping[str, Tensor]], names: Sequence[str]) -> Iterator[Mapping[str, Tensor]]:
        """The pieces as they come, without empty ones. Raises as `decode`."""
        if isinstance(pieces, Mapping) or not isinstance(pieces, Iterable):
            raise ConfigError(
                f"{type(pieces).__name__} is no row of pieces; give an iterable of tokens, such as [tokens]"
            )
        streams = {stream.name: stream for stream in self.model.streams}
        for piece in each(callers_settings, pieces):
            if not isinstance(piece, Mapping):
                raise ConfigError(f"{type(piece).__name__} is no piece of tokens; give a mapping from tracks to codes")
            frames = {name: check_codes(self.model, streams[name], piece[name], 0) for name in names if name in piece}
            if len(frames) < len(names) or len(set(frames.values())) > 1:
                raise ConfigError(
                    f"a piece of tokens has frames {frames}; give {' and '.join(names)}, equally many of each"
                )
            if any(frames.values()):
                yield piece
