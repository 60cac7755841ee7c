"""One stretch of one song through one tokenizer, under every condition of its stems: tokens, and how close the sound stays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from duotok.clock import ANALYSIS_RATE, SAMPLE_RATE
from duotok.codec.contract import Codec
from duotok.errors import DuoTokError
from duotok.evaluation.fidelity import mel_distance, to_distance_rate
from duotok.evaluation.results import Row, row_of
from duotok.sealed_arrays import read_arrays, save_arrays
from duotok.separation.measures import SiSdr
from duotok.suite.leakage.stems import CHANCE, DIRECT, TRUE
from duotok.tracks import TRACKS

VOCALS, ACCOMPANIMENT = TRACKS
MIX = "mix"
Codes = dict[str, Tensor]
KEY = "rows"


@dataclass(frozen=True)
class Measured:
    """rows of a stretch; codes: condition -> stream -> int32 `[books, frames]`."""

    rows: tuple[Row, ...]
    codes: dict[str, Codes]

    @property
    def failed(self) -> bool:
        """Whether a condition of the stems failed."""
        return any(row.value is None and row.measure.startswith("equal.") for row in self.rows)


def equal_share(actual: Tensor, expected: Tensor) -> float:
    """Share of equal codes of two `[books, frames]`, over the frames that both have."""
    frames = min(actual.shape[1], expected.shape[1])
    return float((actual[:, :frames] == expected[:, :frames]).double().mean())


def chance_share(codes: Tensor) -> float:
    """Share of equal codes between a stretch and itself half its length later (it goes around): what unrelated moments share."""
    return equal_share(codes.roll(max(1, codes.shape[1] // 2), dims=1), codes)


@torch.inference_mode()
def measure(
    codec: Codec, song: str, part: str, true: Mapping[str, Tensor],
    variants: Iterable[tuple[str, dict[str, Tensor] | DuoTokError]], decode: bool = True,
) -> Measured:  # fmt: skip
    """true: both tracks `[2, samples]` at 48 kHz; variants: as `stems.variants`, the true stems first.

    A condition that fails is a row with its reason and stops no other; where the true stems fail, so does the stretch (the
    error is raised). decode: measure the decoded sound as well.
    """
    rows, codes = list[Row](), dict[str, Codes]()
    targets = {track: to_distance_rate(true[track], SAMPLE_RATE) for track in TRACKS}
    targets[MIX] = targets[VOCALS] + targets[ACCOMPANIMENT]
    for condition, stems in variants:
        failed = ""
        if isinstance(stems, DuoTokError):
            failed = str(stems)
        else:
            try:
                codes[condition], sounds = _through(codec, stems, decode, condition == DIRECT)
            except DuoTokError as error:
                if condition == TRUE:
                    raise
                failed = str(error)
        if failed:
            rows += [Row(f"equal.{condition}", track, song, None, failed, part) for track in TRACKS]
            continue
        for track, sound in sounds.items():
            distance = mel_distance(sound, targets[track], ANALYSIS_RATE)
            rows.append(row_of(f"mel.{condition}", track, song, distance, "no distance", part))
        if condition in (TRUE, DIRECT):
            continue
        assert not isinstance(stems, DuoTokError)
        for track in TRACKS:
            ratio = SiSdr()
            ratio.add(stems[track], true[track])
            rows.append(row_of(f"si_sdr.{condition}", track, song, ratio.decibels(), "the true stem is silent", part))
        for stream, true_codes in codes[TRUE].items():
            share = equal_share(codes[condition][stream], true_codes)
            rows.append(Row(f"equal.{condition}", stream, song, share, "", part))
    rows += [Row(f"equal.{CHANCE}", stream, song, chance_share(c), "", part) for stream, c in codes[TRUE].items()]
    return Measured(tuple(rows), codes)


def _through(codec: Codec, stems: Mapping[str, Tensor], decode: bool, direct: bool) -> tuple[Codes, dict[str, Tensor]]:
    """Codes, and decoded sound in mono at 24 kHz by track; `direct`: the accompaniment alone, which is the mix."""
    tokens = codec.encode(rate=SAMPLE_RATE, vocals=stems[VOCALS], accompaniment=stems[ACCOMPANIMENT])
    codes = {stream: tokens[stream].reshape(-1, tokens[stream].shape[-1]).int().cpu() for stream in tokens}
    if not decode:
        return codes, {}
    tracks = (ACCOMPANIMENT,) if direct else TRACKS
    sounds = {track: to_distance_rate(codec.decode(tokens, track), codec.sample_rate) for track in tracks}
    if direct:
        return codes, {MIX: sounds[ACCOMPANIMENT]}
    shortest = min(len(sound) for sound in sounds.values())
    return codes, {**sounds, MIX: sum((sound[:shortest] for sound in sounds.values()), torch.zeros(shortest))}


# -- kept, so that a stopped run goes on ---------------------------------------------------------------------------------


def keep(path: Path, measured: Measured) -> None:
    """Write a measured stretch, atomically."""
    arrays = {
        f"{condition}/{stream}": codes.contiguous()
        for condition, streams in measured.codes.items()
        for stream, codes in streams.items()
    }
    save_arrays(path, arrays, [asdict(row) for row in measured.rows])


def kept(path: Path) -> Measured | None:
    """What `keep` wrote; None where it is missing or damaged (it is measured again then)."""
    try:
        arrays, facts = read_arrays(path)
        rows = tuple(Row(**values) for values in facts)
    except (OSError, ValueError, TypeError):
        return None
    codes: dict[str, Codes] = {}
    for name, array in arrays.items():
        condition, _, stream = name.partition("/")
        codes.setdefault(condition, {})[stream] = array
    return Measured(rows, codes)
