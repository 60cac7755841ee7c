"""The songs that are measured: a folder of recordings in any layout, cut into stretches of one length, with both tracks.

Stems that are there are used; a mix alone is separated once, and the stems that come out are what every tokenizer codes and is
compared with. All sounds of a song get one gain, which brings its mix to the level of comparison before anything is coded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from duotok.audio.channels import fix_polarity
from duotok.audio.io import probe, read, write
from duotok.audio.loudness import integrated_loudness
from duotok.audio.marks import MARK
from duotok.clock import SAMPLE_RATE
from duotok.codec.spool import check_excerpt
from duotok.config import Config
from duotok.corpora.base import get
from duotok.errors import AudioError, ConfigError, DuoTokError
from duotok.evaluation.fidelity import LOUDNESS
from duotok.evaluation.instrument import MIX, Song
from duotok.files import sha256
from duotok.records import Recording
from duotok.separation.choose import SEPARATORS, separator_by_name, separator_stamp
from duotok.separation.chunked import VOCALS, ChunkedSeparator
from duotok.tracks import ACCOMPANIMENT_STEMS, TRACKS

log = logging.getLogger(__name__)

SHORTEST = 1.0
"""Seconds that a song must have at all."""
NONE = "none"
HEADROOM = 0.99
"""Peak that the gain may reach: codecs that go through 16 bits must not clip what went in."""


class TooShort(AudioError):
    """A song that is shorter than a stretch. damage: what is wrong with a file of it, or ""."""

    def __init__(self, reason: str, damage: str = "") -> None:
        super().__init__(reason)
        self.damage = damage


class SongsConfig(Config):
    """What is measured of a folder.

    seconds: of a stretch; segments: how many stretches of a song at most, spread evenly (one: its middle); short: what happens to
    songs shorter than a stretch: a gap with its reason, or measured whole; separator: for songs without stems, `none` for none;
    limit: only the first songs by name.
    """

    folder: str
    seconds: float = Field(default=30.0, ge=SHORTEST)
    segments: int = Field(default=1, ge=1)
    short: Literal["gap", "whole"] = "gap"
    separator: str = "mini"
    weights: str | None = None
    limit: int | None = Field(default=None, ge=1)


@dataclass(frozen=True)
class Stretch:
    """One stretch of a song. files: "mix", "vocals", "accompaniment" -> files that are summed; start, seconds: in them."""

    song: str
    part: str
    files: Mapping[str, tuple[str, ...]]
    start: float
    seconds: float

    @property
    def separated(self) -> bool:
        """Whether its stems have to be made."""
        return set(self.files) == {MIX}


@dataclass(frozen=True)
class SongSet:
    """The stretches to measure, and the songs that cannot be: (name, tracks, reason).

    damage: song -> what is wrong with a file of it, for a reason that is no part of what the data are.
    """

    config: SongsConfig
    stretches: tuple[Stretch, ...]
    gaps: tuple[tuple[str, tuple[str, ...], str], ...] = ()
    damage: Mapping[str, str] = field(default_factory=dict, hash=False)
    _hashes: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    def tracks_of(self, stretch: Stretch) -> tuple[str, ...]:
        return (MIX,) if stretch.separated and self.config.separator == NONE else (*TRACKS, MIX)

    @property
    def left_out(self) -> list[tuple[str, tuple[str, ...], str]]:
        """`gaps`, with the damage in the reason."""
        return [
            (name, tracks, f"{reason} ({self.damage[name]})" if name in self.damage else reason)
            for name, tracks, reason in self.gaps
        ]

    @property
    def seconds(self) -> float:
        return sum(stretch.seconds for stretch in self.stretches)

    @cached_property
    def hash(self) -> str:
        """Of the files, how they are cut and what separates them: another hash is other data."""
        values = [[s.song, s.part, s.start, s.seconds, self.hashes_of(s)] for s in self.stretches]
        stamp = self.stamp if any(s.separated for s in self.stretches) else ""
        here = str(Path(self.config.folder).absolute())  # reasons name files, and a set is not where it lies
        gaps = [(name, tracks, reason.replace(here, "")) for name, tracks, reason in self.gaps]
        text = json.dumps([values, gaps, stamp, LOUDNESS], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def stamp(self) -> str:
        """Of the separator."""
        if self.config.separator == NONE:
            return NONE
        return separator_stamp(self.config.separator, weights=self.config.weights)

    def sha256(self, path: str) -> str:
        """Of one file, computed once. Raises AudioError when it cannot be read."""
        if path not in self._hashes:
            try:
                self._hashes[path] = sha256(Path(path))
            except OSError as error:
                raise AudioError(f"{path}: {error.strerror}; make it readable") from None
        return self._hashes[path]

    def hashes_of(self, stretch: Stretch) -> dict[str, list[str]]:
        """Sound -> hashes of its files."""
        return {name: [self.sha256(path) for path in paths] for name, paths in sorted(stretch.files.items())}

    @property
    def about(self) -> dict[str, Any]:
        """For captions."""
        return {
            "folder": Path(os.path.abspath(self.config.folder)).name,
            "songs": len({s.song for s in self.stretches}),
            "stretches": len(self.stretches),
            "seconds": round(self.seconds, 3),
            "stretch": self.config.seconds,
            "separated": sum(s.separated for s in self.stretches) if self.config.separator != NONE else 0,
            "separator": self.config.separator,
            "left_out": {name: reason for name, _, reason in self.left_out},
            "short": [
                f"{s.song} ({s.seconds:.1f} s)" for s in self.stretches if s.seconds < self.config.seconds - 1e-3
            ],
        }


def find_songs(config: SongsConfig, made: Sequence[Path] = ()) -> SongSet:
    """Every song of a folder: with INDEX.tsv in it or in the folder above, what `duotok songs` made, or any layout that
    `corpora/folder.py` knows. made: folders whose sounds are none of them, where they lie inside. Raises ConfigError, CorpusError."""
    if config.separator not in (*SEPARATORS, NONE):
        separator_by_name(config.separator)  # raises an error that lists them
    folder = Path(config.folder)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give one with songs")
    stretches, gaps = list[Stretch](), list[tuple[str, tuple[str, ...], str]]()
    apart = {inside for path in made if folder.resolve() in (inside := path.resolve()).parents}
    recordings, problems = _recordings(folder)
    recordings = [r for r in recordings if not any(apart & {*Path(p).resolve().parents} for p in r.audio.values())]
    damage: dict[str, str] = {}
    too_short = False
    for recording in recordings[: config.limit]:
        name = recording.id.partition("/")[2]
        files = _files(recording)
        tracks = (*TRACKS, MIX) if set(files) != {MIX} or config.separator != NONE else (MIX,)
        try:
            stretches += _cut(name, files, recording, config)
        except DuoTokError as error:
            gaps.append((name, tracks, str(error)))
            if isinstance(error, TooShort):
                too_short |= config.short == "gap"
                if error.damage:
                    damage[name] = error.damage
    gaps += [(name.partition("/")[2], (*TRACKS, MIX), reason) for name, reason in problems.items()]
    if not stretches:
        why = (
            f" ({gaps[0][0]}: {gaps[0][2]}{f' ({damage[gaps[0][0]]})' if gaps[0][0] in damage else ''})" if gaps else ""
        )
        remedy = "; measure shorter stretches (`seconds`), or short songs whole (`short`: whole)" if too_short else ""
        raise ConfigError(f"{folder}: no song that can be measured{why}{remedy}")
    return SongSet(config, tuple(stretches), tuple(gaps), damage)


def _recordings(folder: Path) -> tuple[list[Recording], Mapping[str, str]]:
    folder = folder.absolute()
    for root in (folder, folder.parent):
        if (root / "INDEX.tsv").is_file():
            listed = get("index")(root)
            found = [r for r in listed.recordings() if all(folder in Path(p).parents for p in r.audio.values())]
            if found:
                return sorted(found, key=lambda r: r.id), {}
    made_here = any(folder.glob("*/song.json")) or (folder / "song.json").is_file()
    corpus = get("songs" if made_here else "folder")(folder)
    return sorted(corpus.recordings(), key=lambda r: r.id), getattr(corpus, "problems", {})


def _files(recording: Recording) -> dict[str, tuple[str, ...]]:
    """Mix, vocals and accompaniment of a recording, as far as it has them; its accompaniment may be the sum of stems."""
    audio = {name: str(path) for name, path in recording.audio.items()}
    files: dict[str, tuple[str, ...]] = {name: (audio[name],) for name in (MIX, *TRACKS) if name in audio}
    parts = tuple(audio[stem] for stem in ACCOMPANIMENT_STEMS if stem in audio)
    if "accompaniment" not in files and parts and (MIX not in files or len(parts) == len(ACCOMPANIMENT_STEMS)):
        files["accompaniment"] = parts
    return files


def _cut(name: str, files: Mapping[str, tuple[str, ...]], recording: Recording, config: SongsConfig) -> list[Stretch]:
    """Raises AudioError for files that cannot be read or are too short."""
    found = [probe(path) for paths in files.values() for path in paths]
    damage = [info for info in found if info.cut]
    for info in damage:
        log.warning("%s: %s", info.path, info.note)
    lengths = [info.seconds for info in found]
    stop = min([*lengths, *([recording.stop] if recording.stop else [])])
    total = stop - recording.start
    if total < config.seconds - 0.05:  # lossy files lose some samples
        if config.short == "gap" or total < SHORTEST:
            least = SHORTEST if config.short == "whole" else config.seconds
            why = "".join(f"{info.path.name} {info.note}" for info in damage[:1])
            raise TooShort(f"{total:.1f} s of sound; at least {least:g} s are measured", why)
        return [Stretch(name, "", files, recording.start, total)]
    count = max(1, min(config.segments, int(total // config.seconds)))
    room = max(0.0, total - count * config.seconds)
    starts = [recording.start + room * (i + 0.5) / count + i * config.seconds for i in range(count)]
    seconds = min(config.seconds, total)
    return [
        Stretch(name, f"{start:.1f} s" if count > 1 else "", files, round(start, 3), round(seconds, 3))
        for start in starts
    ]


# -- sound -------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _separator(name: str, weights: str | None) -> ChunkedSeparator:
    return separator_by_name(name, weights=weights)


def load(stretch: Stretch, separator: str = NONE, weights: str | None = None, kept: Path | None = None) -> Song:
    """The sound of a stretch, at the level of comparison. kept: where separated vocals are, or will be, kept.

    Raises AudioError when a file cannot be read, is silent, has no finite samples, or is a stem of something else than the mix beside it.
    """
    sounds = {name: _sum(paths, stretch) for name, paths in stretch.files.items()}
    n = min(sound.shape[1] for sound in sounds.values())
    sounds = {name: sound[:, :n] for name, sound in sounds.items()}
    if set(sounds) == {MIX} and separator != NONE:
        sounds["vocals"] = _vocals(sounds[MIX], separator, weights, kept)
    if MIX in sounds:
        for one, other in (TRACKS, TRACKS[::-1]):
            if one in sounds and other not in sounds:
                if one in stretch.files:  # what was separated belongs
                    check_excerpt(
                        (sounds[MIX], sounds[one]), *(Path(stretch.files[name][0]).name for name in (MIX, one))
                    )
                sounds[other] = sounds[MIX] - sounds[one]
    elif {*TRACKS} - {*sounds}:
        sounds |= {track: torch.zeros(2, n) for track in TRACKS if track not in sounds}
    if {*TRACKS} <= {*sounds}:
        sounds[MIX] = sounds["vocals"] + sounds["accompaniment"]  # what tokenizers of both tracks get
    loudness = integrated_loudness([sounds[MIX]], SAMPLE_RATE)
    peak = max(float(sound.abs().max()) for sound in sounds.values())
    if peak == 0:
        raise AudioError("silent; nothing to measure")
    gain = min(10 ** ((LOUDNESS - loudness) / 20) if loudness > -70 else 1.0, HEADROOM / peak)
    return Song(stretch.song, {name: gain * sound for name, sound in sounds.items()}, stretch.part)


def _sum(paths: Sequence[str], stretch: Stretch) -> Tensor:
    # as `AudioSource` does for tokenizers; otherwise the mono sum, which is what is compared, would be what is left of two opposites
    parts = [fix_polarity(read(path, SAMPLE_RATE, 2, start=stretch.start, seconds=stretch.seconds)) for path in paths]
    n = min(part.shape[1] for part in parts)
    return torch.stack([part[:, :n] for part in parts]).sum(0)


def _vocals(mix: Tensor, separator: str, weights: str | None, kept: Path | None) -> Tensor:
    if kept is not None and kept.is_file():
        found = read(kept, SAMPLE_RATE, 2)
        if found.shape == mix.shape:
            return found
    vocals = _separator(separator, weights).separate(mix)[VOCALS]
    if not bool(vocals.isfinite().all()):
        raise AudioError("the separator gave no finite sound for it; try another")
    if kept is not None:
        write(kept, vocals, SAMPLE_RATE, comment=f"{MARK}eval")
    return vocals
