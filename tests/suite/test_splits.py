from __future__ import annotations

from collections import Counter

from duotok.suite.splits import balanced


def test_no_identity_is_cut_and_the_shares_are_met() -> None:
    identity_of = {f"song {n}": f"artist {n % 13 if n < 60 else n}" for n in range(100)}
    split_of = balanced(identity_of)
    for identity in {*identity_of.values()}:
        assert len({split_of[item] for item in identity_of if identity_of[item] == identity}) == 1
    assert Counter(split_of.values()) == {"train": 60, "validation": 15, "test": 25}
    backwards = dict(reversed(identity_of.items()))
    assert balanced(backwards) == split_of, "the order of the recordings decides nothing"
