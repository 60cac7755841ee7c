"""The leakage experiment: several tokenizers on songs with true stems (the paper's first named limitation, section 8).

The unit is a song under all tokenizers, so that it is separated once for all of them. Every stretch of every tokenizer is kept
when it is done; a stopped run goes on there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from duotok.config import Config
from duotok.data.jobs import Results, Unit, pending
from duotok.errors import AudioError, ConfigError, DuoTokError, MetricError
from duotok.evaluation.instrument import facts_of
from duotok.evaluation.results import ALL, Cell, Inputs, Measure, Row, versions_of
from duotok.evaluation.store import files_of, read_cell, why_not_done, write_cell
from duotok.evaluation.systems import CodecSystem, SystemConfig
from duotok.lm.evaluate import fingerprint
from duotok.lm.saved import LanguageModel, find_lm, open_lm
from duotok.records import SPLITS
from duotok.suite.costs import Todo, trial
from duotok.suite.leakage.measure import Measured, kept
from duotok.suite.leakage.statistics import cnbpt_rows, unigram_rows
from duotok.suite.leakage.stems import CHANCE, DIRECT, LEVELS, TRUE, OpenSeparator, leak_name, open_separators
from duotok.suite.leakage.work import measure_song
from duotok.suite.opened import Named, open_each
from duotok.suite.runner import LEDGER, Found, Gap, Runner, write_gap
from duotok.suite.songs import SongSet
from duotok.suite.true_stems import TrueSong, content_of, of_songs, true_songs

INSTRUMENT = "leakage"
WORK = "leakage"
"""Folder in the store for stretches that are done."""

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


class LeakageSettings(LeakageConfig):
    """data: CORPUS=FOLDER, "" for the songs of the suite; separators: NAME or NAME=WEIGHTS, none for all that open; lms: language models
    of the tokenizers, None for those that come with packaged bundles; splits: of the corpus, none for all; limit: songs, 0 for all."""

    data: str = ""
    separators: tuple[str, ...] = ()
    lms: tuple[str, ...] | None = None
    splits: tuple[str, ...] = ()
    limit: int = Field(default=0, ge=0)
    device: str = "cpu"


@dataclass(frozen=True)
class Plan:
    """Everything opened. missing: separators that did not open, and why; gaps: tokenizers that have no cell; lms: language models,
    used where their codec is measured."""

    songs: tuple[TrueSong, ...]
    content: str
    tokenizers: tuple[Named, ...]
    separators: tuple[OpenSeparator, ...]
    missing: Mapping[str, str]
    settings: LeakageSettings
    store: Path
    lms: tuple[LanguageModel, ...] = ()
    gaps: tuple[Gap, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def conditions(self) -> tuple[str, ...]:
        leaks = tuple(leak_name(level) for level in self.settings.levels)
        return (TRUE, *leaks, *(separator.name for separator in self.separators), DIRECT)

    def config(self) -> dict[str, Any]:
        """All that a stretch depends on besides its tokenizer and its sound."""
        values = self.settings.model_dump(mode="json")
        own = {key: values[key] for key in LeakageConfig.model_fields}
        return {**own, "separators": {separator.name: separator.stamp for separator in self.separators}}

    def lm_of(self, model_hash: str) -> LanguageModel | None:
        """The language model of a tokenizer, if one was given."""
        return next((lm for lm in self.lms if lm.protocol.codec.hash == model_hash), None)

    def inputs(self, name: str, model_hash: str, sound: str = "") -> Inputs:
        lm = self.lm_of(model_hash)
        config = {**self.config(), "lm": "" if lm is None else f"{lm.source.name} {fingerprint(lm.model)[:16]}"}
        config |= {"sound": sound} if sound else {}
        return Inputs(name, INSTRUMENT, model_hash, self.content, config)

    def of(self, one: Named) -> Inputs:
        return self.inputs(one.name, one.codec.model_hash, self.sound(one))

    def sound(self, one: Named) -> str:
        """The hash of what decodes, where that is measured and the tokenizer's own hash leaves it out."""
        return str(getattr(one.codec, "sound_hash", "")) if self.settings.decode else ""

    def why(self, one: Named, retry: bool = False, force: bool = False) -> str:
        """Why a cell must be measured, "" where it is done."""
        if force:
            return "measured again, as asked for"
        why = why_not_done(self.store, self.of(one))
        return "some of it failed" if not why and retry and song_failures(self._cell(one.name)) else why

    def _cell(self, name: str) -> Cell:
        return read_cell(files_of(self.store, name, INSTRUMENT)[1])

    # -- units -------------------------------------------------------------------------------------------------------------

    def folder(self, one: Named, song: TrueSong) -> Path:
        """Where the stretches of a song are kept; another name when its sound, the tokenizer or a setting changes, and no other song's
        when one is mended."""
        key = [FORMAT, one.codec.model_hash, self.config(), song.id, _content(song), *filter(None, [self.sound(one)])]
        return self.store / WORK / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]

    def units(self, wanted: Sequence[Named], again: bool = False, retry: bool = False) -> list[Unit]:
        settings, units = self.settings, list[Unit]()
        for song in self.songs:
            folders = {one.name: str(self.folder(one, song)) for one in wanted}
            place = {
                "song": song.id, "files": {track: [str(p) for p in paths] for track, paths in song.files.items()}, "folders": folders,
                "systems": {one.name: one.config.model_dump(mode="json") for one in wanted}, "again": again, "retry": retry,
                "separators": [separator.text for separator in self.separators], "device": settings.device,
                "seconds": settings.seconds, "stretches": settings.stretches, "levels": list(settings.levels), "decode": settings.decode,
            }  # fmt: skip
            units.append(Unit(song.id, {name: Path(folder).name for name, folder in folders.items()}, place))
        return units

    @staticmethod
    def _kept(unit: Unit, result: dict[str, Any]) -> bool:
        folders = unit.place["folders"]
        found = [kept(Path(folders[name]) / file) for name, files in result["files"].items() for file in files]
        return all(one is not None and not (unit.place["retry"] and one.failed) for one in found)

    # -- what is to do -----------------------------------------------------------------------------------------------------

    def todo(self, retry: bool = False, force: bool = False) -> list[Todo]:
        """A line for each cell; minutes without those of separators, which are shared by all tokenizers."""
        wanted = [one for one in self.tokenizers if self.why(one, retry, force)]
        ledger = self.store / LEDGER / "experiments" / f"{INSTRUMENT}.jsonl"
        units = self.units(wanted, retry=retry)
        left = len(units if force else pending(units, ledger, retry=retry, intact=self._kept).todo)
        result, sound = list[Todo](), left * self.settings.stretches * self.settings.seconds
        for one in self.tokenizers:
            if one not in wanted:
                result.append(Todo(one.name, INSTRUMENT, ""))
                continue
            speed = trial(CodecSystem(one.codec, one.name))
            each = speed.seconds(len(self.conditions), len(self.conditions) * self.settings.decode)
            minutes = None if each is None else sound * each / 60
            work = f"{left} songs under {len(self.conditions)} kinds of stems"
            result.append(Todo(one.name, INSTRUMENT, self.why(one, retry, force), left, minutes, speed.why, work))
        return result + [Todo(gap.tokenizer, INSTRUMENT, "", gap=gap.reason) for gap in self.gaps]

    # -- doing it ----------------------------------------------------------------------------------------------------------

    def conduct(self, runner: Runner) -> Found:
        """Measure what is not done, write a cell for each tokenizer. A song that fails is a row with its reason, and stops no other."""
        wanted = [one for one in self.tokenizers if self.why(one, runner.retry, runner.force)]
        units = self.units(wanted, runner.force, runner.retry) if wanted else []
        results, found = runner.run(INSTRUMENT, "songs", measure_song, units, self._kept), Found()
        for one in self.tokenizers:
            if one in wanted:
                try:
                    write_cell(self.store, self._made(one, units, results))
                except DuoTokError as error:
                    found.problems.append(f"{one.name}: {error}")
                    found.cells.append(write_gap(self.store, self.of(one), [GAP], str(error)))
                    continue
            found.cells.append(self._cell(one.name))
        found.problems += [f"{INSTRUMENT}: {name}: {why}" for name, why in self.missing.items()]
        for gap in self.gaps:
            found.problems.append(f"{gap.tokenizer}: {INSTRUMENT}: {gap.reason}")
            if gap.model_hash:
                inputs = self.inputs(gap.tokenizer, gap.model_hash)
                found.cells.append(write_gap(self.store, inputs, [GAP], gap.reason))
        return found

    def _made(self, one: Named, units: Sequence[Unit], results: Results) -> Cell:
        codec, failures, parts = one.codec, dict[str, str](), dict[tuple[str, str], Measured]()
        for unit in units:
            result = results.done.get(unit.id)
            why = results.failed[unit.id] if result is None else result["failed"].get(one.name, "")
            if why:
                failures[unit.id] = why
            for file in [] if result is None else result["files"].get(one.name, []):
                measured = kept(Path(unit.place["folders"][one.name]) / file)
                if measured is not None:
                    parts[unit.id, measured.rows[0].part] = measured
        if not parts:
            raise MetricError(next(iter(failures.values()), f"{one.name}: nothing was measured"))
        codes = {key: measured.codes for key, measured in parts.items()}
        rows = [row for measured in parts.values() for row in measured.rows]
        rows += unigram_rows(codec, codes)
        lm = self.lm_of(codec.model_hash)
        if lm is not None:
            rows += cnbpt_rows(lm, codes)
        rows += [Row(f"equal.{TRUE}", ALL, song, None, why) for song, why in failures.items()]
        rows += [Row(f"equal.{name}", ALL, ALL, None, why) for name, why in self.missing.items()]
        used = {row.measure for row in rows}
        measures = tuple(
            Measure(f"{figure}.{condition}", f"{definition}; stems: {condition}", unit, better, "docs/leakage.md")  # type: ignore[arg-type]
            for figure, (definition, unit, better) in FIGURES.items()
            for condition in (*self.conditions, CHANCE, *self.missing)
            if f"{figure}.{condition}" in used
        )
        about = {
            **self.about, "songs": [song.id for song in self.songs], **facts_of(codec), "conditions": list(self.conditions),
            "levels": list(self.settings.levels), "gaps": dict(self.missing),
        }  # fmt: skip
        return Cell(self.of(one), measures, tuple(rows), 0, versions_of("torch", "numpy"), about)


FORMAT = 2
"""Of what is kept of a stretch."""
GAP = Measure(f"equal.{TRUE}", f"{FIGURES['equal'][0]}; stems: {TRUE}", "", "higher", "docs/leakage.md")
"""What a tokenizer without any figure has a reason for."""


def song_failures(cell: Cell) -> list[Row]:
    """Rows of songs, or of stems, that failed; no separator that is not here, and no figure that one song alone cannot have."""
    return [row for row in cell.failures if row.item != ALL and not row.reason.startswith("one song")]


def plan(settings: LeakageSettings, systems: Sequence[SystemConfig], store: Path, songs: SongSet | None = None) -> Plan:
    """Open everything. songs: of the suite, used where `settings.data` names none. Raises ConfigError for unknown splits, and as the
    openers do."""
    unknown = [split for split in settings.splits if split not in SPLITS]
    if unknown:
        raise ConfigError(f"split '{unknown[0]}' does not exist; choose {', '.join(SPLITS)}")
    if settings.data or songs is None:
        found, corpus = true_songs(settings.data, settings.splits or SPLITS), settings.data.partition("=")[0]
    else:
        found, corpus = of_songs(songs), Path(songs.config.folder).name
    found = found[: settings.limit] if settings.limit else found
    content = hashlib.sha256(json.dumps([[song.id, _content(song)] for song in found]).encode()).hexdigest()
    named, gaps = open_each(systems)
    opened, missing = open_separators(settings.separators, settings.device)
    packaged = [one.config.model for one in named if is_packaged(one.config.model)]
    lms = [open_lm(name, settings.device) for name in (packaged if settings.lms is None else settings.lms)]
    return Plan(
        tuple(found), content, tuple(named), tuple(opened), missing, settings, store, tuple(lms), tuple(gaps),
        {"data": corpus},
    )  # fmt: skip


def _content(song: TrueSong) -> str:
    """The hash of its sound, or why it cannot be read: the song itself tells that again when it is measured."""
    try:
        return content_of([song])
    except AudioError as error:
        return str(error)


def is_packaged(model: str) -> bool:
    """Whether a bundle came with the package and has a language model."""
    try:
        find_lm(model)
    except ConfigError:
        return False
    return "/" not in model and ":" not in model
