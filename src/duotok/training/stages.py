"""The stages by name: which config, which earlier runs, which prepared data each one needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from duotok.config import load_config
from duotok.errors import ConfigError
from duotok.training.corpus import Corpus
from duotok.training.engine import Stage, StageConfig

NAMES = ("separator", "autoencoder", "stage1", "stage2", "stage3", "stage4", "adapt")


def latents_folder(runs: Path) -> Path:
    return runs / "latents"


def build_stage(name: str, config: Path, overrides: list[str], runs: Path, corpus: Corpus) -> Stage:
    """A stage ready to train in `runs`; data that it needs from earlier stages is prepared first.

    Raises ConfigError for an unknown stage, a wrong config, or an earlier stage that was not trained.
    """
    builders: dict[str, Callable[[], Stage]] = {
        "separator": lambda: _separator(config, overrides, corpus),
        "autoencoder": lambda: _autoencoder(config, overrides, corpus),
        "stage1": lambda: _stage1(config, overrides, corpus),
        "stage2": lambda: _stage2(config, overrides, runs, corpus),
        "stage3": lambda: _stage3(config, overrides, runs, corpus),
        "stage4": lambda: _stage4(config, overrides, runs, corpus),
        "adapt": lambda: _adapt(config, overrides, runs, corpus),
    }
    if name not in builders:
        raise ConfigError(f"stage '{name}' is unknown; there are {', '.join(NAMES)}")
    return builders[name]()


def config_class(name: str) -> type[StageConfig]:
    """The config that a stage reads."""
    from duotok.training import adapt, autoencoder, separator, stage1, stage2, stage3, stage4

    classes: dict[str, type[StageConfig]] = {
        "separator": separator.SeparatorStageConfig,
        "autoencoder": autoencoder.AutoencoderStageConfig,
        "stage1": stage1.Stage1Config,
        "stage2": stage2.Stage2Config,
        "stage3": stage3.Stage3Config,
        "stage4": stage4.Stage4Config,
        "adapt": adapt.AdaptConfig,
    }
    if name not in classes:
        raise ConfigError(f"stage '{name}' is unknown; there are {', '.join(NAMES)}")
    return classes[name]


def _separator(config: Path, overrides: list[str], corpus: Corpus) -> Stage:
    from duotok.training.separator import SeparatorStage, SeparatorStageConfig

    return SeparatorStage(load_config(SeparatorStageConfig, config, overrides), corpus)


def _autoencoder(config: Path, overrides: list[str], corpus: Corpus) -> Stage:
    from duotok.training.autoencoder import AutoencoderStage, AutoencoderStageConfig

    return AutoencoderStage(load_config(AutoencoderStageConfig, config, overrides), corpus)


def _stage1(config: Path, overrides: list[str], corpus: Corpus) -> Stage:
    from duotok.training.features import compute_features
    from duotok.training.stage1 import Stage1, Stage1Config

    parsed = load_config(Stage1Config, config, overrides)
    compute_features(corpus)
    return Stage1(parsed, corpus)


def _stage2(config: Path, overrides: list[str], runs: Path, corpus: Corpus) -> Stage:
    from duotok.training.features import compute_features
    from duotok.training.loading import load_separator
    from duotok.training.prepare import compute_masks
    from duotok.training.stage2 import Stage2, Stage2Config

    parsed = load_config(Stage2Config, config, overrides)
    compute_features(corpus)
    if parsed.model.mask_head and parsed.mask_seconds:
        compute_masks(corpus, load_separator(runs), parsed.mask_seconds)
    return Stage2(parsed, corpus, runs / "stage1")


def _stage3(config: Path, overrides: list[str], runs: Path, corpus: Corpus) -> Stage:
    from duotok.training.features import compute_features
    from duotok.training.stage3 import Stage3, Stage3Config

    parsed = load_config(Stage3Config, config, overrides)
    compute_features(corpus)
    return Stage3(parsed, corpus, runs / "stage2")


def _stage4(config: Path, overrides: list[str], runs: Path, corpus: Corpus) -> Stage:
    from duotok.training.features import compute_features
    from duotok.training.latent_data import LatentData
    from duotok.training.loading import fingerprint, load_autoencoder, load_tokenizer
    from duotok.training.prepare import compute_codes, compute_latents
    from duotok.training.stage4 import Stage4, Stage4Config

    parsed = load_config(Stage4Config, config, overrides)
    compute_features(corpus)
    autoencoder = load_autoencoder(runs)
    data = latents_folder(runs)
    compute_latents(corpus, autoencoder, data, fingerprint(runs / "autoencoder", "autoencoder"))
    made_by = f"{fingerprint(runs / 'stage3', 'tokenizer')} window {parsed.encoder_window}"
    compute_codes(corpus, load_tokenizer(runs, "stage3"), data, parsed.encoder_window, made_by)
    return Stage4(parsed, LatentData(data, parsed.track), autoencoder)


def _adapt(config: Path, overrides: list[str], runs: Path, corpus: Corpus) -> Stage:
    from duotok.training.adapt import Adapt, AdaptConfig

    return Adapt(load_config(AdaptConfig, config, overrides), corpus, runs)
