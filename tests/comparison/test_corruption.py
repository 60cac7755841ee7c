"""Corrupted sources and context lengths, on toy models whose costs are known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from duotok.comparison.context import block_ends, curve, tails, windows
from duotok.comparison.corruption import DEFAULT, Corruption, corrupt, costs, fitted, mask, mismatched, shift
from duotok.comparison.metrics import measure
from duotok.comparison.plan import Corruptions
from duotok.errors import MetricError
from duotok.evaluation.intervals import Resampling
from duotok.lm.scores import SongScore
from duotok.lm.song import TokenizedSong

RATE, SIZE, PREFIX = 25.0, 64, 50
FAST = Resampling(replicates=300)


def make_songs(count: int = 10, seconds: float = 30, codebooks: int = 1) -> list[TokenizedSong]:
    """The accompaniment repeats the vocals, code for code."""
    random = np.random.default_rng(0)
    result = []
    for i in range(count):
        codes = random.integers(0, SIZE, (codebooks, round(seconds * RATE))).astype(np.int32)
        result.append(
            TokenizedSong(id=f"song{i:02d}", split="test", tokens={"vocals": codes, "accompaniment": codes.copy()})
        )
    return result


def scored(song: TokenizedSong, bits: np.ndarray) -> list[SongScore]:
    return [
        SongScore(
            song=song.id,
            stream="accompaniment",
            codebook=k,
            size=SIZE,
            bits=row.astype(np.float32),
            ranks=np.zeros(len(row), np.int32),
            codes=song.tokens["accompaniment"][k, -len(row) :],
        )
        for k, row in enumerate(bits)
    ]


def copier(songs: Sequence[TokenizedSong]) -> list[SongScore]:
    """Believes that the target is the source (p = 0.9), else uniform; the first two seconds are a prefix."""
    found = []
    for song in songs:
        hit = (song.tokens["vocals"] == song.tokens["accompaniment"])[:, PREFIX:]
        found += scored(song, np.where(hit, -math.log2(0.9), -math.log2(0.1 / (SIZE - 1))))
    return found


def reader(songs: Sequence[TokenizedSong]) -> list[SongScore]:
    """The more it has read, the better it guesses: 6 bits at first, 1 bit less for every five seconds."""
    found = []
    for song in songs:
        frames = song.tokens["accompaniment"].shape[1]
        found += scored(song, np.tile(6 - np.arange(frames) / RATE / 5, (song.tokens["accompaniment"].shape[0], 1)))
    return found


def test_every_corruption_has_a_name_of_its_own() -> None:
    """Its scores are kept under it."""
    listed = Corruptions(shifts=(1.0, 1.001), ratios=(0.001, 0.004, 0.122, 0.124, 0.5)).listed()
    assert len({each.slug for each in listed}) == len({str(each) for each in listed}) == len(listed) >= 7
    assert str(Corruption("mask", 0.2)).startswith("mask 20% ")


def test_shift() -> None:
    codes = np.arange(20).reshape(2, 10)
    assert shift(codes, 0.12, RATE).tolist() == [[7, 8, 9, 0, 1, 2, 3, 4, 5, 6], [17, 18, 19, *range(10, 17)]]
    assert (shift(codes, 1e-9, RATE) != codes).all()  # at least one frame
    with pytest.raises(MetricError, match=r"a shift of 1 s needs a track of at least 1.5 s, this one has 0.4 s"):
        shift(codes, 1.0, RATE)
    for rate in (
        21.533203125,
        43.06640625,
        86.1328125,
    ):  # pieces of exactly 1.5 times the shift, both rounded to frames
        for seconds in (1.0, 4.0, 8.0, 16.0):
            assert shift(np.arange(round(1.5 * seconds * rate))[None], seconds, rate)[0, 0] > 0


@pytest.mark.parametrize("fill", ["uniform", "pad"])
def test_mask(fill: str) -> None:
    codes = np.stack([np.arange(200) % 5, np.arange(200) % 3]).astype(np.int32) + 1000  # unlike any fill
    masked = {r: mask(codes, (700, 900), r, fill, np.random.default_rng(1)) for r in (0.1, 0.5, 1.0)}
    for ratio, result in masked.items():
        changed = result != codes
        assert changed.sum(1).tolist() == [200 * ratio] * 2
        assert (changed[0] == changed[1]).all()  # whole frames
        assert result.dtype == codes.dtype
    if fill == "pad":
        assert masked[1.0].tolist() == [[702] * 200, [902] * 200]
    else:
        assert masked[1.0][0].max() < 700 and masked[1.0][1].max() < 900
        assert len(np.unique(masked[1.0][0])) > 100
    few, many = (masked[r] != codes for r in (0.1, 0.5))
    assert (many | ~few).all()
    assert (masked[0.1][few] == masked[0.5][few]).all()


@pytest.mark.parametrize("identities", ["ab", "abc", "aabb", "aaabcd", list(map(str, range(31)))])
def test_mismatched(identities: Sequence[str]) -> None:
    for seed in range(5):
        partners = mismatched(identities, seed)
        assert sorted(partners) == list(range(len(identities)))  # each song is taken once
        assert all(identities[i] != identities[p] for i, p in enumerate(partners))
        assert partners == mismatched(identities, seed)
    if len(identities) > 4:
        assert len({tuple(mismatched(identities, seed)) for seed in range(5)}) > 1


def test_mismatch_needs_others() -> None:
    with pytest.raises(MetricError, match="mismatch: 3 of 5 songs are 'a'"):
        mismatched("aaabc")
    with pytest.raises(MetricError, match="mismatch: 1 of 1 songs"):
        mismatched("a")


def test_fitted() -> None:
    codes = np.arange(3)[None]
    assert fitted(codes, 2).tolist() == [[0, 1]]
    assert fitted(codes, 7).tolist() == [[0, 1, 2, 0, 1, 2, 0]]


@pytest.mark.parametrize("corruption", [*DEFAULT, Corruption("mask", 0.5, "pad")], ids=str)
def test_only_the_source_changes(corruption: Corruption) -> None:
    songs = make_songs(6, codebooks=2)
    before = [song.tokens["vocals"].copy() for song in songs]
    result = corrupt(songs, "vocals", (SIZE, SIZE), RATE, corruption)
    for song, codes, new in zip(songs, before, result, strict=True):
        assert (song.tokens["vocals"] == codes).all()
        assert (new.id, new.split) == (song.id, song.split)
        assert new.tokens["accompaniment"] is song.tokens["accompaniment"]
        assert new.tokens["vocals"].shape == codes.shape
        assert (new.tokens["vocals"] != codes).any()
    # What happens to a song does not depend on the others, except for whom it meets.
    if corruption.kind != "mismatch":
        alone = corrupt(songs[3:4], "vocals", (SIZE, SIZE), RATE, corruption)[0]
        assert (alone.tokens["vocals"] == result[3].tokens["vocals"]).all()
    other = corrupt(songs, "vocals", (SIZE, SIZE), RATE, corruption, seed=1)
    same = all((a.tokens["vocals"] == b.tokens["vocals"]).all() for a, b in zip(result, other, strict=True))
    assert same == (corruption.kind == "shift")


def test_known_costs() -> None:
    songs = make_songs()
    wanted = (
        Corruption("shift", 4.0),
        *(Corruption("mask", ratio) for ratio in (0.25, 0.5, 1.0)),
        Corruption("mask", 0.5, "pad"),
        Corruption("mismatch"),
    )
    spoiled = {c: [measure(copier(corrupt(songs, "vocals", (SIZE,), RATE, c)), RATE)] for c in wanted}
    found = {
        c: cost.percent for c, cost in zip(wanted, costs([measure(copier(songs), RATE)], spoiled, FAST), strict=True)
    }
    hit, miss = -math.log2(0.9), -math.log2(0.1 / (SIZE - 1))

    def expected(wrong: float) -> float:
        return 100 * wrong * (miss - hit) / hit

    chance = 1 - 1 / SIZE  # of a random code to be wrong
    for corruption, wrong in [
        (Corruption("shift", 4.0), chance),
        (Corruption("mask", 0.25), 0.25 * chance),
        (Corruption("mask", 0.5), 0.5 * chance),
        (Corruption("mask", 1.0), chance),
        (Corruption("mask", 0.5, "pad"), 0.5),
        (Corruption("mismatch"), chance),
    ]:
        assert found[corruption].value == pytest.approx(expected(wrong), rel=0.03), corruption
        assert found[corruption].low - 1e-6 <= found[corruption].value <= found[corruption].high + 1e-6
        assert found[corruption].excludes_zero


def test_a_model_that_ignores_the_source_has_no_costs() -> None:
    songs = make_songs()
    spoiled = {c: [measure(reader(corrupt(songs, "vocals", (SIZE,), RATE, c)), RATE)] for c in DEFAULT}
    for cost in costs([measure(reader(songs), RATE)], spoiled, FAST):
        assert (cost.percent.value, cost.percent.low, cost.percent.high) == (0, 0, 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [(("shift", 0.0), "shift of 0 s: must be above 0"), (("mask", 1.5), "mask of 1.5: a share of the frames")],
)
def test_bad_corruptions(values: tuple[str, float], message: str) -> None:
    with pytest.raises(MetricError, match=message):
        Corruption(*values)  # type: ignore[arg-type]


def test_short_song_is_named() -> None:
    with pytest.raises(MetricError, match="song 'song00': a shift of 16 s needs a track of at least 24 s"):
        corrupt(make_songs(1, 20), "vocals", (SIZE,), RATE, Corruption("shift", 16.0))


def test_block_ends() -> None:
    assert block_ends(749, 750, 62) == []
    assert block_ends(750, 750, 62) == [750]
    assert block_ends(811, 750, 62) == [750]
    assert block_ends(812, 750, 62) == [750, 812]
    assert block_ends(3000, 750, 62) == [750, 1500, 2250, 3000]
    for frames in range(750, 1200):
        ends = block_ends(frames, 750, 62, 8)
        assert ends[0] == 750 and ends[-1] <= frames
        assert (np.diff(ends) >= 62).all()


def test_windows_score_the_same_tokens() -> None:
    songs = [*make_songs(3, 45), *make_songs(1, 29)]
    kept = {}
    for seconds in (5.0, 15.0, 30.0):
        pieces = windows(songs, RATE, seconds)
        assert len(pieces) == 12  # four blocks of three songs; the short one is left out
        assert {piece.tokens["vocals"].shape for piece in pieces} == {(1, round(seconds * RATE))}
        scores = tails(copier(pieces), RATE)
        assert {len(score.bits) for score in scores} == {62}
        kept[seconds] = [(score.song, score.codes.tolist()) for score in scores]
    assert kept[5.0] == kept[15.0] == kept[30.0]
    assert {song for song, _ in kept[5.0]} == {"song00", "song01", "song02"}


def test_context_curve() -> None:
    songs = make_songs(8, 40)
    contexts = (5.0, 10.0, 20.0, 30.0)
    runs = {s: [measure(tails(reader(windows(songs, RATE, s)), RATE), RATE)] * 2 for s in contexts}
    points = curve(runs, FAST)
    assert [point.seconds for point in points] == list(contexts)
    for point in points:
        # The toy's guess in the middle of the target, at context - 1.25 s; 6 bits are the codebook.
        assert point.cnbpt.value == pytest.approx(1 - (point.seconds - 1.25) / 5 / 6, abs=2e-3)
        assert point.gain.value == pytest.approx(-(point.seconds - 5) / 5 / 6, abs=2e-3)
    assert not points[0].gain.excludes_zero


def test_bad_contexts() -> None:
    with pytest.raises(MetricError, match="no song of 30 s or more among 2"):
        windows(make_songs(2, 20), RATE, 5.0)
    with pytest.raises(MetricError, match="target of 6 s is longer than the shortest context, 5 s"):
        windows(make_songs(2, 40), RATE, 5.0, target=6.0)
    with pytest.raises(MetricError, match="window 'song00@750': 50 tokens scored, the target has 62"):
        tails(copier(windows(make_songs(1), RATE, 4.0, (4.0, 30.0))), RATE)
