"""Players of decoded songs at equal loudness, with spectrograms, from the folder that `duotok eval reconstruction --keep-audio` writes.

FOLDER/TOKENIZER/TRACK/SONG.wav    FOLDER/reference/TRACK/SONG.wav
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from duotok.audio.io import read
from duotok.audio.loudness import integrated_loudness
from duotok.clock import SAMPLE_RATE
from duotok.demo.page import audio_uri
from duotok.demo.pictures import draw_mel, log_mel
from duotok.errors import DuoTokError
from duotok.evaluation.instrument import MIX
from duotok.evaluation.results import plain_name
from duotok.pages.rendering import data_uri
from duotok.report.studies import ReportError
from duotok.suite.units import ORIGINAL
from duotok.tracks import TRACKS

SECONDS = 8.0
"""Of an excerpt."""
SONGS = 3
LOUDNESS, PEAK = -20.0, 0.89
"""LUFS of every player; all of a group are softer by the same where one would pass this peak."""


@dataclass(frozen=True)
class Player:
    """One sound. sound, picture: `data:` addresses."""

    system: str
    sound: str
    picture: str

    @property
    def size(self) -> int:
        return len(self.sound) + len(self.picture)


@dataclass(frozen=True)
class Group:
    """One track of one song, as it went in and out of every tokenizer. lufs: of all its players."""

    song: str
    track: str
    start: float
    seconds: float
    lufs: float
    players: tuple[Player, ...]

    @property
    def size(self) -> int:
        return sum(player.size for player in self.players)


@dataclass(frozen=True)
class Heard:
    """The players that fit, and a line for everything that is not there."""

    groups: tuple[Group, ...] = ()
    notes: tuple[str, ...] = ()


def players(
    folder: Path, room: int, tokenizers: Sequence[str] = (), titles: Sequence[str] = (), songs: int = SONGS
) -> Heard:
    """Of the first `songs` songs by name, as many groups as fit into `room` bytes. tokenizers, titles: names of
    tokenizers and songs as tables have them, of which files have plain forms; the tokenizers in the order of the page.

    Raises ReportError when it is no such folder.
    """
    originals = folder / ORIGINAL
    if not originals.is_dir():
        raise ReportError(
            f"{folder}: no folder of decoded sounds ({ORIGINAL} is missing in it); `duotok eval reconstruction --keep-audio` writes one"
        )
    order = [plain_name(name) for name in tokenizers]
    systems = sorted(
        (path.name for path in folder.iterdir() if path.is_dir() and path.name != ORIGINAL),
        key=lambda name: (order.index(name) if name in order else len(order), name),
    )
    shown = {plain_name(name): name for name in (*titles, *tokenizers)} | {ORIGINAL: "original"}
    names = sorted({path.name for track in (*TRACKS, MIX) for path in (originals / track).glob("*.wav")})
    groups, notes, used = list[Group](), list[str](), 0
    for name in names[:songs]:
        start = _loudest(originals, name)
        for track in (*TRACKS, MIX):
            if not (originals / track / name).is_file():
                continue
            group, lines = _group(folder, [ORIGINAL, *systems], track, name, start, shown)
            notes += lines
            if len(group.players) < 2:
                continue
            if used + group.size > room:
                notes.append(f"{group.song}, {track}: left out, for the page would be over its limit")
                continue
            used += group.size
            groups.append(group)
    if len(names) > songs:
        notes.append(f"{len(names) - songs} more songs were decoded; the first {songs} by name are here")
    return Heard(tuple(groups), tuple(notes))


def spectrogram(sound: Tensor) -> bytes:
    """The log-mel spectrogram of `[1, samples]` at 48 kHz as JPEG, which takes a fifth of a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2, 1.2), dpi=200)  # shown half as wide: letters keep their size
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    draw_mel(axis, log_mel(sound, SAMPLE_RATE), sound.shape[-1] / SAMPLE_RATE)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpg", pil_kwargs={"quality": 75})
    return buffer.getvalue()


def _read(path: Path, start: float) -> Tensor:
    return read(path, SAMPLE_RATE, 1, start=start, seconds=SECONDS)


def _loudest(originals: Path, name: str) -> float:
    """Where the loudest stretch of the vocals begins, in whole seconds; of the mix where there are none."""
    for track in ("vocals", MIX, "accompaniment"):
        path = originals / track / name
        if not path.is_file():
            continue
        try:
            sound = read(path, SAMPLE_RATE, 1)[0]
        except DuoTokError:
            continue  # it is named when its group is made
        whole = sound[: len(sound) // SAMPLE_RATE * SAMPLE_RATE].reshape(-1, SAMPLE_RATE).square().sum(1)
        length = int(SECONDS)
        if len(whole) <= length:
            return 0.0
        return float(whole.unfold(0, length, 1).sum(1).argmax())
    return 0.0


def _group(
    folder: Path, systems: Sequence[str], track: str, name: str, start: float, shown: Mapping[str, str]
) -> tuple[Group, list[str]]:
    sounds, notes, song = dict[str, Tensor](), list[str](), shown.get(Path(name).stem, Path(name).stem)
    for system in systems:
        path = folder / system / track / name
        if not path.is_file():
            notes.append(f"{song}, {track}: {shown.get(system, system)} gave no sound")
            continue
        try:
            sounds[system] = _read(path, start)
        except DuoTokError as error:
            notes.append(str(error))
    loudness = {system: integrated_loudness([sound], SAMPLE_RATE) for system, sound in sounds.items()}
    for system, lufs in loudness.items():
        if not math.isfinite(lufs):
            notes.append(
                f"{song}, {track}: {shown.get(system, system)} is silent there; its player is not at equal loudness"
            )
    # The level that none of them has to clip for.
    level = min(
        LOUDNESS,
        *(
            lufs + 20 * math.log10(PEAK / max(1e-9, float(sounds[system].abs().max())))
            for system, lufs in loudness.items()
            if math.isfinite(lufs)
        ),
        LOUDNESS,
    )
    made = []
    for system, sound in sounds.items():
        lufs = loudness[system]
        levelled = sound * 10 ** ((level - lufs) / 20) if math.isfinite(lufs) else sound
        made.append(
            Player(shown.get(system, system), audio_uri(levelled), data_uri(spectrogram(levelled), "image/jpeg"))
        )
    seconds = max((sound.shape[1] / SAMPLE_RATE for sound in sounds.values()), default=0.0)
    return Group(song, track, start, seconds, level, tuple(made)), notes
