"""The figures of the report on a data set: hours, segments, mixtures, failures, and pictures of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duotok.clock import FRAME_SAMPLES, SAMPLE_RATE
from duotok.corpora.licences import licence_class
from duotok.data import corpus_pictures as pictures
from duotok.data.jobs import read_ledger
from duotok.data.segmenting import TABLE
from duotok.data.segments import LYRICS_LOST
from duotok.errors import MissingExtraError
from duotok.records import SAMPLE_TYPES, SPLITS, Activity, CorpusError

# The paper's mixtures (4.1, C.3); in full mixes and vocals words are audible.
MIXTURES = {
    "stage 2, 4:1:1:1": {"mix": 4, "vocals": 1, "accompaniment": 1, "instrumental": 1},
    "stage 3, 5:4:1": {"vocals": 5, "accompaniment": 4, "instrumental": 1},
}
WORDED = ("mix", "vocals")
ACTIVITIES: tuple[Activity, ...] = ("lyrics", "voice", "instrumental", "unknown")
COLUMNS = (
    "recording", "corpus", "kind", "split", "identity", "frames", "activity", "types", "loudness", "language",
    "licence", "text", "words",
)  # fmt: skip
UNITS_SHOWN = 5

Table = dict[str, Any]


@dataclass(frozen=True)
class Mixed:
    """A mixture of the paper: segments of each component, those with words, and the share of items with words.

    plain: when segments are taken as they are; required: when mixes and vocals must have words. None where a required
    component has no segments.
    """

    segments: dict[str, int]
    worded: dict[str, int]
    plain: float | None
    required: float | None
    paper: float


@dataclass(frozen=True)
class Failure:
    """A reason why units of a step failed, how many did, and the names of some."""

    step: str
    reason: str
    count: int
    units: tuple[str, ...]


@dataclass(frozen=True)
class CorpusReport:
    """The figures of the page. hours, segments: column -> value -> amount; failures: the most frequent first."""

    recordings: int
    used: int
    hours: dict[str, dict[str, float]]
    segments: dict[str, dict[str, int]]
    identities: dict[str, int]
    shared_identities: int
    mixtures: dict[str, Mixed]
    failures: tuple[Failure, ...]
    shards: dict[str, float]


def read_segments(work: Path) -> Table:
    """Columns of WORK/segments.parquet as arrays: seconds and loudness numbers, words counts, types as "a,b", the rest
    text. Raises CorpusError when there is no such table, MissingExtraError without pyarrow."""
    path = work / TABLE
    try:
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError("tables need pyarrow: pip install 'duotok[train]'") from None
    try:
        table = pq.read_table(path, columns=list(COLUMNS))
        if table.schema.names != list(COLUMNS):
            raise CorpusError(f"{path}: lacks {', '.join(set(COLUMNS) - set(table.schema.names))}; make it again")
    except FileNotFoundError:
        raise CorpusError(f"{path}: no such table; run: duotok data segment --work {work}") from None
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{path}: cannot be read ({str(error).splitlines()[0]}); make it again") from None
    if table.num_rows == 0:
        raise CorpusError(f"{path}: holds no segments; nothing to report")
    columns: Table = {name: table[name].to_numpy() for name in COLUMNS if name not in ("types", "words")}
    columns["words"] = pc.list_value_length(table["words"]).to_numpy()
    columns["types"] = pc.binary_join(table["types"], ",").to_numpy()
    columns["seconds"] = columns["frames"] * (FRAME_SAMPLES / SAMPLE_RATE)
    columns["known"] = columns.pop("text") != ""
    return columns


def _by(values: NDArray[Any], hours: NDArray[np.float64]) -> tuple[dict[str, float], dict[str, int]]:
    names, inverse, counts = np.unique(values.astype(str), return_inverse=True, return_counts=True)
    sums = np.bincount(inverse, hours, len(names))
    keys = [str(name) or "not said" for name in names]
    return dict(zip(keys, sums.tolist(), strict=True)), dict(zip(keys, counts.tolist(), strict=True))


def _has(table: Table, sample: str) -> NDArray[np.bool_]:
    unique, inverse = np.unique(table["types"].astype(str), return_inverse=True)
    return np.array([sample in joined.split(",") for joined in unique])[inverse]


def mixed(table: Table, weights: Mapping[str, int], splits: Sequence[str] = SPLITS) -> Mixed:
    """What a mixture of the paper would draw from the segments of some splits."""
    inside = np.isin(table["split"].astype(str), splits)
    chosen = {name: inside & _has(table, name) for name in weights}
    segments = {name: int(where.sum()) for name, where in chosen.items()}
    worded = {name: int((chosen[name] & table["known"]).sum()) for name in weights if name in WORDED}
    total, worded_weight = sum(weights.values()), sum(weights[name] for name in worded)
    plain = required = None
    if all(segments.values()):
        plain = sum(weights[name] * worded[name] / segments[name] for name in worded) / total
        required = worded_weight / total if all(worded.values()) else None
    return Mixed(segments, worded, plain, required, worded_weight / total)


_PATH = re.compile(r"(?<![\w.)])(?:\w+://|[A-Za-z]:[\\/]|/|(?:[\w.-]+/)+(?=\S*\.\w))\S*?(?=[:;,)]*(?:\s|$))")


def plain_reason(error: str) -> str:
    """A ledger's error without paths and numbers, which differ between units."""
    place, colon, reason = error.partition(": ")
    text = f"…: {reason}" if colon and {"/", "\\"} & set(place) and ";" not in place else error
    return re.sub(r"\d+(\.\d+)?", "#", _PATH.sub("…", text))


def failures(work: Path) -> tuple[Failure, ...]:
    """The failures in the ledgers of all steps, and lyrics that came to nothing, by step and reason, most frequent first; not those of
    recordings that are no longer in the catalog, whose lines stay in ledgers that are only appended to."""
    by_reason: dict[tuple[str, str], dict[str, str]] = {}
    listed = set(_recordings(work))
    for path in sorted((work / "ledger").glob("*.jsonl")):
        for unit, entry in read_ledger(path).items():
            if path.stem in ("separate", "transcribe", "scan") and listed and unit not in listed:
                continue
            # the segment step repeats failures of the scan, which count once
            if entry.error and not (path.stem == "segment" and entry.error.startswith("scan: ")):
                by_reason.setdefault((path.stem, plain_reason(entry.error)), {})[unit] = entry.error
            for note in (entry.result or {}).get("notes", ()) if path.stem == "segment" else ():
                if note.startswith(LYRICS_LOST):
                    by_reason.setdefault((path.stem, plain_reason(note)), {})[unit] = note
    result = []
    for (step, pattern), units in by_reason.items():
        reason = pattern if len(set(units.values())) > 1 else next(iter(units.values()))
        result.append(Failure(step, reason, len(units), tuple(sorted(units)[:UNITS_SHOWN])))
    return tuple(sorted(result, key=lambda failure: (-failure.count, failure.step, failure.reason)))


def _recordings(work: Path) -> list[str]:
    """The ids in the catalog; none where there is no catalog."""
    import pyarrow.parquet as pq

    try:
        ids: list[str] = pq.read_table(work / "recordings.parquet", columns=["id"])["id"].to_pylist()
    except (OSError, ValueError, KeyError):
        return []
    return ids


def gather(work: Path, table: Table) -> CorpusReport:
    """The figures of a WORK."""
    hours = table["seconds"] / 3600
    classes, place = np.unique(table["licence"].astype(str), return_inverse=True)
    columns = {
        "activity": table["activity"], "kind": table["kind"], "split": table["split"], "corpus": table["corpus"],
        "language": table["language"], "licence": np.array([licence_class(text) for text in classes])[place],
    }  # fmt: skip
    sums = {name: _by(values, hours) for name, values in columns.items()}
    samples = {name: _has(table, name) for name in SAMPLE_TYPES}
    samples = {name: where for name, where in samples.items() if where.any()}
    sums["type"] = (
        {name: float(hours[where].sum()) for name, where in samples.items()},
        {name: int(where.sum()) for name, where in samples.items()},
    )
    owners = np.unique(np.stack([table[name].astype(str) for name in ("corpus", "identity", "split")]), axis=1)
    shards = sorted((work / "shards").glob("*.tar"))
    return CorpusReport(
        recordings=len(_recordings(work)),
        used=len(np.unique(table["recording"].astype(str))),
        hours={"all": {"all": float(hours.sum())}, **{name: amounts[0] for name, amounts in sums.items()}},
        segments={"all": {"all": len(hours)}, **{name: amounts[1] for name, amounts in sums.items()}},
        identities={split: int((owners[2] == split).sum()) for split in SPLITS},
        shared_identities=owners.shape[1] - np.unique(owners[:2], axis=1).shape[1],
        mixtures={
            f"{name}, {label}": mixed(table, weights, splits)
            for label, splits in (("train", ("train",)), ("all splits", SPLITS))
            for name, weights in MIXTURES.items()
        },
        failures=failures(work),
        shards={"files": len(shards), "bytes": sum(path.stat().st_size for path in shards)} if shards else {},
    )


def _split(table: Table, column: str, order: tuple[str, ...], values: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {name: values[table[column] == name] for name in order}


PLURALS = {
    "type": "types", "activity": "activities", "kind": "kinds", "split": "splits", "corpus": "corpora", "language": "languages",
    "licence": "licences",
}  # fmt: skip
"""Columns of the report that are drawn as bars, and the names of their pictures."""


def draw(table: Table, report: CorpusReport) -> dict[str, bytes]:
    """All pictures as PNG bytes, by name."""
    images = {
        f"{plural}.png": pictures.bars(report.hours[name], report.segments[name], name in ("type", "activity", "split"))
        for name, plural in PLURALS.items()
    }
    seconds, loudness = table["seconds"], table["loudness"]
    images["durations.png"] = pictures.histogram(
        _split(table, "activity", ACTIVITIES, seconds), np.arange(0.0, max(31.0, float(seconds.max()) + 1)), "seconds"
    )
    images["loudness.png"] = pictures.histogram(
        _split(table, "activity", ACTIVITIES, loudness),
        np.arange(2 * np.floor(min(loudness.min(), -30.0) / 2), 1.0, 2.0),
        "LUFS",
        (-18.0, "-18"),
    )
    has_words = table["known"] & (table["words"] > 0)
    if has_words.any():
        words = table["words"][has_words]
        step = max(1, -(-int(words.max()) // 30))
        edges = np.arange(0.0, float(words.max()) + step + 1, step)
        images["words.png"] = pictures.histogram({"lyrics": words}, edges, "words in a segment")
    rows = {name: (m.plain, m.required, m.paper) for name, m in report.mixtures.items()}
    images["mixtures.png"] = pictures.availability(rows)
    return images
