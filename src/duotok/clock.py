"""Every rate and hop, once: how many samples, mel steps and latents a token frame has (docs/parameters.md)."""

from __future__ import annotations

SAMPLE_RATE = 48_000
"""Hz of all sound that goes in and comes out."""
FRAME_SAMPLES = 1920
"""Samples of a token frame."""
FRAME_RATE = SAMPLE_RATE / FRAME_SAMPLES
"""Token frames a second: 25."""

ANALYSIS_RATE = 24_000
"""Hz of the sound that mel and chroma are computed from."""
MEL_HOP = 240
"""Samples between two mel steps at the analysis rate."""
MEL_RATE = ANALYSIS_RATE // MEL_HOP
"""Mel steps a second: 100."""
MEL_PER_FRAME = 4
"""Mel steps of a token frame."""

LATENT_SAMPLES = 960
"""Samples of a latent frame of our own autoencoder and of the paper's: 50 a second, two for each token frame. Another autoencoder
says its own: `renderer.contract.LatentAutoencoder.latents_per_frame`."""


def n_frames(n_samples: int) -> int:
    """Frames of a song of `n_samples` samples at 48 kHz: `ceil(n_samples / 1920)`; a started frame counts."""
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1, got {n_samples}")
    return -(-n_samples // FRAME_SAMPLES)
