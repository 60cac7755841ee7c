"""Checks of a codec: its lengths at every remainder of a frame, and how many codes stay the same when the sound is varied.

The variations: the same clip alone and followed by more sound, as mono and as dual mono, at another sample rate, quieter, and
a frame later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from duotok.audio.io import resample
from duotok.clock import SAMPLE_RATE
from duotok.codec.contract import Codec
from duotok.errors import BundleError, ConfigError, DuoTokError
from duotok.tokens import Tokens
from duotok.tracks import TRACKS

FRAMES = 3
MORE = 1.5
"""Length of the sound that follows the clip, in lengths of the clip."""
BATCH = 4
OTHER_RATE = 44_100
QUIETER_DB = -6.0
SLACK = 0.5
"""Tolerance in frames: with overlapping chunks the first chunk has slightly fewer frames than the average rate gives."""
Report = Callable[[str], None]


@dataclass(frozen=True)
class Lengths:
    """samples_per_frame: of the codec. remainders: how many lengths were checked by formula, one for each remainder; least, most:
    extremes of frames - samples / samples_per_frame over all of them. encoded: samples -> frames, of sounds that were encoded;
    decoded: samples -> decoded samples. problems: deviations from the contract.
    """

    samples_per_frame: float
    remainders: int
    least: float
    most: float
    encoded: dict[int, int]
    decoded: dict[int, int]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Share:
    """The share of equal codes by stream, and for each of its codebooks; frames: how many were compared."""

    case: str
    frames: int
    streams: dict[str, float]
    codebooks: dict[str, list[float]] = field(repr=False)


def lengths(codec: Codec, every: bool = False, report: Report = lambda _: None) -> Lengths:
    """Check sounds of a few frames and any remainder: encoded at eight remainders (at all with `every`), decoded at two."""
    per_frame = codec.sample_rate / codec.frame_rate
    hop = math.ceil(per_frame)
    base = FRAMES * hop
    counts = {n: codec.n_frames(n) for n in range(base, base + hop)}
    over = [frames - n / per_frame for n, frames in counts.items()]
    problems = [] if min(over) > -SLACK else [f"n_frames leaves out {-min(over):.2f} frames of sound"]
    chosen = (
        range(hop)
        if every
        else sorted({r % hop for r in (0, 1, 2, hop // 4, hop // 2, 3 * hop // 4, hop - 2, hop - 1)})
    )
    noise = 0.1 * torch.randn(1, base + hop, generator=torch.Generator().manual_seed(0))
    encoded: dict[int, int] = {}
    decoded: dict[int, int] = {}
    for remainder in chosen:
        n = base + remainder
        report(f"{n} samples")
        tokens = _encode(codec, dict.fromkeys(TRACKS, noise[:, :n]), codec.sample_rate)
        encoded[n] = tokens.n_frames
        if tokens.n_frames != counts[n] or tokens.n_samples != n:
            problems.append(
                f"{n} samples: {tokens.n_frames} frames of {tokens.n_samples} samples, promised {counts[n]} of {n}"
            )
        if remainder in (chosen[0], chosen[-1]):
            try:
                decoded[n] = codec.decode(tokens).shape[1]
            except BundleError as error:
                report(str(error))
                continue
            if decoded[n] != n:
                problems.append(f"{n} samples decode to {decoded[n]}")
    return Lengths(per_frame, len(counts), min(over), max(over), encoded, decoded, tuple(problems))


def equal_shares(codec: Codec, sounds: dict[str, Tensor], report: Report = lambda _: None) -> list[Share]:
    """sounds: vocals and accompaniment, `[2, samples]` at 48 kHz, equally long, of some seconds.

    The clip is encoded alone; every case is compared with that, over the frames that lie within it. Raises DuoTokError for a codec
    that cannot encode, ConfigError for sounds that are too short.
    """
    if {*sounds} != {*TRACKS} or len({sound.shape for sound in sounds.values()}) != 1:
        raise ConfigError(f"sounds of {', '.join(sounds)}: give {' and '.join(TRACKS)}, equally long")
    samples = next(iter(sounds.values())).shape[1]
    if samples < SAMPLE_RATE:
        raise ConfigError(f"{samples} samples of sound: give at least {SAMPLE_RATE}, a second")
    report("alone")
    alone = _encode(codec, sounds, SAMPLE_RATE)
    shares = []
    for case, codes, expected in _cases(codec, sounds, alone, report):
        shares.append(share_of(case, codes, expected))
    return shares


def _cases(
    codec: Codec, sounds: dict[str, Tensor], alone: Tokens, report: Report
) -> Iterator[tuple[str, dict[str, Tensor], dict[str, Tensor]]]:
    """Name of each case, its codes, and the codes that they should equal."""

    def encoded(
        case: str, case_sounds: dict[str, Tensor], rate: int = SAMPLE_RATE, batch_size: int = 1
    ) -> dict[str, Tensor]:
        report(case)
        return dict(_encode(codec, case_sounds, rate, batch_size))

    reference = dict(alone)
    yield (case := "encoded again"), encoded(case, sounds), reference

    length = next(iter(sounds.values())).shape[1]
    longer = {
        track: torch.cat([sound, sound.flip(1).repeat(1, math.ceil(MORE))[:, : int(MORE * length)]], 1)
        for track, sound in sounds.items()
    }
    case = f"with {MORE * length / SAMPLE_RATE:g} s more behind it, {BATCH} windows at once"
    behind = encoded(case, longer, batch_size=BATCH)
    # The last frame is left out: it is filled with silence in the clip alone, and with the following sound here.
    yield case, {s: codes[:, : alone.n_frames - 1] for s, codes in behind.items()}, reference
    case = "the same, a window at a time"
    yield case, encoded(case, longer), behind

    mono = {track: sound.mean(0, keepdim=True) for track, sound in sounds.items()}
    case = "mono, against dual mono"
    dual = {track: sound.repeat(2, 1) for track, sound in mono.items()}
    yield case, encoded(case, mono), encoded(case, dual)

    case = f"from {OTHER_RATE / 1000:g} kHz, against 48 kHz"
    resampled = {track: resample(sound, SAMPLE_RATE, OTHER_RATE) for track, sound in sounds.items()}
    yield case, encoded(case, resampled, OTHER_RATE), reference

    case = f"{QUIETER_DB:g} dB"
    yield case, encoded(case, {t: sound * 10 ** (QUIETER_DB / 20) for t, sound in sounds.items()}), reference

    hop = codec.sample_rate / codec.frame_rate
    if hop == round(hop):
        case = "a frame later"
        at_codec_rate = {track: resample(sound, SAMPLE_RATE, codec.sample_rate) for track, sound in sounds.items()}
        later = {track: torch.nn.functional.pad(sound, (round(hop), 0)) for track, sound in at_codec_rate.items()}
        shifted = encoded(case, later, codec.sample_rate)
        yield case, {s: codes[:, 1:] for s, codes in shifted.items()}, encoded(case, at_codec_rate, codec.sample_rate)


def _encode(codec: Codec, sounds: dict[str, Tensor], rate: int, batch_size: int = 1) -> Tokens:
    return codec.encode(
        rate=rate, vocals=sounds["vocals"], accompaniment=sounds["accompaniment"], batch_size=batch_size
    )


def share_of(case: str, actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Share:
    """Compares codes `[codebooks, frames]` of each stream, over the frames that both have. Raises DuoTokError where there are none."""
    frames = min(codes.shape[1] for codes in (*actual.values(), *expected.values()))
    if frames < 1:
        raise DuoTokError(f"{case}: no frames to compare; give longer sounds")
    equal = {stream: (actual[stream][:, :frames] == expected[stream][:, :frames]).double() for stream in actual}
    return Share(
        case, frames, {stream: float(same.mean()) for stream, same in equal.items()},
        {stream: same.mean(1).tolist() for stream, same in equal.items()},
    )  # fmt: skip
