"""Small stores, studies and listening tests for reports: every value is drawn from a seed, so that tests know them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from duotok.codec.contract import Stream
from duotok.comparison.context import Point
from duotok.comparison.corruption import Corruption, CorruptionCost
from duotok.comparison.plan import ComparisonConfig
from duotok.comparison.study import Result
from duotok.comparison.table import TABLE, as_json
from duotok.evaluation.intervals import Interval
from duotok.evaluation.results import Cell, Inputs, Measure, Row
from duotok.evaluation.store import write_cell
from duotok.lm.streams import CodecIdentity
from duotok.lm.unigram import Unigram
from duotok.seals import seal
from duotok.tracks import TRACKS

MEL = Measure("mel", "seven-scale mel distance", "", "lower", "paper, table 1")
OWN = Measure("mel_own_rate", "the same at the codec's own rate", "", "lower")
PESQ = Measure("pesq", "PESQ wide band", "", "higher", "ITU-T P.862.2")
STOI = Measure("stoi", "intelligibility", "", "higher")
SONGS = 7
HASH = {"ours": "ab" * 32, "theirs": "cd" * 32}
DATA = {"folder": "songs", "songs": SONGS, "stretches": SONGS, "stretch": 30.0, "separated": 2, "separator": "mini"}
FACTS = {"sample_rate": 48_000, "frame_rate": 25.0, "streams": {"vocals": [512], "accompaniment": [512]}, "kbps": 0.45}


def cell(
    tokenizer: str, instrument: str, measures: Sequence[Measure], tracks: Sequence[str], *, model: str = "", data: str = "11" * 32,
    failing: Mapping[str, str] | None = None, about: Mapping[str, Any] | None = None, config: Mapping[str, Any] | None = None,
    scale: float = 1.0,
) -> Cell:  # fmt: skip
    """Seven songs with a drawn value each; failing: song -> the reason why it has none."""
    draw = np.random.default_rng([len(tokenizer), len(instrument)])
    rows = [
        Row(measure.name, track, f"song{i}", None, failing[f"song{i}"])
        if failing and f"song{i}" in failing
        else Row(measure.name, track, f"song{i}", scale * float(draw.uniform(0.5, 1.5)))
        for measure in measures
        for track in tracks
        for i in range(SONGS)
    ]
    found = {**FACTS, "data": DATA} if about is None else dict(about)
    inputs = Inputs(tokenizer, instrument, model or HASH.get(tokenizer, "ef" * 32), data, config or {"lufs": -14.0})
    return Cell(inputs, tuple(measures), tuple(rows), 3, {"python": "3.11", "torch": "2.9"}, found)


def usage(tokenizer: str) -> Cell:
    values = {
        "utilization": 0.871,
        "uniform_utilization": 0.936,
        "normalized_entropy": 0.812,
        "uniform_entropy": 0.981,
        "tokens": 9000.0,
    }
    measures = [Measure(name, f"what {name} is") for name in values]
    rows = [Row(name, track, "all", value) for track in TRACKS for name, value in values.items()]
    return Cell(
        Inputs(tokenizer, "usage", HASH[tokenizer], "11" * 32), tuple(measures), tuple(rows), 0, {}, {**FACTS, "data": DATA}
    )  # fmt: skip


def tagging(tokenizer: str, probe: str = "conformer") -> Cell:
    measures = (
        Measure("ap", "average precision of one tag", "", "higher"),
        Measure("auc", "area under the ROC curve", "", "higher"),
    )
    rows = [Row(m.name, "all", tag, 0.5) for m in measures for tag in ("rock", "pop")]
    about = {
        **FACTS, "data": "generated songs", "truth": False, "tags": 3, "measured_tags": ["rock", "pop"], "left_out": ["jazz"],
        "figures": {"ap": [0.417, 0.391, 0.443], "auc": [0.713, 0.688, 0.739], "ap.shuffled": [0.301, 0.281, 0.322]},
    }  # fmt: skip
    return Cell(Inputs(tokenizer, f"tagging.{probe}", HASH[tokenizer], "22" * 32), measures, tuple(rows), 0, {}, about)


def fill(folder: Path, tokenizers: Sequence[str] = ("ours", "theirs")) -> list[Cell]:
    """A store with every instrument that a table of the paper wants."""
    cells = []
    for name in tokenizers:
        failing = {"song3": "the vocals are silent"} if name == "theirs" else None
        cells += [
            cell(name, "reconstruction", [MEL, OWN], [*TRACKS, "mix"], failing=failing),
            cell(name, "matched-decoder", [PESQ, STOI, MEL], TRACKS, model="99" * 32, about={"steps": 100}),
            usage(name),
            tagging(name),
        ]
    for one in cells:
        write_cell(folder, one)
    return cells


def interval(value: float) -> Interval:
    return Interval(value, value - 0.011, value + 0.013)


def study(folder: Path, names: Sequence[str] = ("ours", "theirs"), digest: str = "") -> Result:
    """A folder as `duotok eval lm` leaves it."""
    config = ComparisonConfig(
        tokenizers={name: f"{name}.parquet" for name in names}, lm={"steps": 50, "seconds": 20}, corruption={}, context={}  # type: ignore[arg-type]
    )  # fmt: skip
    streams = (Stream("vocals", (512,)), Stream("accompaniment", (512,)))
    draw = np.random.default_rng(5)

    def figures(own: Sequence[str]) -> dict[str, Interval]:
        kinds = ("acc1", "acc5", "acc10", "acc50", "bpt", "cnbpt", "enbpt")
        found = {f"{s}.{kind}": interval(float(draw.uniform(0.2, 0.8))) for s in (*own, "average") for kind in kinds}
        return {**found, "total.cnbps": interval(24.4)}

    def counts(seed: int) -> dict[str, tuple[Unigram, ...]]:
        rng = np.random.default_rng(seed)
        return {t: (Unigram(rng.integers(1, 9, 512)),) for t in TRACKS}

    corruptions = [
        Corruption("shift", 1.0),
        Corruption("shift", 4.0),
        Corruption("mask", 0.2),
        Corruption("mask", 0.5),
        Corruption("mismatch"),
    ]
    result = Result(
        config, {n: CodecIdentity(n, digest or HASH.get(n, "77" * 32), 25.0, 48_000, streams) for n in names},
        {n: counts(1) for n in names}, {n: counts(2) for n in names}, 31, 1.25,
        {"parallel": {n: figures(TRACKS) for n in names}, "vocals-to-accompaniment": {n: figures(["accompaniment"]) for n in names}},
        {}, {"vocals-to-accompaniment": {n: [CorruptionCost(c, interval(float(draw.uniform(1, 9)))) for c in corruptions] for n in names}},
        {"parallel": {n: [Point(s, interval(0.6 - s / 100), interval(-s / 100)) for s in (5.0, 10.0, 20.0)] for n in names}}, {},
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TABLE).write_text(json.dumps(seal({**as_json(result), "files": {}})))
    return result


def listening(folder: Path) -> dict[str, Any]:
    """A folder as `duotok listen report` leaves it."""
    means = {
        name: {
            "value": value,
            "low": value - 0.2,
            "high": value + 0.25,
            "over": "raters and songs",
            "ratings": 80,
            "raters": 10,
            "songs": 8,
        }
        for name, value in (("reference", 4.71), ("ours", 3.28))
    }
    values = {
        "made_by": "duotok listen report", "version": "0.1.0", "test": {"method": "mos", "title": "first", "systems": {"ours": "a folder"}},
        "interval": "95%, two-way clustered over raters and songs", "screened": {"raters": 10, "ratings": 160, "means": {"vocals": means}},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(seal(values)))
    return values
