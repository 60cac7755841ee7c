"""Adaptation of the decoder to its renderer: the encoder is frozen, the decoder learns to turn rendered latents into sound.

What the diffusion renders from tokens is smoother than true latents. The decoder that finishes the autoencoder therefore sees
both: true latents with noise, and latents rendered from tokens once beforehand as stage 4's config says. Not in the paper, whose
autoencoder is a finished one; the latents' meaning does not change, so the renderers stay valid.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from rich.progress import track as progress
from torch import Tensor

from duotok.clock import LATENT_SAMPLES, SAMPLE_RATE
from duotok.errors import ConfigError
from duotok.evaluation.fidelity import mel_distance
from duotok.files import fitted, sha256, short_hash, write_bytes, writing
from duotok.lineage import Origin
from duotok.records import Split
from duotok.renderer.render import latents as render_latents
from duotok.seals import is_sealed, read_json, seal
from duotok.shards.store import ShardStore
from duotok.tracks import TRACKS
from duotok.training.batches.latent_data import LatentSegment, latent_segments
from duotok.training.checkpoint import best, checkpoints, load_module
from duotok.training.earlier_runs import (
    check_same_settings,
    find_run,
    mismatch,
    origin_of,
    same_latents,
    stamp,
    train_anew,
)
from duotok.training.stage import START_FROM, Batch, NamedRun
from duotok.training.stages.autoencoder import AUTOENCODERS, AutoencoderStage, AutoencoderStageConfig
from duotok.training.stages.loading import device_of, load_dit, load_render_settings, load_vectors, stage4_config
from duotok.training.stages.stage4 import RendererRuns

log = logging.getLogger(__name__)
ADVERSARIAL = NamedRun(START_FROM, Path("adversarial"), AUTOENCODERS, optional=True)
"""The run of the adversarially trained decoder, from which adapt starts if that run exists."""


class AdaptConfig(AutoencoderStageConfig):
    crop_seconds: float = Field(default=1.0, ge=0.26, description="its outer 100 ms on both sides count for nothing")
    latent_noise: float = Field(default=0.2, ge=0, description="on true latents; rendered ones stay as they are")
    autoencoder_from: Path = Field(
        default=Path("autoencoder"),
        description="run of the autoencoder that gives the true latents: in RUNS, or absolute",
    )
    tokenizer_from: Path = Field(default=Path("stage3"), description="run of the tokenizer, likewise")
    renderer_from: RendererRuns = RendererRuns()
    start_from: Path | None = Field(
        default=None, description="run of the decoder to start from; null: `adversarial`, or autoencoder_from where that is "
        "not trained",
    )  # fmt: skip
    rendered_share: float = Field(default=0.7, ge=0, le=1, description="share of crops whose latents are rendered")
    rendered_seconds: float = Field(default=3600, gt=0, description="sound to render beforehand, for each track")

    def earlier_runs(self) -> tuple[NamedRun, ...]:
        return (
            NamedRun("autoencoder_from", self.autoencoder_from, AUTOENCODERS),
            NamedRun("tokenizer_from", self.tokenizer_from, ("stage3",)),
            *self.renderer_from.named().values(),
            ADVERSARIAL if self.start_from is None else NamedRun(START_FROM, self.start_from, AUTOENCODERS),
        )


ENOUGH_SOUND = 0.2  # share of a segment's frames that must hold sound


@dataclass(frozen=True)
class Sources:
    """The checkpoints that adapt is made from. renderers: by track."""

    autoencoder: Path
    tokenizer: Path
    renderers: Mapping[str, Path]
    start: Path

    def origins(self) -> dict[str, Origin]:
        """Origins by config key, without the start, whose weights are read later."""
        renderers = {f"renderer_from.{track}": origin_of(path, "ema") for track, path in self.renderers.items()}
        return {
            "autoencoder_from": origin_of(self.autoencoder, "autoencoder"),
            "tokenizer_from": origin_of(self.tokenizer, "tokenizer"),
            **renderers,
        }

    def check_still(self, origins: Mapping[str, Origin]) -> None:
        """Raises ConfigError unless the checkpoints are there and have these origins."""
        try:
            now = self.origins()
        except (ConfigError, OSError):  # removed
            now = {}
        changed = [key for key, origin in origins.items() if now.get(key) != origin]
        if changed:
            raise ConfigError(
                f"{', '.join(changed)}: another training has replaced the checkpoint that adapt began with; run the same command again, "
                "once that has ended"
            )


def find_sources(config: AdaptConfig, runs: Path) -> Sources:
    """The best checkpoints of the runs that a config names.

    Raises ConfigError when one is missing, of another stage, or a renderer was trained on other tokens or latents.
    """
    chosen = {
        named.key: best(find_run(named, runs))
        for named in config.earlier_runs()
        if not named.optional or checkpoints(named.folder(runs))
    }
    renderers = {track: chosen[named.key] for track, named in config.renderer_from.named().items()}
    autoencoder, tokenizer = chosen["autoencoder_from"], chosen["tokenizer_from"]
    sources = Sources(autoencoder, tokenizer, renderers, chosen.get(START_FROM, autoencoder))
    origins = sources.origins()
    for track, path in renderers.items():
        origin = origins[f"renderer_from.{track}"]
        if problem := mismatch(origin, origins["tokenizer_from"], origins["autoencoder_from"]):
            raise ConfigError(
                f"{path.parent}: {problem}; {train_anew(path.parent)}, or name the runs that it was trained on: "
                "--set tokenizer_from=RUN, --set autoencoder_from=RUN"
            )
    if not same_latents(origin_of(sources.start, "autoencoder"), origins["autoencoder_from"]):
        raise ConfigError(
            f"{sources.start.parent}: its latents are not those of {autoencoder.parent}; name runs of one encoder: "
            f"--set {START_FROM}=RUN, --set autoencoder_from=RUN"
        )
    return sources


def rendered_folder(runs: Path) -> Path:
    return runs / "rendered"


def rendered_by(sources: Sources, track: str) -> str:
    """A name for everything that rendered latents of a track depend on; each has its own folder."""
    renderer = stage4_config(sources.renderers[track])
    settings = renderer.model_dump_json(include={"encoder_window", "sample_steps", "sampler", "temperature", "render"})
    weights = (stamp(sources.renderers[track], "ema"), stamp(sources.tokenizer, "tokenizer"))
    return f"{track}-{short_hash(' '.join((*weights, settings)))}"


def rendered_file(folder: Path, segment: LatentSegment) -> Path:
    """Where the rendered latents of a segment lie. Its codes are part of the name: other sound may have the same key."""
    codes = hashlib.sha256(segment.codes().astype("<i4").tobytes()).hexdigest()[:16]
    place = folder / segment.key
    return place.with_name(fitted(place.name, f"-{codes}.json")).with_suffix(".npy")


def _kept(path: Path, segment: LatentSegment) -> np.ndarray | None:
    """Rendered latents that were kept, mapped; None where there are none, or not as they were written."""
    try:
        stamp = read_json(path.with_suffix(".json").read_text(encoding="utf-8"))
        if is_sealed(stamp) and stamp["sha256"] == sha256(path):
            array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
            if array.shape == segment.latents().shape:
                return array
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    log.warning("%s: not as it was written; rendered anew", path)
    return None


def _keep(path: Path, rendered: np.ndarray, renderer: Path) -> np.ndarray:
    """Write rendered latents and the .json with their hash, without which they do not count; gives them mapped.

    Raises ConfigError when they are no numbers, which says that the renderer is of no use, or cannot be written.
    """
    if not np.isfinite(rendered).all():
        raise ConfigError(f"{renderer.parent}: renders latents that are no numbers; {train_anew(renderer.parent)}")
    try:
        with writing(path) as partial:
            with partial.open("wb") as file:
                np.save(file, rendered, allow_pickle=False)
            stamp = seal({"sha256": sha256(partial)})
        write_bytes(path.with_suffix(".json"), json.dumps(stamp).encode())
        mapped: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise ConfigError(f"{path}: not written ({error.strerror}); nothing is lost, go on later") from None
    return mapped


class Excerpt:
    """A whole segment of one track with its rendered latents `[latent_frames, 64]`."""

    def __init__(self, segment: LatentSegment, rendered: np.ndarray) -> None:
        self.segment, self.rendered, self.true = segment, rendered, segment.latents()

    def audio(self, start: int, latent_frames: int) -> Tensor:
        """Mono sound `[samples]` of latent frames from `start`."""
        return self.segment.sound.mono(self.segment.track, start * LATENT_SAMPLES, latent_frames * LATENT_SAMPLES)


def render_excerpts(
    store: ShardStore, runs: Path, sources: Sources, config: AdaptConfig, split: Split, seconds: float,
    made_by: Mapping[str, Mapping[str, str]] | None = None,
) -> list[Excerpt]:  # fmt: skip
    """Render segments (recordings in turn) until `seconds` are reached for each track; the results are kept in RUNS.

    made_by: by track, of latents and codes, as `latent_segments` takes it.
    """
    excerpts: list[Excerpt] = []
    for track in TRACKS:
        renderer = sources.renderers[track]
        dit, vectors = load_dit(renderer).to(device_of(config)), load_vectors(renderer, sources.tokenizer)
        settings, folder = load_render_settings(renderer), rendered_folder(runs) / rendered_by(sources, track)
        least = int(config.crop_seconds * 25) + 1
        by_recording: dict[str, list[LatentSegment]] = {}
        for segment in latent_segments(store, split, track, least, made_by[track] if made_by else None):
            if segment.share_of_sound(0, segment.frames) >= ENOUGH_SOUND:
                by_recording.setdefault(segment.sound.segment.recording, []).append(segment)
        turns = max(map(len, by_recording.values()), default=0)
        queue = [segments[i] for i in range(turns) for segments in by_recording.values() if i < len(segments)]
        left = seconds
        for segment in progress(queue, description=f"rendering {track}"):
            if left <= 0:
                break
            path = rendered_file(folder / split, segment)
            kept = _kept(path, segment)
            if kept is None:
                codes = torch.from_numpy(segment.codes().astype(np.int64))
                # its own, and not by its place, which other sound may move
                seed = zlib.crc32(f"{segment.key} {track}".encode())
                rendered = render_latents(
                    dit,
                    vectors[codes],
                    settings.changed(seed=seed),
                    track=track,
                )
                kept = _keep(path, rendered.half().cpu().numpy(), renderer)
            excerpts.append(Excerpt(segment, kept))
            left -= segment.sound.seconds
    if not excerpts:
        raise ConfigError(f"{store.ranges.url}: no {split} segment of {config.crop_seconds:g} s with sound to adapt to")
    return excerpts


class Adapt(AutoencoderStage):
    def __init__(
        self, config: AdaptConfig, store: ShardStore, runs: Path, sources: Sources, origins: Mapping[str, Origin],
        made_by: Mapping[str, Mapping[str, str]],
    ) -> None:  # fmt: skip
        """runs: RUNS, where rendered latents are kept; origins: those of the sources before anything was derived; made_by: as for
        `render_excerpts`. Raises ConfigError when another training has replaced one of the sources since."""
        super().__init__(config, store, "adapt")
        self.adapt: AdaptConfig = config
        self.source = sources.start
        self.parents = dict(origins)
        self.judges = sources.start / "discriminators.safetensors"
        if config.adversary is not None and self.judges.is_file():  # their weights fit other windows and bands as well
            check_same_settings(config.adversary, "adversary", ("windows", "bands", "channels"), sources.start.parent)
        self.freeze_encoder()
        self.excerpts = render_excerpts(store, runs, sources, config, "train", config.rendered_seconds, made_by)
        self.fixed = render_excerpts(store, runs, sources, config, "validation", 120.0, made_by)
        sources.check_still(origins)

    def start(self) -> None:
        """Start from the adversarially trained decoder and its discriminators, if there are any."""
        modules = ["autoencoder"]
        load_module(self.source / "autoencoder.safetensors", self.autoencoder)
        if self.discriminators is not None and self.judges.is_file():
            load_module(self.judges, self.discriminators)
            modules.append("discriminators")
        self.made_from(START_FROM, origin_of(self.source, *modules))

    def batch(self, step: int, items: Sequence[int]) -> Batch:
        frames = int(self.config.crop_seconds * SAMPLE_RATE) // LATENT_SAMPLES
        audios, latents, ids = [], [], []
        for item in items:
            rng = np.random.default_rng((self.config.seed, step, item))
            excerpt = self.excerpts[int(rng.integers(len(self.excerpts)))]
            quiet = rng.random() < self.config.silence
            for _attempt in range(4):
                start = int(rng.integers(0, len(excerpt.true) - frames + 1))
                audio = excerpt.audio(start, frames)
                if quiet or audio.abs().max() > 0.02:
                    break
            true = rng.random() >= self.adapt.rendered_share
            source = excerpt.true if true else excerpt.rendered
            crop = np.array(source[start : start + frames], dtype=np.float32)
            if true:
                crop += rng.random() * self.config.latent_noise * rng.standard_normal(crop.shape, dtype=np.float32)
            latents.append(torch.from_numpy(crop))
            audios.append(audio)
            ids.append(f"{excerpt.segment.key} {excerpt.segment.track} from latent frame {start}")
        return {"audio": torch.stack(audios), "latents": torch.stack(latents), "ids": ids}

    def losses(self, batch: Batch, step: int) -> dict[str, Tensor]:
        # The outer 100 ms lack the context that they have in rendering.
        return self.decoded(batch["latents"], batch["audio"], step, self.draws(batch), edge=5 * LATENT_SAMPLES)

    def held_out(self) -> dict[str, float]:
        values: dict[str, list[float]] = {}
        for excerpt in self.fixed:
            audio = excerpt.audio(0, len(excerpt.true))
            for name, latents in (("true", excerpt.true), ("rendered", excerpt.rendered)):
                inputs = torch.from_numpy(np.array(latents, dtype=np.float32))[None].to(self.device)
                estimate = self.autoencoder.decode(inputs)[0, 0].cpu()
                values.setdefault(f"{name}_{excerpt.segment.track}", []).append(
                    mel_distance(estimate, audio, SAMPLE_RATE)
                )
        result = {name: float(np.mean(v)) for name, v in values.items()}
        return result | {"loss": float(np.mean([v for name, v in result.items() if name.startswith("rendered")]))}
