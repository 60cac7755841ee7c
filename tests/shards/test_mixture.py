"""Mixtures are exact in every cycle, complete in every visit, pure, and well shuffled."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.shards.shard_maker import make_shards, segment, small_songs

from duotok.config import parse
from duotok.errors import ConfigError
from duotok.shards.mixture import Component, Mixture, permutation
from duotok.shards.store import ShardStore
from duotok.training.batches.sounds import TrackComponent, TrackMixture

SEGMENTS = [
    *small_songs(12),
    *(
        segment(f"band/b{i}", frames=5, kind="instrumental", stems=("accompaniment",), types=("instrumental",))
        for i in range(5)
    ),
    segment("talk/a", frames=5, kind="speech", stems=("vocals",), types=("other",)),
]
STAGE2 = {
    "mix": Component(weight=4, types=("mix",), lyrics=True),
    "vocals": Component(weight=1, types=("vocals",), lyrics=True),
    "accompaniment": Component(weight=1, types=("accompaniment",), lyrics=True),
    "instrumental": Component(weight=1, types=("instrumental",)),
}
STAGE3 = {
    "vocals": Component(weight=5, types=("vocals",), lyrics=True),
    "accompaniment": Component(weight=4, types=("accompaniment",), lyrics=True),
    "instrumental": Component(weight=1, types=("instrumental",)),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ShardStore:
    return ShardStore(make_shards(tmp_path_factory.mktemp("shards"), SEGMENTS, per_shard=8))


@pytest.mark.parametrize("components", [STAGE2, STAGE3])
def test_every_cycle_is_exact(store: ShardStore, components: dict[str, Component]) -> None:
    mixture = Mixture(store, "train", components, seed=3)
    orders = set()
    for cycle in range(20):
        names = [mixture.draw(cycle * mixture.cycle + i)[0] for i in range(mixture.cycle)]
        assert Counter(names) == {name: c.weight for name, c in components.items()}
        orders.add(tuple(names))
    assert len(orders) > 5


def test_every_segment_once_a_visit(store: ShardStore) -> None:
    mixture = Mixture(store, "train", STAGE2, seed=3)
    seen: dict[tuple[str, int], list[int]] = {}
    for position in range(7 * 60):
        name, index, visit = mixture.draw(position)
        seen.setdefault((name, visit), []).append(index)
    for name, component in STAGE2.items():
        wanted = sorted(component.find(store, "train", name).tolist())
        visits = sorted(visit for n, visit in seen if n == name)
        assert visits == list(range(len(visits)))
        orders = set()
        for visit in visits[:-1]:  # the last may have been cut
            assert sorted(seen[name, visit]) == wanted
            orders.add(tuple(seen[name, visit]))
        assert len(orders) > 1


def test_lyrics_are_available_as_the_paper_says(store: ShardStore) -> None:
    """Paper C.3: 5 of 7 samples of stage 2 and half of those of stage 3 carry a voice whose words are known."""
    for components, share in ((STAGE2, (5, 7)), (STAGE3, (1, 2))):
        mixture = Mixture(store, "train", components, seed=1)
        steps = 30 * mixture.cycle
        available = 0
        for position in range(steps):
            name, index, _ = mixture.draw(position)
            available += name in ("mix", "vocals") and bool(store.segments[index].segment.words)
        assert available * share[1] == steps * share[0]


def test_pure_and_seeded(store: ShardStore) -> None:
    positions = list(range(100))
    first, second = Mixture(store, "train", STAGE2, 5), Mixture(store, "train", STAGE2, 5)
    drawn = [first.draw(p) for p in positions]
    assert [second.draw(p) for p in reversed(positions)] == drawn[::-1]
    assert Mixture(store, "train", STAGE2, 5).draw(99) == drawn[99]
    assert [Mixture(store, "train", STAGE2, 6).draw(p) for p in positions] != drawn


def test_only_the_split(store: ShardStore) -> None:
    mixture = Mixture(store, "validation", {"all": Component()}, 0)
    assert {store.segments[mixture.draw(p)[1]].segment.split for p in range(5)} == {"validation"}


def test_empty_component_is_named(store: ShardStore) -> None:
    components = {"mix": Component(types=("mix",)), "singers": Component(kinds=("voice",), lyrics=True)}
    with pytest.raises(
        ConfigError, match=r"'singers' is empty: .* no train segment with kinds=\('voice',\), lyrics=True"
    ):
        Mixture(store, "train", components, 0)
    Mixture(store, "train", {**components, "singers": Component(weight=0, kinds=("voice",))}, 0).draw(0)
    with pytest.raises(ConfigError, match="no component with a weight above 0"):
        Mixture(store, "train", {"mix": Component(weight=0)}, 0)
    with pytest.raises(ConfigError, match="'types"):
        parse(Component, {"types": ["mixx"]})


def test_optional_component_may_be_empty(store: ShardStore) -> None:
    components = {"mix": Component(types=("mix",)), "singers": Component(weight=3, kinds=("voice",), optional=True)}
    assert {Mixture(store, "train", components, 0).draw(position)[0] for position in range(8)} == {"mix"}


def test_positions_before_the_first_are_positions_too(store: ShardStore) -> None:
    mixture = Mixture(store, "train", STAGE2, seed=3)
    names = [mixture.draw(position)[0] for position in range(-7, 0)]
    assert Counter(names) == {name: c.weight for name, c in STAGE2.items()}


@given(size=st.integers(0, 500), seed=st.integers(0, 2**63 - 1), visit=st.integers(0, 10**9))
@settings(max_examples=50, deadline=None)
def test_permutations_are_permutations(size: int, seed: int, visit: int) -> None:
    assert sorted(permutation(size, seed, visit).tolist()) == list(range(size))


def test_small_permutations_are_all_equally_likely() -> None:
    counts = Counter(tuple(permutation(4, seed, 1, 2).tolist()) for seed in range(24 * 200))
    chi2 = sum((n - 200) ** 2 / 200 for n in counts.values())
    assert len(counts) == 24
    assert chi2 < 49.7  # 99.9 % of fair shuffles, 23 degrees of freedom


def test_large_permutations_leave_no_trace_of_order() -> None:
    n = 20_000
    for seeds in ((0, 0), (0, 1), (1, 0), (2**62, 7)):
        order = permutation(n, *seeds).astype(np.float64)
        other = permutation(n, seeds[0], seeds[1] + 1).astype(np.float64)
        for a, b in ((order, np.arange(n)), (order[1:], order[:-1]), (order, other)):
            assert abs(np.corrcoef(a, b)[0, 1]) < 4.5 / np.sqrt(n)
        # Neighbours in the manifest (segments of one song) are as far apart as chance would have it: n / 3.
        gaps = np.abs(np.diff(np.argsort(order)))
        assert abs(gaps.mean() - n / 3) < 4.5 * n / np.sqrt(18 * n)


def test_segments_too_short_are_left_out(store: ShardStore) -> None:
    """The band's and the talk's 5 frames are 0.2 s."""
    assert set(Mixture(store, "train", {"band": Component(kinds=("instrumental",), seconds=0.2)}, 0).components) == {
        "band"
    }
    with pytest.raises(ConfigError, match=r"component 'band' is empty.*seconds=0\.21"):
        Mixture(store, "train", {"band": Component(kinds=("instrumental",), seconds=0.21)}, 0)


def test_a_crop_fits_every_sound_of_a_mixture_of_tracks(store: ShardStore) -> None:
    components = {
        "any": TrackComponent(track="accompaniment"),
        "long": TrackComponent(track="vocals", seconds=0.3, optional=True),
    }
    mixture = TrackMixture(store, "train", components, 0, seconds=0.24)
    drawn = [mixture.draw(position) for position in range(40)]
    assert {track for _, track in drawn} == {"accompaniment", "vocals"}
    assert all(sound.seconds >= (0.3 if track == "vocals" else 0.24) for sound, track in drawn)
    assert len(TrackMixture(store, "train", components, 0, seconds=0.0).mixture.segments["any"]) > len(
        mixture.mixture.segments["any"]
    )
