"""What a comparison will take: the same scoring for tokenizers of any frame rate, and what is left of a run by time."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.comparison.test_run import LM, setup

from duotok.comparison import cost
from duotok.comparison.study import Comparison


@pytest.mark.parametrize(("lm", "training"), [({}, 2 * 3.0), ({"minutes": 10}, 600.0)])
def test_scoring_counts_seconds_and_not_frames(
    lm: dict[str, Any], training: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames of the tokenizer were divided by frames of 40 ms; of a run by time its steps were counted, which nobody looks at."""
    step = SimpleNamespace(speed=SimpleNamespace(seconds=3.0), frames=2 * 6 * 25.0)  # two pieces of 6 s
    monkeypatch.setattr(cost, "estimate_of", lambda *_: step)
    comparison = Comparison(setup(tmp_path, seeds=[0], protocols=["parallel"], lm={**LM, **lm}), tmp_path / "out")
    scoring = 7 * 12 / 12 * 3.0 * cost.FORWARD  # seven songs of 12 s
    for number in range(2):
        assert cost.Costs(comparison).minutes(number) == pytest.approx((training + scoring) / 60)
