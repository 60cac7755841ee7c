"""The benchmark of training steps: what a share is of, and how many items it takes."""

from __future__ import annotations

from argparse import Namespace

import pytest
from tests.training.small import stage1_config

from benchmarks import training
from duotok.training.cost.counting import count
from duotok.training.cost.estimate import memory_of
from duotok.training.cost.synthetic import sketch

OPTIONS = Namespace(device="cpu", clock="cpu", repeat=2, profile=False, peak=0.25, items=None)


@pytest.mark.parametrize(
    ("device", "stated", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", None, 989.4e12),
        ("NVIDIA H100 PCIe", None, 756e12),
        ("NVIDIA A100-SXM4-40GB", None, 312e12),
        ("NVIDIA L4", None, 121e12),
        ("NVIDIA L40S", None, 362e12),
        ("NVIDIA H100 80GB HBM3", 500.0, 500e12),
        ("cpu", None, None),
    ],
)
def test_peak_by_name(device: str, stated: float | None, peak: float | None) -> None:
    assert training.peak_of(device, stated) == (None if peak is None else pytest.approx(peak))


def test_mfu_is_operations_over_the_stated_peak() -> None:
    config = stage1_config()
    row = training.measure("stage1", config, OPTIONS)
    counted, outline = count(lambda: sketch("stage1", config), config.batch_size, on_gpu=True)
    assert row["tera_flop"] == pytest.approx(counted.flops / 1e12)
    assert row["mfu"] == pytest.approx(row["tera_flop"] / row["seconds"] / 0.25)
    assert 0 < row["mfu"] < 1
    weights = sum(p.nbytes for module in outline.modules.values() for p in module.parameters())
    estimate = sum(memory_of(outline, counted).values())
    assert row["counted_gigabytes"] == pytest.approx((estimate - weights) / 1e9)
    assert row["memory_ratio"] == pytest.approx((1e9 * row["gigabytes"] + weights) / estimate)


def test_items_fill_the_memory_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "paper_config", lambda name, items, options: stage1_config(batch_size=items))

    def need(items: int) -> int:
        counted, outline = count(lambda: sketch("stage1", stage1_config(batch_size=items)), items, on_gpu=False)
        return sum(memory_of(outline, counted).values())

    free = 1.01 * need(10) / training.SHARE_OF_MEMORY
    monkeypatch.setattr(training, "free_memory", lambda device: free)
    assert 9 <= training.fitting("stage1", OPTIONS) <= 10
    monkeypatch.setattr(training, "free_memory", lambda device: 0)
    assert training.fitting("stage1", OPTIONS) == 1
