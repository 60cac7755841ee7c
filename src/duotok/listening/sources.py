"""Where the sounds of a test come from: folders with equal file names, tokenizers behind the codec contract, Opus."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from duotok.audio.channels import fix_polarity
from duotok.audio.finding import find_audio
from duotok.audio.io import read, resample
from duotok.clock import SAMPLE_RATE
from duotok.codec.contract import Codec
from duotok.errors import AudioError, DuoTokError
from duotok.evaluation.opus import opus
from duotok.files import sha256, text_of
from duotok.listening.plan import REFERENCE, Clip
from duotok.tracks import TRACKS

MIX = "mix"
MARGIN_SECONDS = 5.0
"""Sound before and after a clip that a tokenizer hears as well."""
SHORT_SECONDS = 0.1
"""A decoded sound may end so much before its clip does; silence follows."""


class Unreadable(AudioError):
    """A file of a test that cannot be read: its song is left out, and named."""


def read_sound(path: Path, start: float = 0.0, seconds: float | None = None) -> Tensor:
    """`[channels, samples]` at 48 kHz. Raises Unreadable, and AudioError for a start past the end."""
    try:
        return read(path, start=start, seconds=seconds)
    except AudioError as error:
        if "past its end" in str(error):
            raise
        raise Unreadable(str(error)) from None


Song = dict[str, Path]
"""Track -> file."""


def songs_in(folder: Path) -> dict[str, Song]:
    """Song -> its tracks: `NAME.vocals.*`, `NAME.accompaniment.*`, and as the mix `NAME.mix.*` or `NAME.*`; folders are kept.

    Raises DuoTokError when there is no sound, or two files of one name and track.
    """
    if not folder.is_dir():
        raise DuoTokError(f"{folder}: no such folder")
    songs: dict[str, Song] = {}
    for path in find_audio(folder):
        name = text_of(path.relative_to(folder).with_suffix("").as_posix())
        song, _, ending = name.rpartition(".")
        if not song or ending not in (*TRACKS, MIX):
            song, ending = name, MIX
        if (other := songs.setdefault(song, {}).get(ending)) is not None:
            raise DuoTokError(f"{path}: {other.name} is the {ending} of this song already; keep one of them")
        songs[song][ending] = path
    if not songs:
        raise DuoTokError(f"{folder}: no sound in this folder; name another")
    return dict(sorted(songs.items()))


class System(Protocol):
    """What gives a test the sounds of one condition."""

    name: str
    description: str

    def clips(self, song: str, clips: list[Clip]) -> dict[str, Tensor]:
        """Clip -> sound `[channels, samples]` at 48 kHz, for the clips of one song and one moment."""
        ...

    def source(self, clip: Clip) -> str:
        """The hash of the file that a clip was cut from, or of what made it."""
        ...


def cut(path: Path, clip: Clip) -> Tensor:
    """`[channels, samples]` at 48 kHz of a file, exactly as long as the clip. Raises AudioError when the file ends before, Unreadable."""
    wanted = round(clip.seconds * SAMPLE_RATE)
    try:
        audio = read_sound(path, clip.start, clip.seconds)
    except Unreadable:
        raise
    except AudioError:  # it begins past the end
        audio = torch.zeros(1, 0)
    missing = wanted - audio.shape[1]
    if missing > SHORT_SECONDS * SAMPLE_RATE:
        raise AudioError(
            f"{path}: ends {missing / SAMPLE_RATE:.2f} s before its clip does, which is {clip.start:g} to "
            f"{clip.start + clip.seconds:g} s of the song; give the whole song, or shorter clips with --seconds"
        )
    return torch.nn.functional.pad(audio[:, :wanted], (0, max(0, missing)))


class Folder:
    """Sounds that lie there: the reference, or a system's decoded songs."""

    def __init__(self, name: str, folder: Path) -> None:
        """Raises DuoTokError as `songs_in`."""
        self.name, self.folder, self.songs = name, folder, songs_in(folder)
        self.description = f"sounds of the folder {text_of(folder.name)}"

    def check(self, reference: Folder) -> None:
        """Raises DuoTokError when this folder has other songs than the reference, or lacks a track of one. More tracks of its songs may
        lie there, as `duotok decode --track all` leaves the mix beside both."""
        for one, other in ((reference, self), (self, reference)):
            for song, tracks in one.songs.items():
                for track, path in tracks.items():
                    if song not in other.songs or (one is reference and track not in other.songs[song]):
                        raise DuoTokError(
                            f"{other.folder}: nothing for {text_of(path.relative_to(one.folder))} of {one.folder}; all "
                            "folders of a test have the same names, up to the ending"
                        )

    def clips(self, song: str, clips: list[Clip]) -> dict[str, Tensor]:
        return {clip.id: cut(self.songs[song][clip.track], clip) for clip in clips}

    def source(self, clip: Clip) -> str:
        return sha256(self.songs[clip.song][clip.track])


@dataclass
class Made:
    """A system that is made here from the reference: `make(excerpt)`, tracks -> sounds at 48 kHz of one length, gives each track back."""

    name: str
    description: str
    identity: str
    reference: Folder
    make: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]

    def clips(self, song: str, clips: list[Clip]) -> dict[str, Tensor]:
        first = max(0.0, clips[0].start - MARGIN_SECONDS)
        wanted = clips[0].start - first + clips[0].seconds + MARGIN_SECONDS
        excerpt = {clip.track: read_sound(self.reference.songs[song][clip.track], first, wanted) for clip in clips}
        length = min(sound.shape[1] for sound in excerpt.values())
        made = self.make({track: sound[:, :length] for track, sound in excerpt.items()})
        begin, count = round((clips[0].start - first) * SAMPLE_RATE), round(clips[0].seconds * SAMPLE_RATE)
        return {clip.id: made[clip.track][:, begin : begin + count] for clip in clips}

    def source(self, clip: Clip) -> str:
        return self.identity


def tokenizer(name: str, codec: Codec, reference: Folder) -> Made:
    """A tokenizer: it encodes each clip with 5 s around it, and decodes its tokens alone.

    Both stems are encoded where the song has them (one alone: the other is silence), and the mix where it has nothing else. A
    codec with one stream for mixes codes each track by itself.
    """

    def through(codec_streams: tuple[str, ...], sounds: dict[str, Tensor]) -> Mapping[str, Tensor]:
        if codec_streams == (MIX,):
            return {track: codec.decode(codec.encode(sound, SAMPLE_RATE)) for track, sound in sounds.items()}
        if set(sounds) == {MIX}:
            tokens = codec.encode(sounds[MIX], SAMPLE_RATE)
        else:
            given = {track: sounds[track] for track in TRACKS if track in sounds}
            if len(given) == 1 and MIX not in sounds:
                (known,) = given.values()
                given |= {track: torch.zeros_like(known) for track in TRACKS if track not in given}
            mix = sounds[MIX] if len(given) == 1 else None
            tokens = codec.encode(
                mix, SAMPLE_RATE, vocals=given.get("vocals"), accompaniment=given.get("accompaniment")
            )
        return {track: codec.decode(tokens, track) for track in sounds}

    def make(sounds: dict[str, Tensor]) -> dict[str, Tensor]:
        decoded = through(tuple(stream.name for stream in codec.streams), sounds)
        length = {track: sound.shape[1] for track, sound in sounds.items()}
        return {
            track: _exactly(resample(sound.float().cpu(), codec.sample_rate, SAMPLE_RATE), length[track])
            for track, sound in decoded.items()
        }

    return Made(name, f"{codec.model_id}, encoded and decoded", codec.model_hash, reference, make)


def opus_system(kbps: float, reference: Folder) -> Made:
    """Opus, mono, at so many kbit/s (variable) as a yardstick that listeners know."""

    def make(sounds: dict[str, Tensor]) -> dict[str, Tensor]:
        # to mono: two channels that are each other's negative would leave next to nothing, which is then made as loud as the rest
        return {track: opus(fix_polarity(sound), round(1000 * kbps)).audio for track, sound in sounds.items()}

    name = f"opus-{kbps:g}"
    return Made(name, f"Opus at {kbps:g} kbit/s, mono", name, reference, make)


def _exactly(audio: Tensor, n_samples: int) -> Tensor:
    return torch.nn.functional.pad(audio[:, :n_samples], (0, max(0, n_samples - audio.shape[1])))


def check_names(names: list[str], anchors: list[str]) -> None:
    """Raises DuoTokError for no system, a name that comes twice, is taken, or cannot stand in a table."""
    if not names:
        raise DuoTokError("no system to rate; give --system NAME=FOLDER, --tokenizer NAME or --opus KBPS")
    for name in names:
        if not re.fullmatch(r"[\w.+-]+( [\w.+-]+)*", name):
            raise DuoTokError(
                f"system '{name}': take letters, digits, '.', '-', '+', '_' and single blanks for its name"
            )
        if names.count(name) > 1 or name in (REFERENCE, *anchors):
            raise DuoTokError(f"system '{name}': the name is taken; give another with NAME=...")
