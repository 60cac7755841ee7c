"""Code vectors to sound while they are still arriving: the windows of `render.py`, each as soon as all that it sees is there.

The result is that of rendering the whole. What is not known early is where a song ends: a window waits until the song is known to go
on beyond it, and the last one, which is moved back to be full, is rendered at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from duotok.clock import FRAME_RATE
from duotok.renderer.contract import LatentDecoder, LatentDiffusion
from duotok.renderer.render import RenderPlan, RenderSettings, blended, decode_blocks, window_latents, windows


class ArrivingVectors:
    """State: the last code vectors that arrived, as many as a window may still see. No longer song makes it larger.

    per_frame: latent frames of a token frame.
    """

    def __init__(self, plan: RenderPlan, per_frame: int) -> None:
        self.plan, self.per_frame, self.frames, self.keep_start = plan, per_frame, 0, 0
        self._buffer: Tensor | None = None
        self._first = 0  # the frame that the buffer begins with

    def push(self, vectors: Tensor) -> None:
        """Take the next `[frames, width]`."""
        self._buffer = vectors if self._buffer is None else torch.cat([self._buffer, vectors])
        self.frames += len(vectors)
        earliest = max(0, (self.keep_start - self.plan.window) // self.per_frame)
        if earliest > self._first:
            self._buffer, self._first = self._buffer[earliest - self._first :], earliest

    def ready(self) -> bool:
        """Whether the next window can be rendered, and is not the last one."""
        total = self.per_frame * self.frames
        return (
            total > self.keep_start + self.plan.hop + self.plan.crossfade
            and total >= self.keep_start - self.plan.context + self.plan.window
        )

    def render(self, dit: LatentDiffusion, settings: RenderSettings, track: str) -> tuple[Tensor, bool]:
        """The kept latents of the next window, and whether it is the last one of what has arrived."""
        total = self.per_frame * self.frames
        window = next(w for w in windows(total, self.plan, self.keep_start))
        first, last = window.start // self.per_frame, -(-window.stop // self.per_frame)
        assert self._buffer is not None and first >= self._first
        latents = window_latents(dit, self._buffer[first - self._first : last - self._first], window, settings, track)
        self.keep_start += self.plan.hop
        return latents, window.keep_stop == total


def arriving_track(
    dit: LatentDiffusion,
    autoencoder: LatentDecoder,
    pieces: Iterable[Tensor],
    settings: RenderSettings,
    *,
    track: str = "vocals",
) -> Iterator[Tensor]:
    """Sound `[channels, samples]` at 48 kHz of code vectors `[frames, width]` that come piece by piece, 1920 samples a frame.

    Together the blocks are what `stream_track` gives of the joined pieces.
    """

    def rendered() -> Iterator[tuple[Tensor, bool]]:
        state = ArrivingVectors(settings.plan, dit.config.latents_per_frame)
        for piece in pieces:
            state.push(piece)
            while state.ready():
                yield state.render(dit, settings, track)
        last = not state.frames
        while not last:
            latents, last = state.render(dit, settings, track)
            yield latents, last

    yield from decode_blocks(autoencoder, blended(rendered(), settings.plan.crossfade), settings.plan.decode_block)


def look_ahead(plan: RenderPlan, receptive_field: int, per_frame: int) -> float:
    """Seconds of tokens beyond a moment that must be there before its sound comes, at most.

    receptive_field: of the autoencoder; per_frame: latent frames of a token frame.
    """
    latents = plan.window - plan.context + plan.decode_block + receptive_field
    return latents / per_frame / FRAME_RATE
