"""Average precision and ROC area agree with scikit-learn, weighted and with ties, and never become NaN."""

from __future__ import annotations

import numpy as np
import pytest

from duotok.errors import MetricError
from duotok.evaluation.intervals import Resampling
from duotok.evaluation.ranking import advantage, curves, each_tag, estimate, macro, measured_tags

sklearn_metrics = pytest.importorskip("sklearn.metrics")

FEW = Resampling(replicates=100)


def data(songs: int = 40, tags: int = 5, seed: int = 0, levels: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores that know something of the truth; levels: so many different scores (ties), 0: all differ."""
    rng = np.random.default_rng(seed)
    truth = rng.random((songs, tags)) < np.linspace(0.2, 0.6, tags)
    scores = rng.normal(size=(songs, tags)) + truth
    return (np.round(scores * levels) / levels if levels else scores), truth


@pytest.mark.parametrize("levels", [0, 1, 3])
def test_agrees_with_scikit_learn_under_weights(levels: int) -> None:
    scores, truth = data(tags=2, levels=levels)
    weights = np.random.default_rng(1).integers(0, 4, (2, len(truth))).astype(float)
    for tag in range(truth.shape[1]):
        ap, auc = curves(scores[:, tag], truth[:, tag], weights)
        for row, of_ap, of_auc in zip(weights, ap, auc, strict=True):
            expected = sklearn_metrics.average_precision_score(truth[:, tag], scores[:, tag], sample_weight=row)
            assert of_ap == pytest.approx(expected, abs=1e-12)
            expected = sklearn_metrics.roc_auc_score(truth[:, tag], scores[:, tag], sample_weight=row)
            assert of_auc == pytest.approx(expected, abs=1e-12)


def test_the_order_of_songs_changes_nothing() -> None:
    scores, truth = data(levels=2)
    order = np.random.default_rng(2).permutation(len(truth))
    assert each_tag(scores, truth, "abcde") == each_tag(scores[order], truth[order], "abcde")


def test_tags_without_positives_or_negatives_are_left_out_by_name() -> None:
    scores, truth = data()
    truth[:, 1], truth[:, 3] = False, True
    tags = measured_tags(truth, ["a", "never", "c", "always", "e"])
    assert tags.measured == ("a", "c", "e")
    assert (tags.without_positives, tags.without_negatives) == (("never",), ("always",))
    found = macro([scores], truth, ["a", "never", "c", "always", "e"], FEW)
    assert all(np.isfinite(values).all() for values in found.values())
    kept = [0, 2, 4]
    expected = sklearn_metrics.average_precision_score(truth[:, kept], scores[:, kept], average="macro")
    assert found["ap"][0] == pytest.approx(expected)
    with pytest.raises(MetricError, match="take more songs"):
        measured_tags(np.ones((4, 2), bool), ["a", "b"])


def test_a_rare_tag_that_a_replicate_misses_makes_no_nan() -> None:
    scores, truth = data(songs=24, tags=2)
    truth[:, 0], truth[:, 1] = np.arange(24) % 2 == 0, np.arange(24) == 5  # a third of the replicates draw no such song
    found = macro([scores], truth, "ab", FEW)
    assert np.isfinite(found["ap"]).all() and np.isfinite(found["auc"]).all()


def test_rare_tags_do_not_move_the_interval_away_from_its_value() -> None:
    """Replicates that miss a tag, and songs drawn twice, would both raise average precision."""
    rng = np.random.default_rng(0)
    truth = rng.random((22, 40)) < 0.12
    truth[0], truth[1] = True, False
    found = estimate(macro([rng.random(truth.shape)], truth, list(map(str, range(40))), FEW), 22, FEW)["ap"]
    assert found.low < found.value < found.high
    assert abs((found.low + found.high) / 2 - found.value) < 0.25 * (found.high - found.low)


def test_intervals_hold_the_value_and_shrink_with_songs() -> None:
    wide, narrow = (
        estimate(macro([scores], truth, "abcde", FEW), len(truth), FEW)["auc"]
        for scores, truth in (data(30), data(480))
    )
    for interval in (wide, narrow):
        assert interval.low < interval.value < interval.high
    assert narrow.high - narrow.low < 0.5 * (wide.high - wide.low)


def test_an_advantage_is_paired() -> None:
    scores, truth = data()
    both = (
        macro([scores], truth, "abcde", FEW),
        macro([np.random.default_rng(3).normal(size=truth.shape)], truth, "abcde", FEW),
    )
    found = advantage(*both, len(truth), FEW)["auc"]
    assert found.value == pytest.approx(both[0]["auc"][0] - both[1]["auc"][0]) and found.excludes_zero
    assert advantage(both[0], both[0], len(truth), FEW)["ap"].high == 0


def test_scores_that_are_no_numbers_are_refused() -> None:
    scores, truth = data()
    scores[3, 2] = np.nan
    with pytest.raises(MetricError, match="1 scores are no numbers"):
        macro([scores], truth, "abcde", FEW)
    with pytest.raises(MetricError, match="at least 6"):
        estimate({"ap": np.zeros(3)}, 5)
    with pytest.raises(MetricError, match=r"5 songs: a 99\.5% interval needs"):
        estimate({"ap": np.zeros(3)}, 5, Resampling(level=0.995))
