"""The earlier runs that a stage builds on: finds them by its config, and refuses those that do not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from duotok.config import Config, parse
from duotok.errors import ConfigError
from duotok.files import sha256
from duotok.lineage import Origin
from duotok.training.checkpoint import Untrained, best, checkpoints, read_state
from duotok.training.stage import START_FROM, NamedRun, StageConfig

Loaded = TypeVar("Loaded")


def find_run(named: NamedRun, runs: Path) -> Path:
    """The folder of an earlier run, where RUNS is `runs`.

    Raises Untrained, with the command that trains it, when it has no checkpoint, ConfigError when another stage was
    trained there.
    """
    run = named.folder(runs)
    if not checkpoints(run):
        raise Untrained(
            f"{run}: no checkpoint there, and {named.key} names it; train that stage first ({_command(named, run)}), "
            f"or name another run: --set {named.key}=RUN"
        )
    stage = read_state(best(run))["stage"]
    if stage not in named.stages:
        raise ConfigError(
            f"{run}: a run of {stage}, and {named.key} takes one of {' or '.join(named.stages)}; name another run: "
            f"--set {named.key}=RUN"
        )
    return run


def _command(named: NamedRun, run: Path) -> str:
    stage, _, track = named.stages[0].partition(".")
    chosen = f" --set track={track}" if track else ""
    place = f" --runs {run.parent}" if run.name == named.stages[0] else ""
    return f"duotok train {stage} -c CONFIG{chosen} --data WORK{place}"


def check_runs(config: StageConfig, runs: Path) -> None:
    """Raises as `find_run` for the first earlier run that is missing or of another stage."""
    for named in config.earlier_runs():
        if not named.optional or checkpoints(named.folder(runs)):
            find_run(named, runs)


def described_runs(config: StageConfig, runs: Path) -> dict[str, str]:
    """Descriptions of the runs that a config names: config key -> folder, stage and step, or the problem."""
    texts = {}
    for named in config.earlier_runs():
        if named.optional and not checkpoints(named.folder(runs)):
            continue
        try:
            run = find_run(named, runs)
        except Untrained:
            texts[named.key] = f"{named.folder(runs)}, not trained yet"
        except ConfigError as error:
            texts[named.key] = str(error)
        else:
            state = read_state(best(run))
            texts[named.key] = f"{run}, {state['stage']} at step {state['step']:,}"
    return texts


def config_of(run: Path) -> dict[str, Any]:
    """The resolved config of a run's best checkpoint. Raises ConfigError when there is none."""
    config = read_state(best(run))["config"]
    if not isinstance(config, dict):
        raise ConfigError(f"{run}: state.json holds no config; train that stage again")
    return config


def highpass_of(run: Path) -> float:
    """The high-pass in Hz of the front end that a run of stages 1 to 3 was trained with; 0 for runs older than it."""
    return float(config_of(run)["crops"].get("highpass_hz", 0.0))


def check_same_front_end(highpass_hz: float, run: Path) -> None:
    """Raises ConfigError unless a stage has the same high-pass as the run before it."""
    learned = highpass_of(run)
    if learned != highpass_hz:
        raise ConfigError(
            f"crops.highpass_hz = {highpass_hz:g}, but {run} learned behind {learned:g} Hz; "
            f"set crops.highpass_hz={learned:g}, or train that stage again"
        )


def check_same_settings(config: Config, key: str, names: Iterable[str], run: Path) -> None:
    """Raises ConfigError for the first setting that gives loaded weights another meaning than in `run`.

    config: a part of the stage's config; key: its key there and in the config of `run`; names: the settings in it.
    """
    before = parse(type(config), config_of(run).get(key) or {}, str(run))
    for name in names:
        value, trained_value = getattr(config, name), getattr(before, name)
        if value != trained_value:
            raise ConfigError(
                f"{key}.{name} = {value}, but {run} was trained with {trained_value}; set {key}.{name}={trained_value}, or name another run"
            )


def origin_of(checkpoint: Path, *modules: str) -> Origin:
    """The origin of weights that are read from the files of these modules of a checkpoint."""
    state = read_state(checkpoint)
    hashes = {f"{module}.safetensors": sha256(checkpoint / f"{module}.safetensors") for module in modules}
    values = {"stage": state["stage"], "step": state["step"], "sha256": hashes, "parents": state.get("parents")}
    return parse(Origin, values, str(checkpoint / "state.json"))


def opened(checkpoint: Path, module: str, load: Callable[[Path], Loaded]) -> tuple[Loaded, str, Origin]:
    """A module of a checkpoint, the name of its weights (`stamp`) and their origin, all three of the same file.

    Raises ConfigError when another training replaces the checkpoint meanwhile.
    """
    origin = origin_of(checkpoint, module)
    loaded = load(checkpoint)
    if origin_of(checkpoint, module) != origin:
        raise ConfigError(
            f"{checkpoint}: another training has replaced it while it was read; run the same command again"
        )
    return loaded, _stamp(checkpoint, origin.sha256[f"{module}.safetensors"]), origin


def latents_of(origin: Origin) -> Origin | None:
    """The checkpoint whose encoder makes an autoencoder's latents: stages after `autoencoder` keep those of the run they start from.

    None where the lineage is unknown.
    """
    while origin.stage != "autoencoder":
        start = (origin.parents or {}).get(START_FROM)
        if start is None:
            return None
        origin = start
    return origin


def same_latents(one: Origin, other: Origin) -> bool:
    """Whether two autoencoders have the same encoder; true where the lineage is unknown."""
    first, second = latents_of(one), latents_of(other)
    return first is None or second is None or first.same_weights(second)


def mismatch(renderer: Origin, tokenizer: Origin, autoencoder: Origin) -> str:
    """Why a renderer does not fit a tokenizer and an autoencoder, by what it was trained on; "" where no misfit is known."""
    tokens = (renderer.parents or {}).get("tokenizer_from")
    if tokens is not None and not tokens.same_weights(tokenizer):
        return f"renders tokens of {tokens}, not of {tokenizer}"
    latents = (renderer.parents or {}).get("autoencoder_from")
    if latents is not None and not same_latents(latents, autoencoder):
        return f"renders latents of {latents}, not of {autoencoder}"
    return ""


def train_anew(run: Path) -> str:
    """What to do with a run whose weights do not fit those of an earlier run any more, with the command; for an error."""
    before = run.with_name(f"{run.name}.before")
    stage = read_state(best(run))["stage"].split(".")[0]  # stage4.vocals
    return f"move it away and train it again (mv {run} {before}; duotok train {stage} -c {before / 'config.json'} --data WORK --runs {run.parent})"


def stamp(checkpoint: Path, module: str) -> str:
    """The name of weights in data derived from them: the checkpoint and the start of the SHA-256 of the file."""
    return _stamp(checkpoint, sha256(checkpoint / f"{module}.safetensors"))


def _stamp(checkpoint: Path, weights: str) -> str:
    return f"{checkpoint.name} {weights[:16]}"
