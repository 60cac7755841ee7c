"""Figures over songs from the rows of a store: mean, bootstrap interval, how many, how many failed and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from duotok.errors import MetricError
from duotok.evaluation.intervals import Interval, Resampling, draws, intervals, minimum_songs
from duotok.evaluation.results import ALL, Cell, Measure, Row

NOT_MEASURED = "not measured"
NAMED = 5
"""Items that are named where a value is missing."""


@dataclass(frozen=True)
class Summary:
    """One measure of one tokenizer on one track, over items (songs).

    n: items with a value; failures: items without; mean: None where n is 0; interval: None where the songs are fewer than it needs;
    reasons: why values are missing -> of which items; together: whether the value is one of all items that have any.
    """

    tokenizer: str
    instrument: str
    measure: Measure
    track: str
    n: int
    failures: int
    mean: float | None
    interval: Interval | None
    reasons: Mapping[str, tuple[str, ...]]
    together: bool = False

    def __str__(self) -> str:
        return format(self)

    def __format__(self, spec: str) -> str:
        """`1.472 [1.310, 1.634]`, without brackets for few songs, or why there is none; spec: a number's, e.g. `.2f`."""
        spec = spec or ".3f"
        if self.mean is None:
            return self.why
        if self.interval is None:
            return f"{self.mean:{spec}}"
        return f"{self.mean:{spec}} [{self.interval.low:{spec}}, {self.interval.high:{spec}}]"

    @property
    def why(self) -> str:
        """The most frequent reasons for missing values, with the items, "" where none is missing."""
        often = sorted(self.reasons.items(), key=lambda found: -len(found[1]))
        return "; ".join(reason_of(reason, items) for reason, items in often[:3])


def reason_of(reason: str, items: Sequence[str]) -> str:
    """Why items have no value, and which, for people: five by name and the number of the others."""
    names = [item for item in items if item != ALL]
    if not names:
        return reason
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{reason} (of {', '.join(names[:NAMED])}{more})"


def told(summary: Summary | None, spec: str = ".3f") -> str:
    """For a cell of a table, never blank: a mean with its interval and, where songs are missing, how many it is of (of a value of all
    songs together: how many are missing); or that there is none."""
    if summary is None:
        return NOT_MEASURED
    if summary.mean is None:
        return f"none (0 of {summary.failures})"
    if summary.together and summary.failures:
        return f"{summary:{spec}} (without {summary.failures})"
    return f"{summary:{spec}}" + (f" ({summary.n} of {summary.n + summary.failures})" if summary.failures else "")


def item_values(cell: Cell, measure: str, track: str) -> dict[str, float]:
    """Item -> its value, the mean over its parts. Items that failed are not there."""
    parts: dict[str, list[float]] = {}
    for row in cell.rows:
        if row.value is not None and (row.measure, row.track) == (measure, track):
            parts.setdefault(row.item, []).append(row.value)
    return {item: sum(values) / len(values) for item, values in parts.items()}


def mean_interval(values: Sequence[float], resampling: Resampling = Resampling()) -> Interval | None:
    """The mean of one value a song with its bootstrap interval over songs; None for fewer songs than one needs.

    Raises MetricError without any value.
    """
    if not len(values):
        raise MetricError("no values; a mean needs at least one")
    if len(values) < minimum_songs(resampling.level):
        return None
    replicates = draws(len(values), resampling, 0) @ np.array(values, dtype=np.float64)
    return intervals({"mean": replicates}, len(values), resampling)["mean"]


def mean_difference(
    first: Mapping[str, float], second: Mapping[str, float], resampling: Resampling = Resampling()
) -> Interval | None:
    """Mean of first - second over the items that both have, with its interval; None for fewer than it needs."""
    shared = sorted({*first} & {*second})
    return mean_interval([first[item] - second[item] for item in shared], resampling) if shared else None


def summarise(cells: Iterable[Cell], resampling: Resampling = Resampling()) -> list[Summary]:
    """Every measure and track of every cell, in the order of the cells and their definitions."""
    return [
        _summary(cell, measure, track, resampling)
        for cell in cells
        for measure in cell.measures
        for track in dict.fromkeys(row.track for row in cell.rows if row.measure == measure.name)
    ]


def _summary(cell: Cell, measure: Measure, track: str, resampling: Resampling) -> Summary:
    rows = [row for row in cell.rows if (row.measure, row.track) == (measure.name, track)]
    values = item_values(cell, measure.name, track)
    known = [values[item] for item in sorted(values)]  # in order of name: the same songs get the same draws
    missing = {row.item for row in rows} - values.keys()
    return Summary(
        cell.inputs.tokenizer, cell.inputs.instrument, measure, track, len(known), len(missing),
        sum(known) / len(known) if known else None,
        mean_interval(known, resampling) if known else None,
        _reasons(rows),
        values.keys() == {ALL},
    )  # fmt: skip


def _reasons(rows: Iterable[Row]) -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.value is None:
            found.setdefault(row.reason, {})[row.item] = None
    return {reason: tuple(items) for reason, items in found.items()}
