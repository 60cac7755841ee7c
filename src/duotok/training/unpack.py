"""From a bundle back to runs, so that training can start from released weights.

The run of each part holds its weights as a checkpoint at step 0, for other runs to name (`start_from`, `tokenizer_from`,
`autoencoder_from`, `separator_from`). Beside them lie configs that do, with the bundle's sizes (docs/training.md, From
released weights). What a bundle does not hold is not there either: moments of the optimizer, discriminators, the mask head.
"""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from duotok.codec.bundle import Bundle
from duotok.codec.hub import find_bundle
from duotok.errors import ConfigError, DuoTokError
from duotok.files import write_bytes
from duotok.lineage import Origin
from duotok.lyrics.text import BERT_ENTRIES, BERT_NAME
from duotok.renderer.autoencoder import AutoencoderConfig
from duotok.tracks import TRACKS
from duotok.training.checkpoint import every_checkpoint
from duotok.training.earlier_runs import origin_of
from duotok.training.saving import save_checkpoint
from duotok.training.stage import START_FROM, StageConfig
from duotok.training.stages.finished import Finished
from duotok.training.stages.published import PublishedConfig
from duotok.training.stages.registry import config_class

CARD = "bundle.md"
"""The card of the bundle that a run was unpacked from, in the run's folder: attribution goes on with the weights."""
TO_BEGIN_WITH = {"steps": 2000, "batch_size": 8, "lr": 1.0e-4}
"""Settings that every stage requires and a bundle does not tell."""


def unpack(name: str | Path, runs: Path) -> list[Path]:
    """Write the parts of a bundle (its folder, its name, or owner/name on the hub) as runs in `runs`; returns their folders.

    Raises ConfigError when one of these runs or its config is there already, BundleError for a bundle that is damaged,
    DuoTokError when the folder cannot be written.
    """
    bundle = Bundle(find_bundle(name))
    settings = settings_of(bundle, runs.resolve())
    for path in [place for run in settings for place in (runs / run, runs / f"{run}.yaml")]:
        if os.path.lexists(path):
            raise ConfigError(f"{path}: is there already; name another folder with --runs")
    if runs.exists() and not runs.is_dir():
        raise ConfigError(f"{runs}: is a file, and the runs' folder would be there; name another with --runs")
    card = bundle.card
    partial = runs / ".unpacked"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for run, values in settings.items():
            _write_run(bundle, run, values, partial, card)
        for run, values in settings.items():
            (partial / run).rename(runs / run)
            write_bytes(runs / f"{run}.yaml", _yaml(bundle, values | _to_go_on(run, runs.resolve())).encode())
    except OSError as error:
        raise DuoTokError(f"{runs}: cannot be written ({error.strerror}); name another folder with --runs") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return [runs / run for run in settings]


def settings_of(bundle: Bundle, runs: Path) -> dict[str, dict[str, Any]]:
    """Run -> what is known of its config, and where training starts. Stages 2 and 3 both have the tokenizer."""
    codec = bundle.config.codec
    model = bundle.config.tokenizer.model_dump(mode="json")
    crops: dict[str, Any] = {"frames": codec.window, "highpass_hz": codec.highpass_hz}
    if bundle.config.tokenizer.vocabulary == BERT_ENTRIES:  # characters would fit into that head, as other words
        crops["vocabulary"] = BERT_NAME
    settings: dict[str, dict[str, Any]] = {
        "stage2": {START_FROM: str(runs / "stage2"), "model": model, "crops": crops, "mask_seconds": 0.0},
        "stage3": {START_FROM: str(runs / "stage2"), "model": model, "crops": crops},
    }
    for part, config in (("autoencoder", bundle.config.autoencoder), ("separator", bundle.config.separator)):
        if config is not None:
            settings[part] = {"model": config.model_dump(mode="json")}
    for track in TRACKS if bundle.config.dit is not None else ():
        settings[f"stage4.{track}"] = {
            START_FROM: str(runs / f"stage4.{track}"),
            "tokenizer_from": str(runs / "stage3"),
            "autoencoder_from": str(runs / "autoencoder"),
            "track": track,
            "dit": getattr(bundle.config.dit, track).model_dump(mode="json"),
            "encoder_window": codec.window,
            "sample_steps": codec.steps,
            "sampler": codec.sampler,
            "temperature": codec.temperature,
            "render": codec.render.model_dump(mode="json"),
        }
    return settings


def _write_run(bundle: Bundle, run: str, values: dict[str, Any], folder: Path, card: str) -> None:
    """Write one run into `folder`."""
    stage, _, track = run.partition(".")
    part = f"dit.{track}" if track else "tokenizer" if stage in ("stage2", "stage3") else stage
    module = bundle.load(part)
    modules = {"dit": module, "ema": copy.deepcopy(module)} if track else {part: module}
    if part == "autoencoder" and not isinstance(bundle.config.autoencoder, AutoencoderConfig):
        config: StageConfig = PublishedConfig(model=values["model"], minutes_measured=0.0, best=None)
    else:
        config = config_class(stage).model_validate({**TO_BEGIN_WITH, **values, "best": None})
    released = Finished(run, config, modules)
    released.made_from(START_FROM, _origin(bundle, part))
    if track:
        for key, run_of_key in (("autoencoder_from", "autoencoder"), ("tokenizer_from", "stage3")):
            weights = "tokenizer" if run_of_key == "stage3" else run_of_key
            released.made_from(key, origin_of(every_checkpoint(folder / run_of_key)[-1], weights))
    (folder / run).mkdir(parents=True, exist_ok=True)
    write_bytes(folder / run / CARD, card.encode())
    nothing = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    save_checkpoint(folder / run, released, nothing, 0)


def _origin(bundle: Bundle, part: str) -> Origin:
    """The bundle's file of a part; its parent is the checkpoint that the bundle was made from, where that is known."""
    file = f"{part}.safetensors"
    before = bundle.config.lineage.get(part)
    return Origin(
        stage=f"bundle {bundle.config.name}",
        step=0,
        sha256={file: bundle.sha256[file]} if file in bundle.sha256 else {},
        parents=None if before is None else {START_FROM: before},
    )


def _to_go_on(run: str, runs: Path) -> dict[str, Any]:
    """What a config says besides, and the unpacked run does not: it was not trained so."""
    if run in ("separator", "autoencoder"):
        return {START_FROM: str(runs / run)}
    if run in ("stage2", "stage3"):  # the paper's mixture, also for music in which everybody sings
        mixture = config_class(run).model_fields["mixture"].default
        optional = {**mixture, "instrumental": mixture["instrumental"].model_copy(update={"optional": True})}
        return {
            "mixture": {name: part.model_dump(mode="json", exclude_defaults=True) for name, part in optional.items()}
        }
    return {}


def _yaml(bundle: Bundle, values: dict[str, Any]) -> str:
    """A config for training on from the unpacked runs."""
    head = (
        f"# Training on from the bundle {bundle.config.name}, with its sizes. These three are yours to change; the bundle does not tell them.\n"
        f"{yaml.safe_dump(TO_BEGIN_WITH, sort_keys=False)}"
    )
    return head + str(yaml.safe_dump(values, sort_keys=False))
