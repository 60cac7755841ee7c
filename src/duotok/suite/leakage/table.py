"""The leakage experiment as a table: a row for each tokenizer and condition."""

from __future__ import annotations

from collections.abc import Sequence

from duotok.evaluation.results import ALL, Cell
from duotok.evaluation.summaries import NOT_MEASURED, Summary, summarise, told
from duotok.suite.leakage.stems import CHANCE, DIRECT, TRUE
from duotok.tracks import TRACKS

FORMATS = {"equal": ".3f", "mel": ".3f", "unigram": ".3f", "entropy": ".3f", "cnbpt": ".3f", "si_sdr": ".1f"}
COLUMNS = (
    *((figure, track) for figure in ("si_sdr", "equal", "mel") for track in TRACKS), ("mel", "mix"),
    *((figure, track) for figure in ("unigram", "entropy", "cnbpt") for track in TRACKS),
)  # fmt: skip
TITLES = {
    "si_sdr": "SI-SDR of stems (dB)",
    "equal": "equal codes",
    "mel": "mel",
    "unigram": "unigram",
    "entropy": "entropy",
}


def figures_of(cell: Cell) -> dict[tuple[str, str, str], Summary]:
    """(figure, condition, track) -> its summary over songs."""
    found = {}
    for summary in summarise([cell]):
        figure, _, condition = summary.measure.name.partition(".")
        found[figure, condition, summary.track] = summary
    return found


def as_markdown(cells: Sequence[Cell]) -> str:
    """Means over songs with 95 % intervals where there are songs enough."""
    gaps = [f"- {cell.inputs.tokenizer}: not measured: {cell.gap}" for cell in cells if cell.gap]
    cells = [cell for cell in cells if not cell.gap]
    if not cells:
        return "\n".join(gaps) + "\n"
    every = {cell.inputs.tokenizer: figures_of(cell) for cell in cells}
    columns = [c for c in COLUMNS if any((key[0], key[2]) == c for found in every.values() for key in found)]
    titles = [f"{TITLES.get(figure, figure)}, {track}" for figure, track in columns]
    lines = [f"| tokenizer | stems | {' | '.join(titles)} |", "|---" * (len(columns) + 2) + "|"]
    for cell in cells:
        found = every[cell.inputs.tokenizer]
        for condition in (*cell.about["conditions"], CHANCE):
            values = []
            for figure, track in columns:
                summary = found.get((figure, condition, track))
                values.append(told(summary, FORMATS[figure]) if summary else none_of(figure, track, condition))
            lines.append(f"| {cell.inputs.tokenizer} | {title_of(condition)} | {' | '.join(values)} |")
    return "\n".join([*lines, "", *_notes(cells), *gaps]) + "\n"


def none_of(figure: str, track: str, condition: str) -> str:
    """What stands where a condition has no such figure: a dash where it can have none, as the notes say."""
    of_reference = condition == TRUE and figure in ("si_sdr", "equal")
    of_control = condition == CHANCE and figure != "equal"
    return "–" if of_reference or of_control or (condition == DIRECT and track in TRACKS) else NOT_MEASURED


def title_of(condition: str) -> str:
    """For people."""
    if condition.startswith("leak"):
        return f"other track at {condition.removeprefix('leak')} dB"
    titles = {TRUE: "true", DIRECT: "none: the mix directly", CHANCE: "true, half a stretch later"}
    return titles.get(condition, f"separated by {condition}")


def _notes(cells: Sequence[Cell]) -> list[str]:
    about = cells[0].about
    notes = [
        f"Songs: {len(about['songs'])} of {about['data']}. Equal codes: against those of the true stems. Mel: decoded against true, "
        "-14 LUFS. Unigram: bits by the frequencies of the other songs' true stems, over log2 V. –: no such figure: true stems are what is "
        "compared with, the mix has no stems, of the control only codes are compared."
    ]
    notes += [f"Not measured: {name}: {why}" for name, why in about["gaps"].items()]
    for cell in cells:
        failed = [row for row in cell.failures if row.item != ALL and not row.reason.startswith("one song")]
        if failed:
            notes.append(
                f"Failures of {cell.inputs.tokenizer}: {len(failed)}; the first: {failed[0].item}: {failed[0].reason}"
            )
    return notes
