"""The comparison of front ends: equal time, the schedule, the table."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import pytest
from tests.training.small import stage1_config

from benchmarks import frontends
from duotok.training.cost.synthetic import sketch


def test_every_kind_is_counted_at_both_sizes() -> None:
    paper, mini = frontends.costs("paper", frontends.PAPER), frontends.costs("mini", frontends.MINI)
    assert [row["kind"] for row in paper] == [row["kind"] for row in mini] == list(frontends.PAPER)
    by_kind = {row["kind"]: row for row in paper}
    assert by_kind["conv2d"]["front"] > 10 * max(row["front"] for kind, row in by_kind.items() if kind != "conv2d")
    assert all(row["encoder"] == row["front"] + row["lower"] for row in paper)
    old = next(row for row in mini if row["kind"] == "conv2d")
    assert 0.4 < old["front"] / (old["front"] + old["blocks"]) < 0.7  # at the paper's size 0.6


def test_rate_follows_the_share_of_the_time() -> None:
    assert frontends.rate(1.0, 0.05) == pytest.approx(0.5)
    assert frontends.rate(1.0, frontends.WARMUP) == pytest.approx(1.0)
    assert frontends.rate(1.0, 1.0) == pytest.approx(frontends.FLOOR)
    assert frontends.rate(1.0, 0.3) > frontends.rate(1.0, 0.6)


def test_trains_until_the_time_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(frontends.time, "process_time", lambda: float(next(seconds)))  # a step takes one

    def run(seconds: float) -> dict[str, float]:
        return frontends.trained(sketch("stage1", stage1_config(batch_size=2)), seconds)

    short, long = run(1.0), run(20.0)
    assert (short["steps"], long["steps"]) == (1, 20)
    assert long["loss"] < short["loss"] and 0 <= long["accuracy"] <= 1


def test_results_are_kept_and_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work" / "shards").mkdir(parents=True)
    made: list[tuple[str, int]] = []

    def learned(kind: str, seed: int, *_: object) -> dict[str, object]:
        made.append((kind, seed))
        stage = {"steps": 10, "accuracy": 0.1 * (1 + seed), "loss": 2.0, "mel": 0.4}
        return {"kind": kind, "seed": seed, "stage1": stage, "stage2": stage}

    monkeypatch.setattr(frontends, "learned", learned)
    monkeypatch.setattr(frontends, "ShardStore", lambda *_: None)
    monkeypatch.setattr("duotok.shards.features.derive_features", lambda *_: None)
    arguments = ["frontends", "--work", tmp_path / "work", "--out", tmp_path / "out", "--kinds", "conv1d", "--json"]
    monkeypatch.setattr(sys, "argv", [*map(str, arguments), "--seeds", "0", "1"])
    frontends.main()
    frontends.main()
    assert made == [("conv1d", 0), ("conv1d", 1)]
    runs = [json.loads(path.read_text()) for path in sorted((tmp_path / "out").glob("*.json"))]
    assert "0.1500 (0.1000, 0.2000)" in frontends.learned_table(runs)


def test_a_folder_without_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["frontends", "--work", str(tmp_path)])
    with pytest.raises(SystemExit, match="no shards there"):
        frontends.main()
