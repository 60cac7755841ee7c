"""Tables 2, 3, 5, 6 and 10: how predictable tokens are, beside the paper's figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from duotok.evaluation.summaries import NOT_MEASURED
from duotok.report.content import NONE, PAPER, Row, Table, shown
from duotok.report.paper import paper
from duotok.report.sources import Sources
from duotok.report.studies import Figures, Study
from duotok.tracks import TRACKS

PARALLEL, AVERAGE = "parallel", "average"
GIVEN_VOCALS = "vocals-to-accompaniment"
"""The paper's own protocol with a source."""
FILL = "`duotok eval lm`, or `lm:` in the file of `duotok eval all`"
COMPARE = (
    "The paper's rows come from a Qwen2-1B that was trained and scored on its authors' songs, and from their tokenizers; model, songs and "
    "training are others here. Within the paper's rows, and within ours, they can be compared; one with the other they cannot."
)
DEFINITIONS = {
    "Acc@k": "share of tokens that are among the model's k most likely ones, teacher forcing (paper, B.1.5); higher is better",
    "BPT": "bits a token: mean of -log2 of the probability that the model gave to what came (paper, equation 13)",
    "cnBPT": "BPT over the bits of a plain index, log2 of the codebook's size; 1 is a uniform guess (paper, equation 15); lower is better",
    "enBPT": "BPT over the entropy of the codes on the scored songs (paper, equations 7 and 16); lower is better",
    "cnBPS": "tokens a second times cnBPT, summed over the streams (paper, equations 22 and 23); lower is better",
}


def plain(values: Sequence[str]) -> tuple[str, ...]:
    """Cells of the paper; what it does not print is a dash."""
    return tuple(value or NONE for value in values)


def papers(key: str, columns: Sequence[str], suffix: str = "") -> list[Row]:
    """The paper's rows of a table. columns: of its figures in our order; "": a column that it does not have."""
    return [
        Row(of["model"] + suffix, plain([of[c] if c else "" for c in columns]), PAPER) for of in paper()[key]
    ]  # fmt: skip


def runs(sources: Sources, protocol: str) -> Iterator[tuple[Study, str, str, Figures]]:
    """(study, tokenizer, its name in tables, figures) of all that were measured under a protocol."""
    for study in sources.studies:
        for tokenizer in study.tokenizers:
            if figures := study.figures(protocol, tokenizer):
                name = tokenizer if len(sources.studies) == 1 else f"{tokenizer} ({study.name})"
                yield study, tokenizer, name, figures


def streams_of(figures: Figures) -> list[str]:
    """Streams, and their average where there are several."""
    streams = [name.removesuffix(".cnbpt") for name in figures if name.endswith(".cnbpt")]
    own = [stream for stream in streams if stream != AVERAGE]
    return own if len(own) == 1 else [*own, AVERAGE]


def chosen(figures: Figures, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(shown(figures.get(key)) for key in keys)


def about(sources: Sources, protocol: str | None = None) -> tuple[str, ...]:
    """What the studies held constant."""
    return tuple(study.about for study in sources.studies if protocol is None or study.values.get(protocol))


def missing(what: str, rows: Sequence[Row]) -> str:
    return "" if rows else f"Nothing was given that holds {what}. This fills it: {FILL}."


def _picked(names: Sequence[str]) -> dict[str, str]:
    return {name: DEFINITIONS[name] for name in names}


def table_2(sources: Sources) -> Table:
    columns = ("acc1", "acc10", "acc50", "cnbpt", "enbpt")
    rows = [
        Row(name, (stream, *chosen(figures, [f"{stream}.{c}" for c in columns])))
        for _, _, name, figures in runs(sources, PARALLEL)
        for stream in streams_of(figures)
    ]
    return Table(
        "table-2", "Table 2: both tracks in parallel",
        ("tokenizer", "track", "Acc@1", "Acc@10", "Acc@50", "cnBPT", "enBPT"),
        (*rows, *papers("table-2", ["track", *columns])), about(sources, PARALLEL), COMPARE,
        missing("predictability of both tracks in parallel (protocol `parallel`)", rows), _picked(["Acc@k", "cnBPT", "enBPT"]),
    )  # fmt: skip


def table_3(sources: Sources) -> Table:
    columns = ("acc1", "acc10", "acc50", "cnbpt", "enbpt")
    protocols = list(dict.fromkeys(p for study in sources.studies for p in study.directed))
    rows = [
        Row(name, (protocol, *chosen(figures, [f"{AVERAGE}.{c}" for c in columns])))
        for protocol in protocols
        for _, _, name, figures in runs(sources, protocol)
    ]
    theirs = [
        Row(row.name, (GIVEN_VOCALS, *row.cells), PAPER) for row in papers("table-3", columns)
    ]  # fmt: skip
    return Table(
        "table-3", "Table 3: one track given the other",
        ("tokenizer", "protocol", "Acc@1", "Acc@10", "Acc@50", "cnBPT", "enBPT"), (*rows, *theirs),
        (*about(sources), "Losses are those of the target's tokens alone. `-to-`: the whole source first, then the target (paper, B.1.4); "
         "`-beside-`: source and target of a frame together (docs/lm.md)."),
        COMPARE, missing("predictability of one track given the other (protocol `vocals-to-accompaniment`)", rows),
        _picked(["Acc@k", "cnBPT", "enBPT"]),
    )  # fmt: skip


def table_5(sources: Sources) -> Table:
    columns = ("cnbpt", "bpt", "enbpt")
    rows = []
    for study, tokenizer, name, figures in runs(sources, PARALLEL):
        given = study.figures(GIVEN_VOCALS, tokenizer)  # what the columns say; others stand in Table 3
        keys = [f"{track}.{c}" for track in TRACKS for c in columns]
        cells = (*chosen(figures, keys), *chosen(given, [f"{AVERAGE}.{c}" for c in columns]))
        rows.append(Row(name, (sizes_text(study.sizes.get(tokenizer, {})), *cells)))
    head = ["tokenizer", "codebooks"]
    for part in ("vocals", "accompaniment", "accompaniment given vocals"):
        head += [f"{part}: {figure}" for figure in ("cnBPT", "BPT", "enBPT")]
    theirs = papers(
        "table-5",
        ["size", *(f"{part}.{c}" for part in (*TRACKS, "conditional") for c in columns)],
    )
    return Table(
        "table-5", "Table 5: bits a token, and over what they are normalised", tuple(head), (*rows, *theirs),
        about(sources, PARALLEL), COMPARE, missing("bits a token", rows), _picked(["BPT", "cnBPT", "enBPT"]),
    )  # fmt: skip


def table_6(sources: Sources) -> Table:
    rows = []
    for tokenizer in sources.tokenizers:
        facts = sources.facts(tokenizer)
        if not facts:
            continue
        figures = next((f for _, name, _, f in runs(sources, PARALLEL) if name == tokenizer), {})
        rate, streams = float(facts["frame_rate"]), facts["streams"]
        tokens = {stream: rate * len(sizes) for stream, sizes in streams.items()}
        kbps = {stream: rate * bits(sizes) / 1000 for stream, sizes in streams.items()}
        rows.append(
            Row(
                tokenizer,
                (
                    " + ".join(streams), f"{rate:g}", sizes_text(streams), each(tokens, ".0f"), f"{sum(tokens.values()):.0f}",
                    each(kbps, ".2f"), f"{sum(kbps.values()):.2f}", shown(figures.get(f"{AVERAGE}.cnbpt")),
                    shown(figures.get("total.cnbps"), ".1f"),
                ),
            )
        )  # fmt: skip
    columns = ["streams", "rate", "", "tokens_track", "tokens_total", "kbps_track", "kbps_total", "cnbpt", "cnbps"]
    fill = "Nothing was given that knows a tokenizer's rates. Any instrument fills it, as `duotok eval reconstruction`; cnBPT comes from"
    return Table(
        "table-6", "Table 6: tokens a second, and what they cost",
        ("tokenizer", "streams", "frames a second", "codebooks", "tokens a second of a track", "tokens a second", "kbit/s of a track",
         "kbit/s", "cnBPT", "cnBPS"),
        (*rows, *papers("table-6", columns)), about(sources, PARALLEL),
        "The columns on rates follow from the tokenizers themselves and can be compared with the paper's; its sizes of codebooks are lost in "
        f"the text that could be had. For cnBPT and cnBPS: {COMPARE}",
        "" if rows else f"{fill} {FILL}.", _picked(["cnBPT", "cnBPS"]),
    )  # fmt: skip


def table_10(sources: Sources) -> Table:
    columns = [f"{track}.{c}" for track in TRACKS for c in ("acc1", "acc5", "acc10", "acc50", "cnbpt")]
    columns.append(f"{AVERAGE}.cnbpt")
    rows = [Row(name, chosen(figures, columns)) for _, _, name, figures in runs(sources, PARALLEL)]
    head = [f"{track}: {c}" for track in TRACKS for c in ("Acc@1", "Acc@5", "Acc@10", "Acc@50", "cnBPT")]
    return Table(
        "table-10", "Table 10: predictability of the ablations", ("tokenizer", *head, "mean of both: cnBPT"),
        (*rows, *papers("table-10", columns)),
        (*about(sources, PARALLEL), "Every tokenizer that was compared stands here; which ones are ablations, their names tell."),
        COMPARE, missing("predictability of both tracks in parallel", rows), _picked(["Acc@k", "cnBPT"]),
    )  # fmt: skip


def bits(sizes: Sequence[int]) -> float:
    """Of a frame of one stream, with indices of fixed length."""
    return sum(math.log2(size) for size in sizes)


def each(values: Mapping[str, float], spec: str) -> str:
    """One number where all streams have the same, otherwise one for each."""
    texts = [f"{value:{spec}}" for value in values.values()]
    return texts[0] if len(set(texts)) == 1 else " + ".join(texts)


def sizes_text(streams: Mapping[str, Sequence[int]]) -> str:
    """`32768`, `8 x 1024`, or one for each stream where they differ."""
    texts = []
    for sizes in streams.values():
        same = len(set(sizes)) == 1
        texts.append(
            f"{len(sizes)} x {sizes[0]}" if same and len(sizes) > 1 else " + ".join(map(str, sizes))
        )  # fmt: skip
    if not texts:
        return NOT_MEASURED
    return texts[0] if len(set(texts)) == 1 else "; ".join(texts)
