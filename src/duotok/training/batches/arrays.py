"""Arrays on disk: written atomically, read behind a memory map, never pickled."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from duotok.durable import put
from duotok.paths import temporary


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an `.npy` atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary(path, ".partial")
    try:
        with partial.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        put(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_array(path: Path) -> np.ndarray:
    """Memory-map an `.npy`."""
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array
