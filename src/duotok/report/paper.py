"""The paper's own figures, as text: what it printed, for tables that show ours beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml

FILE = Path(__file__).parent / "paper.yaml"


@dataclass(frozen=True)
class PaperTable:
    """One table. columns: names of its figures; rows: text as printed, "" where there is none."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __iter__(self) -> Iterator[Mapping[str, str]]:
        """Its rows by column."""
        return (dict(zip(self.columns, row, strict=True)) for row in self.rows)


@lru_cache(maxsize=1)
def paper() -> dict[str, PaperTable]:
    """Every table, `table-1` to `table-11` and `figure3`."""
    # The base loader reads every number as the text that it is: 6.00 stays 6.00.
    values = yaml.load(FILE.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    return {
        name: PaperTable(tuple(of["columns"]), tuple(tuple(row) for row in of["rows"]))
        for name, of in values["tables"].items()
    }
