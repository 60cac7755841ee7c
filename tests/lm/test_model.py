"""Equation 24 by hand, causality, the cache, exact losses and scores, sizes of the presets, weights that know their codec."""

from __future__ import annotations

import math

import pytest
import torch
from tests.lm.small import CODEC, MIXED, TINY, model
from torch import Tensor
from torch.nn import functional as F

from duotok.codec.contract import Stream
from duotok.errors import ConfigError
from duotok.lm import heads
from duotok.lm.config import PRESETS, LMConfig
from duotok.lm.heads import head_loss, head_scores
from duotok.lm.model import MultiStreamLM
from duotok.lm.streams import CodecIdentity

PAPER = CodecIdentity(
    "duotok", "0" * 64, 25.0, 48_000, (Stream("vocals", (32_768,)), Stream("accompaniment", (32_768,)))
)


def tokens(codec: CodecIdentity = CODEC, batch: int = 2, steps: int = 9) -> Tensor:
    return torch.stack([torch.randint(c.size, (batch, steps)) for c in codec.columns], dim=-1)


def test_an_input_is_equation_24() -> None:
    lm = model(MIXED)
    z = tokens(MIXED)
    tables = [table.weight for table in lm.inputs.tables]
    for b, t in ((0, 0), (1, 8)):
        joined = torch.cat([tables[k][z[b, t, k]] for k in range(3)])
        torch.testing.assert_close(lm.inputs(z)[b, t], lm.inputs.join.weight @ joined)
    assert [len(table) for table in tables] == [10, 12, 33] and lm.inputs.join.bias is None


def test_a_stream_that_is_not_there_adds_nothing() -> None:
    lm = model()
    z = torch.tensor([[[3, 22], [22, 4]]])
    zero = torch.zeros(16)
    parts = lm.inputs.tables[0].weight[3], lm.inputs.tables[1].weight[4]
    wanted = torch.stack([torch.cat([parts[0], zero]), torch.cat([zero, parts[1]])])
    torch.testing.assert_close(lm.inputs(z)[0], wanted @ lm.inputs.join.weight.T)


def test_one_head_for_each_codebook() -> None:
    assert [logits.shape for logits in model(MIXED)(tokens(MIXED))] == [(2, 9, 10), (2, 9, 12), (2, 9, 33)]


def test_no_later_token_changes_an_earlier_logit() -> None:
    lm, z = model(), tokens()
    changed = z.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 20
    for before, after in zip(lm(z), lm(changed), strict=True):
        assert torch.equal(before[:, :5], after[:, :5])
        assert not torch.isclose(before[:, 5:], after[:, 5:]).all(-1).any()


def test_step_by_step_with_a_cache_is_the_same() -> None:
    lm, z = model(), tokens()
    cache = lm.cache()
    with torch.no_grad():
        parts = [lm.hidden(z[:, :4], cache)] + [lm.hidden(z[:, t : t + 1], cache) for t in range(4, 9)]
        for cached, whole in zip(lm.logits(torch.cat(parts, dim=1)), lm(z), strict=True):
            torch.testing.assert_close(cached, whole, atol=1e-5, rtol=1e-4)


def test_narrow_codes_are_the_same_model_with_factored_tables_and_heads() -> None:
    """Tables, W_in and heads of a model with narrow codes, multiplied out, are those of a wide one."""
    torch.manual_seed(1)
    narrow, wide = MultiStreamLM(TINY.model_copy(update={"embedding": 5}), MIXED).eval(), model(MIXED)
    assert [table.weight.shape[1] for table in narrow.inputs.tables] == [5, 5, 5]
    wide.body.load_state_dict(narrow.body.state_dict())
    with torch.no_grad():
        for k in range(3):
            columns = narrow.inputs.join.weight[:, 5 * k : 5 * k + 5]
            wide.inputs.tables[k].weight.copy_(narrow.inputs.tables[k].weight @ columns.T)
            wide.outputs.heads[k].weight.copy_(narrow.outputs.heads[k].weight @ narrow.outputs.narrow[k].weight)
            wide.outputs.heads[k].bias.copy_(narrow.outputs.heads[k].bias)
        wide.inputs.join.weight.copy_(torch.eye(16).repeat(1, 3))
    z = tokens(MIXED)
    for found, wanted in zip(narrow(z), wide(z), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    mask = torch.ones_like(z, dtype=torch.bool)
    for mine, other in zip(narrow.losses(z, z, mask), wide.losses(z, z, mask), strict=True):
        torch.testing.assert_close(mine.nats, other.nats)
    state = narrow.hidden(z)
    assert torch.equal(narrow.logits(state, [2])[0], narrow.logits(state)[2])


@pytest.mark.parametrize("chunk", [1, 1 << 24])
def test_losses_in_chunks_are_cross_entropy(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(heads.CHUNK, "cpu", chunk)  # 64 rows at a time, or all
    head = torch.nn.Linear(8, 23)
    hidden = (3 * torch.randn(150, 8)).requires_grad_()
    targets = torch.randint(23, (150,))
    wanted = F.cross_entropy(head(hidden), targets, reduction="none")
    gradients = torch.autograd.grad(0.3 * wanted.sum(), [hidden, *head.parameters()])
    found = head_loss(hidden, head, targets, 20)
    torch.testing.assert_close(found.nats, wanted.sum())
    torch.testing.assert_close(found.code_nats, wanted[targets < 20].sum())
    assert int(found.codes) == int((targets < 20).sum())
    for mine, autograd in zip(
        torch.autograd.grad(0.3 * found.nats, [hidden, *head.parameters()]), gradients, strict=True
    ):
        torch.testing.assert_close(mine, autograd, atol=1e-5, rtol=1e-4)


def test_losses_in_half_precision_are_close() -> None:
    """As accelerate runs them on a GPU: weights float32, products bfloat16, sums float32."""
    head, hidden, targets = torch.nn.Linear(8, 23), torch.randn(50, 8, requires_grad=True), torch.randint(23, (50,))
    wanted = F.cross_entropy(head(hidden), targets, reduction="sum")
    with torch.autocast("cpu", torch.bfloat16):
        found = head_loss(hidden, head, targets, 20)
        scores = head_scores(hidden, head, targets % 20, 20)
    assert found.nats.dtype == scores.bits.dtype == torch.float32
    torch.testing.assert_close(found.nats, wanted, rtol=1e-2, atol=0.0)
    mine = torch.autograd.grad(found.nats, [hidden, *head.parameters()])
    for one, other in zip(mine, torch.autograd.grad(wanted, [hidden, *head.parameters()]), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05)


def test_losses_are_finite_where_a_softmax_would_not_be() -> None:
    head = torch.nn.Linear(1, 5)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1000.0], [0.0], [0.0], [0.0], [0.0]]))
        head.bias.zero_()
    assert head_loss(torch.ones(1, 1), head, torch.tensor([1]), 2).nats.item() == 1000.0
    assert float(head_scores(torch.ones(1, 1), head, torch.tensor([1]), 2).bits) == pytest.approx(1000 / math.log(2))


@pytest.mark.parametrize("chunk", [1, 1 << 24])
def test_scores_are_those_of_the_codes_alone(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(heads.CHUNK, "cpu", chunk)
    head = torch.nn.Linear(8, 23)
    hidden, targets = torch.randn(150, 8), torch.randint(20, (150,))
    logits = head(hidden)[:, :20].detach()
    found = head_scores(hidden, head, targets, 20)
    torch.testing.assert_close(found.bits, F.cross_entropy(logits, targets, reduction="none") / math.log(2))
    order = logits.argsort(dim=1, descending=True)
    assert torch.equal(order.gather(1, found.ranks[:, None])[:, 0], targets)


@pytest.mark.parametrize("size", [20, 1024, 32_768])
def test_zero_heads_cost_exactly_log2_v(size: int) -> None:
    """Equation 10: the uniform predictor. Its guesses hit one time in V, not always."""
    head = torch.nn.Linear(4, size + 3)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    targets = torch.arange(0, size, max(1, size // 50))
    found = head_scores(torch.randn(len(targets), 4), head, targets, size)
    assert torch.equal(found.bits, torch.full((len(targets),), math.log2(size)))
    assert torch.equal(found.ranks, targets)


def test_no_score_for_what_is_no_code() -> None:
    with pytest.raises(ValueError, match="target 20 is no code"):
        head_scores(torch.randn(1, 4), torch.nn.Linear(4, 23), torch.tensor([20]), 20)


@pytest.mark.parametrize(("preset", "body"), [("mini", 985_216), ("100m", 84_567_808), ("1b", 1_029_553_664)])
def test_parameters_of_the_presets(preset: str, body: int) -> None:
    """docs/parameters.md, language model, has bodies of 84.6 M and 1,030 M."""
    with torch.device("meta"):
        lm = MultiStreamLM(LMConfig.model_validate({"preset": preset}), PAPER)
    c = lm.config
    d, keys = c.hidden, c.hidden // c.heads * c.kv_heads
    layer = (d * d + d) + 2 * (d * keys + keys) + d * d + 3 * d * c.ffn + 2 * d
    assert (
        sum(p.numel() for p in (*lm.body.parameters(), *lm.outputs.norm.parameters())) == c.layers * layer + d == body
    )
    rest = 2 * 32_771 * d + 2 * d * d + 2 * (32_771 * d + 32_771)  # tables, W_in, heads
    assert sum(p.numel() for p in lm.parameters()) == body + rest


def test_the_compact_preset_fits_beside_the_bundle() -> None:
    """In half precision, with the bundle's 31.2 MB, below 45 MB."""
    with torch.device("meta"):
        lm = MultiStreamLM(LMConfig.model_validate({"preset": "compact"}), PAPER)
    assert 2 * sum(p.numel() for p in lm.parameters()) < 13.4e6


def test_a_preset_fills_in_what_is_not_given() -> None:
    config = LMConfig.model_validate({"preset": "100m", "layers": 2})
    assert (config.hidden, config.layers, config.ffn) == (768, 2, 3072)
    assert LMConfig.model_validate(config.model_dump()) == config
    assert (config.rope_theta, config.rms_eps) == (1e6, 1e-6)
    for name in PRESETS:
        assert LMConfig.model_validate({"preset": name}).preset == name
    with pytest.raises(ValueError, match="preset 'huge' is unknown; there are mini, compact, 100m, 1b"):
        LMConfig.model_validate({"preset": "huge"})


def test_weights_refuse_another_codec() -> None:
    state = model().state_dict()
    twin = CodecIdentity("tiny", "ff" * 32, CODEC.frame_rate, CODEC.sample_rate, CODEC.streams)
    with pytest.raises(ConfigError, match="trained on tokens of another codec"):
        MultiStreamLM(TINY, twin).load_state_dict(state)
    other = model(seed=1)
    other.load_state_dict(state)
    z = tokens()
    assert torch.equal(other(z)[0], model()(z)[0])
