"""Everything that a report is made of: cells of stores, studies of predictability, listening tests; and what cannot be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from duotok.comparison.table import TABLE
from duotok.errors import DuoTokError
from duotok.evaluation.results import Cell
from duotok.evaluation.store import comparable, read_cells
from duotok.evaluation.summaries import Summary, summarise
from duotok.report.studies import LM, ReportError, Study, of_cells, read_table
from duotok.seals import is_sealed, read_json, unsealed

LISTENING, LISTENED_BY = "report.json", "duotok listen report"
"""File of a listening test's result, and what it says that it was made by."""
RETRAINED = ("matched-decoder",)
"""Instruments whose cells are of something made from a tokenizer, and so have hashes of their own."""


@dataclass(frozen=True)
class Listening:
    """A listening test: its result as `duotok listen report` wrote it. scores: track -> condition -> its mean."""

    name: str
    values: Mapping[str, Any]

    @property
    def scores(self) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
        found: Mapping[str, Mapping[str, Mapping[str, Any]]] = self.values["screened"]["means"]
        return found


@dataclass(frozen=True)
class Sources:
    """cells: those that may stand in one table; problems: one line for each thing that is left out or does not fit."""

    cells: tuple[Cell, ...] = ()
    studies: tuple[Study, ...] = ()
    listening: tuple[Listening, ...] = ()
    problems: tuple[str, ...] = ()
    _summaries: dict[str, list[Summary]] = field(default_factory=dict, compare=False, repr=False)

    def of(self, instrument: str) -> list[Cell]:
        """The cells of an instrument."""
        return [cell for cell in self.cells if cell.inputs.instrument == instrument]

    def summaries(self, instrument: str) -> list[Summary]:
        """Means over songs of every cell of an instrument, computed once."""
        if instrument not in self._summaries:
            self._summaries[instrument] = summarise(self.of(instrument))
        return self._summaries[instrument]

    def found(self, instrument: str) -> dict[tuple[str, str, str], Summary]:
        """(tokenizer, measure, track) -> summary."""
        return {(s.tokenizer, s.measure.name, s.track): s for s in self.summaries(instrument)}

    @property
    def instruments(self) -> list[str]:
        return list(dict.fromkeys(cell.inputs.instrument for cell in self.cells))

    @property
    def tokenizers(self) -> list[str]:
        """Names in the order in which they come, first those of cells."""
        names = [cell.inputs.tokenizer for cell in self.cells]
        return list(dict.fromkeys([*names, *(name for study in self.studies for name in study.tokenizers)]))

    def is_anchor(self, name: str) -> bool:
        """Whether it is a control or a classical codec, which has no tokens."""
        return any(cell.about.get("anchor") for cell in self.cells if cell.inputs.tokenizer == name)

    def rate_of(self, anchor: str) -> float | None:
        """kbit/s of one track of an anchor, as measured; None where no cell says it."""
        rates = [cell.about.get("kbps") for cell in self.cells if cell.inputs.tokenizer == anchor]
        return next((rate for rate in rates if isinstance(rate, int | float)), None)

    def facts(self, tokenizer: str) -> dict[str, Any]:
        """Rates, streams and kbit/s of a tokenizer, from whatever knows them."""
        for cell in self.cells:
            if cell.inputs.tokenizer == tokenizer and "frame_rate" in cell.about and "streams" in cell.about:
                return {"frame_rate": cell.about["frame_rate"], "streams": cell.about["streams"]}
        for study in self.studies:
            if tokenizer in study.frame_rates and tokenizer in study.sizes:
                return {"frame_rate": study.frame_rates[tokenizer], "streams": dict(study.sizes[tokenizer])}
        return {}


def gather(folders: Sequence[Path]) -> Sources:
    """Read stores, folders of `duotok eval lm` and of `duotok listen report`, in any mixture. Raises ReportError when nothing in any
    of them can be used."""
    cells, studies, listening, problems = list[tuple[Path, Cell]](), list[Study](), list[Listening](), list[str]()
    for folder in {folder.resolve(): folder for folder in folders}.values():
        for read in (_study, _listening, _store):
            try:
                found, lines = read(folder)
            except DuoTokError as error:
                problems.append(str(error))
                continue
            problems += lines
            studies += [_named_apart(one, folder, studies) for one in found if isinstance(one, Study)]
            listening += [one for one in found if isinstance(one, Listening)]
            cells += [(folder, one) for one in found if isinstance(one, Cell)]
    kept, lines = _one_of_each(cells)
    problems += lines
    chosen, lines = comparable(kept)
    problems += lines
    of_study = [cell for cell in chosen if cell.inputs.instrument == LM]
    if of_study:
        try:
            studies.insert(0, of_cells(of_study))
        except ReportError as error:
            problems.append(str(error))
    problems += _other_models(chosen, studies)
    if not (chosen or studies or listening):
        raise ReportError(problems[0] if problems else f"{folders[0]}: nothing to report; `duotok eval` fills a store")
    return Sources(tuple(chosen), tuple(studies), tuple(listening), tuple(dict.fromkeys(problems)))


def _named_apart(study: Study, folder: Path, others: Sequence[Study]) -> Study:
    """Under a name that no other has, nor that of a store: the last part of its folder, or as many of them as that takes."""
    parts, names = folder.resolve().parts, {LM, *(other.name for other in others)}
    name = next((name for count in range(1, len(parts)) if (name := "/".join(parts[-count:])) not in names), study.name)
    return replace(study, name=name)


Found = tuple[list[Study | Listening | Cell], list[str]]


def _study(folder: Path) -> Found:
    return ([read_table(folder)] if (folder / TABLE).is_file() else []), []


def _listening(folder: Path) -> Found:
    path = folder / LISTENING
    try:
        values = read_json(path.read_bytes())
        if values["made_by"] != LISTENED_BY:
            return [], []
        if not is_sealed(values):
            raise ValueError("not as it was written")
        found = Listening(folder.name, unsealed(values))
        for of in found.scores.values():
            for mean in of.values():
                float(mean["value"]), int(mean["ratings"]), int(mean["raters"])
        return [found], []
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise ReportError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ReportError(f"{path}: no result of `duotok listen report`, or damaged; make it again") from None


def _store(folder: Path) -> Found:
    """Cells of a store. A folder of `eval lm` or of a listening test is none, and needs none."""
    others = {folder / TABLE, folder / LISTENING}
    files = [path for ending in ("json", "parquet") for path in folder.glob(f"*.{ending}") if path not in others]
    if folder.is_dir() and not files and any(path.is_file() for path in others):
        return [], []
    cells, problems = read_cells(folder)
    return [*cells], [line for line in problems if not line.startswith(tuple(f"{path}: " for path in others))]


def _one_of_each(cells: Sequence[tuple[Path, Cell]]) -> tuple[list[Cell], list[str]]:
    """One cell for each tokenizer and instrument, the newest that was measured, and a line where stores do not agree on it."""
    groups: dict[tuple[str, str], list[tuple[Path, Cell]]] = {}
    for folder, cell in cells:
        groups.setdefault((cell.inputs.tokenizer, cell.inputs.instrument), []).append((folder, cell))
    kept, problems = list[Cell](), list[str]()
    for (tokenizer, instrument), group in groups.items():
        # a gap only where nothing was measured; of equally new ones, that of the folder which was named last
        place, newest = max(reversed(group), key=lambda one: (not one[1].gap, one[1].created))
        kept.append(newest)
        for folder, cell in group:
            what = _difference(cell, newest)
            if what and not (cell.gap and not newest.gap):
                problems.append(
                    f"{instrument} of {tokenizer}: {place} and {folder} disagree ({what}); the newer one, of {place}, is shown"
                )
    return kept, problems


def _difference(one: Cell, other: Cell) -> str:
    a, b = one.inputs, other.inputs
    if a.model_hash != b.model_hash:
        return f"two models: {b.model_hash[:8]} and {a.model_hash[:8]}"
    if a.data_hash != b.data_hash:
        return f"other data: {b.data_hash[:8]} and {a.data_hash[:8]}"
    return "other settings" if a.config != b.config else ""


def _other_models(cells: Sequence[Cell], studies: Sequence[Study]) -> list[str]:
    """Lines for names that mean two models in two instruments: their figures stand in one row and are not of one thing."""
    hashes: dict[str, dict[str, str]] = {}
    for cell in cells:
        if cell.inputs.instrument not in RETRAINED:
            hashes.setdefault(cell.inputs.tokenizer, {}).setdefault(cell.inputs.model_hash, cell.inputs.instrument)
    for study in studies:
        for name, digest in study.hashes.items():
            hashes.setdefault(name, {}).setdefault(digest, f"the study {study.name}")
    return [
        f"{name}: two models by one name ({'; '.join(f'{digest[:8]} in {where}' for digest, where in found.items())}); measure one again"
        for name, found in hashes.items()
        if len(found) > 1
    ]
