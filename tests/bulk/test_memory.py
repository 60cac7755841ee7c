"""Memory does not grow with a song: what is allocated at once for a long one is what a short one needs."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from duotok.bulk.encoding import encode_group
from duotok.bulk.places import Place
from duotok.bulk.preparing import prepare
from duotok.clock import SAMPLE_RATE
from duotok.codec.duotok import DuoTok
from duotok.codec.spool import BLOCK_SECONDS


class Held(TorchDispatchMode):
    """The most bytes of tensors that were alive at once, of those that torch made."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[StorageWeakRef, int] = {}
        self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self.alive[StorageWeakRef(leaf.untyped_storage())] = leaf.untyped_storage().nbytes()
        self.alive = {storage: size for storage, size in self.alive.items() if not storage.expired()}
        self.most = max(self.most, sum(self.alive.values()))
        return made


class Needed(NamedTuple):
    """Bytes: the peak of numpy and Python while a song is read, of torch's tensors meanwhile, the same peak while it is encoded,
    and its prepared sound on disk."""

    reading: int
    tensors: int
    encoding: int
    disk: int


def needed(folder: Path, seconds: float, stems: bool, model: str, model_hash: str, *, trace: bool = True) -> Needed:
    folder.mkdir()
    quiet = 0.01 * np.random.default_rng(0).standard_normal((round(8000 * seconds), 1))
    names = ("vocals", "accompaniment") if stems else ("mix",)
    for name in names:
        soundfile.write(folder / f"{name}.flac", quiet, 8000)
    payload = {
        "sources": {name: list(Place(str(folder / f"{name}.flac"))) for name in names}, "marks": {}, "known": None,
        "highpass": 10.0, "separates": True, "scratch": str(folder),
    }  # fmt: skip
    del quiet
    if trace:
        tracemalloc.start()
    try:
        with Held() as held:
            facts = prepare(payload)
        reading = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        song = {"name": "song", **facts}
        made = encode_group({
            "model": model, "model_hash": model_hash, "device": "cpu", "precision": "fp32", "batch_size": 1, "songs": [song],
        })  # fmt: skip
        assert "codes" in made["songs"][0]
        encoding = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert facts["seconds"] == pytest.approx(seconds)
    return Needed(reading, held.most, encoding, facts["bytes"])


@pytest.mark.parametrize("stems", [True, False], ids=["stems", "mix"])
def test_memory_does_not_grow_with_a_song(stems: bool, tmp_path: Path, bundle: Path, model: DuoTok) -> None:
    """Four times the length: all of its sound lies on disk."""
    needed(
        tmp_path / "first", 2.0, stems, str(bundle), model.model_hash, trace=False
    )  # what comes once, as imports, is no song's
    short, long = (
        needed(tmp_path / f"{blocks}", blocks * BLOCK_SECONDS, stems, str(bundle), model.model_hash)
        for blocks in (3, 12)
    )
    assert long.disk == pytest.approx(4 * short.disk, rel=0.01)
    assert long.tensors <= 1.2 * short.tensors
    assert long.reading <= 1.2 * short.reading
    block = 0 if stems else BLOCK_SECONDS * SAMPLE_RATE * 2 * 4  # one more may wait where a chunk of the separator ends
    assert long.encoding <= short.encoding + block + 1e6, "codes, and windows by name"
