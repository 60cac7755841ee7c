"""The stages by name: which config, which earlier runs, which derived arrays each one needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duotok.config import load_config
from duotok.errors import ConfigError
from duotok.shards.store import ShardStore

if TYPE_CHECKING:
    from duotok.separation.separator import Separator
    from duotok.training.stage import Stage, StageConfig


@dataclass(frozen=True)
class Needs:
    """runs: folder of all runs; store: the shards; workers: processes that derive arrays."""

    runs: Path
    store: ShardStore
    workers: int = 1


def _separator(config: Any, needs: Needs) -> Stage:
    from duotok.shards.features import derive_samples
    from duotok.training.stages.separator import SeparatorStage

    derive_samples(needs.store, workers=needs.workers)
    return SeparatorStage(config, needs.store)


def _autoencoder(config: Any, needs: Needs) -> Stage:
    from duotok.shards.features import derive_samples
    from duotok.training.stages.autoencoder import AutoencoderStage

    derive_samples(needs.store, workers=needs.workers)
    return AutoencoderStage(config, needs.store)


def _adversarial(config: Any, needs: Needs) -> Stage:
    from duotok.shards.features import derive_samples
    from duotok.training.stages.autoencoder import AutoencoderStage

    if config.adversary is None:
        raise ConfigError("adversarial: the config has no `adversary`; see configs/mini/adversarial.yaml")
    derive_samples(needs.store, workers=needs.workers)
    start = config.start_from or needs.runs / "autoencoder"
    chosen = {"start_from": start, "model": _autoencoder_model(start)}
    return AutoencoderStage(config.model_copy(update=chosen), needs.store, "adversarial")


def _autoencoder_model(run: Path) -> Any:
    """The shape of a trained autoencoder: stages that go on from it do not say it again. Raises ConfigError for a published one."""
    from duotok.config import parse
    from duotok.renderer.autoencoder import AutoencoderConfig
    from duotok.training.stages.loading import run_config

    model = run_config(run)["model"]
    if (kind := model.get("kind", "spectral")) != "spectral":
        raise ConfigError(f"{run}: holds a published autoencoder ({kind}), which is finished; leave this stage out")
    return parse(AutoencoderConfig, model, str(run))


def _stage1(config: Any, needs: Needs) -> Stage:
    from duotok.shards.features import derive_features
    from duotok.training.stages.stage1 import Stage1

    if config.store_features:
        derive_features(needs.store, workers=needs.workers, highpass_hz=config.crops.highpass_hz)
    return Stage1(config, needs.store)


def _stage2(config: Any, needs: Needs) -> Stage:
    from duotok.shards.features import derive_features
    from duotok.training.batches.derive import compute_masks
    from duotok.training.stages.stage2 import Stage2

    _same_front_end(config, needs.runs / "stage1")
    if config.store_features:
        derive_features(needs.store, workers=needs.workers, highpass_hz=config.crops.highpass_hz)
    if config.model.mask_head and config.mask_seconds:
        teacher, made_by = _teacher(config, needs.runs)
        compute_masks(needs.store, teacher, config.model.mask_bins, config.mask_seconds, made_by)
    return Stage2(config, needs.store, needs.runs / "stage1")


def _same_front_end(config: Any, before: Path) -> None:
    """A stage hears what the one before it heard. Raises ConfigError."""
    from duotok.training.checkpoint import checkpoints
    from duotok.training.stages.loading import run_highpass

    if not checkpoints(before):
        return  # the stage itself says so
    learned = run_highpass(before)
    if learned != config.crops.highpass_hz:
        raise ConfigError(
            f"crops.highpass_hz = {config.crops.highpass_hz:g}, but {before} learned behind {learned:g} Hz; "
            f"set crops.highpass_hz={learned:g}, or train that stage again"
        )


def _teacher(config: Any, runs: Path) -> tuple[Separator, str]:
    """The frozen separator whose masks stage 2 learns, and what names its weights."""
    from duotok.separation.choose import separator_by_name, separator_stamp
    from duotok.separation.separator import MiniSeparator
    from duotok.tracks import STEMS
    from duotok.training.stages.loading import device_of, fingerprint, load_separator

    if config.teacher == "trained":
        return MiniSeparator(load_separator(runs).to(device_of(config)), stems=STEMS), fingerprint(
            runs / "separator", "separator"
        )
    given = {"weights": config.teacher_weights}
    return separator_by_name(config.teacher, **given, stems=STEMS), separator_stamp(config.teacher, **given)


def _stage3(config: Any, needs: Needs) -> Stage:
    from duotok.shards.features import derive_features
    from duotok.training.stages.stage3 import Stage3

    _same_front_end(config, needs.runs / "stage2")
    if config.store_features:
        derive_features(needs.store, workers=needs.workers, highpass_hz=config.crops.highpass_hz)
    return Stage3(config, needs.store, needs.runs / "stage2")


def _stage4(config: Any, needs: Needs) -> Stage:
    from duotok.shards.features import derive_features
    from duotok.training.batches.derive import compute_codes, compute_latents
    from duotok.training.batches.latent_data import condition_vectors
    from duotok.training.stages.loading import device_of, fingerprint, load_autoencoder, load_tokenizer, run_highpass
    from duotok.training.stages.stage4 import Stage4

    runs, store = needs.runs, needs.store
    device = device_of(config)
    autoencoder = load_autoencoder(runs)
    compute_latents(store, autoencoder, fingerprint(runs / "autoencoder", "autoencoder"), device, needs.workers)
    derive_features(store, workers=needs.workers, highpass_hz=run_highpass(runs / "stage3"))
    tokenizer = load_tokenizer(runs, "stage3")
    by = fingerprint(runs / "stage3", "tokenizer")
    compute_codes(store, tokenizer, config.encoder_window, by, device, needs.workers)
    autoencoder, tokenizer = autoencoder.cpu(), tokenizer.cpu()
    vectors = condition_vectors(tokenizer, config.track, config.dit.condition)
    return Stage4(config, store, vectors, autoencoder)


def _adapt(config: Any, needs: Needs) -> Stage:
    from duotok.training.stages.adapt import Adapt

    chosen = {"model": _autoencoder_model(needs.runs / "autoencoder")}
    return Adapt(config.model_copy(update=chosen), needs.store, needs.runs)


BUILDERS: dict[str, tuple[str, str, Callable[[Any, Needs], Stage]]] = {
    # stage: module and name of its config, builder
    "separator": ("separator", "SeparatorStageConfig", _separator),
    "autoencoder": ("autoencoder", "AutoencoderStageConfig", _autoencoder),
    "stage1": ("stage1", "Stage1Config", _stage1),
    "stage2": ("stage2", "Stage2Config", _stage2),
    "stage3": ("stage3", "Stage3Config", _stage3),
    "stage4": ("stage4", "Stage4Config", _stage4),
    "adversarial": ("autoencoder", "AutoencoderStageConfig", _adversarial),
    "adapt": ("adapt", "AdaptConfig", _adapt),
}
NAMES = tuple(BUILDERS)


def config_class(name: str) -> type[StageConfig]:
    """The config that a stage reads. Raises ConfigError for an unknown stage."""
    from importlib import import_module

    if name not in BUILDERS:
        raise ConfigError(f"stage '{name}' is unknown; there are {', '.join((*NAMES, 'lm'))}")
    module, config, _ = BUILDERS[name]
    found: type[StageConfig] = getattr(import_module(f"duotok.training.stages.{module}"), config)
    return found


def build_stage(name: str, config: Path, overrides: list[str], needs: Needs) -> Stage:
    """A stage ready to train in `needs.runs`; arrays that it needs are derived first.

    Raises ConfigError for an unknown stage, a wrong config, or an earlier stage that was not trained.
    """
    parsed = load_config(config_class(name), config, overrides)
    check_validation(parsed, needs.store)
    return BUILDERS[name][2](parsed, needs)


def check_validation(config: Any, store: ShardStore) -> None:
    """Every stage is judged by songs that it does not learn from. Raises ConfigError where there are none, unless the config
    says that training segments will do."""
    store.without_validation = config.without_validation
    if not len(store.where("validation")):
        raise ConfigError(
            f"{store.ranges.url}: no segment for validation; prepare again with a larger share (duotok data prepare --set "
            "folder.validation=0.25), or --set without_validation=true judges by what is trained on"
        )
