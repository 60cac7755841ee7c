"""All tokenizers of a matched-decoder experiment: what is to do, then doing it, and the table (the paper's Table 4a)."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from duotok.clock import LATENTS_PER_FRAME
from duotok.codec.contract import Codec
from duotok.codec.duotok import DuoTok
from duotok.errors import BundleError, DuoTokError, MetricError
from duotok.evaluation.instrument import Observation
from duotok.evaluation.reconstruction import Reconstruction
from duotok.evaluation.results import Cell, Inputs, files_of, read_cell, versions_of, why_not_done, write_cell
from duotok.evaluation.summaries import summarise
from duotok.suite.matched.experiment import (
    Contestant,
    Experiment,
    MatchedExperimentConfig,
    Report,
    contestants,
    with_splits,
)
from duotok.suite.matched.material import Material
from duotok.suite.matched.stage import MatchedStage
from duotok.suite.opened import open_all
from duotok.suite.true_stems import true_songs
from duotok.tracks import TRACKS

INSTRUMENT = "matched-decoder"
MEASURES = ("pesq", "stoi", "mel", "chroma", "f0")
Bar = Callable[[str], AbstractContextManager[Callable[[float], None]]]


@dataclass(frozen=True)
class Plan:
    """The experiment and its contestants; output: the store."""

    experiment: Experiment
    rows: tuple[Contestant, ...]
    output: Path

    @property
    def instrument(self) -> Reconstruction:
        return Reconstruction(names=MEASURES)

    def inputs(self, contestant: Contestant) -> Inputs:
        owner = hashlib.sha256(contestant.owner.encode()).hexdigest()
        config = {**self.experiment.settings(), "measures": self.instrument.settings}
        return Inputs(contestant.name, INSTRUMENT, owner, self.experiment.content, config)

    def lines(self) -> list[str]:
        """What is to do, and about how long it takes here."""
        experiment = self.experiment
        counts = ", ".join(f"{len(songs)} {split}" for split, songs in experiment.songs.items())
        training = experiment.config.training
        lines = [
            f"songs: {counts}; {training.steps} steps of {training.batch_size} x {training.crop_frames} frames a track"
        ]
        todo = [c for c in self.rows if c.embed is not None and why_not_done(self.output, self.inputs(c))]
        each = _step_seconds(experiment) if todo else 0.0
        for contestant in self.rows:
            why = why_not_done(self.output, self.inputs(contestant))
            hours = len(TRACKS) * training.steps * each / 3600 if contestant.embed is not None else 0.0
            lines.append(f"{contestant.name}: {f'{why}; about {hours:.2f} h of training' if why else 'done'}")
        return lines


def plan(
    data: str,
    models: Sequence[str],
    output: Path,
    config: MatchedExperimentConfig,
    autoencoder: str,
    limit: int,
    device: str,
) -> Plan:
    """Open everything. autoencoder: a bundle, of which only that part is used. Raises as the openers do."""
    codecs: Mapping[str, Codec] = open_all(models, device)
    bundle = DuoTok.from_pretrained(autoencoder)
    if not bundle.config.renders:
        raise BundleError(f"{autoencoder}: a bundle without an autoencoder; name one that renders")
    songs = with_splits(true_songs(data, limit=limit))
    experiment = Experiment(songs, bundle.autoencoder, config, output)
    return Plan(experiment, tuple(contestants(codecs, config.controls)), output)


def conduct(found: Plan, say: Report, bar: Bar) -> list[Cell]:
    """Every row of the table, measured or read; one that fails is told and stops no other. Raises MetricError when all do."""
    cells, problems = list[Cell](), list[str]()
    for contestant in found.rows:
        inputs = found.inputs(contestant)
        with bar(contestant.name) as advance:
            why = why_not_done(found.output, inputs)
            if not why:
                cells.append(read_cell(files_of(found.output, inputs.tokenizer, inputs.instrument)[1]))
                continue
            say(f"{contestant.name}: {why}")
            try:
                cell = _measured(found, contestant, inputs, say, advance)
            except DuoTokError as error:
                problems.append(f"{contestant.name}: {error}")
                say(problems[-1])
                continue
            write_cell(found.output, cell)
            cells.append(cell)
    if not cells:
        raise MetricError(problems[0])
    return cells


def _measured(
    found: Plan, contestant: Contestant, inputs: Inputs, say: Report, advance: Callable[[float], None]
) -> Cell:
    experiment, instrument = found.experiment, found.instrument
    system = experiment.trained(contestant, say)
    seen, songs = list[Observation](), experiment.songs["test"]
    for number, place in enumerate(songs, 1):
        try:
            song = experiment.sounds(place)
            seen.append(Observation(song.name, song.part, song.tracks, instrument.observe(system, song)))
        except DuoTokError as error:
            seen.append(Observation(place.id, "", (*TRACKS, "mix"), {}, str(error)))
        advance(number / len(songs))
    about = {
        **system.about, "songs": {split: len(songs) for split, songs in experiment.songs.items()},
        "steps": experiment.config.training.steps, "seconds": experiment.config.seconds,
    }  # fmt: skip
    rows = tuple(instrument.rows(seen))
    seed = experiment.config.training.seed
    return Cell(inputs, instrument.measures, rows, seed, versions_of(*instrument.packages), about)


def _step_seconds(experiment: Experiment) -> float:
    """Seconds of a training step here, from two steps on noise."""
    config = experiment.config.training
    frames = LATENTS_PER_FRAME * config.crop_frames
    noise = torch.randn(frames, config.dit.latent_dim, generator=torch.Generator().manual_seed(0))
    material = Material("noise", noise, noise)
    stage = MatchedStage(config, TRACKS[0], [material], [material])
    times = []
    for step in range(2):
        start = time.perf_counter()
        batch = {**stage.batch(step, range(config.batch_size)), "seeds": stage.seeds(step, range(config.batch_size))}
        stage.losses(batch, step)["loss"].backward()  # type: ignore[no-untyped-call]
        times.append(time.perf_counter() - start)
    return min(times)


def as_markdown(cells: Sequence[Cell]) -> str:
    """Table 4a: a row for each tokenizer and track, means over test songs with 95 % intervals where there are enough."""
    lines = [f"| decoder on | track | {' | '.join(MEASURES)} |", "|---" * (2 + len(MEASURES)) + "|"]
    for cell in cells:
        found = {(s.measure.name, s.track): s for s in summarise([cell])}
        for track in TRACKS:
            values = [format(found[name, track], ".3f") if (name, track) in found else "" for name in MEASURES]
            lines.append(f"| {cell.inputs.tokenizer} | {track} | {' | '.join(values)} |")
    about = cells[0].about
    songs = ", ".join(f"{count} {split}" for split, count in about["songs"].items())
    return (
        "\n".join(
            [*lines, "", f"Songs: {songs}, {about['seconds']:g} s each; {about['steps']} steps a track; true stems."]
        )
        + "\n"
    )
