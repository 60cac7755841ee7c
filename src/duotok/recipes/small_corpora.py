"""Copies of corpora that fit into a number of bytes: recordings and generated songs as Opus, chosen so that every kind has a share."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import soundfile

from duotok.audio.io import probe, stream
from duotok.clock import SAMPLE_RATE
from duotok.corpora.base import Corpus, lyrics_part, read_rows
from duotok.corpora.index import COLUMNS
from duotok.data import catalog
from duotok.errors import DuoTokError
from duotok.files import put, temporary
from duotok.recipes.mini_bundle import LISTS, corpora_of
from duotok.records import Recording

GENERATED, IN_TRACKS, FACTS = "generated", "in tracks", "song.json"
AS_IT_IS = 1.5  # Opus of at most this many times the wanted rate is copied: encoding it again would only cost sound
BLOCK = 512  # of a tar: a header, and each file filled up
Item = TypeVar("Item")


@dataclass
class SmallCorpora:
    """corpora, settings: the `--corpus` and `--set` arguments that read the copies; files, seconds, sizes (bytes): by kind, of
    what was taken; left: recordings by kind that had no room."""

    corpora: list[str]
    settings: list[str]
    files: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    sizes: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)

    @property
    def hours(self) -> float:
        return sum(self.seconds.values()) / 3600


def packed(size: int) -> int:
    """Bytes that a file of `size` bytes takes in a tar."""
    return 2 * BLOCK + size


def fill(waiting: Mapping[str, Sequence[Item]], room: int, size_of: Callable[[Item], int]) -> dict[str, list[Item]]:
    """From each kind the first of its items, so many that together they have at most `room` bytes.

    The kind that has the fewest bytes so far is next, so small kinds come whole and large ones share what is left. A kind ends
    with the first item that does not fit. size_of is called once for each item that is looked at, in that order.
    """
    taken: dict[str, list[Item]] = {kind: [] for kind in waiting}
    sizes = dict.fromkeys(waiting, 0)
    unfinished = [kind for kind in waiting if waiting[kind]]
    while unfinished:
        kind = min(unfinished, key=lambda name: sizes[name])
        item = waiting[kind][len(taken[kind])]
        size = size_of(item)
        if sum(sizes.values()) + size > room:
            unfinished.remove(kind)
            continue
        taken[kind].append(item)
        sizes[kind] += size
        if len(taken[kind]) == len(waiting[kind]):
            unfinished.remove(kind)
    return taken


def make_small_corpora(
    folders: Sequence[Path], place: Path, cache: Path, room: int, kbps: float = 48, lists: Path = LISTS,
    settings: Sequence[str] = (), licences: Sequence[str] = (), tell: Callable[[str], None] = print,
) -> SmallCorpora:  # fmt: skip
    """Copies of the recordings of `folders` below `place`, of at most `room` bytes in a tar; those of the split `test` stay out.

    folders, lists: as for `mini_bundle.corpora_of`, and settings as its `CORPUS.OPTION=VALUE`. Sound that is no Opus, or Opus
    far above `kbps` (kbit/s for each channel), is encoded in at most two channels; `cache` keeps that for the next call. One
    recording of each kind comes first, then those for validation, then the others in an order drawn by their names. `place` is
    replaced. Raises CorpusError as the catalog does, DuoTokError when nothing fits or a file cannot be read.
    """
    named, own = corpora_of(folders, lists)
    opened = catalog.open_corpora(named, [*own, *settings])
    listed = [r for r in catalog.build(opened, licences).recordings if r.split != "test"]
    if not listed:
        raise DuoTokError(f"{', '.join(map(str, folders))}: no recording that is not for tests; name another folder")
    corpus_of = {corpus.name: corpus for corpus in opened}
    waiting: dict[str, list[Recording]] = {}
    for recording in sorted(listed, key=lambda r: hashlib.sha256(r.id.encode()).digest()):
        waiting.setdefault(_kind(recording, corpus_of), []).append(recording)
    waiting = {kind: _validation_first(recordings) for kind, recordings in waiting.items()}
    copies: dict[str, dict[str, Path]] = {}

    def size_of(recording: Recording) -> int:
        copies[recording.id] = {stem: small_copy(Path(path), cache, kbps) for stem, path in recording.audio.items()}
        files = [*copies[recording.id].values(), *_beside(recording, corpus_of[recording.corpus])]
        return sum(packed(path.stat().st_size) for path in files) + BLOCK  # its line in INDEX.tsv

    chosen = fill(waiting, room, size_of)
    used = {recording.corpus for recordings in chosen.values() for recording in recordings}
    if not used:
        raise DuoTokError(
            f"no recording fits into {room / 2**20:.1f} MiB; take more parts, or hide more of the work tree"
        )
    small = SmallCorpora([], [])
    shutil.rmtree(place, ignore_errors=True)
    targets: dict[Path, Path] = {}
    for kind, recordings in chosen.items():
        small.left[kind] = len(waiting[kind]) - len(recordings)
        for recording in recordings:
            corpus = corpus_of[recording.corpus]
            small.sizes[kind] += _copy(recording, corpus, place / corpus.name, copies[recording.id], targets)
            small.files[kind] += 1
            seconds = recording.seconds or probe(next(iter(copies[recording.id].values()))).seconds
            small.seconds[kind] = small.seconds.get(kind, 0.0) + seconds
        no_room = f"; {small.left[kind]} had no room" if small.left[kind] else ""
        minutes, size = small.seconds.get(kind, 0.0) / 60, small.sizes[kind] / 2**20
        tell(f"{kind}: {small.files[kind]} recordings, {minutes:.1f} minutes, {size:.1f} MiB{no_room}")
    for text, corpus in zip(named, opened, strict=True):
        if corpus.name in used:
            if corpus.info.name == "index":
                _write_index(corpus.root, place / corpus.name, targets)
            small.corpora.append(f"{text.partition('=')[0]}={place / corpus.name}")
    for text in (*own, *settings):
        name, _, option = text.partition("=")[0].partition(".")
        if name in used and option != "held_out_test":  # none of these is in the copy
            small.settings.append(text)
    return small


def _kind(recording: Recording, corpora: Mapping[str, Corpus]) -> str:
    """Songs whose tracks are there are a kind of their own: without one of them most stages cannot train."""
    if corpora[recording.corpus].info.name == "songs":
        return GENERATED
    return recording.kind if len(recording.audio) == 1 else f"{recording.kind} {IN_TRACKS}"


def _validation_first(recordings: Sequence[Recording]) -> list[Recording]:
    """One for training, all for validation, then the others."""
    train = [recording for recording in recordings if recording.split == "train"]
    return [*train[:1], *(recording for recording in recordings if recording.split != "train"), *train[1:]]


def _beside(recording: Recording, corpus: Corpus) -> list[Path]:
    """The files of a recording besides its sound: its lyrics, or all that is known of a generated song."""
    if corpus.info.name == "songs":
        return [Path(next(iter(recording.audio.values()))).with_name(FACTS)]
    return [lyrics_part(recording.lyrics)[0]] if recording.lyrics else []


def small_copy(path: Path, cache: Path, kbps: float) -> Path:
    """An Opus file of the sound of `path`: itself, or one in `cache`. Raises AudioError when it cannot be read."""
    info = probe(path)
    channels = min(info.channels, 2)
    size = path.stat().st_size
    if path.suffix.lower() == ".opus" and size * 8 <= AS_IT_IS * kbps * 1000 * channels * info.seconds:
        return path
    key = f"{path.absolute()}\0{size}\0{path.stat().st_mtime_ns}\0{kbps:g}"
    copy = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.opus"
    if not copy.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        partial = temporary(copy)
        try:
            encode(path, partial, channels, kbps)
            put(partial, copy)
        finally:
            partial.unlink(missing_ok=True)
    return copy


def encode(path: Path, target: Path, channels: int, kbps: float) -> None:
    """The sound of `path` at 48 kHz as Opus of about `kbps` kbit/s for each channel."""
    level = 1 - (min(max(kbps, 6), 256) - 6) / 250  # libsndfile spreads 256 to 6 kbit/s over 0 to 1
    with soundfile.SoundFile(
        target, "w", SAMPLE_RATE, channels, format="OGG", subtype="OPUS", compression_level=level
    ) as file:
        for block in stream(path, SAMPLE_RATE, channels, block_seconds=1.0):  # its encoder takes no long blocks
            file.write(block.clamp(-1, 1).T.numpy())


def _copy(
    recording: Recording, corpus: Corpus, folder: Path, copies: Mapping[str, Path], targets: dict[Path, Path]
) -> int:
    """Copy the files of a recording to where its corpus looks for them in `folder`; their bytes.

    targets: sound of the corpora -> its copy, which is added to.
    """
    total = 0
    for stem, copy in copies.items():
        source = _plain(recording.audio[stem])
        target = folder / below(source, corpus).with_suffix(".opus")
        if target in targets.values():  # of two files that differ in their ending only
            target = target.with_name(f"{target.stem}-{source.suffix[1:]}.opus")
        targets[source] = target
        total += _take(copy, target)
    for path in _beside(recording, corpus):
        target = folder / below(path, corpus)
        total += _take(path, target)
        if path.name == FACTS:
            facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            target.write_text(json.dumps({**facts, "files": "opus"}), encoding="utf-8")
    return total


def _plain(path: str | Path) -> Path:
    return Path(os.path.normpath(path))


def below(path: Path, corpus: Corpus) -> Path:
    """The path of a file from its corpus's folder. Raises DuoTokError when it lies elsewhere."""
    root = _plain(corpus.root)
    if not _plain(path).is_relative_to(root):
        raise DuoTokError(f"{path}: not below {root}, so it cannot be copied with it; put it there, or leave it out")
    return _plain(path).relative_to(root)


def _take(source: Path, target: Path) -> int:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return target.stat().st_size


def _write_index(root: Path, folder: Path, targets: Mapping[Path, Path]) -> None:
    """INDEX.tsv of the copied files."""
    with (folder / "INDEX.tsv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, delimiter="\t", extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        for row in read_rows(root / "INDEX.tsv", COLUMNS, delimiter="\t"):
            target = targets.get(_plain(root / row["path"]))
            if target is not None:
                table.writerow({**row, "path": target.relative_to(folder).as_posix()})
