"""Weights that nothing trains here, published or released ones, as a stage whose checkpoint others start from."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from duotok.errors import ConfigError
from duotok.training.stage import Batch, Stage, StageConfig


class Finished(Stage):
    """What a checkpoint keeps; there is nothing to train."""

    def __init__(self, name: str, config: StageConfig, modules: dict[str, nn.Module]) -> None:
        self.name, self.config, self.modules = name, config, modules

    def batch(self, step: int, items: Sequence[int]) -> Batch:
        raise ConfigError(f"{self.name}: finished weights are not trained; train a stage that names their run")

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        raise ConfigError(f"{self.name}: finished weights are not trained; train a stage that names their run")

    def held_out(self) -> dict[str, float]:
        return {}
