"""How experiments work: units on workers, kept in the ledger of the store; and what becomes of a tokenizer that has no answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from duotok.data.engines import Function
from duotok.data.jobs import Engine, LocalEngine, Results, Unit, run_units
from duotok.errors import DuoTokError
from duotok.evaluation.results import ALL, Cell, Inputs, Measure, Row, versions_of
from duotok.evaluation.store import files_of, read_cell, write_cell

LEDGER = "ledger"
"""Folder in a store: what is done."""
Report = Callable[[str], None]
Intact = Callable[[Unit, dict[str, Any]], bool]


@dataclass(frozen=True)
class Runner:
    """store: folder of results; retry: measure again what failed; force: everything; say: a line for people."""

    store: Path
    engine: Engine = field(default_factory=LocalEngine)
    retry: bool = False
    force: bool = False
    say: Report = lambda _: None

    def run(
        self, experiment: str, what: str, function: Function, units: Sequence[Unit], intact: Intact = lambda *_: True
    ) -> Results:
        """The results of units of an experiment; those of an earlier run are kept. A unit that fails stops no other.

        intact: whether what a done unit left is still there. Raises JobError as `run_units`.
        """
        if not units:
            return Results()

        def kept(unit: Unit, result: dict[str, Any]) -> bool:
            return not self.force and not (self.retry and result.get("failed")) and intact(unit, result)

        ledger = self.store / LEDGER / "experiments" / f"{experiment}.jsonl"
        retry = self.retry or self.force
        return run_units(function, units, ledger, self.engine, f"{experiment}: {what}", retry=retry, intact=kept)


@dataclass
class Found:
    """What an experiment ended with: its cells, and a line for each thing that went wrong."""

    cells: list[Cell] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Gap:
    """A tokenizer that an experiment cannot measure, and why, with what would mend it. model_hash: "" where it does not even open."""

    tokenizer: str
    model_hash: str
    reason: str


def write_gap(store: Path, inputs: Inputs, measures: Sequence[Measure], reason: str) -> Cell:
    """A cell without a value, whose rows say why; a measured one of the same model is left as it is, and returned."""
    try:
        there = read_cell(files_of(store, inputs.tokenizer, inputs.instrument)[1])
        if there.inputs.model_hash == inputs.model_hash and not there.gap:
            return there
    except DuoTokError:
        pass  # none, or a damaged one
    rows = tuple(Row(measure.name, ALL, ALL, None, reason) for measure in measures)
    write_cell(store, Cell(inputs, tuple(measures), rows, 0, versions_of(), {"gap": reason}))
    return read_cell(files_of(store, inputs.tokenizer, inputs.instrument)[1])
