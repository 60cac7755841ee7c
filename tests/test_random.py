"""Draws that belong to items: not to the batch, its padding, or the call that they come in."""

import numpy as np
import pytest
import torch

from duotok.random import ItemRandom, item_seed, mix64, shifted, splitmix64

SEEDS = [item_seed(3, step, item) for step, item in ((0, 0), (0, 1), (7, 2), (7, 3))]


# The first numbers of Vigna's splitmix64.c from two states.
PUBLISHED = {
    1234567: (6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821),
    0: (16294208416658607535, 7960286522194355700, 487617019471545679, 17909611376780542444, 1961750202426094747),
}


@pytest.mark.parametrize("state", PUBLISHED)
def test_splitmix64_is_the_published_one_for_every_kind_of_number(state: int) -> None:
    wanted = PUBLISHED[state]
    assert tuple(splitmix64(state, n) for n in range(5)) == wanted
    assert tuple(int(splitmix64(np.array([state], np.uint64), n)[0]) for n in range(5)) == wanted
    one_call = splitmix64(torch.tensor([state]), torch.arange(5))
    assert tuple(value % 2**64 for value in one_call.tolist()) == wanted


def test_all_kinds_of_numbers_agree_to_the_last_bit() -> None:
    values = [0, 1, 2**63 - 1, 2**63, 2**64 - 1, 0x0123456789ABCDEF]
    unsigned, signed = np.array(values, np.uint64), torch.tensor([v - 2**64 if v >= 2**63 else v for v in values])
    for of in (mix64, splitmix64, lambda x: shifted(x, 7)):
        wanted = [of(v) for v in values]
        assert of(unsigned).tolist() == wanted
        assert [v % 2**64 for v in of(signed).tolist()] == wanted


def test_an_item_draws_the_same_alone_and_among_others() -> None:
    together = ItemRandom(SEEDS)
    first, second = together.normal(5, 3), together.uniform(4)
    for index, seed in enumerate(SEEDS):
        alone = ItemRandom([seed])
        assert torch.equal(alone.normal(5, 3)[0], first[index]) and torch.equal(alone.uniform(4)[0], second[index])


def test_padding_changes_nothing_and_is_zero() -> None:
    lengths = torch.tensor([2, 5, 1, 4])
    one, other = ItemRandom(SEEDS), ItemRandom(SEEDS)
    short, long = one.normal(5, 2, lengths=lengths), other.normal(9, 2, lengths=lengths)
    assert torch.equal(short, long[:, :5]) and not long[:, 5:].any()
    assert torch.equal(one.uniform(3), other.uniform(3)), "and what is drawn afterwards is the same"
    for index, length in enumerate(lengths.tolist()):
        alone = ItemRandom([SEEDS[index]])
        assert torch.equal(alone.normal(length, 2)[0], short[index, :length])


def test_no_number_comes_twice() -> None:
    drawn = ItemRandom(SEEDS)
    values = torch.cat([drawn.uniform(500).flatten(), drawn.uniform(500).flatten()])
    assert len(values.unique()) > 0.999 * len(values)


def test_moments_and_independence() -> None:
    drawn = ItemRandom(torch.arange(64)).normal(2000)
    assert abs(float(drawn.mean())) < 0.01 and abs(float(drawn.std()) - 1) < 0.01
    assert abs(float((drawn**4).mean()) - 3) < 0.1
    assert float((torch.corrcoef(drawn) - torch.eye(64)).abs().max()) < 0.12
    flat = ItemRandom(torch.arange(64)).uniform(2000)
    assert float(flat.min()) >= 0 and float(flat.max()) < 1
    counts = torch.histc(flat, 20, 0, 1) / flat.numel()
    assert float((counts - 0.05).abs().max()) < 0.003


def test_integers_cover_their_range() -> None:
    high = torch.tensor([1, 2, 7, 100])
    drawn = ItemRandom(SEEDS)
    values = torch.stack([drawn.integers(high) for _ in range(600)])
    assert bool((values >= 0).all()) and bool((values < high).all())
    assert [len(values[:, k].unique()) for k in range(3)] == [1, 2, 7]
