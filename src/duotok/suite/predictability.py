"""`duotok eval lm` as part of a suite: the study of several tokenizers under one language model, brought into the store.

The study's own table, over all tokens and with intervals over songs and seeds, is in `about` of every cell; the rows are the
same figures of each song alone, mean over seeds, for pictures and paired comparisons.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from duotok.comparison.cost import MEASURED_SECONDS, Costs
from duotok.comparison.run import Runner, train_and_score
from duotok.comparison.study import Comparison
from duotok.comparison.table import as_json
from duotok.comparison.workers import conduct
from duotok.evaluation.results import Cell, Inputs, Measure, Row, row_of, versions_of
from duotok.evaluation.store import files_of as cell_files
from duotok.evaluation.store import read_cell, why_not_done, write_cell
from duotok.suite.costs import Todo

NAME = "lm"
FIGURES: dict[str, tuple[str, Literal["higher", "lower"], str]] = {
    "cnbpt": ("bits a token over the bits of a plain index; mean over songs", "lower", "paper, equation 6"),
    "enbpt": ("bits a token over the entropy of the codes; mean over songs", "lower", "paper, equation 7"),
    "acc1": ("share of tokens that are the model's first guess; mean over songs", "higher", "paper, B.1.5"),
    "acc10": ("share of tokens among its first ten guesses; mean over songs", "higher", "paper, B.1.5"),
}


def study(
    path: Path, store: Path, report: Callable[[str], None], workers: int = 1, runner: Runner = train_and_score
) -> list[Cell]:
    """Train and score what is not done (in `STORE/lm`), and write a cell for each tokenizer.

    Raises what `Comparison` raises: corpora with unequal songs, too few songs, unknown settings.
    """
    comparison = Comparison(path, store / NAME)
    inputs = {name: _inputs(comparison, name) for name in comparison.corpora}
    if any(why_not_done(store, one) for one in inputs.values()):
        result = conduct(comparison, runner, report, workers)
        figures = as_json(result)
        for name, one in inputs.items():
            rows, measures = _rows(comparison, name)
            write_cell(
                store,
                Cell(
                    one,
                    measures,
                    tuple(rows),
                    comparison.config.seeds[0],
                    versions_of("torch", "transformers"),
                    _about(figures, name),
                ),
            )
    return [read_cell(cell_files(store, name, NAME)[1]) for name in inputs]


def todo(path: Path, store: Path, seconds: float = MEASURED_SECONDS) -> list[Todo]:
    """What a run would train and score, with its cost; each model is tried for some `seconds`."""
    comparison, result = Comparison(path, store / NAME), list[Todo]()
    costs = Costs(comparison, seconds)
    for number, run in enumerate(comparison.runs):
        left = comparison.todo(run)
        work = f"{run.protocol_name}, seed {run.config.seed}: {run.config.steps} steps, {len(left)} times to score"
        why = "not measured yet" if left else ""
        result.append(Todo(run.tokenizer, NAME, why, 0, costs.minutes(number), "", work))
    return result


def _inputs(comparison: Comparison, name: str) -> Inputs:
    config = comparison.config.model_dump(mode="json", exclude={"tokenizers", "tokens"})
    tokens = {of: [corpus.hash for corpus in corpora] for of, corpora in comparison.trained.items()}
    songs = json.dumps([comparison.rows, comparison.moments, tokens])
    digest = hashlib.sha256(songs.encode()).hexdigest()
    # of the tokenizer, or of all its trainings
    codec = "+".join(corpus.identity.hash for corpus in comparison.trained[name])
    return Inputs(name, NAME, codec, digest, config)


def _rows(comparison: Comparison, name: str) -> tuple[list[Row], tuple[Measure, ...]]:
    rows = list[Row]()
    measures = list[Measure]()
    for protocol in comparison.config.protocols:
        measured = comparison.measured(name, protocol)
        songs = measured[0].sums.songs
        alone = np.eye(len(songs))
        figures = [one.figures(alone) for one in measured]
        for figure, (definition, better, source) in FIGURES.items():
            measure = Measure(
                f"{protocol}.{figure}",
                f"{protocol}: {definition}",
                "",
                "lower" if better == "lower" else "higher",
                source,
            )
            measures.append(measure)
            for key in figures[0]:
                track, _, kind = key.rpartition(".")
                if kind == figure:
                    values = np.mean([one[key] for one in figures], axis=0)
                    rows += [
                        row_of(measure.name, track, song, float(value), "its codes are all the same")
                        for song, value in zip(songs, values, strict=True)
                    ]
    return rows, tuple(measures)


def _about(figures: dict[str, Any], name: str) -> dict[str, Any]:
    """What the study says of one tokenizer: [value, low, high] over all tokens, costs of corruption, curves over context."""
    own = {
        key: {p: of.get(name) for p, of in figures[key].items()}
        for key in ("values", "differences", "corruption", "context")
    }
    books = [book for book in figures["codebooks"] if book["tokenizer"] == name]
    codec = figures["codecs"][name]
    return {
        **own,
        "frame_rate": codec["frame_rate"],
        "streams": {stream["name"]: stream["sizes"] for stream in codec["streams"]},
        "codebooks": books,
        "songs": figures["songs"],
        "hours": figures["hours"],
        "reference": figures["reference"],
    }
