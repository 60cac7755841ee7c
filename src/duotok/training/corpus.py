"""Recordings as the trainers see them: decoded once to 48 kHz stereo int16, memory-mapped, split by recording.

Known layout: a folder with `INDEX.tsv` (path, use, kind, ..., licence, attribution). Any other folder of audio works by
file names: `NAME.vocals.EXT` + `NAME.accompaniment.EXT` (+ drums, bass) are the tracks of one song, folders written by
`duotok songs` are generated songs, and everything else is a mix.
"""

from __future__ import annotations

import csv
import json
import os
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track as progress

from duotok.audio.io import AUDIO_SUFFIXES, find_audio, read
from duotok.audio.loudness import integrated_loudness
from duotok.errors import AudioError, DuoTokError

RATE = 48_000
TARGET_LUFS = -18.0
STEMS = ("vocals", "accompaniment", "drums", "bass", "other", "mix")
# Songs whose every track is kept from training: one real dual-track song, and a share of the other kinds by name.
HELD_OUT_SONGS = ("Potassium",)
HELD_OUT_SHARE = {"instrumental": 0.06, "chant": 0.1, "speech": 0.05, "sound": 0.05, "loop": 0.05, "generated": 0.04}
KINDS = {"four_stem": "dual", "songs": "song"}
SINGLE_TRACK = {"instrumental": "accompaniment", "chant": "vocals", "speech": "vocals"}


@dataclass(frozen=True)
class Recording:
    """One recording; `tracks` maps a stem to its `.npy` of int16 `[samples, 2]` at 48 kHz."""

    id: str
    kind: str
    split: str
    tracks: dict[str, str]
    samples: int
    gain_db: float
    licence: str
    attribution: str
    source: str

    @property
    def seconds(self) -> float:
        return self.samples / RATE

    def audio(self, track: str) -> np.ndarray:
        """Memory-mapped int16 `[samples, 2]`."""
        array: np.ndarray = np.load(self.tracks[track], mmap_mode="r", allow_pickle=False)
        return array


def fraction(text: str) -> float:
    """A stable number in [0, 1) for a name."""
    return (zlib.crc32(text.encode()) % 100_003) / 100_003


def split_of(kind: str, song: str) -> str:
    """`held_out` or `train`, by the identity of the song."""
    if song in HELD_OUT_SONGS or fraction(song) < HELD_OUT_SHARE.get(kind, 0.0):
        return "held_out"
    return "train"


def _song_and_stem(path: Path) -> tuple[str, str | None]:
    name, _, stem = path.stem.rpartition(".")
    return (name, stem) if name and stem in STEMS else (path.stem, None)


def sources(audio: Path) -> dict[str, dict[str, object]]:
    """Songs of a folder: id -> kind, tracks (stem -> file), licence, attribution. Raises DuoTokError when there is none."""
    found: dict[str, dict[str, object]] = {}

    def add(song: str, kind: str, stem: str, file: Path, licence: str, attribution: str, source: str) -> None:
        entry = found.setdefault(
            song, {"kind": kind, "tracks": {}, "licence": licence, "attribution": attribution, "source": source}
        )
        tracks = entry["tracks"]
        assert isinstance(tracks, dict)
        tracks[stem] = file

    index = audio / "INDEX.tsv"
    if index.is_file():
        with index.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                if row["use"] != "train":
                    continue
                path = audio / row["path"]
                kind = KINDS.get(path.parent.name, path.parent.name)
                song, stem = _song_and_stem(path)
                if kind == "instrumental" and stem is not None:
                    song, stem = path.stem, None
                key = song if kind == "dual" else f"{kind}/{path.stem}"
                stem = stem if kind == "dual" else SINGLE_TRACK.get(kind, "mix")
                add(key, kind, stem or "mix", path, row["licence"], row["attribution"], row["source"])
    else:
        for path in find_audio(audio):
            song_file = path.parent / "song.json"
            if song_file.is_file():
                if path.stem in STEMS:
                    key = f"generated/{path.parent.name}"
                    add(key, "generated", path.stem, path, "CC0", "duotok songs", str(song_file.resolve()))
                continue
            song, stem = _song_and_stem(path)
            relative = str(path.parent.relative_to(audio) / song)
            add(relative, "dual" if stem else "song", stem or "mix", path, "unknown", "unknown", str(path))
    if not found:
        raise DuoTokError(f"{audio}: no audio for training (looked for {', '.join(sorted(AUDIO_SUFFIXES))})")
    return found


def _store(path: Path, target: Path) -> int:
    audio = read(path, rate=RATE, channels=2)
    samples = (audio.clamp(-1, 1) * 32767).round().to(torch.int16).T.contiguous().numpy()
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    with partial.open("wb") as file:
        np.save(file, samples, allow_pickle=False)
    os.replace(partial, target)
    return len(samples)


def _gain(tracks: dict[str, str], samples: int) -> float:
    """Gain in dB that brings the mix (or the only track) to -18 LUFS."""
    names = ["mix"] if "mix" in tracks else [name for name in ("vocals", "accompaniment") if name in tracks]
    arrays = [np.load(tracks[name], mmap_mode="r", allow_pickle=False) for name in names]
    step = 30 * RATE

    def blocks() -> list[torch.Tensor]:
        result = []
        for start in range(0, samples, step):
            block = sum(a[start : start + step].astype(np.float32) for a in arrays) / 32768
            result.append(torch.from_numpy(np.ascontiguousarray(np.asarray(block).T)))
        return result

    loudness = integrated_loudness(blocks(), RATE)
    return float(np.clip(TARGET_LUFS - loudness, -40, 40)) if np.isfinite(loudness) else 0.0


def prepare(audio: list[Path], cache: Path) -> None:
    """Decode every recording of the folders once into `cache`; what is done is kept, broken files are listed and left out."""
    cache.mkdir(parents=True, exist_ok=True)
    table = cache / "recordings.jsonl"
    done = {json.loads(line)["id"] for line in table.read_text().splitlines()} if table.is_file() else set()
    songs = {key: entry for folder in audio for key, entry in sources(folder).items()}
    for key in progress([k for k in songs if k not in done], description="decoding"):
        entry = songs[key]
        files = entry["tracks"]
        assert isinstance(files, dict)
        kind = str(entry["kind"])
        tracks = {stem: str(cache / "audio" / key / f"{stem}.npy") for stem in files}
        try:
            lengths = [_store(file, Path(tracks[stem])) for stem, file in files.items()]
        except AudioError as error:
            print(f"left out: {error}")
            continue
        samples = min(lengths)
        recording = Recording(
            key, kind, split_of(kind, key.split("/")[-1]), tracks, samples, _gain(tracks, samples),
            str(entry["licence"]), str(entry["attribution"]), str(entry["source"]),
        )  # fmt: skip
        with table.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(recording)) + "\n")


class Corpus:
    """The prepared recordings in `cache`."""

    def __init__(self, cache: Path) -> None:
        table = Path(cache) / "recordings.jsonl"
        if not table.is_file():
            raise DuoTokError(
                f"{cache}: no prepared recordings; run `python -m duotok.training.mini --audio FOLDER` first"
            )
        self.cache = Path(cache)
        lines = table.read_text(encoding="utf-8").splitlines()
        self.all = sorted((Recording(**json.loads(line)) for line in lines), key=lambda r: r.id)

    def recordings(self, split: str, *kinds: str, track: str | None = None) -> list[Recording]:
        """Recordings of a split (`train`, `held_out`), of the kinds (all when none is named), that have `track`."""
        return [
            r
            for r in self.all
            if r.split == split and (not kinds or r.kind in kinds) and (track is None or track in r.tracks)
        ]
