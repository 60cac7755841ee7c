"""The figures of predictability: identities, and the paper's own numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duotok.comparison.metrics import (
    MetricError,
    add_up,
    bit_rate,
    cnbpt_of_ppl1024,
    fixed_bits,
    measure,
    ppl1024,
    token_rate,
)
from duotok.evaluation.codes import CodeUsage
from duotok.lm.scores import SongScore
from duotok.lm.unigram import Unigram, count, unigrams


def score(
    song: str,
    bits: Sequence[float] | np.ndarray,
    stream: str = "vocals",
    codebook: int = 0,
    size: int = 64,
    ranks: Sequence[int] | None = None,
    codes: Sequence[int] | np.ndarray | None = None,
) -> SongScore:
    length = len(bits)
    return SongScore(
        song=song,
        stream=stream,
        codebook=codebook,
        size=size,
        bits=np.asarray(bits, np.float32),
        ranks=np.asarray(ranks if ranks is not None else np.zeros(length), np.int32),
        codes=np.asarray(codes if codes is not None else np.arange(length) % size, np.int32),
    )


def random_scores(
    streams: dict[str, tuple[int, ...]], songs: int = 3, frames: int = 40, seed: int = 0
) -> list[SongScore]:
    random = np.random.default_rng(seed)
    return [
        score(
            f"song{i}",
            random.gamma(4, 1, frames + i),
            stream,
            k,
            size,
            ranks=random.integers(0, size, frames + i).tolist(),
            codes=random.integers(0, size, frames + i),
        )
        for i in range(songs)
        for stream, sizes in streams.items()
        for k, size in enumerate(sizes)
    ]


@pytest.mark.parametrize("sizes", [(1024,), (32768,), (1024,) * 8, (4096, 512, 64), (100, 3)])
def test_uniform_predictor_is_exactly_one(sizes: tuple[int, ...]) -> None:
    scores = [score(f"s{i}", [math.log2(v)] * (5 + i), "mix", k, v) for i in range(3) for k, v in enumerate(sizes)]
    values = measure(scores, 50.0).values()
    # Bits are float32, so log2(100) is rounded; powers of two are exact.
    exact = all(v & (v - 1) == 0 for v in sizes)
    assert values["mix.cnbpt"] == 1.0 if exact else values["mix.cnbpt"] == pytest.approx(1, abs=1e-6)
    assert values["average.cnbpt"] == values["mix.cnbpt"]
    assert values["mix.ppl1024"] == pytest.approx(1024, rel=1e-5)
    assert values["total.cnbps"] == pytest.approx(token_rate(50, len(sizes)), rel=1e-6)


@given(st.lists(st.integers(2, 5000), min_size=1, max_size=5), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_identities(sizes: list[int], seed: int) -> None:
    """Equations 11, 15, 16, 17, 22, and PPL@1024 as the geometric mean over codebooks."""
    scores = random_scores({"mix": tuple(sizes)}, seed=seed)
    values = measure(scores, 25.0).values()
    books = [np.concatenate([s.bits for s in scores if s.codebook == k]).astype(np.float64) for k in range(len(sizes))]
    bits = np.mean(books)
    fixed = np.mean(np.log2(sizes))
    entropy = np.mean([u.entropy() for u in unigrams(scores)["mix"]])
    assert values["mix.bpt"] == pytest.approx(bits)
    assert values["mix.cnbpt"] == pytest.approx(bits / fixed)
    assert values["mix.enbpt"] == pytest.approx(values["mix.cnbpt"] / (entropy / fixed))
    assert values["mix.cnbps"] == pytest.approx(25 * len(sizes) * bits / fixed)
    each = [np.exp(np.log(2) * book.mean()) / (size / 1024) for book, size in zip(books, sizes, strict=True)]
    assert values["mix.ppl1024"] == pytest.approx(math.exp(np.mean(np.log(each))))
    assert cnbpt_of_ppl1024(values["mix.ppl1024"], sizes) == pytest.approx(values["mix.cnbpt"])


@pytest.mark.parametrize(
    ("name", "perplexity", "sizes", "cnbpt"),
    [
        ("DAC", 194.0, (1024,) * 8, 0.760),
        ("EnCodec", 141.3, (1024,) * 8, 0.714),
        ("WavTokenizer", 38.2, (4096,), 0.605),
        ("X-Codec", 47.5, (1024,) * 8, 0.557),
        ("SemantiCodec", 15.5, (8192,) * 2, 0.535),
        ("MuCodec", 8.10, (16384,) * 2, 0.501),
        ("DuoTok", 4.75, (32768,) * 2, 0.483),
    ],
)
def test_published_perplexities(name: str, perplexity: float, sizes: tuple[int, ...], cnbpt: float) -> None:
    """v1 table 2 against v2 table 1: the same runs, told in two metrics."""
    assert cnbpt_of_ppl1024(perplexity, sizes) == pytest.approx(cnbpt, abs=6e-4)
    back = ppl1024(np.array([cnbpt * fixed_bits(sizes)]), sizes)[0]
    assert back == pytest.approx(perplexity, rel=0.01)


@pytest.mark.parametrize(
    ("size", "cnbpt", "bpt"),
    [
        (1024, 0.632, 6.315),
        (1024, 0.630, 6.303),
        (1024, 0.593, 5.928),
        (16384, 0.485, 6.793),
        (16384, 0.517, 7.242),
        (16384, 0.488, 6.836),
        (32768, 0.461, 6.911),
        (32768, 0.506, 7.586),
        (32768, 0.464, 6.962),
    ],
)
def test_table_5(size: int, cnbpt: float, bpt: float) -> None:
    values = measure([score("s", [bpt] * 4, size=size)], 25.0).values()
    assert values["vocals.cnbpt"] == pytest.approx(cnbpt, abs=6e-4)


@pytest.mark.parametrize(
    ("name", "rate", "sizes", "streams", "cnbpt", "tokens", "kbps", "cnbps"),
    [
        ("DAC", 75, (1024,) * 8, 1, 0.76, 600, 6.00, 456.0),
        ("EnCodec", 75, (1024,) * 8, 1, 0.71, 600, 6.00, 426.0),
        ("WavTokenizer", 40, (4096,), 1, 0.61, 40, 0.48, 24.4),
        ("SemantiCodec", 50, (8192,) * 2, 1, 0.54, 100, 1.30, 54.0),
        ("X-Codec", 50, (1024,) * 8, 1, 0.56, 400, 4.00, 224.0),
        ("YuE", 50, (1024,) * 8, 2, 0.63, 800, 8.00, 504.0),
        ("MuCodec", 25, (16384,), 2, 0.50, 50, 0.70, 25.0),
        ("DuoTok", 25, (32768,), 2, 0.48, 50, 0.75, 24.0),
    ],
)
def test_table_6(
    name: str, rate: float, sizes: tuple[int, ...], streams: int, cnbpt: float, tokens: int, kbps: float, cnbps: float
) -> None:
    scores = [
        score("s", [cnbpt * math.log2(v)] * 4, f"stream{i}", k, v) for i in range(streams) for k, v in enumerate(sizes)
    ]
    values = measure(scores, rate).values()
    assert streams * token_rate(rate, len(sizes)) == tokens
    assert streams * bit_rate(rate, sizes) / 1000 == pytest.approx(kbps)
    assert values["average.cnbpt"] == pytest.approx(cnbpt, rel=1e-6)
    assert values["total.cnbps"] == pytest.approx(cnbps, rel=1e-6)


@pytest.mark.parametrize(
    ("cnbpt", "h_norm", "enbpt"),
    [
        # Tables 2, 3, 5 by table 11; the first with the four digits of table 10.
        (0.4607, 0.9188, 0.5014),
        (0.5057, 0.9494, 0.5327),
        (0.464, 0.9494, 0.489),
        (0.485, 0.9767, 0.497),
        (0.517, 0.9660, 0.536),
        (0.488, 0.9660, 0.505),
        (0.632, 0.8165, 0.773),
        (0.630, 0.8579, 0.735),
        (0.593, 0.8579, 0.691),
    ],
)
def test_table_11(cnbpt: float, h_norm: float, enbpt: float) -> None:
    bits = 15.0
    values = measure([score("s", [cnbpt * bits] * 4, size=32768)], 25.0, {"vocals": h_norm * bits}).values()
    assert values["vocals.enbpt"] == pytest.approx(enbpt, abs=1.1e-3)


def test_average_of_two_tracks() -> None:
    """Table 10: .4607 and .5057 average to .4832; v1's 4.75 is the same in PPL@1024."""
    scores = [score("s", [v * 15] * 9, name, size=32768) for name, v in (("vocals", 0.4607), ("accompaniment", 0.5057))]
    values = measure(scores, 25.0).values()
    assert values["average.cnbpt"] == pytest.approx(0.4832, abs=1e-4)
    assert values["average.ppl1024"] == pytest.approx(4.75, abs=0.01)
    assert values["total.cnbps"] == pytest.approx(25 * (0.4607 + 0.5057), rel=1e-6)


def test_accuracies() -> None:
    values = measure([score("s", [1] * 6, size=1024, ranks=[0, 1, 4, 5, 199, 200])], 25.0).values()
    found = [values[f"vocals.acc{k}"] * 6 for k in (1, 5, 10, 50, 100, 200)]
    assert found == pytest.approx([1, 3, 4, 4, 4, 5])


def test_pieces_of_a_song_are_one_song() -> None:
    whole = random_scores({"vocals": (64,), "accompaniment": (32, 16)})
    pieces = [
        score(s.song, s.bits[a:b], s.stream, s.codebook, s.size, s.ranks[a:b].tolist(), s.codes[a:b])
        for s in whole
        for a, b in ((0, 7), (7, None))
    ]
    np.random.default_rng(1).shuffle(pieces)  # type: ignore[arg-type]
    a, b = measure(whole, 25.0).values(), measure(pieces, 25.0).values()
    assert a.keys() == b.keys()
    assert all(a[name] == pytest.approx(b[name]) for name in a)


def test_one_code_has_no_entropy() -> None:
    values = measure([score("s", [0.5] * 4, codes=[3] * 4)], 25.0).values()
    assert math.isnan(values["vocals.enbpt"])
    assert values["vocals.cnbpt"] == pytest.approx(0.5 / 6)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([], "no scores"),
        ([score("a", [1, float("nan")])], "song 'a', vocals codebook 0: bits must be finite"),
        ([score("a", [-1.0])], "bits must be finite and not negative"),
        ([score("a", [1.0]), score("b", [1.0], size=32)], "song 'b'.*32 codes, other songs have 64"),
        ([score("a", [1.0]), score("a", [1.0], codebook=1), score("b", [1.0])], "song 'b': vocals has 1, 0 scored"),
        ([score("a", [1.0]), score("a", [1.0, 2], codebook=1)], "song 'a': vocals has 1, 2 scored"),
    ],
)
def test_bad_scores(scores: list[SongScore], message: str) -> None:
    with pytest.raises(MetricError, match=message):
        add_up(scores)


def test_missing_entropy() -> None:
    with pytest.raises(MetricError, match="no unigram entropy of stream 'vocals'; there are accompaniment"):
        measure([score("a", [1.0])], 25.0, {"accompaniment": 3.0})


def test_unigram() -> None:
    uniform = count(np.arange(256).repeat(3), 256)
    assert (uniform.entropy(), uniform.normalized(), uniform.utilization) == (8.0, 1.0, 1.0)
    assert count(np.full(9, 5), 256).entropy() == 0.0
    assert Unigram(np.zeros(4, np.int64)).entropy() == 0.0
    with pytest.raises(ValueError, match="codes from 0 to 4 in a codebook of 4"):
        count(np.array([0, 4]), 4)


def test_unigram_agrees_with_the_other_counter() -> None:
    import torch

    codes = np.random.default_rng(0).zipf(1.5, 5000) % 300
    ours, theirs = count(codes, 300), CodeUsage(300).add(torch.from_numpy(codes)).facts()
    assert ours.entropy() == pytest.approx(theirs.entropy)
    assert ours.normalized() == pytest.approx(theirs.normalized_entropy)
    assert ours.utilization == pytest.approx(theirs.utilization)
    assert ours.uniform() == pytest.approx((theirs.uniform_utilization, theirs.uniform_normalized_entropy))


def test_miller_madow_is_nearer_to_the_truth() -> None:
    random, truth = np.random.default_rng(0), np.log2(512)
    plain, corrected = zip(
        *[(u.entropy(), u.entropy(True)) for u in (count(random.integers(0, 512, 1000), 512) for _ in range(20))],
        strict=True,
    )
    assert abs(np.mean(corrected) - truth) < 0.3 * abs(np.mean(plain) - truth)
    assert max(corrected) <= truth


@given(st.lists(st.integers(0, 7), min_size=1, max_size=60))
def test_bits_by_frequency(codes: list[int]) -> None:
    """Known frequencies cost the entropy; nothing learned costs a uniform guess; others cost more than the entropy."""
    own = count(np.array(codes), 8)
    assert own.bits_by_frequency(own, prior=1e-9) == pytest.approx(own.entropy(), abs=1e-6)
    nothing = Unigram(np.zeros(8, np.int64))
    assert own.bits_by_frequency(nothing) == pytest.approx(3)
    other = count(np.array([0, 0, 1, 5]), 8)
    by_hand = [-math.log2((other.counts[code] + 0.5) / (4 + 4)) for code in codes]
    assert own.bits_by_frequency(other) == pytest.approx(sum(by_hand) / len(codes))
    assert own.bits_by_frequency(other) >= own.entropy() - 1e-9
    assert math.isnan(nothing.bits_by_frequency(own))
