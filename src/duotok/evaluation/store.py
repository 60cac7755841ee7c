"""The store of results: what every instrument writes and every table reads. A folder with two files a cell, which is one
tokenizer under one instrument:

    INSTRUMENT.TOKENIZER.parquet    a row a value: tokenizer, instrument, measure, track, item, part, value, reason
    INSTRUMENT.TOKENIZER.json       sealed: what it was measured with and on, what the measures mean, what failed and why

A row has a value or the reason why there is none, never both and never NaN. The JSON is written last and has the hash of the
table, so a cell is whole, or it is told to be damaged (docs/evaluation.md). Its `summaries` are means over songs with 95 %
intervals, as tables show them; rows that stand for tags or codebooks have their intervals in `about`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from duotok.errors import MissingExtraError
from duotok.evaluation.results import Cell, Inputs, Measure, ResultsError, Row, plain_name
from duotok.evaluation.summaries import summarise
from duotok.files import fitted, sha256, text_of, write_bytes, writing
from duotok.seals import is_sealed, read_json, seal, unsealed

FORMAT = 1
"""Version of the store: of its columns and of the keys of its JSON."""
KIND = "duotok results"
COLUMNS = ("tokenizer", "instrument", "measure", "track", "item", "part", "value", "reason")
MEASURED = "measured"
"""How the reason begins why a cell that is there does not count as done."""


def files_of(folder: Path, tokenizer: str, instrument: str) -> tuple[Path, Path]:
    """The table and the JSON of a cell."""
    stem = plain_name(f"{instrument}.{tokenizer}")
    return folder / fitted(stem, ".parquet"), folder / fitted(stem, ".json")


# -- writing -----------------------------------------------------------------------------------------------------------


def write_cell(folder: str | Path, cell: Cell) -> Path:
    """Write a cell, replacing the one of this tokenizer and instrument; the path of its JSON.

    Raises ResultsError where a cell of a newer store would be replaced or a measure is not defined, MissingExtraError without
    pyarrow, OSError.
    """
    pa, pq = _arrow()
    undefined = {row.measure for row in cell.rows} - {measure.name for measure in cell.measures}
    if undefined:
        raise ResultsError(
            f"{cell.inputs.instrument}: no definition of {', '.join(sorted(undefined))}; define every measure"
        )
    table_path, path = files_of(Path(folder), cell.inputs.tokenizer, cell.inputs.instrument)
    _check_replaceable(path)
    text = pa.string()
    schema = pa.schema([(name, pa.float64() if name == "value" else text) for name in COLUMNS])
    names = {"tokenizer": text_of(cell.inputs.tokenizer), "instrument": cell.inputs.instrument}
    rows = [
        {**names, **dataclasses.asdict(row), "item": text_of(row.item), "reason": text_of(row.reason) or None}
        for row in cell.rows
    ]
    with writing(table_path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema), partial, compression="zstd", write_page_checksum=True)
    values = {
        "format": FORMAT,
        "kind": KIND,
        **dataclasses.asdict(cell.inputs),
        "seed": cell.seed,
        "versions": dict(cell.versions),
        "about": dict(cell.about),
        "measures": [dataclasses.asdict(measure) for measure in cell.measures],
        "failures": [
            {
                "measure": r.measure,
                "track": r.track,
                "item": text_of(r.item),
                "part": r.part,
                "reason": text_of(r.reason),
            }
            for r in cell.failures
        ],
        "summaries": [
            {
                "measure": s.measure.name,
                "track": s.track,
                "value": s.mean,
                "n": s.n,
                "failures": s.failures,
                "interval": None if s.interval is None else [s.interval.low, s.interval.high],
            }
            for s in summarise([cell])
        ],
        "rows": len(cell.rows),
        "sha256": {table_path.name: sha256(table_path)},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_bytes(path, (json.dumps(seal(values), indent=1, allow_nan=False) + "\n").encode())
    return path


def _check_replaceable(path: Path) -> None:
    try:
        text = path.read_bytes()
    except OSError:
        return  # there is none
    if KIND.encode() not in text:
        raise ResultsError(f"{path}: no results of DuoTok, left alone; choose another folder")
    try:
        version = json.loads(text)["format"]
    except (ValueError, KeyError, TypeError):
        return  # a damaged cell
    if isinstance(version, int) and version > FORMAT:
        raise ResultsError(f"{path}: of a newer store ({version}, this DuoTok writes {FORMAT}); choose another folder")


# -- reading -----------------------------------------------------------------------------------------------------------


def read_cell(path: Path) -> Cell:
    """A cell from its JSON. Raises ResultsError when it is damaged, foreign or of another version, MissingExtraError without
    pyarrow."""
    values = _values(path)
    _, pq = _arrow()
    try:
        ((table_name, expected),) = values["sha256"].items()
        table_path = path.with_name(table_name)
        if table_path.parent != path.parent or sha256(table_path) != expected:
            raise ResultsError(f"{table_path}: not as it was written; measure it again")
        table = pq.read_table(table_path)
        if tuple(table.schema.names) != COLUMNS:
            raise ValueError("columns")
        rows = tuple(
            Row(r["measure"], r["track"], r["item"], r["value"], r["reason"] or "", r["part"])
            for r in table.to_pylist()
        )
        inputs = Inputs(*(values[f.name] for f in dataclasses.fields(Inputs)))
        return Cell(
            inputs, tuple(Measure(**measure) for measure in values["measures"]), rows,
            values["seed"], values["versions"], values["about"], values["created"],
        )  # fmt: skip
    except OSError as error:
        raise ResultsError(f"{path}: its table cannot be read ({error.strerror}); measure it again") from None
    except (ValueError, KeyError, TypeError):
        raise ResultsError(f"{path}: damaged; measure it again") from None


def _values(path: Path) -> dict[str, Any]:
    try:
        values = read_json(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no valid JSON"
        raise ResultsError(f"{path}: cannot be read ({reason}); measure it again") from None
    if not isinstance(values, dict) or values.get("kind") != KIND:
        raise ResultsError(f"{path}: no results of DuoTok; take it out of the folder")
    if values.get("format") != FORMAT:
        raise ResultsError(
            f"{path}: store format {values.get('format')}, this DuoTok reads {FORMAT}; measure it again in a new folder"
        )
    if not is_sealed(values):
        raise ResultsError(f"{path}: not as it was written; measure it again")
    return unsealed(values)


def read_cells(folder: str | Path) -> tuple[list[Cell], list[str]]:
    """All cells of a store by name, and one line for each that cannot be used.

    Raises ResultsError when there is no such folder, or not one cell in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ResultsError(f"{folder}: no such folder; a store of results is made by `duotok eval`")
    cells, problems = list[Cell](), list[str]()
    for path in sorted(folder.glob("*.json")):
        try:
            cells.append(read_cell(path))
        except ResultsError as error:
            problems.append(str(error))
    problems += [
        f"{path}: a table without its JSON; measure it again"
        for path in sorted(folder.glob("*.parquet"))
        if not path.with_suffix(".json").is_file()
    ]
    if not cells:
        raise ResultsError(problems[0] if problems else f"{folder}: no results in it; `duotok eval` writes them")
    return cells, problems


def why_not_done(folder: str | Path, inputs: Inputs) -> str:
    """ "" when the store holds the cell of exactly these inputs, whole; otherwise why it must be measured, for people."""
    _, path = files_of(Path(folder), inputs.tokenizer, inputs.instrument)
    if not path.is_file():
        return "not measured yet"
    try:
        cell = read_cell(path)
    except ResultsError as error:
        return str(error)
    found = cell.inputs
    if cell.gap:
        return f"could not be measured before ({cell.gap})"
    if found.model_hash != inputs.model_hash:
        return f"{MEASURED} with another model ({found.model_hash[:8]}, now {inputs.model_hash[:8]})"
    if found.data_hash != inputs.data_hash:
        return f"{MEASURED} on other data ({found.data_hash[:8]}, now {inputs.data_hash[:8]})"
    changed = sorted(
        key for key in {*found.config, *inputs.config} if found.config.get(key) != _plain(inputs.config.get(key))
    )
    if changed:
        was, now = found.config.get(changed[0]), inputs.config.get(changed[0])
        return f"{MEASURED} with other settings ({changed[0]} {was}, now {now})"
    return "" if found.tokenizer == inputs.tokenizer else f"{path.name} is of {found.tokenizer}"


def _plain(value: Any) -> Any:
    """As it comes back from JSON: tuples are lists."""
    return json.loads(json.dumps(value))


OWN: dict[str, tuple[str, ...]] = {
    "reconstruction": ("sound", "streams"), "stability": ("sound", "streams"), "usage": ("streams",), "leakage": ("lm", "sound"),
}  # fmt: skip
"""Settings that belong to the tokenizer: instrument -> keys in which cells of one table may differ."""


def _shared(cell: Cell) -> dict[str, Any]:
    own = OWN.get(cell.inputs.instrument, ())
    return {key: value for key, value in cell.inputs.config.items() if key not in own}


def comparable(cells: Iterable[Cell]) -> tuple[list[Cell], list[str]]:
    """The cells that may stand in one table, and a line for each that may not: of an instrument the newest one says which data and
    settings count, and what was measured on other data or with other settings is left out. Gaps stay: they have no figure."""
    chosen, problems = list[Cell](), list[str]()
    by_instrument: dict[str, list[Cell]] = {}
    for cell in cells:
        by_instrument.setdefault(cell.inputs.instrument, []).append(cell)
    for name, group in by_instrument.items():
        newest = max(group, key=lambda cell: (not cell.gap, cell.created))
        for cell in group:
            if cell.gap:
                chosen.append(cell)
                continue
            what = "data" if cell.inputs.data_hash != newest.inputs.data_hash else "settings"
            if what == "settings" and _shared(cell) == _shared(newest):
                chosen.append(cell)
                continue
            problems.append(
                f"{name} of {cell.inputs.tokenizer}: measured on other {what} than {newest.inputs.tokenizer}, left out; measure it again"
            )
    return chosen, problems


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("the store of results needs pyarrow: pip install 'duotok[eval]'") from None
    return pyarrow, pyarrow.parquet
