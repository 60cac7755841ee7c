"""Tables 1, 4, 9 and 11: tagging, fidelity, listening and the use of codes, beside the paper's figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from duotok.evaluation.intervals import Interval
from duotok.evaluation.results import Cell
from duotok.evaluation.summaries import NOT_MEASURED, Summary, item_values, told
from duotok.report.content import NONE, PAPER, Row, Table, gaps_of, shown, without_folders
from duotok.report.paper import paper
from duotok.report.predictability import (
    AVERAGE,
    FILL,
    PARALLEL,
    about,
    bits,
    papers,
    runs,
    sizes_text,
    table_2,
    table_3,
    table_5,
    table_6,
    table_10,
)
from duotok.report.predictability import DEFINITIONS as LM_DEFINITIONS
from duotok.report.sources import Sources
from duotok.tracks import TRACKS

MIX = "mix"
NO_TOKENS = "no tokens"
"""Of an anchor, such as Opus."""
RECONSTRUCTION, MATCHED, USAGE, TAGGING = "reconstruction", "matched-decoder", "usage", "tagging"
PROBES = ("conformer", "se", "linear")
"""In the order in which one is taken for Table 1: the one of the paper's text first."""
SONGS = (
    "The paper's rows are of other songs, which are not public as a list, and of other tokenizers; they can be compared with each other, not "
    "with ours."
)


def tables(sources: Sources) -> list[Table]:
    """The paper's tables, in its order."""
    return [
        table_1(sources), table_2(sources), table_3(sources), table_4a(sources), table_4b(sources), table_5(sources), table_6(sources),
        table_9(sources), table_10(sources), table_11(sources),
    ]  # fmt: skip


def data_of(cells: Sequence[Cell]) -> list[str]:
    """What the cells of an instrument were measured on, in sentences; each once."""
    lines = []
    for cell in cells:
        data = cell.about.get("data")
        if isinstance(data, dict):
            text = f"{_count(data['songs'], 'song')} of {data['folder']}, {_count(data['stretches'], 'stretch', 'es')} of {data['stretch']:g} s"
            if data.get("separated"):
                text += f"; the stems of {data['separated']} were separated by {data['separator']}, and are what is compared with"
            lines.append(f"{cell.inputs.instrument.capitalize()}: {text} (data {cell.inputs.data_hash[:8]}).")
        else:
            where = f"{data}, " if data else ""
            lines.append(f"{cell.inputs.instrument.capitalize()}: {where}data {cell.inputs.data_hash[:8]}.")
    return list(dict.fromkeys(lines))


def _count(number: int, what: str, plural: str = "s") -> str:
    return f"{number} {what}{'' if number == 1 else plural}"


MEANS = "Means over songs; in brackets 95 % bootstrap intervals over songs, from six songs on."


def definitions(cells: Iterable[Cell], names: Sequence[str]) -> dict[str, str]:
    """Of some measures, as the cells say; where they differ, which is whose."""
    texts: dict[str, dict[str, list[str]]] = {}
    for cell in cells:
        for m in cell.measures:
            if m.name in names:
                text = (
                    m.definition
                    + (f" ({m.source})" if m.source else "")
                    + (f"; {m.better} is better" if m.better else "")
                )
                texts.setdefault(m.name, {}).setdefault(text, []).append(cell.inputs.tokenizer)
    return {
        name: next(iter(of)) if len(of) == 1 else "; ".join(f"{', '.join(whose)}: {text}" for text, whose in of.items())
        for name, of in texts.items()
    }


def measured(cells: Iterable[Cell]) -> list[Cell]:
    """Those that have figures."""
    return [cell for cell in cells if not cell.gap]


def not_measured(cells: Iterable[Cell]) -> tuple[str, ...]:
    """Why the others have none, a line each."""
    return tuple(f"{c.inputs.tokenizer}, {c.inputs.instrument}: {without_folders(c.gap)}" for c in cells if c.gap)


def probe_of(sources: Sources) -> str:
    """The instrument whose tagging figures Table 1 shows, "" when nothing was tagged."""
    return next((name for probe in PROBES if measured(sources.of(name := f"{TAGGING}.{probe}"))), "")


def tagged(cell: Cell, figure: str) -> Interval | None:
    """A macro figure with its interval over songs."""
    try:
        return Interval(*map(float, cell.about["figures"][figure]))
    except (KeyError, TypeError, ValueError):
        return None


def table_1(sources: Sources) -> Table:
    found, probe = sources.found(RECONSTRUCTION), probe_of(sources)
    tags = {cell.inputs.tokenizer: cell for cell in measured(sources.of(probe))} if probe else {}
    cnbpt = {tokenizer: figures for _, tokenizer, _, figures in reversed(list(runs(sources, PARALLEL)))}
    study_of: dict[str, str] = {}
    for study, tokenizer, _, _ in runs(sources, PARALLEL):
        study_of.setdefault(tokenizer, study.name)  # as `cnbpt` has it
    rows = []
    for name in sources.tokenizers:
        facts = sources.facts(name)
        mel, own = found.get((name, "mel", MIX)), found.get((name, "mel_own_rate", MIX))
        if not (mel or own or name in tags or name in cnbpt):
            continue
        nothing = NO_TOKENS if sources.is_anchor(name) else NOT_MEASURED
        rate = sources.rate_of(name)
        interface = [NO_TOKENS, NO_TOKENS, NO_TOKENS if rate is None else f"{rate:.2f} a track"]
        if facts:
            kbps = facts["frame_rate"] * sum(bits(sizes) for sizes in facts["streams"].values()) / 1000
            interface = [f"{facts['frame_rate']:g} Hz", sizes_text(facts["streams"]), f"{kbps:.2f}"]
        ap, auc = (shown(tagged(tags[name], f)) if name in tags else nothing for f in ("ap", "auc"))
        found_bits = cnbpt.get(name, {}).get(f"{AVERAGE}.cnbpt")
        bits_of = shown(found_bits) if found_bits else nothing
        rows.append(Row(name, (*interface, ap, auc, bits_of, told(mel), told(own))))
    theirs = [
        Row(row.name, (f"{row.cells[0]} Hz", *row.cells[1:]), PAPER)
        for row in papers("table-1", ["rate", "", "kbps", "ap", "auc", "cnbpt", "", "mel"])
    ]
    cells = sources.of(RECONSTRUCTION)
    untagged = not_measured(
        c for name in sources.instruments if name.startswith(f"{TAGGING}.") for c in sources.of(name)
    )
    probes = [f"Tagging: probe {probe.partition('.')[2]}, {_labels(next(iter(tags.values())))}."] if tags else []
    needs = [
        what
        for what, there in (
            ("mel distance: `duotok eval reconstruction`", bool(cells)),
            ("tagging: `duotok eval tagging`", bool(tags)),
            (f"cnBPT: {FILL}", bool(cnbpt)),
        )
        if not there
    ]
    compared = [*_by_study(study_of), *about(sources, PARALLEL)]
    return Table(
        "table-1", "Table 1: tagging, predictability and fidelity",
        ("tokenizer", "frames", "codebooks", "kbit/s", "tagging AP", "tagging AUC", "cnBPT", "mel at 24 kHz", "mel at its own rate"),
        (*rows, *theirs), (*data_of(cells), *([f"{MEANS} Mel distances are of the mix."] if cells else []), *probes, *compared),
        f"{SONGS} Its tagging is on MagnaTagATune with a split that cuts artists; its cnBPT is a Qwen2-1B's. Mel distance at the codec's "
        "own rate is how the public evaluation code takes it: of codecs of unequal rates it cannot be compared, the one at 24 kHz can.",
        "" if not needs else f"Not in what was given: {'; '.join(needs)}.",
        {**definitions(cells, ("mel", "mel_own_rate")), **definitions(tags.values(), ("ap", "auc")), "cnBPT": LM_DEFINITIONS["cnBPT"]},
        (*gaps_of([s for s in found.values() if s.measure.name in ("mel", "mel_own_rate") and s.track == MIX], cells), *untagged),
    )  # fmt: skip


def _by_study(study_of: Mapping[str, str]) -> list[str]:
    """Which study has whose cnBPT, where there are several: one sentence, or none."""
    names = list(dict.fromkeys(study_of.values()))
    if len(names) < 2:
        return []
    parts = [f"study {study}: {', '.join(name for name, of in study_of.items() if of == study)}" for study in names]
    return [f"cnBPT compares within a study ({'; '.join(parts)})."]


def _labels(cell: Cell) -> str:
    about = cell.about
    truth = "true labels" if about.get("truth") else "PSEUDO-LABELS of another model, no truth"
    return f"{about.get('data', 'data unnamed')} ({truth}), {about.get('tags', 'unknown number of')} tags"


def table_4a(sources: Sources) -> Table:
    columns = ("pesq", "stoi", "mel")
    found, cells = sources.found(MATCHED), measured(sources.of(MATCHED))
    rows = [
        Row(cell.inputs.tokenizer, (track, *(told(found.get((cell.inputs.tokenizer, c, track))) for c in columns)))
        for track in TRACKS
        for cell in cells
    ]
    return Table(
        "table-4a", "Table 4 (a): the same decoder for all, measured", ("decoder on", "track", "PESQ", "STOI", "mel"),
        (*rows, *papers("table-4a", ["track", *columns])), (*data_of(cells), *_steps(cells), *([MEANS] if cells else [])),
        f"{SONGS} The paper's decoder was trained for 276,000 steps; ours is much smaller.",
        "" if rows else "Nothing was given that holds a matched decoder. This fills it: `duotok eval matched-decoder`.",
        definitions(cells, columns),
        (*gaps_of([s for s in found.values() if s.measure.name in columns and s.track in TRACKS], cells), *not_measured(sources.of(MATCHED))),
    )  # fmt: skip


def _steps(cells: Sequence[Cell]) -> list[str]:
    """How long the decoders learned, as far as the cells say."""
    steps = sorted(
        {f"{cell.about['steps']:,} steps a track" for cell in cells if isinstance(cell.about.get("steps"), int)}
    )
    return [f"Our decoders learned for {' or '.join(steps)}."] if steps else []


def table_4b(sources: Sources) -> Table:
    rows, notes = [], []
    for test in sources.listening:
        method = test.values.get("test", {}).get("method", "mos")
        for track, of in test.scores.items():
            for condition, mean in of.items():
                ends = (mean.get("low"), mean.get("high"))
                value = f"{mean['value']:.2f}" + ("" if None in ends else f" [{ends[0]:.2f}, {ends[1]:.2f}]")
                name = "hidden reference" if condition == "reference" else condition
                rows.append(Row(name, (track, value, f"{mean['ratings']} by {mean['raters']}")))
        scale = "1 to 5" if method == "mos" else "MUSHRA, 0 to 100: not the paper's scale"
        notes.append(f"{test.name}: scores from {scale}; interval: {test.values.get('interval', 'not said')}.")
    theirs = [
        Row(of["model"], (of["track"], f"{of['mos']} ± {of['plus_minus']}", NONE), PAPER) for of in paper()["table-4b"]
    ]  # fmt: skip
    return Table(
        "table-4b", "Table 4 (b): the same, as people hear it", ("what was heard", "track", "mean opinion score", "ratings"),
        (*rows, *theirs), tuple(notes),
        "Scores of two listening tests cannot be compared: raters use the scale by what else they hear. What stands behind the paper's "
        "plus-minus sign is not said.",
        "" if rows else "No listening test was given. This fills it: `duotok listen build`, `serve` and `report`, then `duotok report` "
        "with the folder of that result.",
    )  # fmt: skip


def table_9(sources: Sources) -> Table:
    found, cells = sources.found(RECONSTRUCTION), sources.of(RECONSTRUCTION)
    rows, used = [], list[Summary]()
    for track in TRACKS:
        for cell in cells:
            summary = found.get((cell.inputs.tokenizer, "mel", track))
            if summary is None:
                continue
            values = list(item_values(cell, "mel", track).values())
            deviation = f"{np.std(values, ddof=1):.3f}" if len(values) > 1 else "one song" if values else "none"
            used.append(summary)
            rows.append(Row(cell.inputs.tokenizer, (track, told(summary), deviation, str(summary.n))))
    theirs = [
        Row(row.name, (*row.cells, NONE), PAPER) for row in papers("table-9", ["track", "mel", "plus_minus"])
    ]  # fmt: skip
    return Table(
        "table-9", "Table 9: mel distance of the ablations",
        ("tokenizer", "track", "mel", "deviation over songs", "songs"), (*rows, *theirs),
        (*data_of(cells), *([MEANS] if cells else []), "Every tokenizer stands here; which ones are ablations, their names tell."),
        "The paper does not say what this distance is; its scale is not that of its Tables 1 and 4 (most likely the error of the mel head in "
        "stage 3). Ours is the seven-scale distance of the decoded sound. What stands behind its plus-minus sign is not said either.",
        "" if rows else "Nothing was given that holds mel distances of tracks. This fills it: `duotok eval reconstruction`.",
        definitions(cells, ("mel",)), gaps_of(used, cells),
    )  # fmt: skip


class Use(NamedTuple):
    """The use of one codebook, NaN for what is not known. where: the instrument, or the study, that counted."""

    tokenizer: str
    track: str
    utilization: float
    uniform_utilization: float
    entropy: float
    uniform_entropy: float
    tokens: float
    where: str

    @property
    def stream(self) -> str:
        return self.track.partition(".")[0]


def uses(sources: Sources) -> list[Use]:
    """Of every codebook that was counted, by the instrument `usage` or by a study."""
    found, result = sources.found(USAGE), list[Use]()
    names = ("utilization", "uniform_utilization", "normalized_entropy", "uniform_entropy", "tokens")
    for tokenizer, track in dict.fromkeys((tokenizer, track) for tokenizer, _, track in found):
        used, ideal, entropy, of_ideal, tokens = (_value(found.get((tokenizer, name, track))) for name in names)
        if math.isfinite(used):
            result.append(Use(tokenizer, track, used, ideal, entropy, of_ideal, tokens, USAGE))
    for study in sources.studies:
        for book in study.books:
            several = sum((b.tokenizer, b.stream) == (book.tokenizer, book.stream) for b in study.books) > 1
            track = f"{book.stream}.{book.codebook}" if several else book.stream
            result.append(
                Use(book.tokenizer, track, book.utilization, book.uniform[0], book.normalized_entropy, book.uniform[1], book.tokens,
                    study.name)
            )  # fmt: skip
    return result


def table_11(sources: Sources) -> Table:
    cells = sources.of(USAGE)
    rows = [
        Row(
            use.tokenizer,
            (use.track, *map(_number, (use.utilization, use.uniform_utilization, use.entropy, use.uniform_entropy)),
             f"{use.tokens:,.0f}" if math.isfinite(use.tokens) else NOT_MEASURED, use.where),
        )
        for use in uses(sources)
    ]  # fmt: skip
    theirs = papers("table-11", ["track", "utilization", "", "normalized_entropy", "", "", ""])
    return Table(
        "table-11", "Table 11: how the codes are used",
        ("tokenizer", "codebook of", "utilization", "of ideal codes", "normalized entropy", "of ideal codes", "tokens counted", "on"),
        (*rows, *theirs), (*data_of(cells), "Both figures grow with the number of tokens that are counted: beside each stands what ideal, "
                           "uniform codes would show in as many."),
        f"{SONGS} How many tokens the paper counted is not said, and both figures depend on it.",
        "" if rows else "Nothing was given that holds the use of codes. This fills it: `usage` among the instruments of `duotok eval all`, "
        f"or {FILL}.",
        {
            "utilization": "share of a codebook's codes that occur at all (paper, E.1)",
            "normalized entropy": "entropy of how often each code occurs, over log2 of the codebook's size (paper, equation 17)",
        },
        gaps_of(sources.summaries(USAGE), cells),
    )  # fmt: skip


def _value(summary: Summary | None) -> float:
    return math.nan if summary is None or summary.mean is None else summary.mean


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else NOT_MEASURED
