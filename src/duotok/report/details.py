"""Everything that the stores hold, instrument by instrument, and where it comes from: settings, seeds, versions, hashes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from duotok.evaluation.results import ALL
from duotok.evaluation.summaries import Summary, told
from duotok.report.content import Row, Table, gaps_of, shown, without_folders
from duotok.report.sources import Sources
from duotok.report.studies import LM
from duotok.report.tables import MEANS, TAGGING, USAGE, data_of, definitions, measured, not_measured, tagged

COMMANDS = {USAGE: "duotok eval all", LM: "duotok eval all, with `lm`"}
"""Of instruments whose command has another name."""


def instruments(sources: Sources) -> list[Table]:
    """A table for each instrument: all its measures, on all tracks, of all tokenizers."""
    return [
        _tagging(name, sources) if name.startswith(f"{TAGGING}.") else _instrument(name, sources)
        for name in sources.instruments
    ]


def _instrument(name: str, sources: Sources) -> Table:
    cells = measured(sources.of(name))
    tokenizers = [cell.inputs.tokenizer for cell in cells]
    of_it = [s for s in sources.summaries(name) if s.tokenizer in tokenizers]
    whole = {(s.tokenizer, s.track) for s in of_it}
    # a codebook stands for itself where its stream has no figure of its own (`usage`)
    summaries = [s for s in of_it if "." not in s.track or (s.tokenizer, s.track.rpartition(".")[0]) not in whole]
    found = {(s.tokenizer, s.measure.name, s.track): s for s in summaries}
    together = {row.item == ALL for cell in cells for row in cell.rows if row.value is not None} == {True}
    rows = []
    for measure, track in dict.fromkeys((s.measure.name, s.track) for s in summaries):
        values = [found.get((tokenizer, measure, track)) for tokenizer in tokenizers]
        texts = (
            _elsewhere(found, tokenizer, measure, track) or told(value)
            for tokenizer, value in zip(tokenizers, values, strict=True)
        )
        rows.append(Row(measure, (track, "all together" if together else _counts(values), *texts)))
    measures = list(dict.fromkeys(s.measure.name for s in summaries))
    means = "Of all songs together, so there is no interval." if together else MEANS
    return Table(
        f"store-{name}", f"All of {name}", ("measure", "track", "songs", *tokenizers), tuple(rows),
        (*data_of(cells), means, "Of single codebooks the store has more."), definitions=definitions(cells, measures),
        gaps=(*gaps_of(summaries, cells), *not_measured(sources.of(name))),
    )  # fmt: skip


def _elsewhere(found: Mapping[tuple[str, str, str], Summary], tokenizer: str, measure: str, track: str) -> str:
    """Why a tokenizer that was measured has no value in a row that others have: it has it by codebook, or as a stream; "" otherwise."""
    if (tokenizer, measure, track) in found:
        return ""
    stream, dot, _ = track.partition(".")
    books = any(of[:2] == (tokenizer, measure) and of[2].startswith(f"{stream}.") for of in found)
    if books:
        return "no such codebook" if dot else "by codebook"
    return "one codebook" if dot and (tokenizer, measure, stream) in found else ""


def _counts(values: Sequence[Summary | None]) -> str:
    """How many songs have a value, for all tokenizers together where it is the same."""
    counts = sorted({s.n for s in values if s is not None})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _tagging(name: str, sources: Sources) -> Table:
    """Macro figures, whose intervals are over songs: the cell itself has them, for its rows are of tags."""
    cells = measured(sources.of(name))
    figures = list(dict.fromkeys(figure for cell in cells for figure in cell.about.get("figures", {})))
    rows = [Row(figure, tuple(shown(tagged(cell, figure)) for cell in cells)) for figure in figures]
    lines = []
    for cell in cells:
        about = cell.about
        lines.append(
            f"{cell.inputs.tokenizer}: {about.get('data', 'data unnamed')}, {'true labels' if about.get('truth') else 'PSEUDO-LABELS, no truth'}; "
            f"macro over {len(about.get('measured_tags', []))} of {about.get('tags', 'unknown many')} tags; {_recordings(about.get('songs'))}"
            f"{'; left out, for no or every test song has them: ' + ', '.join(about['left_out']) if about.get('left_out') else ''}."
        )
    lines.append(
        "In brackets 95 % intervals over test songs and probe seeds. `untrained`: the same codes with random vectors; `shuffled`: embeddings in a "
        "random order in time; `over_`: the paired advantage over that control."
    )
    failed = [
        f"{cell.inputs.tokenizer}, {row.item}: {without_folders(row.reason)}"
        for cell in cells
        for row in cell.failures
        if row.measure == "scored"
    ]  # fmt: skip
    return Table(
        f"store-{name}", f"All of {name}", ("figure", *(cell.inputs.tokenizer for cell in cells)), tuple(rows), tuple(lines),
        definitions=definitions(cells, figures), gaps=(*failed, *not_measured(sources.of(name))),
    )  # fmt: skip


def _recordings(counts: object) -> str:
    """`54 recordings to train, 14 validation, 22 test`."""
    if not isinstance(counts, dict):
        return "recordings not said"
    return "recordings: " + ", ".join(f"{count} {split}" for split, count in counts.items())


def provenance(sources: Sources) -> list[Table]:
    """What was measured with what: a row for each cell and each study, and their settings."""
    rows = [
        Row(
            cell.inputs.tokenizer,
            (
                cell.inputs.instrument, f"`{command_of(cell.inputs.instrument)}`", cell.inputs.model_hash[:12], cell.inputs.data_hash[:12],
                str(cell.seed), cell.created or "not said", ", ".join(f"{name} {v}" for name, v in cell.versions.items()),
            ),
        )
        for cell in sources.cells
    ]  # fmt: skip
    rows += [
        Row(
            name,
            (
                f"study {study.name}", "`duotok eval lm`", study.hashes.get(name, "not said")[:12], f"{study.songs} songs",
                ", ".join(map(str, study.config.get("seeds", []))) or "not said", "not said", "not said",
            ),
        )
        for study in sources.studies
        if study.hashes
        for name in study.tokenizers
    ]  # fmt: skip
    settings: dict[tuple[str, str], list[str]] = {}
    for cell in sources.cells:
        text = _text(dict(cell.inputs.config))
        settings.setdefault((cell.inputs.instrument, text), []).append(cell.inputs.tokenizer)
    for study in sources.studies:
        if study.hashes:
            settings[f"study {study.name}", _text(dict(study.config))] = list(study.tokenizers)
    for test in sources.listening:
        of = test.values.get("test", {})
        settings[f"listening test {test.name}", _text(of)] = list(of.get("systems", {}))
    kept = [Row(name, (", ".join(names), f"`{text}`")) for (name, text), names in settings.items()]
    return [
        Table(
            "cells", "What was measured, with what",
            ("tokenizer", "instrument", "command", "model hash", "data hash", "seed", "written", "versions"), tuple(rows),
        ),
        Table("settings", "Settings", ("instrument", "of", "settings"), tuple(kept)),
    ]  # fmt: skip


def _text(settings: Mapping[str, Any]) -> str:
    """JSON. Of a folder of this machine only the name: a page is for others."""

    def shown(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: shown(of) for key, of in value.items()}
        if isinstance(value, list | tuple):
            return [shown(of) for of in value]
        return PurePath(value).name if isinstance(value, str) and PurePath(value).is_absolute() else value

    return json.dumps(shown(settings), sort_keys=True)


def command_of(instrument: str) -> str:
    """The command that measures it."""
    name, _, probe = instrument.partition(".")
    return COMMANDS.get(name, f"duotok eval {name}" + (f" --probe {probe}" if probe else ""))
