"""A step's batch, cut over the processes and into parts that fit into memory, and what each part weighs."""

from __future__ import annotations

import torch
from torch.utils.data import Dataset

from duotok.distributed import total
from duotok.errors import ConfigError
from duotok.training.stage import Batch, Stage


class Batches(Dataset[list[Batch]]):
    """This process's share of each step's batch, cut into `accumulate` parts."""

    def __init__(self, stage: Stage, processes: int, process: int) -> None:
        config = stage.config
        if config.batch_size % (processes * config.accumulate):
            raise ConfigError(
                f"batch_size {config.batch_size} cannot be shared by {processes} processes x accumulate "
                f"{config.accumulate}; make it a multiple of {processes * config.accumulate}"
            )
        self.stage, self.each = stage, config.batch_size // (processes * config.accumulate)
        self.processes, self.process = processes, process

    def __getitem__(self, step: int) -> list[Batch]:
        parts = []
        for part in range(self.stage.config.accumulate):
            first = (part * self.processes + self.process) * self.each
            items = range(first, first + self.each)
            parts.append({**self.stage.batch(step, items), "seeds": self.stage.seeds(step, items)})
        return parts


def shares_of(stage: Stage, parts: list[Batch]) -> list[dict[str, float]]:
    """For each part what its losses are multiplied by, so that their mean over the parts is that of the batch of all processes."""
    counts = [stage.counts(part) for part in parts]
    names = list(counts[0])
    if not names:
        return [{} for _ in parts]
    each = total(torch.stack([torch.stack([part[name] for name in names]) for part in counts]).float())
    shares = (each * len(parts) / each.sum(0).clamp_min(1)).tolist()
    return [dict(zip(names, row, strict=True)) for row in shares]
