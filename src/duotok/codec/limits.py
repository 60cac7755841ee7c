"""How large the values of a config may be, before anything is built from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from duotok.errors import BundleError

LARGEST = 65_536
LARGEST_OF = {
    "blocks": 512, "layers": 512, "depth": 512, "heads": 512, "code_dim": 1024, "n_mels": 1024, "codebook_size": 1 << 20,
    "step": 1e12, "vocabulary": 1 << 20, "sample_rate": 1_536_000, "rope_base": 1e9, "rope_theta": 1e9, "basis_seed": 1 << 63,
}  # fmt: skip
LONGEST = 4096


def check_limits(values: Any, path: Path, key: str = "") -> None:
    """Raises BundleError for a value of a config that is so large that the model could fill the memory."""
    name = key.rpartition(".")[2]
    if isinstance(values, dict):
        for inner, value in values.items():
            check_limits(value, path, f"{key}.{inner}" if key else str(inner))
    elif isinstance(values, list):
        for value in values[:LONGEST]:
            check_limits(value, path, key)
    most: float = LARGEST_OF.get(name, LARGEST_OF["blocks"] if name.endswith("_blocks") else LARGEST)
    size: float = 0
    if isinstance(values, dict | list | str):
        size, most = len(values), LONGEST
    elif isinstance(values, int | float):
        size = abs(values)
    if not size <= most:  # NaN as well
        raise BundleError(f"{path}: {key} is over {most:g}, which no bundle has; get the bundle again")
