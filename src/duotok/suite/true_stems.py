"""Songs whose vocals and accompaniment are known, from any corpus that has them, as excerpts of sound."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from duotok.audio.channels import fix_polarity
from duotok.audio.io import probe, read
from duotok.clock import SAMPLE_RATE
from duotok.corpora.base import get
from duotok.errors import AudioError, ConfigError
from duotok.evaluation.results import hash_of_files
from duotok.records import SPLITS, Recording
from duotok.suite.songs import SongSet
from duotok.tracks import ACCOMPANIMENT_STEMS, TRACKS

VOCALS, ACCOMPANIMENT = TRACKS
SOUNDING_DB = -50.0
"""A track sounds in a second whose level is above this, in dBFS."""


@dataclass(frozen=True)
class TrueSong:
    """A song with true stems. id: as other instruments name it, without its corpus; files: track -> the files whose sum it is."""

    id: str
    split: str
    files: dict[str, tuple[Path, ...]]

    @property
    def seconds(self) -> float:
        """Of its shortest file. Raises AudioError when one cannot be read."""
        return min(probe(path).seconds for paths in self.files.values() for path in paths)

    def sound(self, start: float, seconds: float) -> dict[str, Tensor]:
        """Both tracks of a stretch, float32 `[2, samples]` at 48 kHz, equally long, inverted channels turned back. Raises AudioError."""
        parts = {
            track: [fix_polarity(read(path, SAMPLE_RATE, 2, start=start, seconds=seconds)) for path in paths]
            for track, paths in self.files.items()
        }
        samples = min(part.shape[1] for each in parts.values() for part in each)
        if not samples:
            raise AudioError(f"{self.id}: no sound at {start:.1f} s; give whole files")
        return {track: torch.stack([part[:, :samples] for part in each]).sum(0) for track, each in parts.items()}


def true_song(item: Recording) -> TrueSong | None:
    """The song of a recording; None where it has no true stems of both tracks."""
    band = (ACCOMPANIMENT,) if ACCOMPANIMENT in item.audio else ACCOMPANIMENT_STEMS
    if not all(name in item.audio for name in (VOCALS, *band)):
        return None
    files = {VOCALS: (VOCALS,), ACCOMPANIMENT: band}
    placed = {track: tuple(Path(item.audio[name]) for name in names) for track, names in files.items()}
    return TrueSong(item.id.partition("/")[2] or item.id, item.split, placed)


def of_songs(songs: SongSet) -> list[TrueSong]:
    """Those of a suite's songs that have true stems, by name; all in the test split. Raises ConfigError when none has."""
    found = {
        s.song: TrueSong(s.song, "test", {track: tuple(map(Path, s.files[track])) for track in TRACKS})
        for s in songs.stretches
        if all(track in s.files for track in TRACKS)
    }
    if not found:
        raise ConfigError(
            f"no song of {Path(songs.config.folder).name} has true stems of both tracks; give some (NAME.vocals.* with "
            "NAME.accompaniment.*), or `data: CORPUS=FOLDER` for this instrument"
        )
    return [found[name] for name in sorted(found)]


def true_songs(where: str, splits: Sequence[str] = SPLITS, limit: int = 0) -> list[TrueSong]:
    """Songs with true stems of a corpus CORPUS=FOLDER (`duotok data list`), the first `limit` by id (0: all).

    Raises ConfigError for another form, or when no song has true stems, CorpusError as the adapter does.
    """
    name, equals, folder = where.partition("=")
    if not equals or not folder:
        raise ConfigError(f"data '{where}': write CORPUS=FOLDER, e.g. index=../shared/audio or songs=songs")
    corpus = get(name)(Path(folder).expanduser())
    found = [song for item in corpus.recordings() if item.split in splits and (song := true_song(item)) is not None]
    if not found:
        raise ConfigError(
            f"{folder}: no recording of the {' or '.join(splits)} split has true stems of both tracks; give some "
            "(NAME.vocals.* with NAME.accompaniment.*)"
        )
    found.sort(key=lambda song: song.id)
    return found[:limit] if limit else found


def content_of(songs: Sequence[TrueSong]) -> str:
    """A hash of the sounds. Raises AudioError when one cannot be read."""
    try:
        return hash_of_files({song.id: [path for paths in song.files.values() for path in paths] for song in songs})
    except OSError as error:
        raise AudioError(f"{error.filename}: cannot be read ({error.strerror}); put it there or leave it out") from None


def stretches(song: TrueSong, seconds: float, count: int) -> Iterator[tuple[float, dict[str, Tensor]]]:
    """(start in seconds, both tracks) of up to `count` stretches, evenly over the song, in which both tracks sound.

    A track sounds where at least half of its seconds do. Each stretch is in its own part of the song, as near to the middle of that
    as it can be, in steps of half a stretch. Raises AudioError when there is none.
    """
    room = max(0.0, song.seconds - seconds)
    found = 0
    for place in range(count):
        low, middle, high = (room * (place + part) / count for part in (0, 0.5, 1))
        steps = int((high - middle) / (seconds / 2))
        away = [sign * step * seconds / 2 for step in range(1, steps + 1) for sign in (1, -1)]
        for start in (middle, *(middle + distance for distance in away), low, high):
            sound = song.sound(start, seconds)
            if all(_sounds(track) for track in sound.values()):
                found += 1
                yield start, sound
                break
    if not found:
        raise AudioError(f"{song.id}: no {seconds:g} s in which both tracks sound; leave it out")


def _sounds(track: Tensor) -> bool:
    count = max(1, track.shape[1] // SAMPLE_RATE)
    power = torch.stack([part.square().mean() for part in track.chunk(count, dim=1)])
    return float((power > 10 ** (SOUNDING_DB / 10)).float().mean()) >= 0.5
