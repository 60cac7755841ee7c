"""Code usage against hand arithmetic and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from duotok.evaluation.codes import CodeUsage, entropy_bits, expected_entropy, expected_utilization


def test_by_hand() -> None:
    facts = CodeUsage(8).add(torch.tensor([0, 0, 0, 0, 1, 1, 5, 7])).facts()
    assert (facts.tokens, facts.distinct, facts.utilization) == (8, 4, 0.5)
    assert facts.entropy == pytest.approx(1.75)  # 1/2, 1/4, 1/8, 1/8
    assert facts.normalized_entropy == pytest.approx(1.75 / 3)
    assert facts.most_frequent_share == 0.5


def test_uniform_is_one() -> None:
    facts = CodeUsage(16).add(torch.arange(16).repeat(5)).facts()
    assert facts.utilization == 1.0
    assert facts.normalized_entropy == pytest.approx(1.0)


def test_one_code_only_and_none() -> None:
    facts = CodeUsage(16).add(torch.full((100,), 3)).facts()
    assert (facts.distinct, facts.entropy, facts.most_frequent_share) == (1, 0.0, 1.0)
    empty = CodeUsage(16).facts()
    assert (empty.tokens, empty.utilization, empty.entropy, empty.uniform_utilization) == (0, 0.0, 0.0, 0.0)


def test_adds_up_over_files() -> None:
    codes = torch.randint(32, (1000,))
    parts = CodeUsage(32)
    for part in codes.split(77):
        parts.add(part)
    whole = CodeUsage(32).add(codes.reshape(10, 100))
    assert torch.equal(parts.counts, whole.counts)
    assert parts.facts() == whole.facts()


def test_histogram() -> None:
    shares = CodeUsage(4).add(torch.tensor([2, 2, 2, 0])).histogram()
    assert shares.tolist() == [0.75, 0.25, 0.0, 0.0]


@pytest.mark.parametrize("codes", [[-1], [8], [0, 1, 9]])
def test_codes_outside_the_book(codes: list[int]) -> None:
    with pytest.raises(ValueError, match="codebook of 8"):
        CodeUsage(8).add(torch.tensor(codes))


@pytest.mark.parametrize(("tokens", "size"), [(50, 512), (2000, 512), (1, 512), (20_000, 512)])
def test_what_ideal_codes_would_show(tokens: int, size: int) -> None:
    runs = [CodeUsage(size).add(torch.randint(size, (tokens,))).facts() for _ in range(200 if tokens < 5000 else 20)]
    utilization = sum(r.utilization for r in runs) / len(runs)
    entropy = sum(r.entropy for r in runs) / len(runs)
    assert expected_utilization(tokens, size) == pytest.approx(utilization, rel=0.01)
    assert expected_entropy(tokens, size) == pytest.approx(entropy, abs=0.01)


def test_note_is_honest_about_small_samples() -> None:
    small = CodeUsage(32_768).add(torch.randint(32_768, (750,))).facts()
    assert "too few" in small.note
    assert f"{small.uniform_normalized_entropy:.3f}" in small.note
    # No entropy can exceed the logarithm of the number of tokens.
    assert small.uniform_normalized_entropy < math.log2(750) / 15
    assert "enough" in CodeUsage(16).add(torch.randint(16, (5000,))).facts().note


def test_entropy_by_hand() -> None:
    for counts, bits in (
        ([], 0.0),
        ([0, 0], 0.0),
        ([0, 7], 0.0),
        ([3, 3, 3, 3], 2.0),
        ([4, 2, 1, 1], 1.75),  # 1/2 1 + 1/4 2 + 2 1/8 3
        ([1, 0, 3], 2 - 0.75 * math.log2(3)),
    ):
        with np.errstate(all="raise"):
            assert entropy_bits(np.array(counts, np.int64)) == pytest.approx(bits, abs=1e-12)
