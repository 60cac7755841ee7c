"""What processes tell each other, on groups of any kind."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from tests.forked import python

from duotok.distributed import of_first, total

GROUPS = """
import os, sys, torch
import torch.distributed as dist
from duotok.distributed import group_device

def creator(store, rank, size, timeout):
    return dist.ProcessGroupGloo(store, rank, size, timeout)

dist.Backend.register_backend("likenccl", creator, devices=["meta"])  # a GPU's backend: one kind of device, and not the CPU
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", RANK="0", WORLD_SIZE="1")
for backend in ("gloo", "likenccl", "cpu:gloo,meta:likenccl"):
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    device = group_device(torch.device("cpu"))
    try:
        dist.all_reduce(torch.ones(1))
        works = True
    except RuntimeError:
        works = False
    print(device.type, works, group_device(torch.device("meta")).type)
    dist.destroy_process_group()
"""


def test_a_tensor_that_the_group_cannot_take_goes_to_a_device_that_it_can() -> None:
    """As the CPU's under NCCL: training on several GPUs ended at its first checkpoint."""
    done = python(GROUPS)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().splitlines() == ["cpu True cpu", "meta False meta", "cpu True meta"]


def test_sums_come_back_to_where_their_values_were(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr("duotok.distributed.world", lambda: 2)
    monkeypatch.setattr("duotok.distributed.group_device", lambda device: torch.device("meta"))
    monkeypatch.setattr(dist, "all_reduce", seen.append)
    with pytest.raises(NotImplementedError, match="meta"):  # it is a device without numbers, so they cannot come back
        total(torch.ones(3))
    assert [tensor.device.type for tensor in seen] == ["meta"]


def test_the_first_of_one_process_is_its_own() -> None:
    assert of_first(0.1) == 0.1
