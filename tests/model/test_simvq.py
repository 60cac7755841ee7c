"""SimVQ: frozen basis, learned map, exact search, both loss conventions, the start from features."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.forked import python
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from duotok.model.simvq import PlainVQ, Quantizer, SimVQ, nearest, vq_loss


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 150), st.sampled_from([2, 7, 128, 300, 512]), st.integers(1, 9), st.integers(0, 99))
def test_nearest_is_brute_force(rows: int, size: int, dim: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    z, codes = torch.randn(rows, dim, generator=g), torch.randn(size, dim, generator=g)
    found = nearest(z, codes)
    distances = (z.double()[:, None] - codes.double()).square().sum(-1)
    # Equal index, or a tie within float precision.
    gap = distances.gather(1, found[:, None])[:, 0] - distances.amin(1)
    assert bool((gap <= 1e-5 * (1 + distances.amin(1))).all())


def test_ties_take_the_lowest_index() -> None:
    codes = torch.randn(1, 4).repeat(256, 1)
    assert nearest(torch.randn(70, 4), codes).tolist() == [0] * 70
    assert nearest(torch.randn(0, 4), codes).shape == (0,)


@pytest.mark.parametrize("quantizer", [SimVQ(256, 4), PlainVQ(256, 4)])
def test_search_survives_a_far_off_mean(quantizer: Quantizer) -> None:
    z = torch.randn(500, 4) * 0.1 + 300.0
    quantizer.fit(z)
    distances = (z.double()[:, None] - quantizer.table().double()).square().sum(-1)
    found = quantizer.search(z)
    assert float((found == distances.argmin(1)).float().mean()) > 0.98


def test_a_search_is_one_product_of_features_and_codes() -> None:
    """The codes are mapped once and kept: a second search multiplies nothing else."""
    quantizer, z = SimVQ(4096, 16).eval(), torch.randn(100, 16)
    product, counted = 2 * 100 * 4096 * 17, []  # 16 numbers, and a one that meets half the squares
    for _ in range(2):
        with FlopCounterMode(display=False) as counter:
            quantizer.search(z)
        counted.append(counter.get_total_flops())
    assert counted == [product + 2 * 4096 * 16 * 16, product]


@pytest.mark.parametrize("seed", [0, 3])
def test_basis_is_fixed_by_its_seed_and_survives_half_precision(seed: int) -> None:
    one, two = SimVQ(1000, 16, seed=seed), SimVQ(1000, 16, seed=seed)
    assert torch.equal(one.basis, two.basis) and not torch.equal(one.basis, SimVQ(1000, 16, seed=seed + 1).basis)
    assert torch.equal(one.basis, one.basis.half().float())
    assert abs(float(one.basis.std()) - 0.25) < 0.01
    assert "basis" not in dict(one.named_parameters())


def test_gradient_reaches_map_and_features_but_never_the_basis() -> None:
    quantizer = SimVQ(64, 4)
    z = torch.randn(30, 4, requires_grad=True)
    before = quantizer.basis.clone()
    out = quantizer(z)
    vq_loss(z, out.z_q)["vq"].backward()
    assert quantizer.map.weight.grad is not None and bool(quantizer.map.weight.grad.any())
    assert z.grad is not None and bool(z.grad.any())
    torch.optim.SGD(quantizer.parameters(), lr=0.1).step()
    assert torch.equal(quantizer.basis, before) and quantizer.basis.grad is None


def test_straight_through() -> None:
    """The value is the code's, the gradient passes to the features as it is, and none reaches the map that way."""
    quantizer = SimVQ(64, 4)
    z = torch.randn(30, 4, requires_grad=True)
    out = quantizer(z)
    torch.testing.assert_close(out.straight, out.z_q)
    weights = torch.randn(30, 4)
    (out.straight * weights).sum().backward()
    assert z.grad is not None
    torch.testing.assert_close(z.grad, weights)
    assert quantizer.map.weight.grad is None


def test_both_loss_conventions_by_hand() -> None:
    z = torch.tensor([[1.0, 2.0], [0.0, -1.0]], requires_grad=True)
    z_q = torch.tensor([[0.0, 2.0], [1.0, 1.0]], requires_grad=True)
    # Squared gaps 1, 0, 1, 4: mean 1.5. Absolute gaps 1, 0, 1, 2: mean 1.
    paper, legacy = vq_loss(z, z_q), vq_loss(z, z_q, convention="legacy")
    assert float(paper["vq"]) == pytest.approx(1.5 + 0.25 * 1.5) and float(legacy["vq"]) == float(paper["vq"])
    grads = {}
    for name, loss in (("paper", paper), ("legacy", legacy)):
        grads[name] = torch.autograd.grad(loss["vq"], (z, z_q))
    d_z = 2 * (z - z_q).detach() / 4
    torch.testing.assert_close(grads["paper"][0], 0.25 * d_z)
    torch.testing.assert_close(grads["paper"][1], -d_z)
    torch.testing.assert_close(grads["legacy"][0], d_z)
    torch.testing.assert_close(grads["legacy"][1], -0.25 * d_z)
    assert float(vq_loss(z, z_q, norm="l1")["vq"]) == pytest.approx(1.25)
    assert float(vq_loss(z[:0], z_q[:0])["vq"]) == 0.0


@pytest.mark.parametrize("quantizer", [SimVQ(4096, 6), PlainVQ(4096, 6)])
@pytest.mark.parametrize("scale", [1.0, 0.85])
def test_fit_matches_mean_and_covariance(quantizer: Quantizer, scale: float) -> None:
    z = torch.randn(5000, 6) @ torch.randn(6, 6) + torch.randn(6) * 5
    quantizer.fit(z, scale)
    codes = quantizer.table()
    torch.testing.assert_close(codes.mean(0), z.mean(0), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(codes.T.cov(), z.T.cov() * scale**2, atol=2e-2, rtol=1e-2)


def test_fit_without_bias_and_with_a_dead_channel() -> None:
    z = torch.randn(500, 4)
    z[:, 2] = 0.0
    quantizer = SimVQ(256, 4, bias=False)
    quantizer.fit(z)
    assert bool(quantizer.table().isfinite().all())
    with pytest.raises(ValueError, match="two rows"):
        quantizer.fit(z[:1])


@pytest.mark.parametrize("bias", [True, False])
def test_codes_that_are_set_come_back_with_their_mean(bias: bool) -> None:
    codes = torch.randn(256, 4) * torch.tensor([1.0, 0.1, 0.5, 0.0]) + torch.tensor([3.0, -2.0, 0.0, 1.0])
    quantizer = SimVQ(256, 4, bias=bias)
    quantizer.set_codes(codes)
    torch.testing.assert_close(quantizer.table(), codes, atol=3e-3, rtol=0)
    quantizer.fit_means(codes.repeat(2, 1), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(quantizer.table().mean(0), codes.mean(0), atol=0.05, rtol=0)


@pytest.mark.parametrize("quantizer", [SimVQ(256, 4), PlainVQ(256, 4)])
def test_fit_from_features_sits_on_clusters(quantizer: Quantizer) -> None:
    """Where features come in clusters, codes drawn from them are nearer than a Gaussian cloud; silence takes few."""
    centres = torch.randn(40, 4) * 3
    z = centres[torch.randint(0, 40, (4000,))] + 0.1 * torch.randn(4000, 4)
    z[:2000] = 7.0

    def distortion() -> float:
        return float((z - quantizer.table()[quantizer.search(z)]).square().mean())

    quantizer.fit(z)
    cloud = distortion()
    quantizer.fit_features(z, generator=torch.Generator().manual_seed(0))
    assert distortion() < 0.3 * cloud
    assert int(((quantizer.table() - 7.0).abs().amax(1) < 0.05).sum()) < 80
    if isinstance(quantizer, SimVQ):
        assert torch.equal(quantizer.basis, quantizer.basis.half().float())
    with pytest.raises(ValueError, match="too few"):
        quantizer.fit_features(z[:100])


def test_the_eval_cache_follows_every_change() -> None:
    quantizer, z = SimVQ(128, 4).eval(), torch.randn(200, 4)
    quantizer.search(z)
    assert quantizer._cache is not None

    def fresh() -> torch.Tensor:
        other = SimVQ(128, 4)
        other.load_state_dict(quantizer.state_dict())
        return other.search(z)

    with torch.no_grad():
        quantizer.map.weight.mul_(torch.tensor([[3.0], [0.1], [1.0], [-2.0]]))
    assert torch.equal(quantizer.search(z), fresh())
    quantizer.load_state_dict(SimVQ(128, 4, seed=5).state_dict())
    assert torch.equal(quantizer.search(z), fresh())
    quantizer.load_state_dict(SimVQ(128, 4, seed=6).state_dict(), assign=True)
    assert torch.equal(quantizer.search(z), fresh())
    quantizer.train()
    assert quantizer._cache is None
    quantizer.search(z)
    assert quantizer._cache is None
    with torch.inference_mode():
        quantizer.eval().search(z)
    quantizer.train()(z.requires_grad_()).straight.sum().backward()


def test_codes_of_a_gaussian_are_used_evenly() -> None:
    """Why FIT_SCALE is below 1: on Gaussian features more codes are used, at less distortion."""
    z, figures = torch.randn(3000, 12), {}
    for scale in (1.0, 0.85):
        # Another seed than the features', which would else be the basis itself.
        quantizer = SimVQ(2048, 12, seed=7).eval()
        quantizer.fit(z, scale)
        codes = quantizer.search(z)
        figures[scale] = (len(codes.unique()), float((z - quantizer.table()[codes]).square().mean()))
    assert figures[0.85][0] > figures[1.0][0] and figures[0.85][1] < figures[1.0][1]


def test_means_fit_frames_that_were_never_seen_better_than_drawn_frames_do() -> None:
    generator = torch.Generator().manual_seed(3)
    mixing = torch.randn(6, 6, generator=generator)
    train, unseen = (torch.randn(n, 6, generator=generator) @ mixing for n in (8000, 2000))
    gaps = {}
    for name in ("features", "means"):
        quantizer = SimVQ(512, 6)
        fit = quantizer.fit_features if name == "features" else quantizer.fit_means
        fit(train, generator=torch.Generator().manual_seed(0))
        gaps[name] = float((quantizer(unseen).z_q - unseen).square().mean())
    assert gaps["means"] < 0.95 * gaps["features"]
    with pytest.raises(ValueError, match="too few"):
        SimVQ(512, 6).fit_means(train[:100])


def test_codes_of_blurred_frames_fit_their_own_frames_hardly_better_than_others() -> None:
    """Sixteen frames a code: k-means lies on them, and is no nearer to frames that were never seen."""
    generator = torch.Generator().manual_seed(3)
    mixing = torch.randn(12, 12, generator=generator)
    train, unseen = (torch.randn(n, 12, generator=generator) @ mixing for n in (4096, 2000))
    gaps = {}
    for noise in (0.0, 0.4):
        quantizer = SimVQ(1024, 12)
        quantizer.fit_means(train, generator=torch.Generator().manual_seed(0), noise=noise)
        gaps[noise] = [float((quantizer(z).z_q - z).square().mean().detach() / train.var()) for z in (train, unseen)]
    assert gaps[0.0][1] > 1.8 * gaps[0.0][0] and gaps[0.4][1] < 1.3 * gaps[0.4][0]
    assert gaps[0.4][1] < 1.25 * gaps[0.0][1]


def test_the_search_keeps_nothing_between_its_blocks() -> None:
    """The result is one tensor that is there before the first scores: small ones between large ones would break up the heap,
    now and then and by gigabytes (which a look at the memory sees in one of three runs)."""

    class Seen(TorchDispatchMode):
        made: ClassVar[list[tuple[str, int]]] = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                self.made.append((func.overloadpacket.__name__, result.data_ptr()))
            return result

    z, codes = torch.randn(300, 4), torch.randn(256, 4)
    with Seen() as seen:
        found = nearest(z, codes)
    first = next(n for n, (name, _) in enumerate(seen.made) if name == "mm")
    assert sum(name == "mm" for name, _ in seen.made) > 2, "several blocks"
    assert found.data_ptr() in {place for _, place in seen.made[:first]}
    assert len({place for name, place in seen.made if name == "mm"}) == 1, "all scores are written in one place"


def test_the_search_of_many_frames_takes_little_memory() -> None:
    """6,000 rows against 32,768 codes: one block of scores is 16 MB, all of them 800 MB."""
    code = (
        "import resource, torch; from duotok.model.simvq import nearest; torch.set_num_threads(1)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "z, codes = torch.randn(6000, 16), torch.randn(32768, 16); nearest(z[:128], codes); before = peak()\n"
        "nearest(z, codes); print(peak() - before)"
    )
    done = python(code)
    assert int(done.stdout) < 100_000, done.stderr  # KiB


def test_a_quantizer_without_codes_cannot_be_made() -> None:
    class Forgetful(PlainVQ):
        set_codes = Quantizer.set_codes

    with pytest.raises(TypeError, match=r"abstract method '?set_codes"):
        Forgetful(4, 2)  # type: ignore[abstract]
    with pytest.raises(TypeError, match="abstract"):
        Quantizer()  # type: ignore[abstract]
