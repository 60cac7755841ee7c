"""The config of a comparison of tokenizers: `duotok eval lm CONFIG`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from duotok.comparison import context
from duotok.comparison.corruption import RATIOS, SHIFTS, Corruption
from duotok.config import Config
from duotok.evaluation.intervals import Resampling
from duotok.records import Split

OWN = ("data", "codec", "protocol", "source", "target", "seed")
"""Keys of the language model's config that each run gets from the comparison."""
FREE = {
    *OWN,
    "cache",
    "device",
    "compile",
    "sharding",
    "loader_workers",
    "threads",
    "log_every",
    "save_every",
    "keep",
    "sample_every",
}
"""Keys that change no result; runs may differ in them."""


class Corruptions(Config):
    """Which corruptions of the source are tried (figure 3)."""

    shifts: tuple[float, ...] = SHIFTS
    ratios: tuple[float, ...] = RATIOS
    fill: Literal["uniform", "pad"] = "uniform"
    mismatch: bool = True
    seed: int = Field(default=0, ge=0)

    def listed(self) -> tuple[Corruption, ...]:
        return (
            *(Corruption("shift", seconds) for seconds in self.shifts),
            *(Corruption("mask", ratio, self.fill) for ratio in self.ratios),
            *([Corruption("mismatch")] if self.mismatch else []),
        )


class Contexts(Config):
    """Context lengths in seconds (figure 4), the seconds that are scored, and how many such stretches of a song at most."""

    seconds: tuple[float, ...] = Field(default=context.CONTEXTS, min_length=1)
    target: float = Field(default=context.TARGET, gt=0)
    blocks: int = Field(default=context.BLOCKS, gt=0)
    protocol: str = "parallel"

    @model_validator(mode="after")
    def _consistent(self) -> Contexts:
        if self.target > min(self.seconds):
            raise ValueError(
                f"target {self.target:g} s is longer than the shortest context, {min(self.seconds):g} s; take a shorter target"
            )
        return self


class Bootstrap(Config):
    """How intervals are made; over: what is resampled as a whole, songs or identities (all songs of an artist).

    paired_seeds: the trainings of one seed have their start and data in common in all tokenizers, as the arms of an ablation; the
    difference of two tokenizers is then taken seed by seed, and what all trainings of a seed share falls out of its interval.
    """

    replicates: int = Field(default=2000, ge=100)
    level: float = Field(default=0.95, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)
    over: Literal["songs", "identities"] = "songs"
    paired_seeds: bool = False

    def resampling(self) -> Resampling:
        return Resampling(self.replicates, self.level, self.seed)


class ComparisonConfig(Config):
    """tokenizers: name -> packed tokens, relative to the folder `tokens`, and that to the config (a packaged recipe: to the
    current folder), or a list of them: the same tokenizer trained again, one for each of `seeds`. lm: settings of the
    language model, the same for all. groups: name -> corpora (what the songs' ids begin with), whose songs get figures of
    their own.

    protocols: `parallel`, `SOURCE-to-TARGET` or `SOURCE-beside-TARGET` by the names of two streams. corruption, context: measured only if given;
    `{}` takes the defaults. checkpoint: which one of a run is scored, `best` on validation songs, or `last`.
    """

    tokenizers: dict[str, str | tuple[str, ...]] = Field(min_length=1)
    tokens: str = ""
    reference: str = ""
    lm: dict[str, Any]
    checkpoint: Literal["best", "last"] = "best"
    protocols: tuple[str, ...] = Field(default=("parallel", "vocals-to-accompaniment"), min_length=1)
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    split: Split = "test"
    batch_size: int = Field(default=8, gt=0, description="pieces that are scored at once")
    corruption: Corruptions | None = None
    context: Contexts | None = None
    groups: dict[str, tuple[str, ...]] = {}
    intervals: Bootstrap = Bootstrap()

    @field_validator("tokenizers", mode="before")
    @classmethod
    def _tokenizer_paths(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        tokenizers = {}
        for name, value in values.items():
            if isinstance(value, dict) and (other := [key for key in value if key != "corpus"]):
                raise ValueError(f"'{name}' has its own '{other[0]}'; settings are held constant, put them under 'lm'")
            if not name or set(str(name)) & set("/\\\0") or str(name).startswith("."):
                raise ValueError(f"'{name}' cannot name a folder; take letters, digits, '-' and '_'")
            tokenizers[str(name)] = value["corpus"] if isinstance(value, dict) and "corpus" in value else value
        return tokenizers

    @model_validator(mode="after")
    def _consistent(self) -> ComparisonConfig:
        if self.reference and self.reference not in self.tokenizers:
            raise ValueError(f"reference '{self.reference}' is none of the tokenizers: {', '.join(self.tokenizers)}")
        if wrong := [key for key in OWN if key in self.lm]:
            raise ValueError(f"lm.{wrong[0]} follows from tokenizers, protocols and seeds; take it away")
        for key in ("protocols", "seeds"):
            values = getattr(self, key)
            if len(set(values)) != len(values):
                twice = next(value for value in values if values.count(value) > 1)
                raise ValueError(f"{key}: '{twice}' comes twice; list it once")
        for name, files in self.tokenizers.items():
            if not isinstance(files, str) and len(files) != len(self.seeds):
                raise ValueError(
                    f"tokenizer '{name}' has {len(files)} files of tokens for {len(self.seeds)} seeds; give one for each seed, or one"
                )
        if self.context is not None and self.context.protocol not in self.protocols:
            raise ValueError(
                f"context.protocol '{self.context.protocol}' is none of the protocols: {', '.join(self.protocols)}"
            )
        if self.corruption is not None and all(name == "parallel" for name in self.protocols):
            raise ValueError("corruption needs a protocol with a source, e.g. vocals-to-accompaniment")
        return self

    def files(self, name: str) -> tuple[str, ...]:
        """Tokens of a tokenizer: one file for all seeds, or one for each."""
        files = self.tokenizers[name]
        return (files,) if isinstance(files, str) else files

    @property
    def compared_with(self) -> str:
        return self.reference or next(iter(self.tokenizers))
