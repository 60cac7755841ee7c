"""Systems x instruments over one set of songs, into one store: what is done stays, what breaks is named, the rest arrives.

The unit of work is one instrument on one stretch of one song. Units are in `STORE/ledger`, so a run that was stopped goes on at
the song; a cell is written when all of its songs are there, with the songs that failed as rows with reasons.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from duotok.data.jobs import Engine, LocalEngine, Results, Unit, pending, run_units, sweep
from duotok.errors import DuoTokError, one_line
from duotok.evaluation.instrument import Instrument, NoTokens, Observation, System
from duotok.evaluation.results import Cell, Inputs, plain_name, versions_of
from duotok.evaluation.store import MEASURED, read_cell, why_not_done, write_cell
from duotok.evaluation.store import files_of as cell_files
from duotok.evaluation.systems import SystemConfig, open_system
from duotok.files import LEFT_OVER
from duotok.suite.costs import Speed, Todo, trial
from duotok.suite.experiments import Asked
from duotok.suite.runner import LEDGER, Found, Report, Runner
from duotok.suite.songs import SongSet
from duotok.suite.units import INSTRUMENTS, ORIGINAL, make_instrument, observe, settings_of, unit_of
from duotok.tracks import TRACKS

STEMS = "stems"
"""Folder in the store for separated vocals."""


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
    """store: folder of the results; keep: folder for decoded sounds; retry: measure again what failed; force: everything; experiments:
    instruments that need more than a song at a time."""

    systems: tuple[SystemConfig, ...]
    instruments: tuple[Chosen, ...]
    songs: SongSet
    store: Path
    keep: Path | None = None
    retry: bool = False
    force: bool = False
    experiments: tuple[Asked, ...] = ()


@dataclass
class Done:
    """What a run ended with: the cells, one line for each thing that went wrong, and how many tokenizers could not be measured at all."""

    cells: list[Cell] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unmeasured: int = 0


class _Task:
    """All cells of one system."""

    def __init__(self, plan: Plan, config: SystemConfig, system: System) -> None:
        self.plan, self.config, self.system = plan, config, system
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
            self.system.name,
            instrument.name,
            self.system.model_hash,
            self.plan.songs.hash,
            settings_of(self.system, instrument),
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

    def todo(self, instrument: Instrument, speed: Speed) -> Todo:
        why = self.why[instrument.name]
        if not why:
            return Todo(self.system.name, instrument.name, "")
        units = self.units[instrument.name]
        left = units if self.plan.force else pending(units, self.ledger, retry=self.plan.retry, intact=_kept).todo
        seconds = sum(unit.payload["seconds"] for unit in left)
        cost = instrument.cost
        a_second = speed.seconds(cost.encodings, cost.decodings, cost.besides)
        minutes = None if a_second is None else seconds * a_second / 60
        return Todo(
            self.system.name, instrument.name, why, len(left), minutes, "" if a_second is not None else speed.why
        )

    def run(self, engine: Engine, report: Report) -> list[Cell]:
        """Measure what is missing and write the cells."""
        wanted = [c.instrument for c in self.plan.instruments if self.why[c.instrument.name]]
        for instrument in wanted:
            if self.why[instrument.name].startswith(MEASURED):
                report(
                    f"{instrument.name} of {self.system.name}: {self.why[instrument.name]}; that result is replaced in {self.plan.store}"
                )
        units = [unit for instrument in wanted for unit in self.units[instrument.name]]
        results = Results()
        if units:
            sweep(self.plan.store / STEMS, older=LEFT_OVER)  # tokenizers, and commands, share the folder
            again = self.plan.force
            results = run_units(
                observe, units, self.ledger, engine, self.system.name, retry=again or self.plan.retry,
                intact=_never if again else _kept,
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
        seen, took, rates = list[Observation](), 0.0, list[float]()
        for unit, stretch in zip(self.units[instrument.name], songs.stretches, strict=True):
            tracks = self._tracks(instrument, songs.tracks_of(stretch))
            result = results.done.get(unit.id)
            if result is None:
                seen.append(Observation(stretch.song, stretch.part, tracks, {}, results.failed[unit.id]))
                continue
            took += result["took"]
            took_kbps = result.get("kbps", {})
            known = [track for track in TRACKS if track in took_kbps] or [*took_kbps]  # of a song without stems the mix
            rates += [took_kbps[track] for track in known]
            seen.append(Observation(stretch.song, stretch.part, tracks, result["data"]))
        for name, tracks, reason in songs.left_out:
            seen.append(Observation(name, "", self._tracks(instrument, tracks), {}, reason))
        about = {**self.system.about, "data": songs.about, "core_seconds": round(took, 1)}
        if rates:  # of what bits a second were asked for, an encoder may take more
            about |= {"kbps_asked": about["kbps"], "kbps": round(sum(rates) / len(rates), 3)}
        return Cell(
            self.inputs(instrument), instrument.measures, tuple(instrument.rows(seen)), 0,
            versions_of(*instrument.packages), about,
        )  # fmt: skip


def _kept(unit: Unit, result: dict[str, Any]) -> bool:
    """Whether the sounds that the unit is to keep are there, in the folders that were asked for."""
    folders = [Path(unit.place[name]).absolute() for name in ("keep", "original")]
    return not unit.place["keep"] or (
        bool(result["kept"])
        and all(
            Path(path).is_file() and any(folder in Path(path).absolute().parents for folder in folders)
            for path in result["kept"]
        )
    )


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
            if plan.keep is not None and plain_name(system.name) == ORIGINAL:
                problems.append(
                    f"{config.model}: '{ORIGINAL}' is where originals are kept; name it, as in other={config.model}"
                )
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
        speed = trial(task.system) if missing else Speed()
        todo += [task.todo(chosen.instrument, speed) for chosen in plan.instruments]
    for asked in plan.experiments:
        report(f"opening {asked.name}")
        try:
            experiment = asked.open([task.config for task in tasks], plan.store, plan.songs)
            todo += experiment.todo(plan.retry, plan.force)
        except DuoTokError as error:
            names = [(task.system.name, name) for name, _ in asked.instruments() for task in tasks]
            todo += [Todo(tokenizer, name, "", gap=str(error)) for tokenizer, name in names]
    return todo, problems


def conduct(plan: Plan, workers: int = 1, report: Report = lambda _: None, engine: Engine | None = None) -> Done:
    """Measure everything that is not done. Called again after a stop, it goes on. An error of one system leaves the others."""
    done = Done()
    tasks, done.problems = opened(plan, report)
    done.unmeasured = len(plan.systems) - len(tasks)
    engine = engine or LocalEngine(workers, apart=True)
    for task in tasks if plan.instruments else ():
        try:
            done.cells += task.run(engine, report)
        except DuoTokError as error:
            done.problems.append(f"{task.system.name}: {one_line(error, None)}")
            done.unmeasured += 1
            continue
        left = sum(len(cell.failures) for cell in done.cells if cell.inputs.tokenizer == task.system.name)
        report(f"{task.system.name}: done{f', {left} values missing' if left else ''}")
    runner = Runner(plan.store, engine, plan.retry, plan.force, report)
    for asked in plan.experiments if tasks else ():
        _experiment(plan, asked, tasks, runner, done)
    done.problems += [f"{name}: left out: {reason}" for name, _, reason in plan.songs.left_out]
    return done


def _experiment(plan: Plan, asked: Asked, tasks: list[_Task], runner: Runner, done: Done) -> None:
    """Its cells, or gaps for all tokenizers where it cannot be made of these data."""
    runner.say(f"opening {asked.name}")
    try:
        found = asked.open([task.config for task in tasks], plan.store, plan.songs).conduct(runner)
    except DuoTokError as error:
        names = [(task.system.name, task.system.model_hash) for task in tasks]
        found = Found(asked.gaps(names, plan.store, plan.songs, str(error)), [f"{asked.name}: {error}"])
    done.cells += found.cells
    done.problems += found.problems


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
