"""The segment step: cut every recording by its scan and its lyrics -> WORK/segments.parquet.

Nothing is decoded, so all recordings are cut anew each time, in a few milliseconds each. WORK/ledger/segment.jsonl names the
recordings that are left out and why, and words that were lost in the others.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from duotok.corpora.licences import LICENCE_CLASSES, licence_class
from duotok.data import catalog
from duotok.data.engines import attempt
from duotok.data.jobs import Engine, JobError, LocalEngine, atomic_write, read_ledger
from duotok.data.scan import mix_parts, read_scan, scan_files
from duotok.data.segments import LYRICS_LOST, SegmentConfig, cut_recording
from duotok.lyrics.types import Lyrics, LyricsError
from duotok.records import SPLITS, CorpusError, Recording, Segment, write_table

TABLE = "segments.parquet"
LEDGER = Path("ledger") / "segment.jsonl"
BATCH = 64  # recordings that go to a worker at once


@dataclass(frozen=True)
class Segmentation:
    """All segments in the order of the catalog; left_out: recording id -> why it has none; notes: recording id -> remarks; sounds:
    recording id -> the hashes of the files of its mix."""

    segments: list[Segment]
    left_out: dict[str, str]
    notes: dict[str, tuple[str, ...]]
    sounds: dict[str, list[str]]


def read_lyrics(work: Path, recording: str) -> Lyrics | None:
    """The lyrics that the transcribe step wrote for a recording; None if it has none. Raises LyricsError for a damaged file."""
    path = work / "lyrics" / f"{recording}.json"
    try:
        return Lyrics.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, LyricsError) as error:
        raise LyricsError(f"{path}: {error}; transcribe it again") from None


def _recording(row: dict[str, Any]) -> Recording:
    return Recording(**{**row, "tags": tuple(row["tags"])})


def _segment(row: dict[str, Any]) -> Segment:
    lists = {name: tuple(row[name]) for name in ("types", "stems", "tags")}
    return Segment(**{**row, **lists, "words": tuple((text, start, end) for text, start, end in row["words"])})


def _cut(payload: dict[str, Any]) -> dict[str, Any]:
    recording, work = _recording(payload["recording"]), Path(payload["work"])
    scan, levels = read_scan(work, recording.id)
    notes: tuple[str, ...] = ()
    try:
        lyrics = read_lyrics(work, recording.id)
    except LyricsError as error:
        lyrics, notes = None, (f"{LYRICS_LOST}{error}",)
    cut = cut_recording(recording, scan, levels, lyrics, SegmentConfig.model_validate(payload["config"]))
    return {
        "segments": [vars(segment) for segment in cut.segments],
        "notes": [*notes, *cut.notes],
        "reason": cut.reason,
        "sound": sound_of(scan),
    }


def sound_of(scan: dict[str, Any]) -> list[str]:
    """The hashes of the files that make up the mix of a scanned recording."""
    return [scan["sha256"][stem] for stem in mix_parts(scan["stems"])]


def cut_batch(payload: dict[str, Any]) -> dict[str, Any]:
    """The unit of work: cut some recordings; an error in one does not affect the others."""
    shared = {"work": payload["work"], "config": payload["config"]}
    outcomes = (attempt(_cut, {**shared, "recording": recording}) for recording in payload["recordings"])
    none: dict[str, Any] = {"segments": [], "notes": [], "sound": []}
    return {"cuts": [outcome.result or {**none, "reason": outcome.error} for outcome in outcomes]}


def _copies(recordings: Sequence[Recording], cuts: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Recordings whose sound is held out under another name -> why they are left out: no sound may be in two splits."""
    used = [(r, tuple(cut["sound"])) for r, cut in zip(recordings, cuts, strict=True) if cut["segments"]]
    stretches: dict[
        tuple[str, ...], dict[tuple[float, float, str], Recording]
    ] = {}  # of a file, which may hold many songs
    for recording, sound in used:
        stretches.setdefault(sound, {}).setdefault((recording.start, recording.stop, recording.split), recording)
    copies = {}
    for recording, sound in used:
        held = [
            other
            for other in stretches[sound].values()
            if SPLITS.index(other.split) > SPLITS.index(recording.split) and _overlap(other, recording)
        ]
        if held:
            kept = max(held, key=lambda other: SPLITS.index(other.split))
            copies[recording.id] = f"the same sound as {kept.id}, which is in {kept.split}"
    return copies


def _overlap(a: Recording, b: Recording) -> bool:
    return a.start < (b.stop or math.inf) and b.start < (a.stop or math.inf)


def _usable(
    recordings: Iterable[Recording], work: Path, licences: Sequence[str], left_out: dict[str, str]
) -> Iterator[Recording]:
    """The recordings that can be cut; the reasons for the others go into `left_out`."""
    ledger = read_ledger(work / "ledger" / "scan.jsonl")
    for recording in recordings:
        allowed = licence_class(recording.licence)
        if licences and allowed not in licences:
            left_out[recording.id] = f"licence: {allowed}"
        elif not scan_files(work / "scan", recording.id)[0].is_file():
            entry = ledger.get(recording.id)
            left_out[recording.id] = f"scan: {entry.error}" if entry is not None and entry.error else "not scanned"
        else:
            yield recording


def segment_all(
    work: Path,
    config: SegmentConfig = SegmentConfig(),
    licences: Sequence[str] = (),
    engine: Engine | None = None,
    dry_run: bool = False,
) -> Segmentation:
    """Cut every scanned recording of WORK and write segments.parquet and the ledger, atomically.

    licences: classes that are let through, all when empty. The same catalog, scans and lyrics give the same bytes with any
    engine. Raises CorpusError: no catalog, an unknown licence class, an identity in two splits, no segments at all.
    """
    for name in licences:
        if name not in LICENCE_CLASSES:
            raise CorpusError(f"licence class '{name}' is unknown; there are {', '.join(LICENCE_CLASSES)}")
    recordings = catalog.read(work)
    catalog.check(recordings)
    left_out: dict[str, str] = {}
    notes: dict[str, tuple[str, ...]] = {}
    todo = list(_usable(recordings, work, licences, left_out))
    shared = {"work": str(work.absolute()), "config": config.model_dump()}
    payloads = [
        {**shared, "recordings": [vars(recording) for recording in todo[first : first + BATCH]]}
        for first in range(0, len(todo), BATCH)
    ]
    cuts: dict[int, list[dict[str, Any]]] = {}
    for index, outcome in _progress((engine or LocalEngine()).map(cut_batch, payloads), len(payloads)):
        if outcome.result is None:
            raise JobError(f"segment: {outcome.error}")
        cuts[index] = outcome.result["cuts"]
    segments: list[Segment] = []
    ordered = [cut for index in sorted(cuts) for cut in cuts[index]]
    copies = _copies(todo, ordered)
    for recording, cut in zip(todo, ordered, strict=True):
        if recording.id in copies:
            left_out[recording.id] = copies[recording.id]
            continue
        segments += map(_segment, cut["segments"])
        if cut["reason"]:
            left_out[recording.id] = cut["reason"]
        if cut["notes"]:
            notes[recording.id] = tuple(cut["notes"])
    if not segments:
        too_short = any(reason.startswith("shorter than") for reason in left_out.values())
        remedy = "--segment whole_seconds=1 takes shorter ones whole" if too_short else "scan first: duotok data scan"
        raise CorpusError(f"{work}: no segments at all ({most_frequent(left_out)}); {remedy}")
    sounds = {recording.id: cut["sound"] for recording, cut in zip(todo, ordered, strict=True)}
    result = Segmentation(segments, left_out, notes, sounds)
    if not dry_run:
        write_table(work / TABLE, segments, Segment)
        _write_ledger(work / LEDGER, recordings, result, config)
    return result


def validation_warning(segments: Sequence[Segment]) -> str:
    """A warning when there is no segment for validation; "" otherwise."""
    if not any(segment.split == "validation" for segment in segments):
        return (
            "no segment for validation, so training has nothing to be judged by; give a corpus a larger share, as in --set "
            "folder.validation=0.25, or train with --set without_validation=true"
        )
    return ""


def lyrics_warning(notes: Mapping[str, Sequence[str]]) -> str:
    """A warning that recordings come without the words that were known of them, with the most frequent reasons; "" otherwise."""
    lost = {
        recording: note.removeprefix(LYRICS_LOST)
        for recording, told in notes.items()
        for note in told
        if note.startswith(LYRICS_LOST)
    }
    return f"lyrics of {len(lost):,} recordings are left out: {most_frequent(lost)}" if lost else ""


def _progress(answers: Iterable[Any], total: int) -> Iterable[Any]:
    console = Console(stderr=True)
    return track(answers, "segment", total, console=console, transient=True, disable=not console.is_terminal)


def _write_ledger(path: Path, recordings: Iterable[Recording], result: Segmentation, config: SegmentConfig) -> None:
    stamp = hashlib.sha256(config.model_dump_json().encode()).hexdigest()
    frames: Counter[str] = Counter()
    number: Counter[str] = Counter()
    for segment in result.segments:
        number[segment.recording] += 1
        frames[segment.recording] += segment.frames
    with atomic_write(path) as file:
        for recording in recordings:
            name = recording.id
            row: dict[str, Any] = {"unit": name, "stamp": stamp, "ok": name not in result.left_out}
            if name in result.left_out:
                row["error"] = result.left_out[name]
            else:
                row["result"] = {
                    "segments": number[name], "frames": frames[name], "notes": result.notes.get(name, ()),
                    "sound": result.sounds[name],
                }  # fmt: skip
            file.write(json.dumps(row).encode() + b"\n")


def most_frequent(reasons: dict[str, str], count: int = 3) -> str:
    """The most frequent reasons in one line."""
    counts = Counter(reasons.values()).most_common(count)
    return "; ".join(f"{number} x {reason}" for reason, number in counts) or "the catalog is empty"


def summary(segments: Iterable[Segment]) -> dict[str, dict[str, dict[str, float]]]:
    """Segments and hours: in all, and by type (a segment may give several), activity, kind, split, corpus, language,
    licence class, and whether the words are known."""
    table: dict[str, dict[str, dict[str, float]]] = {}

    def add(column: str, value: str, hours: float) -> None:
        cell = table.setdefault(column, {}).setdefault(value, {"segments": 0, "hours": 0.0})
        cell["segments"] += 1
        cell["hours"] += hours

    for segment in segments:
        hours = segment.seconds / 3600
        add("all", "all", hours)
        for sample in segment.types:
            add("type", sample, hours)
        add("lyrics", "words known" if segment.text else "none", hours)
        add("language", segment.language or "not said", hours)
        add("licence", licence_class(segment.licence), hours)
        for column in ("activity", "kind", "split", "corpus"):
            add(column, getattr(segment, column), hours)
    return table
