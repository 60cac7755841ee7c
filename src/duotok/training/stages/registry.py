"""The stages by name: which config, which earlier runs, which derived arrays each one needs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duotok.config import load_config
from duotok.errors import ConfigError
from duotok.shards.store import ShardStore
from duotok.training.earlier_runs import (
    check_same_front_end,
    check_same_settings,
    config_of,
    find_run,
    highpass_of,
    opened,
    stamp,
)
from duotok.training.stage import START_FROM

if TYPE_CHECKING:
    import torch

    from duotok.lineage import Origin
    from duotok.model.tokenizer import Tokenizer
    from duotok.separation.chunked import ChunkedSeparator
    from duotok.training.stage import NamedRun, Stage, StageConfig


@dataclass(frozen=True)
class Needs:
    """runs: folder of all runs; store: the shards; workers: processes that derive arrays."""

    runs: Path
    store: ShardStore
    workers: int = 1

    def named(self, config: StageConfig, key: str) -> NamedRun:
        """The earlier run that a key of a config names."""
        return next(named for named in config.earlier_runs() if named.key == key)

    def run(self, config: StageConfig, key: str) -> Path:
        """The folder of that run. Raises as `find_run`."""
        return find_run(self.named(config, key), self.runs)


def _separator(config: Any, needs: Needs) -> Stage:
    from duotok.shards.features import derive_samples
    from duotok.training.stages.separator import SeparatorStage

    start = needs.run(config, START_FROM) if config.start_from is not None else None
    if start is not None:
        check_same_settings(config.model, "model", type(config.model).model_fields, start)
    derive_samples(needs.store, workers=needs.workers)
    return SeparatorStage(config, needs.store, start)


def _autoencoder(config: Any, needs: Needs) -> Stage:
    from duotok.shards.features import derive_samples
    from duotok.training.checkpoint import best
    from duotok.training.stages.autoencoder import AutoencoderStage
    from duotok.training.stages.loading import autoencoder_config

    start = needs.run(config, START_FROM) if config.start_from is not None else None
    if config.only_basses and (start is None or not (config.model.bass_latents and config.model.griffin_lim)):
        raise ConfigError(
            "only_basses: needs a run to add basses to (--set start_from=RUN), latents for them (model.bass_latents) and a decoder whose "
            "phases are fitted (model.griffin_lim)"
        )
    if start is not None:
        before = autoencoder_config(best(start))
        fixed = type(before).model_fields.keys() - {"griffin_lim"}  # which has no weights
        if config.model.output == "magnitude":  # fewer outputs of the same weights
            fixed -= {"output"}
        if config.only_basses and not before.bass_latents:
            fixed -= {"bass_latents", "bass_bins", "latent_dim"}
            _check_width(
                "model.latent_dim", config.model.latent_dim, before.latent_dim + config.model.bass_latents, best(start)
            )
        elif config.model.bass_latents and not before.bass_latents:
            raise ConfigError(
                f"model.bass_latents = {config.model.bass_latents}, but {start} has none; add them with --set only_basses=true first"
            )
        check_same_settings(config.model, "model", sorted(fixed), start)
    derive_samples(needs.store, workers=needs.workers)
    return AutoencoderStage(config, needs.store, "autoencoder", start)


def _adversarial(config: Any, needs: Needs) -> Stage:
    from duotok.shards.features import derive_samples
    from duotok.training.checkpoint import best
    from duotok.training.stages.autoencoder import AutoencoderStage
    from duotok.training.stages.loading import autoencoder_config

    if config.start_from is None:
        raise ConfigError("adversarial: start_from names no run; name that of an autoencoder: --set start_from=RUN")
    derive_samples(needs.store, workers=needs.workers)
    start = needs.run(config, START_FROM)
    # The sizes are those of the weights; the phases may be fitted anew, which needs none, and those predicted left out.
    before = autoencoder_config(best(start))
    output = "magnitude" if config.model.output == "magnitude" else before.output
    if output == "magnitude" and not config.model.griffin_lim:
        raise ConfigError(
            f"model.griffin_lim = 0, but {start} predicts no phases; set model.griffin_lim={before.griffin_lim or 8}"
        )
    shape = before.model_copy(update={"griffin_lim": config.model.griffin_lim, "output": output})
    return AutoencoderStage(config.model_copy(update={"model": shape}), needs.store, "adversarial", start)


def _stage1(config: Any, needs: Needs) -> Stage:
    from duotok.shards.features import derive_features
    from duotok.training.stages.stage1 import Stage1

    if config.store_features:
        derive_features(needs.store, workers=needs.workers, highpass_hz=config.crops.highpass_hz)
    return Stage1(config, needs.store)


def _stage2(config: Any, needs: Needs) -> Stage:
    from duotok.shards.features import derive_features
    from duotok.training.batches.derive import compute_masks, grid_of
    from duotok.training.checkpoint import Untrained
    from duotok.training.stages.crop_stage import ENCODER_SETTINGS
    from duotok.training.stages.loading import device_of
    from duotok.training.stages.stage2 import Stage2

    def features() -> None:
        if config.store_features:
            derive_features(needs.store, workers=needs.workers, highpass_hz=config.crops.highpass_hz)

    _check_start(config, needs, ENCODER_SETTINGS)
    teacher = teacher_origin = masks_made_by = None
    if config.model.mask_head and config.mask_seconds:
        grid_of(config.model.mask_bins)
        try:  # one that is not there is told first
            teacher, made_by, teacher_origin = _teacher(config, needs)
        except Untrained:
            features()  # they wait for no other run
            raise
    features()
    if teacher is not None:
        masks_made_by = compute_masks(
            needs.store, teacher, config.model.mask_bins, config.mask_seconds, made_by, device_of(config), needs.workers,
            config.drawn_as_mixes(needs.store),
        )  # fmt: skip
    stage = Stage2(config, needs.store, needs.run(config, START_FROM), masks_made_by)
    if teacher_origin is not None:
        stage.made_from("teacher_from", teacher_origin)
    return stage


def _check_start(
    config: Any, needs: Needs, settings: Sequence[str], going_on: tuple[str, Sequence[str]] | None = None
) -> None:
    """Raises ConfigError unless front end and sizes are those of the run that the stage starts from.

    going_on: a stage, and the settings that must be the same where the run is one of that stage. A run that is not trained
    yet is no error here, since the arrays of the stage can be derived before it.
    """
    from duotok.training.checkpoint import best, checkpoints, read_state

    if checkpoints(needs.named(config, START_FROM).folder(needs.runs)):
        start = needs.run(config, START_FROM)
        check_same_front_end(config.crops.highpass_hz, start)
        if going_on is not None and read_state(best(start))["stage"] == going_on[0]:
            settings = going_on[1]
        check_same_settings(config.model, "model", settings, start)


def _teacher(config: Any, needs: Needs) -> tuple[ChunkedSeparator, str, Origin | None]:
    """The frozen separator whose masks stage 2 learns, the name of its weights, and their origin if a run trained it."""
    from duotok.separation.choose import separator_by_name, separator_stamp
    from duotok.separation.separator import MiniSeparator
    from duotok.tracks import STEMS
    from duotok.training.checkpoint import best
    from duotok.training.stages.loading import load_separator

    if config.teacher == "trained":
        checkpoint = best(needs.run(config, "teacher_from"))
        separator, weights, origin = opened(checkpoint, "separator", load_separator)
        return MiniSeparator(separator, stems=STEMS), weights, origin
    if config.teacher == "bs-roformer" and config.teacher_weights is None:
        raise ConfigError(
            "teacher: bs-roformer has no weights; name the converted file: --set teacher_weights=FILE.safetensors (docs/separation.md)"
        )
    arguments = {"weights": config.teacher_weights}
    return (
        separator_by_name(config.teacher, **arguments, stems=STEMS),
        separator_stamp(config.teacher, **arguments),
        None,
    )


def _stage3(config: Any, needs: Needs) -> Stage:
    from duotok.shards.features import derive_features
    from duotok.training.stages.crop_stage import BOTTLENECK_SETTINGS, QUANTIZER_SETTINGS
    from duotok.training.stages.stage3 import Stage3

    _check_start(config, needs, BOTTLENECK_SETTINGS, ("stage3", QUANTIZER_SETTINGS))
    branches = {track: find_run(named, needs.runs) for track, named in config.branch_from.named().items()}
    for run in branches.values():
        check_same_front_end(config.crops.highpass_hz, run)
        check_same_settings(config.model, "model", QUANTIZER_SETTINGS, run)
    if config.store_features:
        derive_features(needs.store, workers=needs.workers, highpass_hz=config.crops.highpass_hz)
    return Stage3(config, needs.store, needs.run(config, START_FROM), branches)


def _stage4(config: Any, needs: Needs) -> Stage:
    from duotok.training.batches.derive import compute_latents
    from duotok.training.batches.latent_data import condition_vectors
    from duotok.training.checkpoint import Untrained, best
    from duotok.training.stages.loading import device_of, load_autoencoder, load_tokenizer
    from duotok.training.stages.stage4 import Stage4

    encoder = best(needs.run(config, "autoencoder_from"))
    autoencoder, weights, autoencoder_origin = opened(encoder, "autoencoder", load_autoencoder)
    _check_width("dit.latent_dim", config.dit.latent_dim, autoencoder.config.latent_dim, encoder)
    if config.dit.latents_per_frame != autoencoder.latents_per_frame:
        raise ConfigError(
            f"dit.latents_per_frame = {config.dit.latents_per_frame}, but the autoencoder of {encoder.parent} has "
            f"{autoencoder.latents_per_frame} for each token frame; set dit.latents_per_frame={autoencoder.latents_per_frame}"
        )
    heard = _bass_latents(autoencoder.config)
    if (told := _bass_latents(config.dit)) not in (0, heard):
        raise ConfigError(
            f"dit.bass_latents = {told}, but the autoencoder of {encoder.parent} has {heard}; set dit.bass_latents={heard}"
        )
    if config.only_basses and (config.start_from is None or not told):
        raise ConfigError(
            "only_basses: needs a renderer to add basses to (--set start_from=RUN) and latents for them (dit.bass_latents)"
        )
    latents = functools.partial(compute_latents, needs.store, autoencoder, weights, device_of(config), needs.workers)
    try:  # what does not fit is told first: latents of a large corpus take hours
        coder = best(needs.run(config, "tokenizer_from"))
        tokenizer, coder_weights, tokenizer_origin = opened(coder, "tokenizer", load_tokenizer)
        vectors = condition_vectors(tokenizer, config.track, config.dit.condition)
        _check_width("dit.condition_dim", config.dit.condition_dim, vectors.shape[1], coder)
        start = needs.run(config, START_FROM) if config.start_from is not None else None
        if start is not None:
            fixed = type(config.dit).model_fields.keys()
            if told and not _bass_latents(config_of(start).get("dit") or {}):
                fixed -= {"latent_dim", "bass_latents", "bass_blocks"}
            check_same_settings(config.dit, "dit", fixed, start)
    except Untrained:
        latents()  # they wait for the autoencoder alone
        raise
    made = {"latents": latents()}
    made["codes"] = _derive_codes(
        needs, tokenizer, coder_weights, highpass_of(coder.parent), config.encoder_window, device_of(config)
    )
    stage = Stage4(config, needs.store, vectors, autoencoder.cpu(), start, made)
    stage.made_from("autoencoder_from", autoencoder_origin)
    stage.made_from("tokenizer_from", tokenizer_origin)
    return stage


def _bass_latents(config: Any) -> int:
    """Of an autoencoder or a renderer; 0 where it is a published one, or older than they are. config: its config, or a mapping of one."""
    return int(config.get("bass_latents", 0) if isinstance(config, dict) else getattr(config, "bass_latents", 0))


def _check_width(key: str, width: int, expected_width: int, checkpoint: Path) -> None:
    if width != expected_width:
        raise ConfigError(
            f"{key} = {width}, but what {checkpoint.parent} gives is {expected_width} wide; set {key}={expected_width}"
        )


def _derive_codes(
    needs: Needs, tokenizer: Tokenizer, weights: str, highpass_hz: float, window: int, device: torch.device,
    tracks: Sequence[str] | None = None,
) -> str:  # fmt: skip
    """Mel behind the tokenizer's own front end, and its codes in windows of `window` frames. Returns what `compute_codes` does."""
    from duotok.shards.features import derive_features
    from duotok.training.batches.derive import compute_codes

    derive_features(needs.store, workers=needs.workers, highpass_hz=highpass_hz)
    made_by = compute_codes(needs.store, tokenizer, window, weights, device, needs.workers, tracks)
    tokenizer.cpu()
    return made_by


def _adapt(config: Any, needs: Needs) -> Stage:
    from duotok.training.batches.derive import compute_latents
    from duotok.training.stages.adapt import Adapt, find_sources
    from duotok.training.stages.loading import (
        autoencoder_config,
        device_of,
        load_autoencoder,
        load_tokenizer,
        stage4_config,
    )

    sources = find_sources(config, needs.runs)
    origins = sources.origins()
    device = device_of(config)
    start = autoencoder_config(sources.start)
    phases = {"griffin_lim": start.griffin_lim, "output": start.output}
    shape = autoencoder_config(sources.autoencoder).model_copy(update=phases)
    autoencoder = load_autoencoder(sources.autoencoder)
    latents = compute_latents(
        needs.store, autoencoder, stamp(sources.autoencoder, "autoencoder"), device, needs.workers
    )
    tokenizer, made_by = load_tokenizer(sources.tokenizer), dict[str, dict[str, str]]()
    weights, highpass_hz = stamp(sources.tokenizer, "tokenizer"), highpass_of(sources.tokenizer.parent)
    for track, renderer in sources.renderers.items():
        window = stage4_config(renderer).encoder_window
        codes = _derive_codes(needs, tokenizer, weights, highpass_hz, window, device, (track,))
        made_by[track] = {"latents": latents, "codes": codes}
    shaped = config.model_copy(update={"model": shape})
    return Adapt(shaped, needs.store, needs.runs, sources, origins, made_by)


BUILDERS: dict[str, tuple[str, str, Callable[[Any, Needs], Stage]]] = {
    # stage: module and name of its config, builder
    "separator": ("separator", "SeparatorStageConfig", _separator),
    "autoencoder": ("autoencoder", "AutoencoderStageConfig", _autoencoder),
    "stage1": ("stage1", "Stage1Config", _stage1),
    "stage2": ("stage2", "Stage2Config", _stage2),
    "stage3": ("stage3", "Stage3Config", _stage3),
    "stage4": ("stage4", "Stage4Config", _stage4),
    "adversarial": ("autoencoder", "AdversarialConfig", _adversarial),
    "adapt": ("adapt", "AdaptConfig", _adapt),
}
NAMES = tuple(BUILDERS)


def config_class(name: str) -> type[StageConfig]:
    """The config that a stage reads. Raises ConfigError for an unknown stage."""
    from importlib import import_module

    if name not in BUILDERS:
        raise ConfigError(f"stage '{name}' is unknown; there are {', '.join((*NAMES, 'lm'))}")
    module, config, _ = BUILDERS[name]
    stage_config: type[StageConfig] = getattr(import_module(f"duotok.training.stages.{module}"), config)
    return stage_config


def build_stage(name: str, config: Path, overrides: list[str], needs: Needs) -> Stage:
    """A stage ready to train in `needs.runs`; arrays that it needs are derived first.

    Raises ConfigError for an unknown stage, a wrong config, or an earlier stage that was not trained.
    """
    return build(name, load_config(config_class(name), config, overrides), needs)


def build(name: str, config: StageConfig, needs: Needs) -> Stage:
    """`build_stage` of a config that is read already."""
    check_validation(config, needs.store)
    stage = BUILDERS[name][2](config, needs)
    stage.songs_hashes = needs.store.split_hashes()
    return stage


def check_validation(config: Any, store: ShardStore) -> None:
    """Raises ConfigError where there are no validation songs, unless the config allows validation on training segments."""
    store.without_validation = config.without_validation
    if not len(store.where("validation")):
        raise ConfigError(
            f"{store.ranges.url}: no segment for validation; prepare again with a larger share (duotok data prepare --set "
            "folder.validation=0.25), or --set without_validation=true judges by what is trained on"
        )
