"""The simulation has the limits that can be computed by hand."""

from __future__ import annotations

import pytest
from benchmarks.scale import simulate


def test_the_slower_part_decides() -> None:
    hours = [0.1] * 200
    assert simulate(hours, 1.0, 100.0, 1, 1, 3) == pytest.approx(20 * 100)
    assert simulate(hours, 1.0, 100.0, 1, 4, 9) == pytest.approx(20 * 100 / 4, rel=0.01)
    assert simulate(hours, 50.0, 100.0, 1, 4, 9) == pytest.approx(20 * 50, rel=0.02)  # the reader
    assert simulate(hours, 50.0, 100.0, 8, 4, 9) == pytest.approx(20 * 100 / 4, rel=0.02)


def test_a_long_song_at_the_end_makes_others_wait() -> None:
    assert simulate([0.1] * 10 + [3.0], 0.0, 100.0, 1, 2, 5) == pytest.approx(5 * 10 + 300)


def test_a_short_shelf_stops_the_readers() -> None:
    hours = [1.0, *[0.01] * 30]
    assert simulate(hours, 10.0, 100.0, 1, 2, 1) >= simulate(hours, 10.0, 100.0, 1, 2, 100)
