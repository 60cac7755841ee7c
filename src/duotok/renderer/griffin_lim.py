"""Phases that fit their magnitudes: fast Griffin-Lim iterations (Perraudin, Balazs and Sondergaard 2013) at the end of a decoder.

A convolutional decoder that is told the same at every frame answers with the same 20 ms again and again, so it cannot make the
phases of a steady tone (docs/experiments/pitch-and-phases.md). Frames of a spectrum that overlap eightfold settle them among each other:
each iteration makes the sound, takes its spectrum, and keeps the phases but not the magnitudes of that.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from duotok.random import ItemRandom

MOMENTUM = 0.99
FAINT = 3e-3
"""Magnitude of a bin below which decoders do not learn. Below half of it they mean silence: nothing is heard there."""
SILENT = 1e-6
"""Squared magnitude at which a phase fades out: far below what is heard, above where its gradient grows without bound."""


def without_faint(spectrum: Tensor) -> Tensor:
    """`spectrum` with magnitudes that are 0 up to FAINT / 2 and reach their own from there on, 1 % less at ten times that."""
    least = FAINT / 2
    return spectrum * (1 - (least / spectrum.abs().clamp_min(least)).square())


def phases_that_fit(spectrum: Tensor, iterations: int, project: Callable[[Tensor], Tensor]) -> Tensor:
    """`spectrum` with its magnitudes and other phases: complex `[..., frames, bins]`.

    project: the spectrum of the sound of a spectrum, shaped alike. iterations: how often; each lets a frame hear of those that
    overlap with it. 0 returns `spectrum` itself.
    """
    magnitude, current = spectrum.abs(), spectrum
    before: Tensor | None = None
    for _ in range(iterations):
        heard = project(current)
        ahead = heard if before is None else heard + MOMENTUM * (heard - before)
        current = magnitude * ahead * torch.rsqrt(ahead.real.square() + ahead.imag.square() + SILENT)
        before = heard
    return current


def random_phases(spectrum: Tensor, draws: ItemRandom) -> Tensor:
    """`spectrum` `[batch, frames, bins]` with phases drawn evenly, of each item by itself."""
    angle = draws.uniform(*spectrum.shape[1:]) * (2 * torch.pi)
    return spectrum.abs() * torch.polar(torch.ones_like(angle), angle)
