"""Tokens: two time-aligned streams of integers, and their file."""

from duotok.tokens.dual import (
    FRAME_RATE,
    FRAME_SAMPLES,
    SAMPLE_RATE,
    TRACKS,
    DualTokens,
    SourceFile,
    Window,
    WindowPlan,
    n_frames,
)
from duotok.tokens.file import FORMAT_VERSION, SUFFIX, load, save

__all__ = [
    "FORMAT_VERSION",
    "FRAME_RATE",
    "FRAME_SAMPLES",
    "SAMPLE_RATE",
    "SUFFIX",
    "TRACKS",
    "DualTokens",
    "SourceFile",
    "Window",
    "WindowPlan",
    "load",
    "n_frames",
    "save",
]
