"""The leakage experiment: several tokenizers on songs with true stems (the paper's first named limitation, section 8).

Songs outside, tokenizers inside, so that a song is separated once for all of them. Every stretch of every tokenizer is kept
when it is done; a stopped run goes on there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from duotok.codec.contract import Codec
from duotok.config import Config
from duotok.errors import ConfigError, DuoTokError, MetricError
from duotok.evaluation.instrument import facts_of
from duotok.evaluation.results import (
    ALL,
    Cell,
    Inputs,
    Measure,
    Row,
    files_of,
    read_cell,
    versions_of,
    why_not_done,
    write_cell,
)
from duotok.evaluation.systems import parse_system
from duotok.lm.saved import LanguageModel, find_lm, open_lm
from duotok.records import SPLITS
from duotok.suite.leakage.measure import Measured, keep, kept, measure
from duotok.suite.leakage.statistics import cnbpt_rows, unigram_rows
from duotok.suite.leakage.stems import CHANCE, DIRECT, LEVELS, TRUE, OpenSeparator, leak_name, open_separators, variants
from duotok.suite.opened import open_all
from duotok.suite.true_stems import TrueSong, content_of, stretches, true_songs

INSTRUMENT = "leakage"
WORK = "leakage"
"""Folder in the store for stretches that are done."""
Report = Callable[[str], None]
Advance = Callable[[float], None]

FIGURES = {
    "equal": ("share of codes equal to those of the true stems, mean over codebooks", "", "higher"),
    "mel": ("seven-scale mel distance at 24 kHz of the decoded track to the true one", "", "lower"),
    "unigram": ("bits a token by its frequency in the other songs' true stems, over log2 V", "", ""),
    "entropy": ("plug-in entropy of a stretch's codes over log2 V", "", ""),
    "cnbpt": ("bits a token under the language model of the tokenizer, over log2 V (paper, equation 6)", "", "lower"),
    "si_sdr": ("SI-SDR of the stems that went in against the true ones", "dB", "higher"),
}


class LeakageConfig(Config):
    """What is held constant over tokenizers."""

    seconds: float = Field(default=20.0, ge=2, description="of a stretch")
    stretches: int = Field(default=1, ge=1, description="of each song, evenly over it")
    levels: tuple[float, ...] = Field(default=LEVELS, description="dB of the other track in each")
    decode: bool = Field(default=True, description="measure decoded sound as well; it takes most of the time")


@dataclass(frozen=True)
class Experiment:
    """Everything opened. gaps: separators that did not open, and why; lms: language models, used where their codec is measured."""

    songs: tuple[TrueSong, ...]
    content: str
    codecs: Mapping[str, Codec]
    separators: tuple[OpenSeparator, ...]
    gaps: Mapping[str, str]
    config: LeakageConfig
    lms: tuple[LanguageModel, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def conditions(self) -> tuple[str, ...]:
        leaks = tuple(leak_name(level) for level in self.config.levels)
        return (TRUE, *leaks, *(separator.name for separator in self.separators), DIRECT)

    def settings(self, codec: Codec) -> dict[str, Any]:
        """All that a cell depends on besides its tokenizer and the sounds."""
        lm = self.lm_of(codec)
        return {
            **self.config.model_dump(mode="json"),
            "separators": {separator.name: separator.stamp for separator in self.separators},
            "lm": "" if lm is None else lm.source.name,
        }

    def lm_of(self, codec: Codec) -> LanguageModel | None:
        """The language model of a tokenizer, if one was given."""
        return next((lm for lm in self.lms if lm.protocol.codec.hash == codec.model_hash), None)

    def inputs(self, name: str) -> Inputs:
        codec = self.codecs[name]
        return Inputs(name, INSTRUMENT, codec.model_hash, self.content, self.settings(codec))

    def file(self, folder: Path, name: str, song: TrueSong) -> Path:
        """Where the stretches of a song are kept."""
        key = [self.inputs(name).key, self.content, song.id]
        return folder / WORK / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]


def todo(experiment: Experiment, folder: Path) -> dict[str, list[TrueSong]]:
    """Tokenizer -> songs that are not measured yet."""
    return {
        name: []
        if not why_not_done(folder, experiment.inputs(name))
        else [song for song in experiment.songs if not _done(experiment.file(folder, name, song))]
        for name in experiment.codecs
    }


def _done(place: Path) -> bool:
    return (place / "done").is_file()


def run(experiment: Experiment, folder: Path, say: Report, advance: Advance | None = None) -> list[Cell]:
    """Measure what is not done, write a cell for each tokenizer. A song that fails is told, with a row, and stops no other."""
    rest = todo(experiment, folder)
    failures: dict[tuple[str, str], str] = {}
    total = max(1, sum(map(len, rest.values())))
    done = 0
    for song in experiment.songs:
        names = [name for name, songs in rest.items() if song in songs]
        if names:
            say(f"{song.id}: {', '.join(names)}")
        try:
            _measure_song(experiment, folder, song, names, failures, say)
        except DuoTokError as error:
            failures |= {(name, song.id): str(error) for name in names}
            say(str(error))
        done += len(names)
        if advance is not None and names:
            advance(done / total)
    return [_cell(experiment, folder, name, failures) for name in experiment.codecs]


def _measure_song(
    experiment: Experiment, folder: Path, song: TrueSong, names: Sequence[str], failures: dict[tuple[str, str], str],
    say: Report,
) -> None:  # fmt: skip
    config = experiment.config
    if not names:
        return
    for start, true in stretches(song, config.seconds, config.stretches):
        made = list(variants(true, config.levels, experiment.separators))
        for name in names:
            path = experiment.file(folder, name, song) / f"{start:09.3f}.safetensors"
            if (name, song.id) in failures or kept(path) is not None:
                continue
            try:
                keep(path, measure(experiment.codecs[name], song.id, f"{start:.3f}", true, made, config.decode))
            except DuoTokError as error:
                failures[name, song.id] = str(error)
                say(f"{name}: {error}")
    for name in names:
        if (name, song.id) not in failures:
            (experiment.file(folder, name, song) / "done").touch()


def _parts(experiment: Experiment, folder: Path, name: str) -> dict[tuple[str, str], Measured]:
    found: dict[tuple[str, str], Measured] = {}
    for song in experiment.songs:
        for path in sorted(experiment.file(folder, name, song).glob("*.safetensors")):
            measured = kept(path)
            if measured is not None:
                found[song.id, measured.rows[0].part] = measured
    return found


def _cell(experiment: Experiment, folder: Path, name: str, failures: Mapping[tuple[str, str], str]) -> Cell:
    inputs, codec = experiment.inputs(name), experiment.codecs[name]
    if not why_not_done(folder, inputs):
        return read_cell(files_of(folder, inputs.tokenizer, inputs.instrument)[1])
    parts = _parts(experiment, folder, name)
    rows = [row for measured in parts.values() for row in measured.rows]
    if not parts:
        raise MetricError(
            next((why for (of, _), why in failures.items() if of == name), f"{name}: nothing was measured")
        )
    codes = {key: measured.codes for key, measured in parts.items()}
    rows += unigram_rows(codec, codes)
    lm = experiment.lm_of(codec)
    if lm is not None:
        rows += cnbpt_rows(lm, codes)
    rows += [Row(f"equal.{TRUE}", ALL, song, None, why) for (of, song), why in failures.items() if of == name]
    rows += [Row(f"equal.{gap}", ALL, ALL, None, why) for gap, why in experiment.gaps.items()]
    used = {row.measure for row in rows}
    measures = tuple(
        Measure(f"{figure}.{condition}", f"{definition}; stems: {condition}", unit, better, "docs/leakage.md")  # type: ignore[arg-type]
        for figure, (definition, unit, better) in FIGURES.items()
        for condition in (*experiment.conditions, CHANCE, *experiment.gaps)
        if f"{figure}.{condition}" in used
    )
    about = {
        **experiment.about, "songs": [song.id for song in experiment.songs], **facts_of(codec),
        "conditions": list(experiment.conditions), "levels": list(experiment.config.levels), "gaps": dict(experiment.gaps),
    }  # fmt: skip
    cell = Cell(inputs, measures, tuple(rows), 0, versions_of("torch", "numpy"), about)
    write_cell(folder, cell)
    return cell


def open_experiment(
    data: str, models: Sequence[str], separators: Sequence[str], lms: Sequence[str] | None, splits: Sequence[str],
    limit: int, config: LeakageConfig, device: str = "cpu",
) -> Experiment:  # fmt: skip
    """Open everything that is named as on the command line. Raises ConfigError for unknown splits, and as the openers do."""
    unknown = [split for split in splits if split not in SPLITS]
    if unknown:
        raise ConfigError(f"split '{unknown[0]}' does not exist; choose {', '.join(SPLITS)}")
    songs = true_songs(data, splits or SPLITS, limit)
    codecs = open_all(models, device)
    opened, gaps = open_separators(separators, device)
    packaged = [system.model for system in map(parse_system, models) if is_packaged(system.model)]
    found = [open_lm(name, device) for name in (packaged if lms is None else lms)]
    return Experiment(
        tuple(songs),
        content_of(songs),
        codecs,
        tuple(opened),
        gaps,
        config,
        tuple(found),
        {"data": data.partition("=")[0]},
    )


def is_packaged(model: str) -> bool:
    """Whether a bundle came with the package and has a language model."""
    try:
        find_lm(model)
    except ConfigError:
        return False
    return "/" not in model and ":" not in model


def lines(experiment: Experiment, folder: Path) -> list[str]:
    """What is to do, for people."""
    config, each = experiment.config, len(experiment.conditions)
    found = [
        f"{len(experiment.songs)} songs, {config.stretches} stretches of {config.seconds:g} s each, stems: {', '.join(experiment.conditions)}"
    ]
    for name, songs in todo(experiment, folder).items():
        sound = len(songs) * config.stretches * config.seconds * each
        what = f"{sound:.0f} s of sound to encode{' and decode' if config.decode else ''}, on both tracks"
        found.append(f"{name}: {len(songs)} songs to measure, {what}" if songs else f"{name}: done")
    return [*found, *(f"not measured: {name}: {why}" for name, why in experiment.gaps.items())]
