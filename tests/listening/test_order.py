"""The order of each rater."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from tests.listening.ask import plan_of

from duotok.listening.order import trials
from duotok.listening.plan import REFERENCE


def test_everyone_hears_everything_once_in_an_order_of_their_own() -> None:
    test = plan_of()
    orders = [[page.sounds[0].id for page in trials(test, rater)] for rater in range(1, 9)]
    assert all(sorted(order) == sorted(test.sounds) for order in orders)
    assert len({tuple(order) for order in orders}) == 8
    assert orders[0] == [page.sounds[0].id for page in trials(plan_of(), 1)], "the same after a restart"
    assert orders[0] != [page.sounds[0].id for page in trials(plan_of(seed=4), 1)]


def test_the_same_clip_seldom_comes_twice_in_a_row() -> None:
    test = plan_of(songs=4, tracks=("mix",))
    repeats = [
        sum(a.clip == b.clip for a, b in pairwise(pages)) for pages in (trials(test, rater) for rater in range(1, 21))
    ]
    assert sum(repeats) / len(repeats) < 1, "a plain order has 3 on average"


def test_an_order_does_not_place_a_condition() -> None:
    test = plan_of(songs=2, tracks=("mix",))
    first = Counter(trials(test, rater)[0].sounds[0].system for rater in range(1, 401))
    assert min(first.values()) > 60 and len(first) == 4, first


def test_few_clips_for_each_rater_make_every_clip_heard_equally_often() -> None:
    test = plan_of(songs=5, clips_per_rater=4)
    heard = Counter(sound.clip for rater in range(1, 6) for page in trials(test, rater) for sound in page.sounds)
    assert set(heard.values()) == {8}, "five raters, four of ten clips each: every clip twice, in four conditions"
    assert all(len(trials(test, rater)) == 16 for rater in range(1, 6))


def test_mushra_has_a_page_for_each_clip_with_labels_drawn() -> None:
    test = plan_of(method="mushra")
    pages = trials(test, 1)
    assert sorted(page.clip.id for page in pages) == sorted(test.clips)
    assert all(page.reference is not None and page.reference.system == REFERENCE for page in pages)
    assert all({s.system for s in page.sounds} == set(test.conditions) for page in pages)
    places = Counter(
        place
        for rater in range(1, 51)
        for page in trials(test, rater)
        for place, s in enumerate(page.sounds)
        if s.system == REFERENCE
    )
    assert len(places) == 4 and min(places.values()) > 0.2 * sum(places.values()), places
