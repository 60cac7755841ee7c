"""Systems x instruments over one set of songs, into one store: what is done stays, what breaks is named, the rest arrives.

The unit of work is one instrument on one stretch of one song. Units are in `STORE/ledger`, so a run that was stopped goes on at
the song; a cell is written when all of its songs are there, with the songs that failed as rows with reasons.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from duotok.clock import SAMPLE_RATE
from duotok.data.jobs import Engine, LocalEngine, Results, Unit, pending, run_units
from duotok.errors import DuoTokError, one_line
from duotok.evaluation.instrument import MIX, Instrument, NoTokens, Observation, Song, System, encode
from duotok.evaluation.results import Cell, Inputs, plain_name, read_cell, versions_of, why_not_done, write_cell
from duotok.evaluation.results import files_of as cell_files
from duotok.evaluation.systems import SystemConfig, open_system
from duotok.suite.songs import SongSet
from duotok.suite.units import INSTRUMENTS, make_instrument, observe, unit_of
from duotok.tracks import TRACKS

LEDGER, STEMS = "ledger", "stems"
TRIAL_SECONDS = 4.0
Report = Callable[[str], None]


@dataclass(frozen=True)
class Chosen:
    """An instrument with the settings that were asked for."""

    instrument: Instrument
    fields: dict[str, Any] = field(default_factory=dict)


def choose(name: str, **fields: Any) -> Chosen:
    """Raises ConfigError for an unknown instrument or setting."""
    return Chosen(make_instrument(name, fields), fields)


@dataclass(frozen=True)
class Plan:
    """store: folder of the results; keep: folder for decoded sounds; retry: measure again what failed; force: everything."""

    systems: tuple[SystemConfig, ...]
    instruments: tuple[Chosen, ...]
    songs: SongSet
    store: Path
    keep: Path | None = None
    retry: bool = False
    force: bool = False


@dataclass(frozen=True)
class Todo:
    """One cell: the songs that are still to be measured, and why the cell is not done ("": it is)."""

    tokenizer: str
    instrument: str
    why: str
    songs: int
    minutes: float


@dataclass
class Done:
    """What a run ended with: the cells, and one line for each thing that went wrong."""

    cells: list[Cell] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class _Task:
    """All cells of one system."""

    def __init__(self, plan: Plan, config: SystemConfig, system: System) -> None:
        self.plan, self.system = plan, system
        self.ledger = plan.store / LEDGER / f"{plain_name(system.name)}.jsonl"
        self.units: dict[str, list[Unit]] = {}
        self.why: dict[str, str] = {}
        for chosen in plan.instruments:
            instrument = chosen.instrument
            keep = plan.keep if instrument.name == "reconstruction" else None
            units = [
                unit_of(config, system, instrument, chosen.fields, plan.songs, stretch, plan.store / STEMS, keep)
                for stretch in plan.songs.stretches
            ]
            self.units[instrument.name] = units
            self.why[instrument.name] = self._why(instrument, keep)

    def inputs(self, instrument: Instrument) -> Inputs:
        return Inputs(
            self.system.name, instrument.name, self.system.model_hash, self.plan.songs.hash, instrument.settings
        )

    def _why(self, instrument: Instrument, keep: Path | None) -> str:
        if self.plan.force:
            return "measured again, as asked for"
        why = why_not_done(self.plan.store, self.inputs(instrument))
        if not why and self.plan.retry and self._cell(instrument).failures:
            return "some of it failed"
        if not why and keep is not None and pending(self.units[instrument.name], self.ledger, intact=_kept).todo:
            return "its sounds are not kept yet"
        return why

    def _cell(self, instrument: Instrument) -> Cell:
        return read_cell(cell_files(self.plan.store, self.system.name, instrument.name)[1])

    def todo(self, instrument: Instrument, speed: tuple[float, float]) -> Todo:
        why = self.why[instrument.name]
        if not why:
            return Todo(self.system.name, instrument.name, "", 0, 0.0)
        units = self.units[instrument.name]
        left = units if self.plan.force else pending(units, self.ledger, retry=self.plan.retry, intact=_kept).todo
        seconds = sum(unit.payload["seconds"] for unit in left)
        cost = instrument.cost
        a_second = cost.encodings * speed[0] + cost.decodings * speed[1] + cost.besides
        return Todo(self.system.name, instrument.name, why, len(left), seconds * a_second / 60)

    def run(self, engine: Engine) -> list[Cell]:
        """Measure what is missing and write the cells."""
        wanted = [c.instrument for c in self.plan.instruments if self.why[c.instrument.name]]
        units = [unit for instrument in wanted for unit in self.units[instrument.name]]
        results = Results()
        if units:
            again = self.plan.force
            results = run_units(
                observe, units, self.ledger, engine, self.system.name, retry=again or self.plan.retry,
                intact=_never if again else _kept, folders=(self.plan.store / STEMS,),
            )  # fmt: skip
        cells = []
        for chosen in self.plan.instruments:
            instrument = chosen.instrument
            if self.why[instrument.name]:
                write_cell(self.plan.store, self._made(instrument, results))
            cells.append(self._cell(instrument))
        return cells

    def _tracks(self, instrument: Instrument, of_song: tuple[str, ...]) -> tuple[str, ...]:
        """Where values would have been: the streams of a tokenizer, or the tracks of a song."""
        if instrument.of_tokens and self.system.codec is not None:
            return tuple(stream.name for stream in self.system.codec.streams)
        return of_song

    def _made(self, instrument: Instrument, results: Results) -> Cell:
        songs = self.plan.songs
        seen, took = list[Observation](), 0.0
        for unit, stretch in zip(self.units[instrument.name], songs.stretches, strict=True):
            tracks = self._tracks(instrument, songs.tracks_of(stretch))
            result = results.done.get(unit.id)
            if result is None:
                seen.append(Observation(stretch.song, stretch.part, tracks, {}, results.failed[unit.id]))
                continue
            took += result["took"]
            seen.append(Observation(stretch.song, stretch.part, tracks, result["data"]))
        for name, tracks, reason in songs.gaps:
            seen.append(Observation(name, "", self._tracks(instrument, tracks), {}, reason))
        about = {**self.system.about, "data": songs.about, "core_seconds": round(took, 1)}
        return Cell(
            self.inputs(instrument), instrument.measures, tuple(instrument.rows(seen)), 0,
            versions_of(*instrument.packages), about,
        )  # fmt: skip


def _kept(unit: Unit, result: dict[str, Any]) -> bool:
    """Whether the sounds that the unit is to keep are there."""
    return not unit.place["keep"] or (bool(result["kept"]) and all(Path(path).is_file() for path in result["kept"]))


def _never(unit: Unit, result: dict[str, Any]) -> bool:
    return False


def opened(plan: Plan, report: Report = lambda _: None) -> tuple[list[_Task], list[str]]:
    """The systems of a plan, and a line for each that cannot be opened or has the name of another."""
    tasks, problems = list[_Task](), list[str]()
    for config in plan.systems:
        report(f"opening {config.model}")
        try:
            system = open_system(config)
            if system.name in [task.system.name for task in tasks]:
                problems.append(f"{config.model}: '{system.name}' is there twice; name it, as in other={config.model}")
                continue
            tasks.append(_Task(plan, config, system))
        except DuoTokError as error:
            problems.append(f"{config.name or config.model}: {error}")
    return tasks, problems


def dry_run(plan: Plan, report: Report = lambda _: None) -> tuple[list[Todo], list[str]]:
    """What a run would do, with its cost in minutes of one core; writes nothing. The speed of a system is tried on 4 s of noise."""
    tasks, problems = opened(plan, report)
    todo = list[Todo]()
    for task in tasks:
        missing = any(task.why.values())
        if missing:
            report(f"{task.system.name}: trying its speed")
        speed = trial(task.system) if missing else (0.0, 0.0)
        todo += [task.todo(chosen.instrument, speed) for chosen in plan.instruments]
    return todo, problems


def trial(system: System) -> tuple[float, float]:
    """Seconds of a core that encoding and decoding take for a second of sound; zeros where it does not work."""
    draw = torch.Generator().manual_seed(0)
    sounds = {track: 0.1 * torch.randn(2, round(TRIAL_SECONDS * SAMPLE_RATE), generator=draw) for track in TRACKS}
    song = Song("noise", {**sounds, MIX: sounds["vocals"] + sounds["accompaniment"]})
    try:
        with torch.inference_mode():
            began = time.process_time()
            if system.codec is not None:
                encode(system.codec, song.sounds, SAMPLE_RATE)
            between = time.process_time()
            system.reconstruct(song)
            ended = time.process_time()
    except Exception:  # what is wrong is told by the run itself, song by song
        return 0.0, 0.0
    encoding = between - began
    return encoding / TRIAL_SECONDS, max(0.0, ended - between - encoding) / TRIAL_SECONDS


def conduct(plan: Plan, workers: int = 1, report: Report = lambda _: None, engine: Engine | None = None) -> Done:
    """Measure everything that is not done. Called again after a stop, it goes on. An error of one system leaves the others."""
    done = Done()
    tasks, done.problems = opened(plan, report)
    for task in tasks:
        try:
            done.cells += task.run(engine or LocalEngine(workers, apart=True))
        except DuoTokError as error:
            done.problems.append(f"{task.system.name}: {one_line(error, None)}")
            continue
        left = sum(len(cell.failures) for cell in done.cells if cell.inputs.tokenizer == task.system.name)
        report(f"{task.system.name}: done{f', {left} values missing' if left else ''}")
    done.problems += [f"{name}: left out: {reason}" for name, _, reason in plan.songs.gaps]
    return done


__all__ = [
    "INSTRUMENTS",
    "Chosen",
    "Done",
    "NoTokens",
    "Plan",
    "Todo",
    "choose",
    "conduct",
    "dry_run",
    "opened",
    "trial",
]
