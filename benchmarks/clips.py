"""The recordings that benchmarks are taken on: held out, real, cut in a fixed way; or any folder of stem pairs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from benchmarks.recordings import name as name_of
from benchmarks.recordings import recordings
from duotok.audio.finding import AUDIO_SUFFIXES, find_audio
from duotok.audio.io import probe, read
from duotok.clock import SAMPLE_RATE
from duotok.errors import DuoTokError
from duotok.recipes.mini_bundle import LISTS, TEST, names_in
from duotok.records import Recording
from duotok.tracks import TRACKS

EXCERPT = 30.0
SHORTEST = 5.0
# A stem of an excerpt is judged when it sounds this long: near-silence flatters every codec.
SOUNDING_SECONDS = 5.0
SOUNDING_DB = -50.0
HEADLINE = ("dual", "validation")
GROUPS = (*HEADLINE, "instrumental", "voice")
"""Of the held-out recordings."""


@dataclass(frozen=True)
class Clip:
    """An excerpt of a recording: `files` maps vocals, accompaniment (or mix) to files; missing stems are silent.

    The accompaniment may be several files that are summed.
    """

    name: str
    group: str
    files: dict[str, tuple[Path, ...]]
    start: float = 0.0
    seconds: float = EXCERPT

    def sounds(self) -> dict[str, Tensor]:
        """`{name: [2, samples]}` at 48 kHz, equally long; without a mix file the mix is the sum of the stems."""
        result = {}
        for name, paths in self.files.items():
            parts = [read(p, SAMPLE_RATE, 2, start=self.start, seconds=self.seconds) for p in paths]
            n = min(p.shape[1] for p in parts)
            result[name] = torch.stack([p[:, :n] for p in parts]).sum(0)
        n = min(sound.shape[1] for sound in result.values())
        result = {name: sound[:, :n] for name, sound in result.items()}
        for track in TRACKS:
            result.setdefault(track, torch.zeros(2, n))
        result.setdefault("mix", result["vocals"] + result["accompaniment"])
        return result


def sounding_seconds(sound: Tensor) -> float:
    """Seconds of `[channels, samples]` at 48 kHz above -50 dBFS, in steps of 0.1 s."""
    step = SAMPLE_RATE // 10
    mono = sound.mean(0)[: sound.shape[1] // step * step].reshape(-1, step)
    return float((mono.square().mean(1) > 10 ** (SOUNDING_DB / 10)).sum()) / 10


def sounding_samples(sound: Tensor, margin: int = 3) -> Tensor:
    """Which samples of `[channels, samples]` at 48 kHz lie in a sounding 0.1 s or within `margin` of one: bool."""
    step = SAMPLE_RATE // 10
    n = sound.shape[1]
    mono = torch.nn.functional.pad(sound.mean(0), (0, -n % step)).reshape(-1, step)
    loud = (mono.square().mean(1) > 10 ** (SOUNDING_DB / 10)).float()
    near = torch.nn.functional.max_pool1d(loud[None], 2 * margin + 1, stride=1, padding=margin)[0] > 0
    return near.repeat_interleave(step)[:n]


def judged(clip: Clip, sounds: dict[str, Tensor]) -> list[str]:
    """Tracks of a clip that are measured: those it has, where they sound for 5 s (or most of a short clip)."""
    needed = min(SOUNDING_SECONDS, 0.6 * sounds["mix"].shape[1] / SAMPLE_RATE)
    return [track for track in TRACKS if track in clip.files and sounding_seconds(sounds[track]) >= needed]


def _excerpts(name: str, group: str, files: dict[str, tuple[Path, ...]]) -> list[Clip]:
    """Every 30 s of a recording from its beginning; a rest of 5 s or more counts."""
    info = probe(next(iter(files.values()))[0])
    starts = [EXCERPT * i for i in range(int(info.seconds // EXCERPT) + 1)]
    return [
        Clip(f"{name} {start:.0f} s", group, files, start, min(EXCERPT, info.seconds - start))
        for start in starts
        if info.seconds - start >= SHORTEST
    ]


def _middle(name: str, group: str, files: dict[str, tuple[Path, ...]]) -> Clip:
    total = probe(next(iter(files.values()))[0]).seconds
    return Clip(name, group, files, max(0.0, total / 2 - EXCERPT / 2), min(EXCERPT, total))


def pairs(folder: Path) -> list[Clip]:
    """30 s excerpts of every `NAME.vocals.EXT` with its `NAME.accompaniment.EXT` (`vocals.EXT`, `accompaniment.EXT` in
    a folder of their own, too)."""
    found: list[Clip] = []
    for path in find_audio(folder):
        if path.stem != "vocals" and not path.stem.endswith(".vocals"):
            continue
        stem = path.stem.removesuffix("vocals") + "accompaniment"
        partner = next(
            (path.with_name(stem + s) for s in sorted(AUDIO_SUFFIXES) if path.with_name(stem + s).is_file()), None
        )
        if partner is not None:
            name = path.parent.name if path.stem == "vocals" else path.stem.removesuffix(".vocals")
            found += _excerpts(name, "pairs", {"vocals": (path,), "accompaniment": (partner,)})
    if not found:
        raise DuoTokError(f"{folder}: no NAME.vocals.* with NAME.accompaniment.* in it")
    return found


def held_out(audio: Path, part: Literal["tuning", "test"] = "test") -> list[Clip]:
    """The real recordings of `audio` (with INDEX.tsv) that no training sees.

    tuning: those of recipes/mini/held_out.txt, on which settings are chosen; test: those of recipes/mini/test.txt, and what
    is for evaluation only. Groups: dual: songs with true stems; validation: of what is for evaluation only, those with a
    vocals stem; instrumental, voice: the middle 30 s of the other recordings.
    """
    clips: list[Clip] = []
    listed = set(names_in(LISTS / TEST))
    for recording in recordings(audio, splits=("validation",) if part == "tuning" else ("test",)):
        files = _files(recording)
        if part == "test" and name_of(recording) not in listed:
            if "vocals" in files:
                clips.append(Clip(name_of(recording), "validation", files))
        elif recording.kind == "song" and len(files) == 2:
            clips += _excerpts(name_of(recording), "dual", files)
        elif recording.kind in ("instrumental", "voice"):
            clips.append(_middle(name_of(recording), recording.kind, files))
    return clips


def _files(recording: Recording) -> dict[str, tuple[Path, ...]]:
    """The tracks of a recording; an accompaniment that is not there is the sum of its stems."""
    audio = {stem: Path(path) for stem, path in recording.audio.items()}
    files = {track: (audio[track],) for track in TRACKS if track in audio}
    parts = tuple(audio[stem] for stem in ("drums", "bass", "other") if stem in audio)
    if "accompaniment" not in files and len(parts) == 3:
        files["accompaniment"] = parts
    return files
