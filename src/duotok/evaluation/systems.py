"""What instruments measure: any tokenizer behind the codec contract, and the anchors, which have no tokens, behind one face."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from duotok.clock import SAMPLE_RATE
from duotok.codec.contract import Codec
from duotok.codec.opening import open_codec
from duotok.config import Config
from duotok.errors import ConfigError
from duotok.evaluation.anchors import ANCHORS
from duotok.evaluation.codec2 import MODES, codec2
from duotok.evaluation.instrument import MIX, Song, System, encode, facts_of
from duotok.evaluation.opus import Coded, opus
from duotok.evaluation.results import versions_of
from duotok.tracks import TRACKS

OPUS_BITS = 6000
ORIGINAL, LOWPASS = "original", "lowpass"
"""Controls: the sound itself, where every measure must be at its best, and the sound without what is above 3.5 kHz."""
LOWPASS_HZ = 3500


class SystemConfig(Config):
    """One row of a table. model: a bundle, `transformers:FOLDER`, `external:FILE`, or an anchor: `opus`, `opus:12000` (bit/s),
    `codec2:1300` (mode), `original`, `lowpass`. name: in tables ("" the model's own). codebooks, tracks: as `open_codec`."""

    model: str
    name: str = ""
    codebooks: int | None = None
    tracks: tuple[str, ...] | None = None
    device: str = "cpu"


def parse_system(text: str, codebooks: int | None = None, device: str = "cpu") -> SystemConfig:
    """`MODEL`, or `NAME=MODEL` with the name that tables show."""
    name, equals, model = text.partition("=")
    if not equals:
        name, model = "", text
    if not model or (equals and not name):
        raise ConfigError(f"tokenizer '{text}': give MODEL or NAME=MODEL, as in dac=transformers:models/dac_44khz")
    return SystemConfig(model=model, name=name, codebooks=codebooks, device=device)


class CodecSystem:
    """A tokenizer."""

    def __init__(self, codec: Codec, name: str = "") -> None:
        self._codec = codec
        self._name = name or codec.model_id

    @property
    def name(self) -> str:
        return self._name

    @property
    def model_hash(self) -> str:
        return self._codec.model_hash

    @property
    def sound_hash(self) -> str:
        """Of what decodes, where `model_hash` is of the tokens' meaning alone; "" where that has all of it."""
        return str(getattr(self._codec, "sound_hash", ""))

    @property
    def sample_rate(self) -> int:
        return self._codec.sample_rate

    @property
    def codec(self) -> Codec:
        return self._codec

    @property
    def about(self) -> dict[str, Any]:
        return facts_of(self._codec)

    def reconstruct(self, song: Song) -> dict[str, Tensor]:
        """Each stream decoded; the mix is the sum of the decoded tracks, a stream of its own, or all that there is (LeVo)."""
        tokens = encode(self._codec, song.sounds, SAMPLE_RATE)
        own = [] if getattr(self._codec, "joint", False) else [stream.name for stream in self._codec.streams]
        decoded = {track: self._codec.decode(tokens, track) for track in own if track in (*TRACKS, MIX)}
        if MIX not in decoded:
            parts = [decoded[track] for track in TRACKS if track in decoded]
            both = len(parts) == len(TRACKS) and len({part.shape for part in parts}) == 1
            decoded[MIX] = torch.stack(parts).sum(0) if both else self._codec.decode(tokens, MIX)
        return {track: sound for track, sound in decoded.items() if track in song.sounds}


@dataclass(frozen=True)
class AnchorSystem:
    """A classical codec or a control, on each track alone. what: the codec with its setting, "" where the name says it; version:
    what its output depends on besides; kbps: of one track, as asked for; None for a control; rates: track -> the kbit/s that the song
    coded last really took."""

    name: str
    code: Callable[[Tensor], Coded]
    version: str = ""
    kbps: float | None = None
    what: str = ""
    sample_rate: int = SAMPLE_RATE
    rates: dict[str, float] = field(default_factory=dict, compare=False)

    @property
    def codec(self) -> None:
        return None

    @cached_property
    def model_hash(self) -> str:
        return hashlib.sha256(json.dumps([self.what or self.name, self.version]).encode()).hexdigest()

    @property
    def about(self) -> dict[str, Any]:
        rate = {} if self.kbps is None else {"kbps": self.kbps}
        return {"model_id": self.name, "sample_rate": self.sample_rate, "anchor": True, **rate}

    def reconstruct(self, song: Song) -> dict[str, Tensor]:
        coded = {track: self.code(sound) for track, sound in song.sounds.items()}
        self.rates.clear()
        if self.kbps is not None:
            self.rates.update({track: one.kbps for track, one in coded.items()})
        return {track: one.audio for track, one in coded.items()}


def open_system(config: SystemConfig) -> System:
    """Raises what `open_codec` raises, and ConfigError for anchors that there are not."""
    kind, _, setting = config.model.partition(":")
    if kind == ORIGINAL and not setting:
        return AnchorSystem(config.name or ORIGINAL, lambda sound: Coded(sound, 0.0), what=ORIGINAL)
    if kind == LOWPASS and not setting:
        return AnchorSystem(config.name or LOWPASS, _lowpass, what=LOWPASS)
    if kind == "opus":
        if setting and not (setting.isdigit() and 500 <= int(setting) <= 512_000):
            raise ConfigError(f"{config.model}: give bits a second, 500 to 512000, as in opus:{OPUS_BITS}")
        bits = int(setting or OPUS_BITS)
        what = f"opus-{bits / 1000:g}k"
        return AnchorSystem(config.name or what, lambda sound: opus(sound, bits), _av_version(), bits / 1000, what=what)
    if kind == "codec2":
        mode = setting or MODES[0]
        if mode not in MODES:
            raise ConfigError(f"{config.model}: give a mode, as in codec2:{MODES[0]}; there are {', '.join(MODES)}")
        if (here := ANCHORS["codec2"].here()) != "yes":
            raise ConfigError(f"codec2: {here}")
        what = f"codec2-{mode}"
        return AnchorSystem(
            config.name or what, lambda sound: codec2(sound, mode), "", int(mode.rstrip("C")) / 1000, what=what
        )
    tracks = config.tracks
    return CodecSystem(open_codec(config.model, config.device, config.codebooks, tracks), config.name)


def _av_version() -> str:
    return versions_of("av")["av"]


def _lowpass(sound: Tensor) -> Coded:
    """Without delay: the same filter forward and backward (Butterworth of order 8)."""
    import numpy as np
    from scipy.signal import butter, sosfiltfilt

    sections = butter(8, LOWPASS_HZ, fs=SAMPLE_RATE, output="sos")
    filtered = sosfiltfilt(sections, sound.double().numpy(), axis=-1)
    return Coded(torch.from_numpy(np.ascontiguousarray(filtered, dtype=np.float32)), 0.0)
