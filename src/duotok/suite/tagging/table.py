"""The tagging experiment in the store of results, and as a table (columns of the paper's Table 1).

Rows of a cell are values of one tag each. Macro figures are their means; the intervals, which are over songs and not over tags,
are in `about["figures"]`.
"""

from __future__ import annotations

from collections.abc import Sequence

from duotok.evaluation.instrument import facts_of
from duotok.evaluation.intervals import Interval
from duotok.evaluation.results import ALL, Cell, Inputs, Measure, Row, versions_of
from duotok.suite.tagging.embeddings import MEL
from duotok.suite.tagging.experiment import Experiment, Outcome, describe

INSTRUMENT = "tagging"
SCORED = Measure(
    "scored", "1 for each recording that was used; else why it was left out", better="higher", source="docs/tagging.md"
)
CONDITIONS = {
    "tokens": "post-quantization embeddings",
    "untrained": "the same codes with random vectors",
    "shuffled": "embeddings in a random order in time",
    "mel": "mean and deviation of the log-mel of each 40 ms, no tokenizer",
}
FIGURES = {"ap": "average precision", "auc": "area under the ROC curve"}


def measures(conditions: Sequence[str], probe: str) -> tuple[Measure, ...]:
    """Definitions of the cell of one tokenizer; `ap` is of the tokens, `ap.untrained` of that control."""
    return (
        *(
            Measure(
                name_of(figure, condition),
                f"{title} of one tag over the test songs; probe {probe} on {CONDITIONS[condition]}; macro: mean over tags",
                better="higher",
                source="paper, 4.3 and B.2",
            )
            for condition in conditions
            for figure, title in FIGURES.items()
        ),
        SCORED,
    )  # fmt: skip


def name_of(figure: str, condition: str) -> str:
    return figure if condition in ("tokens", "mel") else f"{figure}.{condition}"


def inputs_of(name: str, experiment: Experiment) -> Inputs:
    separator = experiment.cache.separator
    config = {**experiment.config.model_dump(mode="json"), **({"separator": separator} if separator else {})}
    probe = experiment.config.training.probe.kind
    return Inputs(name, f"{INSTRUMENT}.{probe}", experiment.cache.model_hash, experiment.content, config)


def cell_of(name: str, experiment: Experiment, outcome: Outcome) -> Cell:
    """One tokenizer under one probe."""
    conditions = list(outcome.figures)
    rows = [
        Row(name_of(figure, condition), ALL, tag, values[at])
        for condition, tags in outcome.by_tag.items()
        for tag, values in tags.items()
        for at, figure in enumerate(FIGURES)
    ]
    why = {tag: "no test song has it" for tag in outcome.tags.without_positives}
    why |= {tag: "every test song has it" for tag in outcome.tags.without_negatives}
    rows += [
        Row(name_of(figure, condition), ALL, tag, None, reason)
        for tag, reason in why.items()
        for condition in conditions
        for figure in FIGURES
    ]
    known = set(outcome.problems)
    rows += [Row(SCORED.name, ALL, item.id, 1.0) for item in experiment.data.recordings if item.id not in known]
    rows += [Row(SCORED.name, ALL, item, None, reason) for item, reason in sorted(outcome.problems.items())]
    figures = {
        name_of(figure, condition): _plain(interval)
        for condition, found in outcome.figures.items()
        for figure, interval in found.items()
    }
    figures |= {
        f"{figure}.over_{control}": _plain(interval)
        for control, found in outcome.advantages.items()
        for figure, interval in found.items()
    }
    codec = experiment.cache.codec
    about = {
        **describe(experiment.data), **({} if codec is None else facts_of(codec)), "figures": figures, "songs": outcome.songs,
        "measured_tags": list(outcome.tags.measured), "left_out": list(outcome.tags.left_out), "epochs": outcome.epochs,
    }  # fmt: skip
    return Cell(
        inputs_of(name, experiment), measures(conditions, experiment.config.training.probe.kind), tuple(rows),
        experiment.config.seeds[0], versions_of("torch", "numpy"), about,
    )  # fmt: skip


def _plain(interval: Interval) -> list[float]:
    return [interval.value, interval.low, interval.high]


def as_markdown(cells: Sequence[Cell]) -> str:
    """A row for each tokenizer and condition; what the data are, what was left out and how intervals are made stands below."""
    lines = [
        "| tokenizer | probe | embeddings | AP | AUC | AP over control | AUC over control |",
        "|---|---|---|---|---|---|---|",
    ]
    measured = [cell for cell in cells if not cell.gap]
    for cell in measured:
        probe = cell.inputs.instrument.partition(".")[2]
        found = {name: Interval(*values) for name, values in cell.about["figures"].items()}
        for condition in ("tokens", "untrained", "shuffled"):
            ap = name_of("ap", condition)
            if ap not in found or (cell.inputs.tokenizer == MEL and condition != "tokens"):
                continue
            none = "-" if condition == "tokens" else "not measured"
            over = [f"{found[key]:+}" if (key := f"{figure}.over_{condition}") in found else none for figure in FIGURES]
            what = "mel" if cell.inputs.tokenizer == MEL else condition
            lines.append(
                f"| {cell.inputs.tokenizer} | {probe} | {what} | {found[ap]} | {found[name_of('auc', condition)]} | {over[0]} | {over[1]} |"
            )
    notes = _notes(measured) if measured else []
    notes += [f"- {cell.inputs.tokenizer}: not measured: {cell.gap}" for cell in cells if cell.gap]
    return "\n".join([*(lines if measured else []), "", *notes]) + "\n"


def _notes(cells: Sequence[Cell]) -> list[str]:
    about = cells[0].about
    labels = "Labels: true." if about["truth"] else "Labels: PSEUDO-LABELS, the guesses of another model; no truth."
    songs = ", ".join(f"{count} {split}" for split, count in about["songs"].items())
    identities = ", ".join(f"{count} {split}" for split, count in about["identities"].items())
    notes = [
        f"Data: {about['data']}. {labels} Recordings: {songs}; identities: {identities}, none in two splits.",
        f"Macro over {len(about['measured_tags'])} of {about['tags']} tags; intervals: bootstrap over test songs and probe seeds, 95 %.",
    ]
    if about["left_out"]:
        notes.append(
            "Tags without positives or negatives in the test split, left out: " + ", ".join(about["left_out"]) + "."
        )
    for cell in cells:
        problems = [
            f"{row.item} ({row.reason})" for row in cell.rows if row.measure == SCORED.name and row.value is None
        ]
        if problems:
            notes.append(
                f"Recordings that {cell.inputs.tokenizer} left out: {len(problems)}; the first: {problems[0]}."
            )
    return notes
