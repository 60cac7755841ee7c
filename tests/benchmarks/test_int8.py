"""The comparison of 8-bit layers: shares of equal tokens, sounding frames, libraries that are not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.tiny import song, tiny_bundle
from torch import nn

from benchmarks import int8
from duotok.audio.io import write
from duotok.errors import DuoTokError


def test_shares_of_stems(tmp_path: Path) -> None:
    write(tmp_path / "a.vocals.wav", song(4.0), 48_000)
    write(tmp_path / "a.accompaniment.wav", song(4.0, seed=1), 48_000)
    write(tmp_path / "b.vocals.wav", song(4.0), 48_000)  # no band: no pair
    pairs = int8.pairs_of(tmp_path, 3.0, 10)
    assert list(pairs) == ["a"] and pairs["a"][0].shape == (2, 3 * 48_000)
    rows = int8.shares(str(tiny_bundle(tmp_path / "bundle")), pairs)
    assert {(row["precision"], row["track"]) for row in rows} == {
        (p, t) for p in ("bf16", "int8") for t in ("vocals", "accompaniment")
    }
    for row in rows:
        assert row["frames"] == 75 >= row["equal"] >= row["sounding_equal"]
        assert row["sounding"] >= row["sounding_equal"] > 0.7 * row["sounding"] > 0
    assert "% of 75" in int8.share_table(rows)


def test_sounding_frames() -> None:
    sound = torch.zeros(2, 5 * 1920 + 1)
    sound[:, 1920 : 2 * 1920] = 0.5
    sound[:, 3 * 1920 : 4 * 1920] = 0.5 * 10 ** (-50 / 20)
    assert int8.sounding(sound).tolist() == [False, True, False, False, False, False]


def test_no_stems(tmp_path: Path) -> None:
    with pytest.raises(DuoTokError, match="leave --stems out"):
        int8.pairs_of(tmp_path, 3.0, 10)


def test_layers_and_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(linear: nn.Linear) -> Callable[..., object]:
        raise ImportError("No module named 'nothing'")

    monkeypatch.setattr(int8, "SHAPES", {"up": (64, 128)})
    chosen = {name: int8.LIBRARIES[name] for name in int8.LIBRARIES if "ours" in name or name in ("fp32", "bf16")}
    monkeypatch.setattr(int8, "LIBRARIES", {**chosen, "none": missing})
    fp32, bf16, ours, none = int8.speeds(2)
    assert fp32["error"] == 0 < bf16["error"] < ours["error"] < 0.03
    assert fp32["against_fp32"] == 1 and ours["against_fp32"] > 0
    assert none == {"library": "none", "missing": "No module named 'nothing'"}
