"""What training a language model costs: counted and measured as `duotok.training.cost` does for every stage."""

from __future__ import annotations

from dataclasses import replace

from duotok.clock import FRAME_RATE
from duotok.lm.corpus import TokenCorpus
from duotok.lm.stage import LMStage, LMStageConfig
from duotok.lm.token_store import TokenStore, open_tokens
from duotok.training.cost.estimate import Cost, estimate


def estimate_lm(config: LMStageConfig, seconds: float = 10.0, processes: int = 1) -> Cost:
    """The cost on the tokens that the config names, measured for some `seconds`; writes nothing but the config's `cache`.

    Raises ConfigError, TokenFileError as `LMStage` does.
    """
    return estimate_of(config, open_tokens(config.data, config.codec, config.cache), seconds, processes)


def estimate_of(
    config: LMStageConfig, corpus: TokenCorpus | TokenStore, seconds: float = 10.0, processes: int = 1
) -> Cost:
    """The same, on tokens that are open."""
    real = LMStage(config, corpus)
    outline = config.model_copy(update={"tables": "random"})  # what the tables hold costs nothing
    cost = estimate("lm", config, real, seconds, processes, build=lambda: LMStage(outline, corpus))
    hours = float(real.ends[-1]) / corpus.identity.frame_rate / 3600
    times = cost.steps * cost.frames / FRAME_RATE / 3600 / hours
    note = f"{len(real.songs):,} songs of {hours:,.3g} h to learn from; the steps go over them {times:,.3g} times"
    return replace(cost, notes=[note, *cost.notes])
