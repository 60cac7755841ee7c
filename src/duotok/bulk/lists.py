"""The rows of a list of songs: a path or URL a line, or a table in CSV, TSV or Parquet."""

from __future__ import annotations

import codecs
import csv
import os
from collections.abc import Iterator
from typing import Any

from duotok.bulk.places import opened_file
from duotok.tracks import TRACKS

LISTS = (".txt", ".m3u", ".m3u8", ".csv", ".tsv", ".parquet")
ROLES = ("mix", *TRACKS)
COLUMNS = ("path", *ROLES, "id", "split", "identity")
ROWS = 10_000
"""Rows of a Parquet list that are read at a time."""


def rows_of(uri: str, ending: str) -> tuple[Iterator[dict[str, Any]], list[str]]:
    """The rows by column, and the names of the columns that are none of COLUMNS. Raises OSError, ValueError and csv.Error."""
    if ending in (".csv", ".tsv"):
        table = csv.DictReader(_lines(uri), delimiter="\t" if ending == ".tsv" else ",")
        return table, _unread(table.fieldnames or ())
    if ending == ".parquet":
        return _parquet_rows(uri), _unread(_parquet_columns(uri))
    return _line_rows(uri), []


def _unread(columns: Any) -> list[str]:
    """As they are written where that can be seen, so that " path" or "Split" shows."""
    return [column if column == column.strip() != "" else repr(column) for column in columns if column not in COLUMNS]


def _lines(uri: str) -> Iterator[str]:
    with opened_file(uri) as file:
        for number, line in enumerate(file):
            yield os.fsdecode(line if number else line.removeprefix(codecs.BOM_UTF8))  # spreadsheets write it


def _line_rows(uri: str) -> Iterator[dict[str, Any]]:
    for line in _lines(uri):
        text = line.strip()
        if text and not text.startswith("#"):
            yield {"path": text}


def _parquet_columns(uri: str) -> list[str]:
    import pyarrow.parquet as pq

    with opened_file(uri) as file:
        return list(pq.ParquetFile(file).schema_arrow.names)


def _parquet_rows(uri: str) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with opened_file(uri) as file:
        table = pq.ParquetFile(file)
        columns = [column for column in table.schema_arrow.names if column in COLUMNS]
        for batch in table.iter_batches(ROWS, columns=columns):
            yield from batch.to_pylist()
