"""All tokenizers of a matched-decoder experiment: what is to do and what it costs, then doing it, and the table (the paper's Table 4a).

Units are the arrays of a song, the training of a track's decoder (which goes on at its last checkpoint), and a reconstructed song.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from duotok.data.jobs import Unit
from duotok.errors import DuoTokError
from duotok.evaluation.instrument import MIX, Observation
from duotok.evaluation.results import Cell, Inputs, versions_of
from duotok.evaluation.store import files_of, read_cell, why_not_done, write_cell
from duotok.evaluation.summaries import summarise, told
from duotok.evaluation.systems import SystemConfig
from duotok.files import remove
from duotok.records import SPLITS
from duotok.suite.costs import Todo
from duotok.suite.matched.experiment import (
    LATENTS,
    LOG_MEL,
    SHUFFLED,
    TOKENS,
    Contestant,
    Experiment,
    MatchedExperimentConfig,
    contestant,
    with_splits,
)
from duotok.suite.matched.material import Material
from duotok.suite.matched.stage import MatchedStage
from duotok.suite.matched.work import MEASURES, autoencoder_of, instrument, make_arrays, reconstruct, train_track
from duotok.suite.opened import open_each
from duotok.suite.runner import Found, Gap, Runner, write_gap
from duotok.suite.songs import SongSet
from duotok.suite.true_stems import TrueSong, of_songs, true_songs
from duotok.tracks import TRACKS

INSTRUMENT = "matched-decoder"


class MatchedSettings(MatchedExperimentConfig):
    """data: CORPUS=FOLDER, "" for the songs of the suite; autoencoder: a bundle, of which only that part is used; limit: the first so
    many songs, 0 for all."""

    data: str = ""
    autoencoder: str = "mini"
    limit: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class Plan:
    """The experiment and its contestants, each with what opens its tokenizer again; gaps: tokenizers that have no row."""

    experiment: Experiment
    rows: tuple[tuple[Contestant, SystemConfig | None, str], ...]
    settings: MatchedSettings
    store: Path
    gaps: tuple[Gap, ...] = ()

    def inputs(self, contestant: Contestant) -> Inputs:
        return self._inputs(contestant.name, hashlib.sha256(contestant.owner.encode()).hexdigest())

    def _inputs(self, name: str, owner: str) -> Inputs:
        config = {**self.experiment.settings(), "measures": instrument().settings}
        return Inputs(name, INSTRUMENT, owner, self.experiment.content, config)

    def _cell(self, name: str) -> Cell:
        return read_cell(files_of(self.store, name, INSTRUMENT)[1])

    def why(self, contestant: Contestant, retry: bool = False, force: bool = False) -> str:
        """Why a row must be measured, "" where it is done."""
        if force:
            return "measured again, as asked for"
        why = why_not_done(self.store, self.inputs(contestant))
        return "some of it failed" if not why and retry and self._cell(contestant.name).failures else why

    # -- what is to do -----------------------------------------------------------------------------------------------------

    def todo(self, retry: bool = False, force: bool = False) -> list[Todo]:
        """A line for each row; minutes are of training alone, from two steps on noise, which is nearly all of it."""
        result, each = list[Todo](), 0.0
        for row, _, _ in self.rows:
            why, trains = self.why(row, retry, force), row.embed is not None
            if not why:
                result.append(Todo(row.name, INSTRUMENT, ""))
                continue
            each = each or (_step_seconds(self.experiment) if trains else 0.0)
            steps = len(TRACKS) * self.experiment.config.training.steps if trains else 0
            test = len(self.experiment.songs["test"])
            work = f"{steps} training steps and {test} songs to reconstruct"
            result.append(Todo(row.name, INSTRUMENT, why, test, steps * each / 60, "", work))
        return result + [Todo(gap.tokenizer, INSTRUMENT, "", gap=gap.reason) for gap in self.gaps]

    # -- doing it ----------------------------------------------------------------------------------------------------------

    def _place(self, row: Contestant, system: SystemConfig | None, name: str) -> dict[str, Any]:
        songs = [song for split in SPLITS for song in self.experiment.songs[split]]
        return {
            "songs": [[s.id, s.split, {track: [str(p) for p in paths] for track, paths in s.files.items()}] for s in songs],
            "contents": self.experiment.contents, "config": self.experiment.config.model_dump(mode="json"),
            "autoencoder": self.settings.autoencoder, "system": None if system is None else system.model_dump(mode="json"),
            "kind": row.kind, "name": name, "folder": str(self.store),
        }  # fmt: skip

    def conduct(self, runner: Runner) -> Found:
        """Every row of the table, measured or read; one that fails is a gap with its reason and stops no other."""
        found = Found()
        for row, system, name in self.rows:
            why = self.why(row, runner.retry, runner.force)
            if not why:
                found.cells.append(self._cell(row.name))
                continue
            runner.say(f"{row.name}: {why}")
            try:
                cell = self._measured(row, self._place(row, system, name), runner)
                write_cell(self.store, cell)
            except DuoTokError as error:
                found.problems.append(f"{row.name}: {error}")
                runner.say(found.problems[-1])
                cell = write_gap(self.store, self.inputs(row), instrument().measures, str(error))
            found.cells.append(cell)
        for gap in self.gaps:
            found.problems.append(f"{gap.tokenizer}: {INSTRUMENT}: {gap.reason}")
            if gap.model_hash:
                inputs = self._inputs(gap.tokenizer, gap.model_hash)
                found.cells.append(write_gap(self.store, inputs, instrument().measures, gap.reason))
        return found

    def _measured(self, row: Contestant, place: Mapping[str, Any], runner: Runner) -> Cell:
        experiment, key = self.experiment, self.inputs(row).key
        test = experiment.songs["test"]

        def unit(what: str, **values: str) -> Unit:
            name = "/".join([row.name, what, *values.values()])
            return Unit(name, {"key": key, "what": what, **values}, {"experiment": dict(place)})

        def done(what: str, function: Any, units: Sequence[Unit]) -> None:
            """Raises DuoTokError for the first unit that failed: without all arrays or both decoders there is no row."""
            results = runner.run(INSTRUMENT, f"{what} of {row.name}", function, units)
            for name, reason in results.failed.items():
                raise DuoTokError(f"{name.partition('/')[2]}: {reason}")

        if row.embed is not None:
            if runner.force:
                for track in TRACKS:
                    remove(experiment.run_folder(row, track))
            learned = [song for split in ("train", "validation") for song in experiment.songs[split]]  # type: ignore[index]
            done("arrays", make_arrays, [unit("arrays", song=song.id) for song in learned])
            done("decoders", train_track, [unit("decoder", track=track) for track in TRACKS])
        units = [unit("song", song=song.id) for song in test]
        results = runner.run(INSTRUMENT, f"songs of {row.name}", reconstruct, units)
        seen = list[Observation]()
        for song, one in zip(test, units, strict=True):
            if one.id in results.done:
                of = results.done[one.id]
                seen.append(Observation(song.id, of["part"], tuple(of["tracks"]), of["data"]))
            else:
                seen.append(Observation(song.id, "", (*TRACKS, MIX), {}, results.failed[one.id]))
        about = {
            **row.about, "songs": {split: len(songs) for split, songs in experiment.songs.items()},
            "steps": experiment.config.training.steps, "seconds": experiment.config.seconds,
        }  # fmt: skip
        rows, packages = tuple(instrument().rows(seen)), versions_of(*instrument().packages)
        return Cell(self.inputs(row), instrument().measures, rows, experiment.config.training.seed, packages, about)


def plan(settings: MatchedSettings, systems: Sequence[SystemConfig], store: Path, songs: SongSet | None = None) -> Plan:
    """Open everything. songs: of the suite, used where `settings.data` names none. Raises as the openers do."""
    found = _songs(settings, songs)
    named, gaps = open_each(systems)
    values = {key: value for key, value in settings.model_dump().items() if key in MatchedExperimentConfig.model_fields}
    config = MatchedExperimentConfig.model_validate(values)
    experiment = Experiment(with_splits(found), autoencoder_of(settings.autoencoder), config, store)
    rows: list[tuple[Contestant, SystemConfig | None, str]] = [
        (contestant(TOKENS, one.name, one.codec), one.config, one.name) for one in named
    ]
    if config.controls and named:
        rows.append((contestant(SHUFFLED, named[0].name, named[0].codec), named[0].config, named[0].name))
    if config.controls:
        rows.append((contestant(LOG_MEL), None, ""))
    return Plan(experiment, (*rows, (contestant(LATENTS), None, "")), settings, store, tuple(gaps))


def _songs(settings: MatchedSettings, songs: SongSet | None) -> list[TrueSong]:
    if settings.data or songs is None:
        return true_songs(settings.data, limit=settings.limit)
    found = of_songs(songs)
    return found[: settings.limit] if settings.limit else found


def _step_seconds(experiment: Experiment) -> float:
    """Seconds of a training step here, from two steps on noise."""
    config = experiment.config.training
    per_frame = config.dit.latents_per_frame
    frames = per_frame * config.crop_frames
    noise = torch.randn(frames, config.dit.latent_dim, generator=torch.Generator().manual_seed(0))
    material = Material("noise", noise, noise, per_frame)
    stage = MatchedStage(config, TRACKS[0], [material], [material])
    times = []
    for step in range(2):
        start = time.process_time()
        batch = {**stage.batch(step, range(config.batch_size)), "seeds": stage.seeds(step, range(config.batch_size))}
        stage.losses(batch, step)["loss"].backward()  # type: ignore[no-untyped-call]
        times.append(time.process_time() - start)
    return min(times)


def as_markdown(cells: Sequence[Cell]) -> str:
    """Table 4a: a row for each tokenizer and track, means over test songs with 95 % intervals where there are enough."""
    measured = [cell for cell in cells if not cell.gap]
    lines = [f"- {cell.inputs.tokenizer}: not measured: {cell.gap}" for cell in cells if cell.gap]
    if measured:
        about = measured[0].about
        songs = ", ".join(f"{count} {split}" for split, count in about["songs"].items())
        text = f"Songs: {songs}, {about['seconds']:g} s each; {about['steps']} steps a track; true stems."
        lines = [*_rows(measured), "", text, *lines]
    return "\n".join(lines) + "\n"


def _rows(cells: Sequence[Cell]) -> list[str]:
    tracks = {measure.name: instrument().tracks_of(measure) for measure in instrument().measures}
    lines = [f"| decoder on | track | {' | '.join(MEASURES)} |", "|---" * (2 + len(MEASURES)) + "|"]
    for cell in cells:
        found = {(s.measure.name, s.track): s for s in summarise([cell])}
        for track in TRACKS:
            values = [told(found.get((name, track))) if track in tracks[name] else "–" for name in MEASURES]
            lines.append(f"| {cell.inputs.tokenizer} | {track} | {' | '.join(values)} |")
    return lines
