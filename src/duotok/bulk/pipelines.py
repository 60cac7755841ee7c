"""The engine that the options of a command name."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from duotok.bulk.engines import LocalPipeline, Model, Pipeline
from duotok.bulk.ray_engine import RayPipeline
from duotok.codec.hub import CONFIG_FILE
from duotok.devices import check_device
from duotok.errors import ConfigError

READERS_OF_A_GPU = 4
WORKERS_OF_A_READER = 8
"""Processes on CPUs that one reader feeds: reading takes a hundredth of encoding there (docs/scale.md)."""


def pipeline(
    engine: str, model: Model, devices: str = "cpu", workers: int = 1, readers: int = 0, address: str | None = None
) -> Pipeline:
    """engine: local or ray; devices: one or several with commas between; workers: processes on each of them; readers: 0 takes
    as many as the devices need. On Ray `workers` is the number of actors and a GPU is shared by `cuda/N`.

    Raises ConfigError for options that do not go together.
    """
    if workers < 1:
        raise ConfigError(f"workers = {workers}: at least one")
    names = [name.strip() for name in devices.split(",") if name.strip()]
    if not names:
        raise ConfigError(f"--device {devices}: name one, as cpu or cuda:0,cuda:1")
    if engine == "local":
        if address:
            raise ConfigError(f"--address {address}: is for --engine ray")
        for name in names:
            check_device(name, "--device ")
        every = [name for name in names for _ in range(workers)]
        if not readers:
            gpus = sum(name != "cpu" for name in every)
            readers = min(READERS_OF_A_GPU * gpus, os.cpu_count() or 1) or -(-len(every) // WORKERS_OF_A_READER)
        return LocalPipeline(model, every, readers)
    if engine != "ray":
        raise ConfigError(f"--engine {engine}: use local or ray")
    name, _, share = names[0].partition("/")
    if len(names) > 1 or (share and not (share.isdigit() and int(share) > 0)):
        raise ConfigError(f"--device {devices}: on Ray one kind, cpu or cuda, or cuda/2 for two actors on each GPU")
    gpu = 0.0 if name == "cpu" else 1 / int(share or 1)
    if (Path(model.name) / CONFIG_FILE).is_file():  # workers of a cluster run in other folders
        model = replace(model, name=os.path.abspath(model.name))
    return RayPipeline(model, name, workers, readers or (READERS_OF_A_GPU if gpu else 1) * workers, gpu, address)
