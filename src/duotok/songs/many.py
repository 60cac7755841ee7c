"""Generate many songs in a pool of processes; finished songs are not generated again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from duotok.errors import ConfigError
from duotok.files import sweep
from duotok.pool import pool, result_of
from duotok.songs.song import SONG_TRACKS, unusual


@dataclass(frozen=True)
class GeneratedSong:
    """One finished song: `skipped` if it existed already; `took` in seconds."""

    seed: int
    folder: Path
    seconds: float
    took: float
    skipped: bool


def song_folder(folder: Path, seed: int) -> Path:
    return folder / f"song-{seed:08d}"


def finished(
    folder: Path,
    seed: int,
    seconds: float,
    rate: int,
    format: str,
    options: Mapping[str, object] | None = None,
    tracks: Sequence[str] | None = None,
) -> bool:
    """Whether the folder holds the whole song (written atomically): that seed, length, rate, format, and unusual options.

    tracks: those that must be there (a song of more will do); None: all.
    """
    path = song_folder(folder, seed) / "song.json"
    try:
        facts = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    expected = {"seed": seed, "rate": rate, "samples": round(seconds * rate), "files": format}
    if not isinstance(facts, dict) or any(facts.get(k) != v for k, v in expected.items()):
        return False
    there = facts.get("tracks")  # only in songs that were saved without some of them
    if there is not None and (tracks is None or not set(tracks) <= set(there)):
        return False
    return bool((facts.get("details") or {}).get("options", {}) == dict(options or {}))


def _make(
    seed: int, folder: Path, seconds: float, mono: bool, options: dict[str, object], saving: dict[str, object]
) -> GeneratedSong:
    from duotok.songs.generator import generate

    start = perf_counter()
    song = generate(seed, seconds, **options)  # type: ignore[arg-type]
    if mono:
        song = song.mono()
        song.details["options"] = {**song.details.get("options", {}), "mono": True}
    place = song.save(song_folder(folder, seed), **saving)  # type: ignore[arg-type]
    return GeneratedSong(seed, place, song.seconds, perf_counter() - start, False)


def generate_many(
    seeds: Iterable[int],
    folder: str | Path,
    workers: int = 2,
    *,
    seconds: float = 30.0,
    rate: int = 48000,
    vocals: bool = True,
    soundfont: bool = False,
    doubled: float = 0.0,
    mono: bool = False,
    format: str = "flac",
    tracks: tuple[str, ...] | None = None,
    progress: Callable[[GeneratedSong], None] | None = None,
) -> list[GeneratedSong]:
    """Generate the songs of the seeds in `folder`/song-SEED; existing ones are skipped.

    `progress` is called once for each song, in the order in which they finish. A song's failure is raised after the songs
    under way are done; calling again goes on where this stopped. `tracks`: which files to write; None: all.
    """
    unknown = [name for name in tracks or () if name not in SONG_TRACKS]
    if unknown:
        raise ConfigError(f"track {unknown[0]!r} is unknown: choose from {', '.join(SONG_TRACKS)}")
    folder = Path(folder)
    changes = unusual(vocals=vocals, soundfont=soundfont, doubled=doubled, mono=mono)
    options: dict[str, object] = {"rate": rate, "vocals": vocals, "soundfont": soundfont, "doubled": doubled}
    saving: dict[str, object] = {"format": format, "tracks": tracks}
    results: list[GeneratedSong] = []

    def done(song: GeneratedSong) -> None:
        results.append(song)
        if progress is not None:
            progress(song)

    todo = []
    for seed in dict.fromkeys(seeds):
        if finished(folder, seed, seconds, rate, format, changes, tracks):
            done(GeneratedSong(seed, song_folder(folder, seed), seconds, 0.0, True))
        else:
            todo.append(seed)
            sweep(song_folder(folder, seed))
    if workers <= 1 or len(todo) <= 1:
        for seed in todo:
            done(_make(seed, folder, seconds, mono, options, saving))
        return results
    with pool(min(workers, len(todo)), imports=("duotok.songs.generator",)) as processes:
        for _, future in processes.as_they_end(
            _make, ((seed, folder, seconds, mono, options, saving) for seed in todo)
        ):
            done(result_of(future))
    return results
