"""Arrays in a file: what was written is read, and nothing else is."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from duotok.sealed_arrays import read_arrays, save_arrays

ARRAYS = {
    "a": torch.arange(12, dtype=torch.float32).view(3, 4),
    "b": torch.tensor([1, -2, 3], dtype=torch.int64),
    "none": torch.zeros(0, dtype=torch.int32),
    "half": torch.ones(2, 5).half().T,
}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_arrays(path, ARRAYS, {"seed": 3, "songs": ["ä", "b"]})
    arrays, facts = read_arrays(path)
    assert facts == {"seed": 3, "songs": ["ä", "b"]} and arrays.keys() == ARRAYS.keys()
    assert all(torch.equal(arrays[name], array) and arrays[name].dtype == array.dtype for name, array in ARRAYS.items())
    before = path.read_bytes()
    save_arrays(path, ARRAYS, {"songs": ["ä", "b"], "seed": 3})
    assert path.read_bytes() == before
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "y.safetensors")


def test_every_changed_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_arrays(path, ARRAYS, {"seed": 3})
    whole, draw = path.read_bytes(), random.Random(0)
    before = read_arrays(path)
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        try:
            arrays, facts = read_arrays(path)
        except ValueError:
            continue
        # A space of the padded header may be another white space.
        assert facts == before[1] and all(torch.equal(arrays[name], array) for name, array in before[0].items()), place
    for cut in (0, 7, 40, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"x\.safetensors"):
            read_arrays(path)
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="not as it was written"):
        read_arrays(path)
