"""What every instrument gives: values of songs, or why there are none, with what they were measured with and on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from duotok.errors import DuoTokError
from duotok.files import sha256, short_hash, text_of

ALL = "all"
"""The track, or the item, of a value that belongs to all of them together."""


class ResultsError(DuoTokError):
    """A cell of a store that is damaged, foreign or of another version, or results that do not belong together."""


@dataclass(frozen=True)
class Measure:
    """What a number means. better: which way is better; source: who defined it, e.g. "paper, 4.3" or "ITU-T P.862.2"."""

    name: str
    definition: str
    unit: str = ""
    better: Literal["higher", "lower", ""] = ""
    source: str = ""


@dataclass(frozen=True)
class Row:
    """One value of one item (a song: what resampling draws whole), or the reason why there is none.

    part: which stretch of the item, or which codebook; "" for the whole. Rows that differ only in their part are averaged before
    items are.
    """

    measure: str
    track: str
    item: str
    value: float | None = None
    reason: str = ""
    part: str = ""

    def __post_init__(self) -> None:
        if (self.value is None) == (not self.reason) or not (self.value is None or math.isfinite(self.value)):
            raise ValueError(
                f"{self.measure} of {self.item}: value {self.value} and reason '{self.reason}'; one, and finite"
            )


def row_of(measure: str, track: str, item: str, value: float | None, why_none: str, part: str = "") -> Row:
    """A row with `value`, or with the reason `why_none` where it is None or not finite."""
    if value is None or not math.isfinite(value):
        return Row(measure, track, item, None, why_none, part)
    return Row(measure, track, item, float(value), "", part)


@dataclass(frozen=True)
class Inputs:
    """What makes a cell what it is: two cells with equal inputs have equal rows.

    tokenizer, instrument: their names in tables; model_hash: of the tokenizer; data_hash: of the sounds or tokens measured, in 64
    hex digits; config: the settings of the instrument, plain JSON.
    """

    tokenizer: str
    instrument: str
    model_hash: str
    data_hash: str
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """64 hex digits that change with any of them."""
        values = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(values.encode()).hexdigest()


@dataclass(frozen=True)
class Cell:
    """One tokenizer under one instrument.

    seed: of whatever was drawn; versions: package -> version; about: facts of the tokenizer and the data for tables and captions,
    plain JSON (e.g. sample_rate, frame_rate, kbps, songs); created: ISO time, set when it is written.
    """

    inputs: Inputs
    measures: tuple[Measure, ...]
    rows: tuple[Row, ...]
    seed: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""

    @property
    def failures(self) -> list[Row]:
        return [row for row in self.rows if row.value is None]

    @property
    def gap(self) -> str:
        """Why nothing at all could be measured; "" where something was. Such a cell never counts as done."""
        return str(self.about.get("gap", ""))

    def measure(self, name: str) -> Measure:
        """Raises ResultsError for a measure that the cell does not define."""
        for measure in self.measures:
            if measure.name == name:
                return measure
        raise ResultsError(f"{self.inputs.instrument} of {self.inputs.tokenizer}: no measure '{name}'")


def versions_of(*packages: str) -> dict[str, str]:
    """Versions of Python, DuoTok and `packages`; "not installed" for what is not there."""
    from duotok import __version__

    found = {"python": platform.python_version(), "duotok": __version__}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def plain_name(text: str) -> str:
    """A name for files and other toolkits: letters, digits and `._@-`. What has to change gets a hash, so that names stay apart."""
    plain = re.sub(r"[^A-Za-z0-9._@-]", "_", text_of(text)).lstrip(".")
    return plain if plain == text else f"{plain}-{short_hash(text)}"


def hash_of_files(files: Mapping[str, Sequence[Path]]) -> str:
    """A hash of names and contents: `{name: paths}`, whatever the folder. Raises OSError."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(json.dumps([text_of(name), *(sha256(path) for path in files[name])]).encode())
    return digest.hexdigest()
