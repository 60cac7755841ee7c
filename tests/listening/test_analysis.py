"""Simulated raters: known scores come back, who clicks anything is found."""

from __future__ import annotations

import pytest
from tests.listening import simulated
from tests.listening.ask import plan_of

from duotok.errors import DuoTokError
from duotok.listening.analysis import ALL, analyse
from duotok.listening.intervals import Score
from duotok.listening.plan import REFERENCE
from duotok.listening.ratings import Rating
from duotok.listening.scale import Method
from duotok.listening.screening import Rule, screen

TRUTH = {
    "mos": {REFERENCE: 4.6, "good": 3.6, "poor": 2.4, "lowpass-3500": 2.0},
    "mushra": {REFERENCE: 99.0, "good": 70.0, "poor": 40.0, "lowpass-3500": 20.0},
}


@pytest.mark.parametrize("method", ["mos", "mushra"])
def test_true_scores_come_back_and_clickers_go(method: Method) -> None:
    test = plan_of(songs=8, method=method)
    truth = TRUTH[method]
    noise = 0.6 if method == "mos" else 0.15
    found = analyse(test, simulated.ratings(test, truth, raters=10, clickers=3, seed=2, noise=noise))
    assert set(found.excluded) == {11, 12, 13}, found.excluded
    assert (found.everyone.raters, found.screened.raters, found.complete) == (13, 10, 13)
    assert (found.everyone.ratings, found.screened.ratings) == (13 * 64, 10 * 64)
    for track in found.tracks:
        for name in ("good", "poor", "lowpass-3500"):
            mean = found.screened.means[track][name]
            assert mean.low is not None and mean.high is not None
            assert mean.low <= truth[name] <= mean.high, (track, name, mean)
            assert mean.high - mean.low < 0.35 * (4 if method == "mos" else 100)
            assert mean.ratings == (160 if track == ALL else 80) and mean.over == "raters and songs"
    gap = found.screened.differences[ALL]["poor"]
    assert gap.low is not None and gap.high is not None
    assert gap.low <= truth["poor"] - truth["good"] <= gap.high < 0
    assert abs(found.everyone.means[ALL]["poor"].value - truth["poor"]) > abs(
        found.screened.means[ALL]["poor"].value - truth["poor"]
    )
    assert sum(found.counts["good"].values()) == 160


def test_what_nobody_rated_is_missing_not_zero() -> None:
    test = plan_of(songs=2)
    some = [one for one in simulated.ratings(test, TRUTH["mos"], 6) if test.sounds[one.sound].system != "poor"]
    found = analyse(test, some)
    assert "poor" not in found.screened.means[ALL] and "poor" not in found.screened.differences[ALL]
    assert found.complete == 0 and found.screened.means[ALL]["good"].over == "raters, for these 2 songs alone"


def test_ratings_of_sounds_that_there_are_not() -> None:
    with pytest.raises(DuoTokError, match="no sound of this test"):
        analyse(plan_of(), [Rating(1, "elsewhere", 3, 0)])


def of(rater: int, **scores: list[float]) -> list[Score]:
    return [
        Score(rater, f"{place}", f"{place}", {"low": "lowpass-3500", "mid": "lowpass-7000"}.get(name, name), value)
        for name, values in scores.items()
        for place, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("method", "scores", "told"),
    [
        ("mos", of(1, reference=[5, 4], low=[3, 3], x=[1, 5]), ""),
        ("mos", of(1, reference=[5, 1], low=[1, 1]), "hidden reference 3.00 on average, under 3.5"),
        ("mos", of(1, reference=[5, 5], low=[5, 4]), "lowpass-3500 4.50 on average, less than 1 below"),
        ("mos", of(1, low=[1]), "rated no hidden reference"),
        ("mos", of(1, reference=[5]), "rated no anchor"),
        ("mushra", of(1, reference=[95] * 9 + [10], low=[95] * 10, mid=[20] * 9 + [95]), ""),
        (
            "mushra",
            of(1, reference=[95] * 8 + [10, 10], mid=[20] * 10),
            "hidden reference under 90 in 20% of the clips",
        ),
        ("mushra", of(1, reference=[95] * 10, mid=[20] * 8 + [95, 95]), "lowpass-7000 over 90 in 20% of the clips"),
    ],
)
def test_the_rule(method: Method, scores: list[Score], told: str) -> None:
    found = screen(scores, method, {"lowpass-7000": 7000.0, "lowpass-3500": 3500.0})
    assert (told in found[1]) if told else found == {}


def test_without_anchors_the_reference_judges() -> None:
    assert screen(of(1, reference=[5]) + of(2, reference=[3]), "mos", {}) == {
        2: "hidden reference 3.00 on average, under 3.5"
    }


def test_a_lower_threshold_of_the_reference_leaves_the_anchors_alone() -> None:
    scores = of(1, reference=[70] * 10, mid=[65] * 10)
    assert "under 90" in screen(scores, "mushra", {"lowpass-7000": 7000.0})[1]
    assert screen(scores, "mushra", {"lowpass-7000": 7000.0}, Rule(mushra=60.0)) == {}
    assert "anchor over 90 in" in Rule(mushra=60.0).text("mushra")


def test_thresholds_can_be_set_and_are_told() -> None:
    scores = of(1, reference=[4, 2], low=[2.5, 2.5])
    assert screen(scores, "mos", {"lowpass-3500": 3500.0}) != {}
    assert screen(scores, "mos", {"lowpass-3500": 3500.0}, Rule(reference=2.5, gap=0.5)) == {}
    assert "at least 2.5" in Rule(reference=2.5).text("mos") and "15%" in Rule().text("mushra")
