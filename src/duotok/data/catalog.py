"""Corpora -> WORK/recordings.parquet: one list of recordings, checked, from any number of corpora."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from duotok.corpora.base import LICENCE_CLASSES, Corpus, get, licence_class, settle
from duotok.data.jobs import atomic_write, read_ledger
from duotok.records import CorpusError, Recording, Segment, Split, read_table, segment_key, write_table

TABLE = "recordings.parquet"
LEDGER = Path("ledger") / "catalog.jsonl"
_SAFE = re.compile(r"[A-Za-z0-9._/-]+")


@dataclass(frozen=True)
class Catalog:
    """The recordings, sorted by id; left_out: licence class -> recordings that the licence filter left out; problems: id ->
    why the corpus could not list a recording."""

    recordings: list[Recording]
    left_out: Counter[str] = field(default_factory=Counter)
    problems: dict[str, str] = field(default_factory=dict)


def open_corpora(corpora: Sequence[str], settings: Sequence[str] = ()) -> list[Corpus]:
    """The adapters of `NAME=ROOT` or `AS:NAME=ROOT` (AS: another name, for a second folder of one kind), with `AS.option=value`.

    Raises CorpusError: unknown corpus or option, missing folder, the same name twice.
    """
    folders: dict[str, tuple[str, str]] = {}
    for text in corpora:
        left, equals, root = text.partition("=")
        alias, _, name = left.rpartition(":")
        if not equals or not root or not name:
            raise CorpusError(f"--corpus {text}: write NAME=FOLDER, as in index=/data/audio")
        if (alias or name) in folders:
            raise CorpusError(
                f"--corpus {text}: '{alias or name}' is given twice; give one another name: b:{name}={root}"
            )
        folders[alias or name] = name, root
    options: dict[str, dict[str, str]] = {alias: {} for alias in folders}
    for text in settings:
        match = re.fullmatch(r"([^.=]+)\.([^=]+)=(.*)", text)
        if match is None or match[1] not in options:
            raise CorpusError(f"--set {text}: write CORPUS.OPTION=VALUE with CORPUS one of {', '.join(folders)}")
        options[match[1]][match[2]] = match[3]
    return [get(name)(root, name=alias, **options[alias]) for alias, (name, root) in folders.items()]


def build(corpora: Iterable[Corpus], licences: Sequence[str] = (), among: Iterable[Recording] = ()) -> Catalog:
    """Every recording of the corpora whose licence is of one of the classes `licences` (all, if none is given).

    among: recordings of an existing catalog; those of corpora of the same name are replaced.
    Raises CorpusError: an unknown class, an id that is duplicate or not path-safe, no recordings at all, an identity or a
    file in two splits.
    """
    for name in licences:
        if name not in LICENCE_CLASSES:
            raise CorpusError(f"licence class '{name}' is unknown; there are {', '.join(LICENCE_CLASSES)}")
    corpora = list(corpora)
    names = {corpus.name for corpus in corpora}
    recordings = [recording for recording in among if recording.corpus not in names]
    left_out: Counter[str] = Counter()
    problems: dict[str, str] = {}
    for corpus in corpora:
        for recording in settle(list(corpus.recordings())):
            licence = licence_class(recording.licence)
            if licences and licence not in licences:
                left_out[licence] += 1
            else:
                recordings.append(recording)
        problems |= corpus.problems
    if not recordings:
        lost = ", ".join(f"{count} {name}" for name, count in sorted(left_out.items()))
        lost = lost or next((f"{name}: {why}" for name, why in problems.items()), "")
        raise CorpusError(
            f"no recordings ({lost or 'the corpora are empty'}){'; allow more licences' if left_out else ''}"
        )
    check(recordings)
    return Catalog(sorted(recordings, key=lambda recording: recording.id), left_out, problems)


def check(recordings: Iterable[Recording]) -> None:
    """Check what every later step relies on. Raises CorpusError naming the first recording that violates it."""
    keys: dict[str, str] = {}
    splits: dict[tuple[str, str], Split] = {}
    files: dict[str, Recording] = {}
    for recording in recordings:
        name = recording.id
        if not _SAFE.fullmatch(name) or name.startswith("/") or {"", ".", ".."} & set(name.split("/")):
            raise CorpusError(
                f"recording id '{name}': only letters, digits and ._/- are safe in paths; fix the adapter"
            )
        key = segment_key(name, 0).lower()  # some file systems take A for a
        if key in keys:
            raise CorpusError(f"recordings '{keys[key]}' and '{name}' would share their files; rename one")
        keys[key] = name
        if not recording.audio:
            raise CorpusError(f"recording '{name}' has no audio; fix the adapter")
        split = splits.setdefault((recording.corpus, recording.identity), recording.split)
        if split != recording.split:
            raise CorpusError(
                f"'{recording.identity}' of {recording.corpus} is in {split} and in {recording.split} ({name}); "
                "an identity must lie in one split, fix the adapter"
            )
        for path in recording.audio.values():
            twin = files.setdefault(path, recording)
            if twin.split != recording.split:
                raise CorpusError(
                    f"{path}: in {twin.split} as {twin.id} and in {recording.split} as {name}; name this folder only once"
                )


OWN = (TABLE, "segments.parquet", "ledger", "shards", "stems", "lyrics", "scan", "report", "derived")
"""What the steps write into WORK."""


def _is_work(work: Path) -> bool:
    """Whether an earlier step wrote into this folder; its files may be damaged."""
    with contextlib.suppress(CorpusError):
        read(work)
        return True
    with contextlib.suppress(CorpusError):
        read_table(work / "segments.parquet", Segment)
        return True
    return any(read_ledger(path) for path in (work / "ledger").glob("*.jsonl"))


def write(work: Path, catalog: Catalog) -> Path:
    """WORK/recordings.parquet, atomically. The same recordings give the same bytes.

    Raises CorpusError for a folder with foreign files of the names that the steps use, which they would replace.
    """
    path = work / TABLE
    if not _is_work(work):
        foreign = [name for name in OWN if os.path.lexists(work / name)]
        if foreign:
            raise CorpusError(
                f"{work / foreign[0]}: is there, and no work of DuoTok; name a new folder with --work, its steps write there"
            )
    write_table(path, catalog.recordings, Recording)
    if not catalog.problems:
        (work / LEDGER).unlink(missing_ok=True)
        return path
    with atomic_write(work / LEDGER) as file:
        for name, why in catalog.problems.items():
            file.write(json.dumps({"unit": name, "stamp": "", "ok": False, "error": why}).encode() + b"\n")
    return path


def validation_warning(recordings: Sequence[Recording]) -> str:
    """A warning when no song falls to validation; "" when one does."""
    if any(recording.split == "validation" for recording in recordings):
        return ""
    corpora = sorted({recording.corpus for recording in recordings})
    songs = len({(recording.corpus, recording.identity) for recording in recordings})
    remedy = f"--set {corpora[0]}.validation=0.25 (another --set {corpora[0]}.seed=1, if still none)"
    if songs == 1:
        remedy = "more songs"
    return (
        f"none of {songs} songs falls to validation, so training has nothing to be judged by; {remedy} helps, and "
        "`duotok train --set without_validation=true` trains without"
    )


def read(work: Path) -> list[Recording]:
    """The catalog of a WORK. Raises CorpusError when there is none."""
    return read_table(work / TABLE, Recording)


def summary(catalog: Catalog) -> dict[str, dict[str, dict[str, float]]]:
    """For each corpus: recordings, hours (as far as the metadata tells) and lyrics; recordings by split, kind, licence, language."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for recording in catalog.recordings:
        row = table.setdefault(recording.corpus, {})
        facts: dict[str, dict[str, float]] = {
            "all": {
                "recordings": 1.0,
                "hours": (recording.seconds or 0.0) / 3600,
                "lyrics": float(bool(recording.lyrics)),
                "no length": float(recording.seconds is None),
            },
            "split": {recording.split: 1.0},
            "kind": {recording.kind: 1.0},
            "licence": {licence_class(recording.licence): 1.0},
            "language": {recording.language or "not said": 1.0},
        }
        for name, counts in facts.items():
            sums = row.setdefault(name, {})
            for key, count in counts.items():
                sums[key] = sums.get(key, 0.0) + count
    return table
