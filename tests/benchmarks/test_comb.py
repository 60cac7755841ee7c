"""`benchmarks.comb` finds the lines that are there, and none where there are none."""

import numpy as np
import pytest
from benchmarks.comb import measure, steady

NOTE = 233.0


def test_lines_of_known_level() -> None:
    note = steady(NOTE, 5, 4.0).numpy()
    given = float(np.mean(note.astype(np.float64) ** 2))
    clean = note + 1e-4 * np.random.default_rng(0).standard_normal(len(note)).astype(np.float32)
    found = measure(clean, NOTE, 5, given)
    assert found["note"] == pytest.approx(0, abs=0.05) and found["comb"] < -40
    assert all(abs(found[f"excess {name}"]) < 1 for name in ("at 100 Hz", "at 50 Hz", "at 25 Hz", "beside"))
    time = np.arange(len(note)) / 48_000
    comb = sum(np.sin(2 * np.pi * 100 * k * time) for k in range(1, 41)).astype(np.float32)
    kept = 35  # of 40: the others are near partials
    comb *= (0.01 * given / (kept / 2)) ** 0.5
    found = measure(clean + comb, NOTE, 5, given)
    assert found["comb"] == pytest.approx(-20, abs=0.7) and found["comb over note"] == pytest.approx(-20, abs=0.8)
    assert (
        found["excess at 100 Hz"] > 20
        and abs(found["excess at 50 Hz"]) < 2
        and abs(found["excess at 25 Hz"]) < 2
        and abs(found["excess beside"]) < 2
    )
