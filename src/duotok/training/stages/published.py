"""`python -m duotok.training.stages.published FOLDER --data WORK --runs RUNS`: train renderers on a published autoencoder.

FOLDER is what `duotok.renderer.ear_vae_files` wrote. Nothing of it is trained: the mean and the spread of its latents are
measured on the training segments of both tracks, so that renderers learn latents of unit variance, and it becomes the run
RUNS/autoencoder, where stage 4 and the bundle look for one.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from duotok.clock import FRAME_RATE
from duotok.errors import ConfigError, DuoTokError
from duotok.renderer.ear_vae_files import AnyEarVAE, AnyEarVAEConfig, load_ear_vae
from duotok.shards.store import ShardStore
from duotok.tracks import TRACKS
from duotok.training.batches.latent_data import Stretch, rendered
from duotok.training.checkpoint import check_run, checkpoints
from duotok.training.saving import save_checkpoint
from duotok.training.stage import StageConfig
from duotok.training.stages.finished import Finished

NAME = "autoencoder"
LEAST_STD = 1e-3
PIECE = 250
"""Token frames encoded at once."""
LEAST = 25
"""Token frames of a segment that are worth encoding."""


class PublishedConfig(StageConfig):
    """The config of a run without steps."""

    steps: int = 1
    batch_size: int = 1
    lr: float = 1.0
    model: AnyEarVAEConfig
    minutes_measured: float


def measured_sound(store: ShardStore, minutes: float, channels: int) -> Iterator[Tensor]:
    """Sound `[channels, samples]` of training segments of both tracks, spread over the store, some `minutes` in all.

    Raises ConfigError where there is none.
    """
    left = {track: minutes * 60 * FRAME_RATE / len(TRACKS) for track in TRACKS}
    for track in TRACKS:
        segments = rendered(store, track, "train")
        if not segments:
            raise ConfigError(
                f"{store.ranges.url}: no training segment with {track}; prepare some (duotok data prepare)"
            )
        if len(segments) > (most := max(1, int(left[track] / LEAST))):  # every so many, not the first ones
            segments = [segments[place * len(segments) // most] for place in range(most)]
        total = sum(int(store.frames[index]) for index in segments)
        share = min(1.0, left[track] / total)
        for (
            index
        ) in segments:  # the same share of every segment: short pieces of all recordings instead of a few whole ones
            frames = int(store.frames[index])
            count = min(frames, PIECE, max(LEAST, round(share * frames)))
            if left[track] > 0:
                yield Stretch(store, track, (index,)).sound((frames - count) // 2, count, channels)
            left[track] -= count


@torch.no_grad()
def measure(autoencoder: AnyEarVAE, sounds: Iterator[Tensor], device: torch.device) -> float:
    """Set `mean` and `std` of the autoencoder from its latents of `sounds`. Returns the minutes of sound."""
    autoencoder.to(device)
    total = torch.zeros(autoencoder.config.latent_dim, dtype=torch.float64)
    squares, count = torch.zeros_like(total), 0
    for sound in sounds:
        latents = autoencoder.raw_latents(sound[None].to(device))[0].double().cpu()
        total += latents.sum(0)
        squares += latents.square().sum(0)
        count += len(latents)
    mean = total / max(1, count)
    autoencoder.mean.copy_(mean)
    autoencoder.std.copy_((squares / max(1, count) - mean.square()).clamp_min(0).sqrt().clamp_min(LEAST_STD))
    return count * autoencoder.config.hop / autoencoder.config.sample_rate / 60


def adopt(folder: Path, store: ShardStore, runs: Path, minutes: float = 30.0) -> Path:
    """The checkpoint of RUNS/autoencoder that holds the autoencoder of `folder`, its statistics measured on `store`.

    Raises ConfigError when its latents do not fit the renderer, the run is there already, or the store has no such sound.
    """
    if not 0 < minutes < math.inf:
        raise ConfigError(
            f"--minutes {minutes:g}: write a number above 0; the latents' mean and spread are measured on so much sound"
        )
    autoencoder = load_ear_vae(folder)
    if autoencoder.config.misfit:
        raise ConfigError(f"{folder}: {autoencoder.config.misfit}")
    run = runs / NAME
    check_run(run)
    if checkpoints(run):
        raise ConfigError(f"{run}: there is an autoencoder already; choose another --runs folder")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    measured_minutes = measure(autoencoder, measured_sound(store, minutes, autoencoder.channels), device)
    config = PublishedConfig(model=autoencoder.config, minutes_measured=round(measured_minutes, 3), best=None)
    nothing = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    run.mkdir(parents=True, exist_ok=True)
    return save_checkpoint(run, Finished(NAME, config, {"autoencoder": autoencoder.cpu()}), nothing, 0)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m duotok.training.stages.published", description=__doc__.splitlines()[0].split(": ")[1]
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what `duotok.renderer.ear_vae_files` wrote")
    parser.add_argument("--data", type=Path, required=True, help="folder of `duotok data prepare`")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs")
    parser.add_argument("--minutes", type=float, default=30.0, help="of sound that the statistics are measured on")
    options = parser.parse_args(arguments)
    try:
        store = ShardStore(options.data / "shards", options.data / "derived")
        written = adopt(options.folder, store, options.runs, options.minutes)
    except DuoTokError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{written}: stage 4 trains on this autoencoder")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
