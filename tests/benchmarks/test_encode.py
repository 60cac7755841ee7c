"""The comparison of encoders: operations, shares and ratios."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks import encode
from duotok.model.config import PRESETS


def test_shares_and_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def tick(seconds: float) -> None:
        nonlocal now
        now += seconds

    layer, x = nn.Linear(8, 16), torch.zeros(4, 8)

    def work(seconds: float) -> torch.Tensor:
        tick(seconds)
        return layer(x)

    fast = encode.Encoder("fast", lambda: work(0.5), 2, 100)
    slow = encode.Encoder("slow", lambda: work(2.0), 1, 200)
    blind = encode.Encoder("blind", lambda: work(1.0), 1, 300, counts=False)
    assert fast.flops == 2 * 4 * 8 * 16 and blind.flops is None
    monkeypatch.setattr(encode.time, "process_time", lambda: now)
    monkeypatch.setattr(encode, "matmul_rate", lambda *_: 4096.0)
    rows = encode.measure([fast, slow, blind], torch.device("cpu"), 10.0, 3)
    assert [row["times_real_time"] for row in rows] == pytest.approx([20.0, 5.0, 10.0])
    assert [row["ratio"] for row in rows] == pytest.approx([1.0, 0.25, 0.5])
    assert rows[0]["share"] == pytest.approx(1024 / 0.5 / 4096) and rows[2]["share"] is None
    assert rows[0]["at_reference"] == pytest.approx(20.0 * encode.REFERENCE / 4096)


def test_ours_in_every_precision_gives_codes_of_both_tracks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "paper", {**PRESETS["tiny"], "n_mels": 128, "mask_bins": 16})
    monkeypatch.setitem(encode.PAPER, "conv1d", 16)
    found = encode.ours(torch.device("cpu"), 2.0, ["conv1d"], ["fp32", "bf16", "int8"])
    assert [encoder.name for encoder in found] == [f"ours, conv1d, {p}" for p in ("fp32", "bf16", "int8")]
    codes = [encoder.run() for encoder in found]
    assert all(code.shape == (2, 50) and bool((code >= 0).all()) for code in codes)
    assert (codes[2] == codes[0]).float().mean() > 0.7
    assert len({encoder.flops for encoder in found}) == 1 and found[0].flops
