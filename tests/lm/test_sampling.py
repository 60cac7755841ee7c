"""Temperature, top-k and top-p by hand, the distribution that comes out, and draws that depend on nothing but their place."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from duotok.errors import ConfigError
from duotok.lm.sampling import Draws, TokenSampling, allowed_codes, chance, choose, uniform

CHANCES = torch.tensor([[0.1, 0.4, 0.05, 0.3, 0.15]])
LOGITS = CHANCES.log() + 3.0


def allowed(sampling: TokenSampling, logits: Tensor = LOGITS) -> dict[int, float]:
    """Code -> probability, of what may be drawn."""
    scaled, codes = allowed_codes(logits, sampling)
    found = zip(codes[0].tolist(), scaled.softmax(-1)[0].tolist(), strict=True)
    return {code: p for code, p in found if p > 0}


@pytest.mark.parametrize(
    ("sampling", "wanted"),
    [
        (TokenSampling(1.0, 0, 1.0), {0: 0.1, 1: 0.4, 2: 0.05, 3: 0.3, 4: 0.15}),
        (TokenSampling(1.0, 2, 1.0), {1: 4 / 7, 3: 3 / 7}),
        (TokenSampling(1.0, 1, 1.0), {1: 1.0}),
        (TokenSampling(1.0, 99, 1.0), {0: 0.1, 1: 0.4, 2: 0.05, 3: 0.3, 4: 0.15}),
        (TokenSampling(1.0, 0, 0.69), {1: 4 / 7, 3: 3 / 7}),  # .4 + .3 reach it
        (TokenSampling(1.0, 0, 0.71), {1: 40 / 85, 3: 30 / 85, 4: 15 / 85}),
        (TokenSampling(1.0, 0, 0.01), {1: 1.0}),  # the likeliest always stays
        (TokenSampling(1.0, 2, 0.5), {1: 1.0}),  # of the two that are left, 4/7 > .5
        (TokenSampling(1.0, 2, 0.6), {1: 4 / 7, 3: 3 / 7}),
        (TokenSampling(0.5, 2, 1.0), {1: 16 / 25, 3: 9 / 25}),
        (TokenSampling(2.0, 2, 1.0), {1: 2 / (2 + 3**0.5), 3: 3**0.5 / (2 + 3**0.5)}),
        (TokenSampling(0.5, 0, 0.9), {1: 160 / 272.5, 3: 90 / 272.5, 4: 22.5 / 272.5}),  # squares: temperature comes before top-p
    ],
)  # fmt: skip
def test_what_may_be_drawn(sampling: TokenSampling, wanted: dict[int, float]) -> None:
    assert allowed(sampling) == pytest.approx(wanted, abs=1e-6)


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = torch.randn(1, 50)
    for top_p in (0.1, 0.5, 0.9, 0.999):
        codes = allowed(TokenSampling(1.0, 0, top_p), logits)
        chances = logits.softmax(-1)[0]
        in_it = sorted((float(chances[code]) for code in codes), reverse=True)
        assert sum(in_it) >= top_p > sum(in_it[:-1])


@pytest.mark.parametrize(
    "sampling",
    [TokenSampling(1.0, 0, 1.0), TokenSampling(0.7, 0, 1.0), TokenSampling(1.0, 3, 1.0), TokenSampling(1.3, 0, 0.8)],
)
def test_draws_follow_the_distribution(sampling: TokenSampling) -> None:
    n = 20_000
    keys = [key for frame in range(n) for key in Draws((7,)).keys("vocals.0", frame)]
    drawn = choose(LOGITS.expand(n, -1), sampling, keys)
    counts = torch.bincount(drawn, minlength=5)
    wanted = allowed(sampling)
    for code in range(5):
        p = wanted.get(code, 0.0)
        assert abs(int(counts[code]) - n * p) <= 4 * math.sqrt(n * p * (1 - p))


def test_temperature_0_is_the_first_guess() -> None:
    logits = torch.randn(40, 30)
    assert torch.equal(choose(logits, TokenSampling(temperature=0), range(40)), logits.argmax(-1))
    assert int(choose(torch.zeros(1, 5), TokenSampling(temperature=0), [3])) == 0
    for sampling in (TokenSampling(1e-4, 0, 1.0), TokenSampling(1.0, 1, 1.0), TokenSampling(1.0, 0, 1e-6)):
        assert torch.equal(choose(logits, sampling, range(40)), logits.argmax(-1))


def test_a_row_is_drawn_alone() -> None:
    logits, keys = torch.randn(6, 300), [5, 9, 2, 2, 7, 1]
    for sampling in (TokenSampling(), TokenSampling(1.0, 0, 1.0)):
        together = choose(logits, sampling, keys)
        for i, key in enumerate(keys):
            assert int(choose(logits[i : i + 1], sampling, [key])) == int(together[i])


def test_a_code_has_the_same_noise_whatever_else_is_there() -> None:
    """Codes that top-k leaves out do not move the draws of the others."""
    logits = torch.randn(200, 100)
    whole, part = (choose(logits, TokenSampling(1.0, k, 1.0), range(200)) for k in (0, 40))
    left_in = (logits.topk(40).indices == whole[:, None]).any(-1)
    assert left_in.any() and not left_in.all()
    assert torch.equal(whole[left_in], part[left_in])


def test_the_hash_is_splitmix64() -> None:
    def next_of(state: int) -> tuple[int, float]:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        value = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
        return state, (((value ^ (value >> 31)) >> 12) + 0.5) / 2**52

    for key in (0, 1, 2**63 - 1, 123_456_789_012_345):
        state, wanted = key, []
        for _ in range(20):
            state, number = next_of(state)
            wanted.append(number)
        assert uniform([key], torch.arange(20)[None])[0].tolist() == wanted
        assert min(wanted) > 0 and max(wanted) < 1


def test_every_seed_stream_and_frame_draws_for_itself() -> None:
    draws = Draws((1, 2))
    rows = [draws.keys(name, frame) for name in ("vocals.0", "vocals.1", "end") for frame in (0, 1)]
    keys = [key for row in rows for key in row]
    assert len(set(keys)) == len(keys) == 12
    assert Draws((2,)).keys("vocals.1", 1) == [draws.keys("vocals.1", 1)[1]]


def test_the_chance_of_one_class() -> None:
    assert float(chance(LOGITS, 3, TokenSampling(1.0, 0, 1.0))) == pytest.approx(0.3)
    assert float(chance(LOGITS, 3, TokenSampling(1.0, 2, 1.0))) == pytest.approx(3 / 7)
    assert float(chance(LOGITS, 0, TokenSampling(1.0, 2, 1.0))) == 0
    assert [float(chance(LOGITS, c, TokenSampling(temperature=0))) for c in (1, 3)] == [1, 0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.1}, "temperature -0.1 must be 0"),
        ({"temperature": math.nan}, "temperature nan"),
        ({"top_k": -1}, "top_k -1 must be"),
        ({"top_p": 0.0}, "top_p 0 must be above 0"),
        ({"top_p": 1.1}, "top_p 1.1"),
    ],
)
def test_values_that_mean_nothing(values: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TokenSampling(**values)  # type: ignore[arg-type]
