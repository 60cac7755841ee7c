"""One model of a comparison: its training, and the scorer that comes out of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from duotok.comparison.plan import FREE
from duotok.errors import ConfigError
from duotok.lm import protocols
from duotok.lm.corpus import TokenCorpus
from duotok.lm.scores import SongScore
from duotok.lm.song import TokenizedSong
from duotok.lm.stage import LMStageConfig
from duotok.training.checkpoint import check_run


@dataclass(frozen=True)
class ModelRun:
    """One model to train and to score."""

    tokenizer: str
    corpus: TokenCorpus
    protocol_name: str
    protocol: protocols.Protocol
    config: LMStageConfig
    checkpoint: Literal["best", "last"]
    batch_size: int
    folder: Path

    def settings(self) -> dict[str, Any]:
        """What its result depends on."""
        lm_settings = self.config.model_dump(mode="json", exclude=FREE)
        codec = self.corpus.identity.as_json()
        fixed = {"tokens": self.corpus.hash, "codec": codec, "checkpoint": self.checkpoint, "seed": self.config.seed}
        return {**lm_settings, **fixed, **self.protocol.describe()}


class Scorer(Protocol):
    """Scores the target tokens of songs with one trained model, or only the `last` so many frames of each; time runs forward."""

    def __call__(self, songs: Sequence[TokenizedSong], last: int | None = None) -> list[SongScore]: ...


Runner = Callable[[ModelRun], Scorer]


def check_folder(run: ModelRun) -> None:
    """Raises ConfigError, naming the first difference, when the folder holds a run with other settings or tokens."""
    path = run.folder / "settings.json"
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        check_run(run.folder)
        return
    except ValueError:
        raise ConfigError(f"{path}: damaged; delete the folder {run.folder}") from None
    if not isinstance(before, dict):
        raise ConfigError(f"{path}: not the settings of a run; choose another folder with -o")
    now = json.loads(json.dumps(run.settings()))
    for key in sorted({*now, *before}):
        if now.get(key) != before.get(key):
            old, new = (str(values.get(key))[:60] for values in (before, now))
            raise ConfigError(
                f"{run.folder}: was run with {key} = {old}, the config says {new}; settings are held constant: "
                "choose another folder with -o, or delete this one"
            )


def train_and_score(run: ModelRun) -> Scorer:
    """Train the model of a run, or resume its training, unless it is complete; returns the scorer of the model."""
    from duotok.devices import gpu_or_cpu
    from duotok.lm.evaluate import score_songs
    from duotok.lm.stage import LMStage, load_lm
    from duotok.training.checkpoint import checkpoints, read_state
    from duotok.training.engine import train

    saved = checkpoints(run.folder)
    # Of a run by time the engine knows whether it is over.
    if not saved or run.config.minutes is not None or int(read_state(saved[-1])["step"]) < run.config.steps:
        train(LMStage(run.config, run.corpus), run.folder)
    device = gpu_or_cpu(run.config.device)
    trained = load_lm(run.folder, newest=run.checkpoint == "last", device=device)

    def score(songs: Sequence[TokenizedSong], last: int | None = None) -> list[SongScore]:
        # The songs are cut already. Pieces longer than any of them keep each whole, however its frames were rounded.
        rate = run.protocol.codec.frame_rate
        longest, shortest = max(song.frames for song in songs), min(song.frames for song in songs)
        return score_songs(
            trained.model, songs, trained.protocol,
            seconds=(longest + 1) / rate, shortest=shortest / rate, batch_size=run.batch_size, last=last,
        )  # fmt: skip

    return score
