"""A song with all its annotations, and writing it to a folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duotok.errors import AudioError
from duotok.files import writing
from duotok.tracks import STEMS

FORMATS = {"flac": ("FLAC", "PCM_24", 24), "flac16": ("FLAC", "PCM_16", 16), "wav": ("WAV", "PCM_24", 24)}
FORMATS |= {"wav16": ("WAV", "PCM_16", 16), "opus": ("OGG", "OPUS", 16)}


SONG_TRACKS = (*STEMS, "accompaniment", "mix")


@dataclass(frozen=True)
class Sung:
    """One sung syllable on one note: seconds, MIDI pitch, phones (IPA)."""

    start: float
    end: float
    pitch: float
    phones: tuple[str, ...]


@dataclass(frozen=True)
class Word:
    """A sung word with its times in seconds and its syllables."""

    text: str
    start: float
    end: float
    syllables: tuple[Sung, ...]


@dataclass(frozen=True)
class VocalNote:
    """A note of the lead vocal: the vowel begins at `start`."""

    start: float
    end: float
    pitch: float


@dataclass(frozen=True)
class ChordSpan:
    start: float
    end: float
    name: str


@dataclass(frozen=True)
class Beat:
    """A beat; number 1 is the bar's first."""

    time: float
    number: int


@dataclass
class Song:
    """A generated song: stems float32 [2, samples] ([1, samples] of `mono`) whose sum, in the order of STEMS, is the mix."""

    rate: int
    stems: dict[str, NDArray[np.float32]]
    words: list[Word]
    notes: list[VocalNote]
    chords: list[ChordSpan]
    beats: list[Beat]
    tags: list[str]
    seed: int
    tempo: float
    key: str
    language: str = "en"
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return float(self.stems["drums"].shape[1] / self.rate)

    @property
    def accompaniment(self) -> NDArray[np.float32]:
        """drums + bass + other, [2, samples]."""
        return self.stems["drums"] + self.stems["bass"] + self.stems["other"]

    @property
    def mix(self) -> NDArray[np.float32]:
        """vocals + accompaniment, [2, samples]."""
        return self.stems["vocals"] + self.accompaniment

    @property
    def lyrics(self) -> str:
        return " ".join(word.text for word in self.words)

    def facts(self) -> dict[str, Any]:
        """The content of song.json."""
        return {
            "format": "duotok-song-1",
            "seed": self.seed,
            "rate": self.rate,
            "samples": self.stems["drums"].shape[1],
            "seconds": self.seconds,
            "tempo": self.tempo,
            "key": self.key,
            "language": self.language,
            "tags": self.tags,
            "lyrics": self.lyrics,
            "words": [asdict(w) for w in self.words],
            "notes": [asdict(n) for n in self.notes],
            "chords": [asdict(c) for c in self.chords],
            "beats": [asdict(b) for b in self.beats],
            "details": self.details,
        }

    def mono(self) -> Song:
        """The same song with stems of one channel, [1, samples]: the mean of left and right."""
        return replace(self, stems={name: stem.mean(0, keepdims=True) for name, stem in self.stems.items()})

    def tracks(self, bits: int) -> dict[str, NDArray[np.int32]]:
        """Stems, accompaniment and mix as whole numbers of `bits` bits, [channels, samples].

        The stems are quantised first and then summed, so that they add up to the mix to the last bit.
        """
        scale = 2 ** (bits - 1)
        quantised = {k: np.round(self.stems[k].astype(np.float64) * scale).astype(np.int32) for k in STEMS}
        accompaniment = quantised["drums"] + quantised["bass"] + quantised["other"]
        quantised |= {"accompaniment": accompaniment, "mix": quantised["vocals"] + accompaniment}
        top = max(int(np.abs(x).max(initial=0)) for x in quantised.values())
        if top >= scale:
            raise AudioError(f"song {self.seed} clips ({top / scale:.2f} of full scale): scale its stems before saving")
        return quantised

    def save(self, folder: str | Path, format: str = "flac", tracks: tuple[str, ...] | None = None) -> Path:
        """Write mix, vocals, accompaniment and the stems (or only `tracks`) and song.json; all or nothing.

        `format`: flac or wav (24 bit), flac16 or wav16, opus (lossy: small, and no longer summing exactly).
        An existing song is replaced. Raises AudioError for an unknown format or track, a folder that holds
        something else, or one that cannot be written.
        """
        import soundfile

        from duotok.audio.io import write_samples

        if format not in FORMATS:
            raise AudioError(f"format {format!r} is unknown: choose one of {', '.join(FORMATS)}")
        container, subtype, bits = FORMATS[format]
        suffix = format.removesuffix("16")
        folder = Path(folder)
        quantised = self.tracks(bits)
        for track in tracks or ():
            if track not in quantised:
                raise AudioError(f"track {track!r} is unknown: choose from {', '.join(quantised)}")
        if folder.is_dir() and any(folder.iterdir()) and not _is_song(folder):
            raise AudioError(f"{folder} holds something else than a song: choose another folder")
        try:
            with writing(folder) as partial:
                partial.mkdir()
                for track in tracks or tuple(quantised):
                    path = partial / f"{track}.{suffix}"
                    data = (quantised[track] << (32 - bits)).T
                    if subtype == "OPUS":
                        floats = (quantised[track].T / 2**15).astype(np.float32)
                        # libsndfile's Opus encoder overflows its stack on one long write
                        write_samples(path, floats, self.rate, container, subtype, block=self.rate)
                    else:
                        write_samples(path, data, self.rate, container, subtype)
                facts = self.facts() | {"files": format} | ({"tracks": list(tracks)} if tracks else {})
                text = json.dumps(facts, ensure_ascii=False, indent=1)
                (partial / "song.json").write_text(text, "utf-8")
        except (OSError, soundfile.LibsndfileError) as error:
            reason = getattr(error, "strerror", None) or error
            raise AudioError(f"{folder}: cannot be written ({reason}); choose another folder or make room") from None
        return folder


def unusual(
    *, vocals: bool = True, soundfont: bool = False, doubled: float = 0.0, mono: bool = False
) -> dict[str, object]:
    """Of the options that change a song, those that are not as usual; song.json has them as details.options."""
    options: dict[str, tuple[object, object]] = {
        "vocals": (vocals, True), "soundfont": (soundfont, False), "doubled": (float(doubled), 0.0), "mono": (mono, False)
    }  # fmt: skip
    return {name: value for name, (value, usual) in options.items() if value != usual}


def _is_song(folder: Path) -> bool:
    """Whether a folder holds a song, whole or damaged, and nothing else."""
    names = {path.name for path in folder.iterdir()}
    song_files = {"song.json", *(f"{track}{suffix}" for track in SONG_TRACKS for suffix in (".flac", ".wav", ".opus"))}
    if "song.json" not in names or not names <= song_files:
        return False
    try:
        facts = json.loads((folder / "song.json").read_text("utf-8"))
    except ValueError:
        return True  # damaged
    return isinstance(facts, dict) and {"seed", "rate", "samples"} <= facts.keys()
