"""The store of results: what goes in comes out, nothing damaged or foreign does, and nothing is blank."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duotok.errors import MetricError
from duotok.evaluation.intervals import Resampling, minimum_songs
from duotok.evaluation.results import Cell, Inputs, Measure, ResultsError, Row, hash_of_files, row_of, versions_of
from duotok.evaluation.store import COLUMNS, comparable, files_of, read_cell, read_cells, why_not_done, write_cell
from duotok.evaluation.summaries import mean_difference, mean_interval, summarise
from duotok.seals import seal, unsealed

MEASURES = (Measure("mel", "distance of mels", better="lower"), Measure("pesq", "PESQ wide band", better="higher"))
INPUTS = Inputs("dac", "reconstruction", "m" * 64, "d" * 64, {"seconds": 30, "measures": ("mel", "pesq")})
ROWS = (
    Row("mel", "vocals", "a", 1.0, part="0 s"),
    Row("mel", "vocals", "a", 3.0, part="30 s"),
    Row("mel", "vocals", "b", 4.0),
    Row("pesq", "vocals", "a", None, "silence"),
    Row("pesq", "vocals", "b", None, "silence"),
    Row("mel", "accompaniment", "b", None, "shorter than 30 s"),
)


def cell(**changes: Any) -> Cell:
    return Cell(
        dataclasses.replace(INPUTS, **changes),
        MEASURES,
        ROWS,
        7,
        versions_of("torch", "no-such-package"),
        {"kbps": 0.75},
    )


def test_a_cell_comes_back_as_it_was(tmp_path: Path) -> None:
    path = write_cell(tmp_path, cell())
    found = read_cell(path)
    assert found.rows == ROWS and found.measures == MEASURES and found.seed == 7 and found.about == {"kbps": 0.75}
    assert found.versions["no-such-package"] == "not installed" and found.versions["torch"].startswith("2.")
    assert (found.inputs.tokenizer, found.inputs.data_hash) == ("dac", "d" * 64) and found.created.startswith("20")
    values = json.loads(path.read_text())
    assert [f["reason"] for f in values["failures"]] == ["silence", "silence", "shorter than 30 s"]
    assert values["measures"][0]["definition"] == "distance of mels" and values["format"] == 1
    assert values["summaries"][0] == {
        "measure": "mel", "track": "vocals", "value": 3.0, "n": 2, "failures": 0, "interval": None
    }  # fmt: skip
    assert [(s["n"], s["failures"], s["value"]) for s in values["summaries"][1:]] == [(0, 1, None), (0, 2, None)]
    import pyarrow.parquet as pq

    table = pq.read_table(path.with_suffix(".parquet"))
    assert tuple(table.schema.names) == COLUMNS and set(table["tokenizer"].to_pylist()) == {"dac"}
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["reconstruction.dac.json", "reconstruction.dac.parquet"]


def test_whoever_reads_the_json_alone_has_means_with_intervals(tmp_path: Path) -> None:
    rows = tuple(Row("mel", "vocals", f"s{n}", float(n)) for n in range(8))
    made = Cell(INPUTS, MEASURES, rows)
    (of_file,) = json.loads(write_cell(tmp_path, made).read_text())["summaries"]
    (found,) = summarise([made])
    assert found.interval is not None and of_file["interval"] == [found.interval.low, found.interval.high]
    assert (of_file["value"], of_file["n"]) == (3.5, 8)


def test_no_row_is_blank_or_nan() -> None:
    for value, reason in ((None, ""), (math.nan, ""), (math.inf, ""), (1.0, "and a reason")):
        with pytest.raises(ValueError, match="mel of a"):
            Row("mel", "vocals", "a", value, reason)
    assert row_of("mel", "vocals", "a", math.nan, "silent") == Row("mel", "vocals", "a", None, "silent")
    assert row_of("mel", "vocals", "a", 2.0, "silent").value == 2.0


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"model_hash": "n" * 64}, "measured with another model (mmmmmmmm, now nnnnnnnn)"),
        ({"data_hash": "e" * 64}, "measured on other data (dddddddd, now eeeeeeee)"),
        ({"config": {"seconds": 10, "measures": ["mel", "pesq"]}}, "measured with other settings (seconds 30, now 10)"),
        ({"config": {**INPUTS.config, "rate": 16_000}}, "measured with other settings (rate None, now 16000)"),
        ({"tokenizer": "opus"}, "not measured yet"),
    ],
)  # fmt: skip
def test_done_means_exactly_these_inputs(changes: dict[str, Any], why: str, tmp_path: Path) -> None:
    write_cell(tmp_path, cell())
    assert why_not_done(tmp_path, dataclasses.replace(INPUTS, **changes)) == why


def test_a_damaged_cell_is_named_and_the_others_arrive(tmp_path: Path) -> None:
    paths = [write_cell(tmp_path, cell(tokenizer=name)) for name in ("a", "b", "c", "d", "e", "f")]
    paths[0].write_text(paths[0].read_text().replace('"seed": 7', '"seed": 8'))
    table = paths[1].with_suffix(".parquet")
    table.write_bytes(table.read_bytes()[:-1])
    paths[2].write_text(json.dumps(seal({**unsealed(json.loads(paths[2].read_text())), "format": 2})))
    paths[3].unlink()
    paths[4].write_text("{}")
    with pytest.raises(ResultsError, match="no results of DuoTok, left alone"):
        write_cell(tmp_path, cell(tokenizer="e"))
    cells, problems = read_cells(tmp_path)
    assert [c.inputs.tokenizer for c in cells] == ["f"]
    assert [p.partition(": ")[2] for p in problems] == [
        "not as it was written; measure it again",
        "not as it was written; measure it again",
        "store format 2, this DuoTok reads 1; measure it again in a new folder",
        "no results of DuoTok; take it out of the folder",
        "a table without its JSON; measure it again",
    ]
    assert all(len(p.splitlines()) == 1 and str(tmp_path) in p for p in problems)
    for name in ("a", "b"):
        assert why_not_done(tmp_path, dataclasses.replace(INPUTS, tokenizer=name)).endswith("measure it again")
    with pytest.raises(ResultsError, match="of a newer store"):
        write_cell(tmp_path, cell(tokenizer="c"))
    write_cell(tmp_path, cell(tokenizer="a"))
    assert len(read_cells(tmp_path)[0]) == 2


def test_stores_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no such folder"):
        read_cells(tmp_path / "none")
    with pytest.raises(ResultsError, match="no results in it"):
        read_cells(tmp_path)
    with pytest.raises(ResultsError, match="no definition of stoi"):
        write_cell(tmp_path, dataclasses.replace(cell(), rows=(Row("stoi", "vocals", "a", 1.0),)))
    assert list(tmp_path.iterdir()) == []


def test_names_that_files_cannot_have(tmp_path: Path) -> None:
    names = ("transformers:models/dac", "transformers_models_dac", "é", "x" * 300)
    for name in names:
        write_cell(tmp_path, cell(tokenizer=name))
    assert sorted(c.inputs.tokenizer for c in read_cells(tmp_path)[0]) == sorted(names)
    assert all(why_not_done(tmp_path, dataclasses.replace(INPUTS, tokenizer=name)) == "" for name in names)


def test_cells_of_other_data_are_left_out_and_named(tmp_path: Path) -> None:
    old, new = cell(tokenizer="old", data_hash="e" * 64), cell(tokenizer="new")
    other = cell(tokenizer="other", config={"seconds": 10})
    chosen, problems = comparable(
        [dataclasses.replace(c, created=f"2026-11-2{i}") for i, c in enumerate((old, other, new))]
    )
    assert [c.inputs.tokenizer for c in chosen] == ["new"]
    assert problems == [
        "reconstruction of old: measured on other data than new, left out; measure it again",
        "reconstruction of other: measured on other settings than new, left out; measure it again",
    ]


def test_settings_of_the_tokenizer_keep_no_cell_out() -> None:
    """Its language model and what decodes it are its own; the rest of the settings are everybody's."""
    own = {"seconds": 20, "lm": "lm 0123", "sound": "s" * 64}
    for instrument, config, together in (
        ("leakage", {"seconds": 20, "lm": ""}, True),
        ("leakage", {"seconds": 10, "lm": ""}, False),
        ("reconstruction", {"seconds": 20, "lm": "lm 0123"}, True),
        ("reconstruction", {"seconds": 20, "lm": ""}, False),
    ):
        one = cell(tokenizer="one", instrument=instrument, config=own)
        other = cell(tokenizer="other", instrument=instrument, config=config)
        chosen, problems = comparable([one, other])
        assert (len(chosen), len(problems)) == ((2, 0) if together else (1, 1)), (instrument, config)
        assert all(found in (one, other) for found in chosen), "as they were"


def test_parts_are_averaged_before_songs_and_reasons_are_counted() -> None:
    mel, mel_accompaniment, pesq = summarise([cell()])
    assert (mel.track, mel.n, mel.failures, mel.mean) == ("vocals", 2, 0, 3.0)
    assert mel.interval is None and f"{mel:.2f}" == "3.00"
    assert (mel_accompaniment.n, mel_accompaniment.failures, str(mel_accompaniment)) == (
        0,
        1,
        "shorter than 30 s (of b)",
    )
    assert (pesq.n, pesq.failures, pesq.mean, str(pesq)) == (0, 2, None, "silence (of a, b)")


def test_intervals_over_songs() -> None:
    values = np.random.default_rng(0).normal(5, 2, 40)
    found = mean_interval(values.tolist(), Resampling(replicates=1000))
    assert found is not None and found.value == pytest.approx(values.mean())
    half = 2.023 * values.std(ddof=1) / math.sqrt(40)  # of a t distribution
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
    assert mean_interval([1.0] * (minimum_songs(0.95) - 1)) is None and mean_interval([1.0] * 6) is not None
    with pytest.raises(MetricError, match="at least one"):
        mean_interval([])
    first = {f"{i}": float(v) for i, v in enumerate(values)}
    gap = mean_difference(first, {**{name: value - 1 for name, value in first.items()}, "only here": 9.0})
    assert gap is not None and (gap.low, gap.high) == (pytest.approx(1), pytest.approx(1))


def test_the_hash_of_files_is_of_names_and_contents(tmp_path: Path) -> None:
    one, two = tmp_path / "1.wav", tmp_path / "2.wav"
    one.write_bytes(b"one")
    two.write_bytes(b"two")
    found = hash_of_files({"a": [one], "b": [two]})
    assert found == hash_of_files({"b": [two], "a": [one]}) != hash_of_files({"a": [two], "b": [one]})
    two.write_bytes(b"two!")
    assert hash_of_files({"a": [one], "b": [two]}) != found
    assert files_of(tmp_path, "x", "y")[0].parent == tmp_path
