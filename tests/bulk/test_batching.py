"""Songs side by side on one device: what is equally long goes through together, and an error stays with its own song."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from duotok.bulk.batching import Batches, Device


class Counting:
    """Work that notes the size of every batch."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, x: Tensor, factor: float | None = None) -> Tensor:
        self.sizes.append(len(x))
        assert threading.current_thread() is threading.main_thread()
        if (x == 13).any():
            raise RuntimeError("thirteen")
        return x * (2 if factor is None else factor)


def test_requests_of_one_length_go_together_and_get_their_own_answers() -> None:
    work, device, found = Counting(), Batches(4), {}

    def lane(k: int) -> None:
        length = 3 if k < 6 else 5  # two lengths, never in one batch
        found[k] = [device.ask(work, torch.full((1, length), float(k + 100 * turn)), extra=3.0) for turn in range(4)]

    device.run([lambda k=k: lane(k) for k in range(8)])  # type: ignore[misc]
    for k, answers in found.items():
        length = 3 if k < 6 else 5
        assert all(torch.equal(a, torch.full((1, length), 3.0 * (k + 100 * turn))) for turn, a in enumerate(answers))
    assert max(work.sizes) == 4 and sum(work.sizes) == 32 and len(work.sizes) < 24 and device.seconds > 0


def test_an_error_stays_with_its_own_song() -> None:
    work, device, ends = Counting(), Batches(8), {}

    def lane(k: int) -> None:
        try:
            ends[k] = float(device.ask(work, torch.full((1, 2), float(k)))[0, 0])
        except RuntimeError as error:
            ends[k] = str(error)

    device.run([lambda k=k: lane(k) for k in (1, 13, 5)])  # type: ignore[misc]
    assert ends == {1: 2.0, 13: "thirteen", 5: 10.0} and work.sizes[0] == 3


def test_alone_it_computes_in_place() -> None:
    work = Counting()
    with pytest.raises(RuntimeError):
        Device().ask(work, torch.full((1, 2), 13.0))
    assert torch.equal(Device().ask(work, torch.ones(2, 2)), torch.full((2, 2), 2.0))
