"""Which tokens stay when nothing that a listener would call music changes. A language model learns from what is stable.

Every case encodes the same song again, changed in one respect, and counts equal tokens at equal moments: a shift by so many
frames is compared with tokens so many frames later. `again` changes nothing and must be 1; `other_song` compares with another
song and must be what chance gives: a tokenizer that gave the same code all the time would be stable and useless.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from duotok.audio.io import resample
from duotok.clock import SAMPLE_RATE
from duotok.codec.checks import share_of
from duotok.codec.contract import Codec
from duotok.errors import ConfigError, DuoTokError, one_line
from duotok.evaluation.instrument import MIX, Cost, Instrument, Observation, Song, System, codec_of, encode, why_silent
from duotok.evaluation.mp3 import mp3
from duotok.evaluation.results import Measure, Row
from duotok.tokens import Tokens
from duotok.tracks import TRACKS

GAIN_DB = 6.0
MP3_BITS = 128_000
OTHER_RATE = 44_100
BATCH = 4
SHIFTS = {"shift_1ms": 0.001, "shift_5ms": 0.005, "shift_10ms": 0.01, "shift_20ms": 0.02}
"""Seconds."""
FRAMES = {"shift_half_frame": 0.5, "shift_frame": 1.0}
LEAD = 0.25
"""Seconds in front of what is compared: the sound of a shifted song comes from there, so that no silence is put in."""
EDGE = 2
"""Frames at both ends that are not compared: they are filled with silence in one case and with sound in the other."""

Sounds = Mapping[str, Tensor]
EQUAL = "share of equal tokens after "
CASES: dict[str, str] = {
    "again": "nothing at all (control: 1)",
    "decoded": "decoding and encoding again",
    **{name: f"a shift by {1000 * seconds:g} ms, compared at the nearest frame" for name, seconds in SHIFTS.items()},
    "shift_half_frame": "a shift by half a frame",
    "shift_frame": "a shift by one frame, compared with the tokens one frame later",
    "quieter": f"{-GAIN_DB:g} dB",
    "louder": f"+{GAIN_DB:g} dB, not clipped",
    "rounded": "rounding to 16 bits",
    "mp3": f"MP3 at {MP3_BITS // 1000} kbit/s and back",
    "resampled": f"resampling to {OTHER_RATE / 1000:g} kHz and back to 48 kHz",
    "batch": f"encoding {BATCH} windows at once",
    "threads": "computing with another number of threads",
    "other_song": "taking another song (control: see chance)",
}
CHANCE = Measure(
    "chance", "share of equal tokens that two songs would have by how often each code comes in them: sum of p q"
)


@dataclass(frozen=True)
class Stability(Instrument):
    """cases: which changes, all by default."""

    name: ClassVar[str] = "stability"
    packages: ClassVar[tuple[str, ...]] = ("torch", "numpy", "scipy", "soxr", "av")
    of_tokens: ClassVar[bool] = True

    cases: tuple[str, ...] = tuple(CASES)

    def __post_init__(self) -> None:
        unknown = [case for case in self.cases if case not in CASES]
        if unknown or not self.cases:
            raise ConfigError(f"case '{(unknown or ['none'])[0]}' does not exist; choose among {', '.join(CASES)}")

    @property
    def measures(self) -> tuple[Measure, ...]:
        found = [
            Measure(case, EQUAL + CASES[case], "", "higher" if case != "other_song" else "") for case in self.cases
        ]
        return (*found, CHANCE) if "other_song" in self.cases else tuple(found)

    @property
    def cost(self) -> Cost:
        return Cost(encodings=len(self.cases), decodings=int("decoded" in self.cases))

    # -- one song ------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def observe(self, system: System, song: Song) -> dict[str, Any]:
        """Shares of every case by stream and codebook, and the tokens, for the controls."""
        codec = codec_of(system)
        lead = round(LEAD * codec.sample_rate)
        whole = _at_codec(song.sounds, codec)
        if next(iter(whole.values())).shape[1] < 2 * lead + 6 * codec.sample_rate / codec.frame_rate:
            raise DuoTokError("too short to be shifted; give at least a second")
        start = {track: sound[:, lead:] for track, sound in whole.items()}
        base = encode(codec, start, codec.sample_rate)
        shares: dict[str, Any] = {}
        for case in self.cases:
            if case == "other_song":
                continue
            try:
                codes, offset = self._codes(case, codec, song, whole, lead, base)
                moved = {stream: row[:, offset:][:, EDGE:-EDGE] for stream, row in codes.items()}
                expected = {stream: row[:, EDGE:] for stream, row in base.items()}
                shares[case] = share_of(case, moved, expected).codebooks
            except Exception as error:  # a case that breaks is a gap of that case alone
                shares[case] = (
                    f"{type(error).__name__}: {one_line(error)}" if not isinstance(error, DuoTokError) else str(error)
                )
        silent = {stream: why_silent(song.sounds[stream]) for stream in base if stream in song.sounds}
        codes_of = {stream: row.tolist() for stream, row in base.items()}
        return {"shares": shares, "codes": codes_of, "silent": {stream: why for stream, why in silent.items() if why}}

    def _codes(
        self, case: str, codec: Codec, song: Song, whole: Sounds, lead: int, base: Tokens
    ) -> tuple[Mapping[str, Tensor], int]:
        """Codes of one case, and by how many frames they are later than those of the base."""
        rate, per_frame = codec.sample_rate, codec.sample_rate / codec.frame_rate

        def encoded(sounds: Sounds, at: int = rate, batch_size: int = 1) -> Mapping[str, Tensor]:
            return encode(codec, sounds, at, batch_size)

        def cut(sounds: Sounds) -> Sounds:
            return {track: sound[:, lead:] for track, sound in _at_codec(sounds, codec).items()}

        def each(change: Callable[[Tensor], Tensor], sounds: Sounds) -> Sounds:
            return {track: change(sound) for track, sound in sounds.items()}

        start = {track: sound[:, lead:] for track, sound in whole.items()}
        if case in SHIFTS or case in FRAMES:
            samples = round(SHIFTS[case] * rate if case in SHIFTS else FRAMES[case] * per_frame)
            if samples > lead:
                raise DuoTokError(f"a shift of {samples / rate:.3f} s is longer than the {LEAD:g} s in front")
            return encoded({t: s[:, lead - samples :] for t, s in whole.items()}), math.floor(samples / per_frame + 0.5)
        if case == "again":
            return encoded(start), 0
        if case == "decoded":
            return encoded(_decoded(codec, base, [*start], next(iter(start.values())).shape[1])), 0
        if case in ("quieter", "louder"):
            factor = 10 ** ((GAIN_DB if case == "louder" else -GAIN_DB) / 20)
            return encoded(each(lambda sound: factor * sound, start)), 0
        if case == "rounded":
            return encoded(each(lambda sound: (sound * 32767).round().clamp(-32768, 32767) / 32767, start)), 0
        if case == "mp3":
            return encoded(cut(each(lambda sound: mp3(sound, MP3_BITS), song.sounds))), 0
        if case == "resampled":
            there = each(lambda sound: resample(sound, SAMPLE_RATE, OTHER_RATE), song.sounds)
            return encoded(cut(each(lambda sound: resample(sound, OTHER_RATE, SAMPLE_RATE), there))), 0
        if case == "batch":
            windows = getattr(codec, "n_windows", None)  # other codecs do not say
            if windows is not None and windows(next(iter(base.values())).shape[1]) < 2:
                raise DuoTokError(
                    "all of it is one window of this tokenizer, so nothing is batched; give longer stretches"
                )
            return encoded(start, batch_size=BATCH), 0
        return self._with_other_threads(lambda: encoded(start)), 0

    @staticmethod
    def _with_other_threads(function: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        threads = torch.get_num_threads()
        torch.set_num_threads(2 if threads == 1 else 1)
        try:
            return function()
        finally:
            torch.set_num_threads(threads)

    # -- all songs -----------------------------------------------------------------------------------------------------

    def rows(self, observations: Sequence[Observation]) -> list[Row]:
        result = list[Row]()
        for seen in observations:
            if seen.reason:
                result += [
                    Row(measure.name, track, seen.song, None, seen.reason, seen.part)
                    for measure in self.measures
                    for track in seen.tracks
                ]
                continue
            streams = [*seen.data["codes"]]
            for case, books in seen.data["shares"].items():
                result += _rows(case, seen, streams, books)
        if "other_song" in self.cases:
            result += self._controls([seen for seen in observations if not seen.reason])
        return result

    @staticmethod
    def _controls(seen: Sequence[Observation]) -> Iterator[Row]:
        """Every song against the next one, the last against the first."""
        for place, one in enumerate(seen):
            other = next((x for x in (*seen[place + 1 :], *seen[:place]) if x.song != one.song), None)
            streams = [*one.data["codes"]]
            if other is None:
                reason = "no other song to compare with"
                for measure in ("other_song", CHANCE.name):
                    yield from _rows(measure, one, streams, reason)
                continue
            equal: dict[str, list[float]] = {}
            chance: dict[str, list[float]] = {}
            for stream in streams:
                pairs = list(zip(one.data["codes"][stream], other.data["codes"][stream], strict=True))
                equal[stream] = [_equal(a, b) for a, b in pairs]
                chance[stream] = [_chance(a, b) for a, b in pairs]
            yield from _rows("other_song", one, streams, equal)
            yield from _rows(CHANCE.name, one, streams, chance)


def _rows(measure: str, seen: Observation, streams: Sequence[str], books: Mapping[str, list[float]] | str) -> list[Row]:
    """A row for each stream, the mean over its codebooks, and `STREAM.k` for each codebook where there are several."""
    silent: Mapping[str, str] = seen.data["silent"]
    if isinstance(books, str):
        return [Row(measure, stream, seen.song, None, silent.get(stream, books), seen.part) for stream in streams]
    result = list[Row]()
    for stream, shares in books.items():
        if stream in silent:
            result.append(Row(measure, stream, seen.song, None, silent[stream], seen.part))
            continue
        result.append(Row(measure, stream, seen.song, sum(shares) / len(shares), "", seen.part))
        if len(shares) > 1:
            result += [Row(measure, f"{stream}.{k}", seen.song, share, "", seen.part) for k, share in enumerate(shares)]
    return result


def _equal(a: Sequence[int], b: Sequence[int]) -> float:
    n = min(len(a), len(b))
    return sum(x == y for x, y in zip(a[:n], b[:n], strict=True)) / n


def _chance(a: Sequence[int], b: Sequence[int]) -> float:
    first, second = Counter(a), Counter(b)
    return sum(count * second[code] for code, count in first.items()) / (len(a) * len(b))


def _at_codec(sounds: Sounds, codec: Codec) -> Sounds:
    """At the codec's rate, so that a frame is a whole number of samples."""
    return {track: resample(sound, SAMPLE_RATE, codec.sample_rate) for track, sound in sounds.items()}


def _decoded(codec: Codec, tokens: Tokens, tracks: Sequence[str], samples: int) -> Sounds:
    """The decoded sound of every stream that the codec has, as it would be given to it again."""
    own = [stream.name for stream in codec.streams]
    names = [track for track in TRACKS if track in own] if {*TRACKS} <= {*own} else [MIX]
    decoded = {track: codec.decode(tokens, track) for track in names if track in tracks}
    return {
        track: torch.nn.functional.pad(sound, (0, max(0, samples - sound.shape[1])))[:, :samples]
        for track, sound in decoded.items()
    }
