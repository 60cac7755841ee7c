"""What a comparison costs: minutes of a core for each run, from a few real steps of each of its models on this machine."""

from __future__ import annotations

from dataclasses import dataclass, field

from duotok.clock import FRAME_RATE
from duotok.comparison.run import ModelRun
from duotok.comparison.study import Comparison
from duotok.lm.cost import estimate_of
from duotok.training.checkpoint import checkpoints, read_state

MEASURED_SECONDS = 2.0
FORWARD = 1 / 3
"""Of a step: scoring does not go back."""


@dataclass
class Costs:
    """Of the runs of one comparison; models of equal shape are measured once. seconds: spent on measuring each of them."""

    comparison: Comparison
    seconds: float = MEASURED_SECONDS
    _steps: dict[tuple[str, ...], tuple[float, float]] = field(default_factory=dict)

    def minutes(self, number: int) -> float:
        """What is left of a run: its steps, then its scores. Raises what `LMStage` raises."""
        run = self.comparison.runs[number]
        todo = self.comparison.todo(run)
        if not todo:
            return 0.0
        a_step, heard = self._step(run)
        saved = checkpoints(run.folder)
        state = read_state(saved[-1]) if saved else {}
        if run.config.minutes is not None:
            training = 60 * run.config.minutes - float(state.get("seconds", 0.0))
        else:
            training = (run.config.steps - int(state.get("step", 0))) * a_step
        tasks = self.comparison.tasks(run)
        scored = sum(song.frames for name in todo for song in tasks[name]()) / run.protocol.codec.frame_rate
        return (max(0.0, training) + FORWARD * a_step * scored / heard) / 60

    def _step(self, run: ModelRun) -> tuple[float, float]:
        """Seconds that a step of models of this shape takes, and seconds of music in it."""
        codec = run.corpus.identity
        key = (run.tokenizer, repr(codec.streams), repr(codec.frame_rate), run.protocol_name)
        if key not in self._steps:
            cost = estimate_of(run.config, run.corpus, self.seconds)
            self._steps[key] = cost.speed.seconds, cost.frames / FRAME_RATE
        return self._steps[key]
