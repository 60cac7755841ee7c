"""Code vectors to sound, for any length in bounded memory: windows of diffusion, then windows of decoding.

The noise of a latent frame is a pure function of (seed, track, frame, step), so neighbouring windows denoise the same
noise where they overlap and agree there: exactly when their context covers what all steps together can see, closely
otherwise, and a crossfade hides the rest. Decoding discards as much context as the autoencoder's receptive field, and
is exact always.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from duotok.clock import FRAME_SAMPLES
from duotok.config import Config
from duotok.errors import ConfigError
from duotok.renderer.contract import LatentDecoder, LatentDiffusion
from duotok.renderer.dit import guided
from duotok.renderer.samplers import SAMPLERS, sample

NOISE_BLOCK = 1024  # latent frames drawn together; the noise of a seed depends on it, so it never changes
Progress = Callable[[int, int], None]


class RenderPlan(Config):
    """How a track is cut into windows, in latent frames (20 ms, or 40 where the autoencoder has 25 a second). The context of a
    window is computed and discarded."""

    window: int = Field(
        default=512, gt=0, description="latent frames that the DiT sees at once, context included; even"
    )
    context: int = Field(default=64, ge=0, description="frames thrown away on each side; even")
    crossfade: int = Field(default=32, ge=0, description="frames over which neighbours are blended; even")
    decode_block: int = Field(default=500, gt=0, description="latent frames decoded at once, its context not counted")

    @model_validator(mode="after")
    def _fits(self) -> RenderPlan:
        for name in ("window", "context", "crossfade"):
            if getattr(self, name) % 2:
                raise ValueError(f"{name} {getattr(self, name)} must be even (a token has 2 latent frames, or 1)")
        if self.hop < max(2, self.crossfade):
            raise ValueError(f"window {self.window} leaves no room between context and crossfade; make it larger")
        return self

    @property
    def hop(self) -> int:
        """Latent frames from one window to the next."""
        return self.window - 2 * self.context - self.crossfade


@dataclass(frozen=True)
class RenderSettings:
    """How code vectors become latents: one value that is passed through the renderer.

    steps, sampler, temperature: as for `samplers.sample`; seed: names the noise, so that the same seed gives the same sound; plan: the
    windows. Raises ConfigError for a sampler that does not exist, steps < 1, a negative or infinite temperature and what is no number.
    """

    steps: int = 16
    sampler: str = "dpmpp-2m"
    seed: int = 0
    temperature: float = 1.0
    plan: RenderPlan = field(default_factory=RenderPlan)

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ConfigError(f"sampler '{self.sampler}' does not exist; choose {', '.join(SAMPLERS)}")
        kinds = {"steps": int, "seed": int, "temperature": int | float}
        for name, kind in kinds.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kind):
                raise ConfigError(f"{name} {value!r} is no number; steps and seed are whole ones")
        if not math.isfinite(self.temperature):
            raise ConfigError(
                f"temperature {self.temperature} must be a finite number; 1 is the model's own, 0 has no noise"
            )
        if self.steps < 1 or self.temperature < 0:
            raise ConfigError(
                f"steps {self.steps}, temperature {self.temperature} is too low; steps start at 1, temperature at 0"
            )

    def changed(self, **changes: Any) -> RenderSettings:
        """A copy with other values; None changes nothing. Raises ConfigError for an invalid value or an unknown name."""
        known = [each.name for each in fields(self)]
        for name in changes:
            if name not in known:
                raise ConfigError(f"setting '{name}' does not exist; there are {', '.join(known)}")
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


@dataclass(frozen=True)
class RenderWindow:
    """Latent frames `[keep_start, keep_stop)` are kept of those computed, `[start, stop)`."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


def windows(total: int, plan: RenderPlan, keep_start: int = 0) -> Iterator[RenderWindow]:
    """Windows over `total` latent frames, whose kept parts overlap by `crossfade`. The last one starts early enough to be full.

    keep_start: of the first one, where those before it are done. A window begins with a token: all numbers of a plan are even.
    """
    while True:
        keep_stop = min(total, keep_start + plan.hop + plan.crossfade)
        stop = min(total, keep_stop + plan.context)
        start = max(0, min(keep_start - plan.context, total - plan.window))
        yield RenderWindow(start, stop, keep_start, keep_stop)
        if keep_stop == total:
            return
        keep_start += plan.hop


def frame_noise(seed: int, track: str, start: int, stop: int, dim: int, step: int = 0) -> Tensor:
    """Unit noise `[stop - start, dim]` of latent frames: a pure function of (seed, track, frame, step).

    Step 0 is the noise that sampling starts from, step n + 1 what a stochastic sampler adds at its step n.
    """
    pieces = []
    for block in range(start // NOISE_BLOCK, -(-stop // NOISE_BLOCK)):
        name = f"{seed}/{track}/{step}/{block}".encode()
        key = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little") >> 1
        drawn = torch.randn(NOISE_BLOCK, dim, generator=torch.Generator().manual_seed(key))
        first = block * NOISE_BLOCK
        pieces.append(drawn[max(0, start - first) : stop - first])
    return torch.cat(pieces) if pieces else torch.zeros(0, dim)


@torch.no_grad()
def window_latents(
    dit: LatentDiffusion, vectors: Tensor, window: RenderWindow, settings: RenderSettings, track: str
) -> Tensor:
    """The kept latents of a window, from the code vectors of all its frames."""
    device = next(dit.parameters()).device
    start, stop, dim = window.start, window.stop, dit.config.latent_dim

    def noise(step: int) -> Tensor:
        return frame_noise(settings.seed, track, start, stop, dim, step)[None].to(device)

    latents = sample(
        guided(dit), noise(0), vectors[None].to(device).float(), settings.steps, settings.sampler, temperature=settings.temperature,
        objective=dit.config.objective, step_noise=lambda step: noise(step + 1),
    )  # fmt: skip
    return latents[0, window.keep_start - start : window.keep_stop - start]


def latent_blocks(
    dit: LatentDiffusion,
    condition: Tensor,
    settings: RenderSettings | None = None,
    *,
    track: str = "vocals",
    progress: Progress | None = None,
) -> Iterator[Tensor]:
    """Latents of a whole track, in order, as blocks `[latent_frames, latent_dim]`; together `latents_per_frame` for each code vector.

    condition: code vectors `[frames, code_dim]` of any length; progress(done, total) is called in latent frames. Memory
    does not grow with the length.
    """
    settings = settings or RenderSettings()
    per_frame = dit.config.latents_per_frame
    total = per_frame * len(condition)

    def rendered() -> Iterator[tuple[Tensor, bool]]:
        for window in windows(total, settings.plan) if total else ():
            vectors = condition[window.start // per_frame : -(-window.stop // per_frame)]
            last = window.keep_stop == total
            latents = window_latents(dit, vectors, window, settings, track)
            if progress is not None:
                progress(window.keep_stop if last else window.keep_stop - settings.plan.crossfade, total)
            yield latents, last

    yield from blended(rendered(), settings.plan.crossfade)


def blended(parts: Iterable[tuple[Tensor, bool]], crossfade: int) -> Iterator[Tensor]:
    """The kept parts of windows (and whether it is the last one), joined: what neighbours share is crossfaded."""
    waiting: Tensor | None = None  # the end of the previous window, not yet blended
    for current, last in parts:
        if waiting is not None:
            size = min(len(waiting), len(current))
            weight = (torch.arange(size, device=current.device, dtype=torch.float32) + 0.5)[:, None] / max(1, size)
            mixed = (1 - weight) * waiting[:size] + weight * current[:size]
            current = torch.cat([mixed, current[size:]])
        ready = len(current) if last else len(current) - crossfade
        waiting = current[ready:]
        yield current[:ready]


def latents(
    dit: LatentDiffusion,
    condition: Tensor,
    settings: RenderSettings | None = None,
    *,
    track: str = "vocals",
    progress: Progress | None = None,
) -> Tensor:
    """All of `latent_blocks` as one tensor `[latent_frames, latent_dim]`."""
    blocks = latent_blocks(dit, condition, settings, track=track, progress=progress)
    empty = torch.zeros(0, dit.config.latent_dim, device=next(dit.parameters()).device)
    return torch.cat([empty, *blocks])


def decode_blocks(autoencoder: LatentDecoder, blocks: Iterable[Tensor], block: int = 500) -> Iterator[Tensor]:
    """Sound `[channels, samples]` of latent blocks `[latent_frames, latent_dim]`, in order, on the CPU.

    Equal to decoding all at once, within float tolerance: every piece is decoded with the autoencoder's receptive field on
    both sides, and only its middle of `block` latent frames is kept.
    """
    context, hop = autoencoder.receptive_field, autoencoder.hop
    buffer: Tensor | None = None  # latents, starting `left` frames before the next frame to decode
    left = 0

    @torch.no_grad()
    def middle(latents: Tensor, count: int) -> Tensor:
        sound = autoencoder.decode(latents[None, : left + count + context])[0]
        return sound[:, left * hop : (left + count) * hop].cpu()

    for piece in blocks:
        buffer = piece if buffer is None else torch.cat([buffer, piece])
        while len(buffer) >= left + block + context:
            yield middle(buffer, block)
            drop = max(0, left + block - context)
            buffer, left = buffer[drop:], left + block - drop
    while buffer is not None and len(buffer) > left:
        count = min(block, len(buffer) - left)
        yield middle(buffer, count)
        drop = max(0, left + count - context)
        buffer, left = buffer[drop:], left + count - drop


def stream_track(
    dit: LatentDiffusion,
    autoencoder: LatentDecoder,
    condition_vectors: Tensor,
    n_samples: int,
    settings: RenderSettings | None = None,
    *,
    track: str = "vocals",
    progress: Progress | None = None,
) -> Iterator[Tensor]:
    """A track's sound as blocks `[channels, samples]` at 48 kHz, `n_samples` in all; see `render_track`."""
    possible = len(condition_vectors) * FRAME_SAMPLES
    if not 0 <= n_samples <= possible:
        raise ConfigError(f"{n_samples} samples cannot be rendered from {len(condition_vectors)} frames (1920 each)")
    settings = settings or RenderSettings()
    blocks = latent_blocks(dit, condition_vectors, settings, track=track, progress=progress)
    left = n_samples
    for sound in decode_blocks(autoencoder, blocks, settings.plan.decode_block):
        if left:
            yield sound[:, :left]
        left -= min(left, sound.shape[1])


def render_track(
    dit: LatentDiffusion,
    autoencoder: LatentDecoder,
    condition_vectors: Tensor,
    n_samples: int,
    settings: RenderSettings | None = None,
    *,
    track: str = "vocals",
    progress: Progress | None = None,
) -> Tensor:
    """A track's sound `[channels, n_samples]` at 48 kHz (`[1, 0]` when there is none).

    condition_vectors: code vectors `[frames, code_dim]`. The seed of `settings` and `track` determine the noise, so that the same
    call gives the same sound. progress(done, total) is called in latent frames. Raises ConfigError when the frames are too few
    for `n_samples`.
    """
    pieces = stream_track(dit, autoencoder, condition_vectors, n_samples, settings, track=track, progress=progress)
    blocks = list(pieces)
    return torch.cat(blocks, dim=1) if blocks else torch.zeros(1, 0)
