"""What `duotok eval lm` found, from its `table.json` or from the cells that a suite writes of it: one shape for both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from duotok.comparison.table import TABLE
from duotok.errors import DuoTokError
from duotok.evaluation.intervals import Interval
from duotok.evaluation.results import Cell
from duotok.seals import is_sealed, read_json

LM = "lm"
"""Instrument of the cells."""
Figures = Mapping[str, Interval]
"""`vocals.cnbpt` -> its value with its interval."""


class ReportError(DuoTokError):
    """Something that a report cannot be made of."""


@dataclass(frozen=True)
class Book:
    """How the codes of one codebook are used on the scored songs. uniform: (utilization, entropy) of ideal codes in as many tokens."""

    tokenizer: str
    stream: str
    codebook: int
    size: int
    tokens: int
    utilization: float
    normalized_entropy: float
    uniform: tuple[float, float]


@dataclass(frozen=True)
class Point:
    """cnBPT with so many seconds of context, and how much less that is than with the fewest."""

    seconds: float
    cnbpt: Interval
    gain: Interval | None


@dataclass(frozen=True)
class Study:
    """name: of the folder. frame_rates, sizes: of each tokenizer, as far as known (stream -> sizes of codebooks). values: protocol ->
    tokenizer -> figures. costs: protocol -> tokenizer -> corruption -> percent. contexts: protocol -> tokenizer -> points."""

    name: str
    tokenizers: tuple[str, ...]
    values: Mapping[str, Mapping[str, Figures]]
    costs: Mapping[str, Mapping[str, Figures]]
    contexts: Mapping[str, Mapping[str, Sequence[Point]]]
    books: tuple[Book, ...]
    songs: int
    hours: float
    config: Mapping[str, Any]
    frame_rates: Mapping[str, float] = field(default_factory=dict)
    sizes: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)

    def figures(self, protocol: str, tokenizer: str) -> Figures:
        return self.values.get(protocol, {}).get(tokenizer, {})

    @property
    def directed(self) -> list[str]:
        """Protocols with a source, the paper's own (vocals to accompaniment) first."""
        return sorted((p for p in self.values if p != "parallel"), key=lambda p: p != "vocals-to-accompaniment")

    @property
    def about(self) -> str:
        """What was held constant and what was scored, in a sentence or two."""
        lm, config = self.config.get("lm", {}), self.config
        model = lm.get("model", {})
        settings = [
            f"{_plain(model)} as the language model" if model else "",
            f"{lm['steps']} steps" if "steps" in lm else "",
            f"{lm['seconds']} s of context" if "seconds" in lm else "",
        ]
        intervals = config.get("intervals", {})
        held = ", ".join(text for text in settings if text) or "the defaults of the language model"
        seeds = config.get("seeds", [])
        return (
            f"Study {self.name}: {held}, the same for all; {len(seeds)} seed{'s' if len(seeds) != 1 else ''}. Scored: {self.songs} songs of the "
            f"{config.get('split', 'test')} split, {self.hours:.2f} hours, the same moments for all. In brackets "
            f"{intervals.get('level', 0.95):.0%} intervals over {intervals.get('over', 'songs')}{' and seeds' if len(seeds) > 1 else ''}."
        )


def _plain(model: Any) -> str:
    return " ".join(f"{key} {value}" for key, value in model.items()) if isinstance(model, dict) else str(model)


def read_table(folder: Path) -> Study:
    """The study of a folder of `duotok eval lm`. Raises ReportError when its table is damaged."""
    path = folder / TABLE
    try:
        table = read_json(path.read_bytes())
        if not is_sealed(table):
            raise ValueError("not as it was written")
        codecs = {name: of for name, of in table["codecs"].items()}
        return Study(
            name=folder.name,
            tokenizers=tuple(codecs),
            values=_by_protocol(table["values"]),
            costs=_by_protocol(table["corruption"]),
            contexts={p: {n: _points(x) for n, x in of.items()} for p, of in table["context"].items()},
            books=tuple(_book(book) for book in table["codebooks"]),
            songs=int(table["songs"]),
            hours=float(table["hours"]),
            config=table["config"],
            frame_rates={name: float(of["frame_rate"]) for name, of in codecs.items()},
            sizes={
                name: {s["name"]: tuple(map(int, s["sizes"])) for s in of["streams"]} for name, of in codecs.items()
            },
            hashes={name: str(of["hash"]) for name, of in codecs.items()},
        )
    except OSError as error:
        raise ReportError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ReportError(f"{path}: no table of `duotok eval lm`, or damaged; run that again") from None


def of_cells(cells: Sequence[Cell]) -> Study:
    """The study whose figures a suite brought into a store. Raises ReportError for cells that do not have them."""
    by_name = {cell.inputs.tokenizer: cell for cell in cells}
    try:
        about = {name: cell.about for name, cell in by_name.items()}
        first = next(iter(about.values()))
        sizes: dict[str, dict[str, tuple[int, ...]]] = {name: {} for name in about}
        books = tuple(_book(book) for of in about.values() for book in of["codebooks"])
        for book in books:
            streams = sizes[book.tokenizer]
            streams[book.stream] = (*streams.get(book.stream, ()), book.size)
        return Study(
            name=LM,
            tokenizers=tuple(by_name),
            values=_turned({name: of["values"] for name, of in about.items()}),
            costs=_turned({name: of["corruption"] for name, of in about.items()}),
            contexts=_curves({name: of["context"] for name, of in about.items()}),
            books=books,
            songs=int(first["songs"]),
            hours=float(first["hours"]),
            config=next(iter(by_name.values())).inputs.config,
            frame_rates={name: float(of["frame_rate"]) for name, of in about.items() if "frame_rate" in of},
            sizes=sizes,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ReportError(f"{LM} of {', '.join(by_name)}: without the figures of the study; measure it again") from None


def _by_protocol(values: Any) -> dict[str, dict[str, Figures]]:
    return {p: {name: _figures(of) for name, of in tokenizers.items()} for p, tokenizers in values.items()}


def _turned(values: Mapping[str, Any]) -> dict[str, dict[str, Figures]]:
    """tokenizer -> protocol -> figures, the other way round; None: not measured under that protocol."""
    found: dict[str, dict[str, Figures]] = {}
    for name, protocols in values.items():
        for protocol, figures in protocols.items():
            if figures is not None:
                found.setdefault(protocol, {})[name] = _figures(figures)
    return found


def _curves(values: Mapping[str, Any]) -> dict[str, dict[str, list[Point]]]:
    found: dict[str, dict[str, list[Point]]] = {}
    for name, protocols in values.items():
        for protocol, points in protocols.items():
            if points is not None:
                found.setdefault(protocol, {})[name] = _points(points)
    return found


def _figures(values: Mapping[str, Sequence[float | None]]) -> dict[str, Interval]:
    """Without those that are not defined (null)."""
    return {name: interval for name, triple in values.items() if (interval := _interval(triple)) is not None}


def _interval(triple: Sequence[float | None]) -> Interval | None:
    value, low, high = triple
    return None if value is None or low is None or high is None else Interval(float(value), float(low), float(high))


def _points(values: Sequence[Mapping[str, Any]]) -> list[Point]:
    points = [(float(x["seconds"]), _interval(x["cnbpt"]), _interval(x["gain"])) for x in values]
    return [Point(seconds, cnbpt, gain) for seconds, cnbpt, gain in points if cnbpt is not None]


def _book(values: Mapping[str, Any]) -> Book:
    uniform = values["uniform"]
    return Book(
        str(values["tokenizer"]), str(values["stream"]), int(values["codebook"]), int(values["size"]), int(values["tokens"]),
        float(values["utilization"]), float(values["normalized_entropy"]), (float(uniform[0]), float(uniform[1])),
    )  # fmt: skip
