"""Losses: masks by length, CTC's corner cases, the sums of equations 2 and 5."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from duotok.audio.features import octave_widths
from duotok.model import Stage2Weights, Stage3Weights, Tokenizer, stage2_loss, stage3_loss
from duotok.model.losses import covariance_gap, ctc, masked_l1, mean_square


def test_l1_counts_valid_frames_and_items_only() -> None:
    a, b = torch.zeros(2, 8, 3), torch.ones(2, 8, 3)
    b[1] = 3.0
    b[1, 4:] = 100.0
    lengths = torch.tensor([2, 1])
    assert float(masked_l1(a, b, lengths)) == pytest.approx((8 * 1 + 4 * 3) / 12)
    assert float(masked_l1(a, b, lengths, torch.tensor([False, True]))) == pytest.approx(3.0)
    nothing = masked_l1(a.requires_grad_(), b, lengths, torch.tensor([False, False]))
    nothing.backward()
    assert float(nothing.detach()) == 0.0


def test_octaves_count_alike_where_they_are_asked_to() -> None:
    widths = octave_widths(24_000, 128)
    mels = torch.linspace(0, 2595 * math.log10(1 + 12_000 / 700), 130)[1:-1]
    hertz = 700 * (10 ** (mels / 2595) - 1)
    octaves = [float(widths[(hertz >= low) & (hertz < 2 * low)].sum()) for low in (94, 188, 375, 750, 1500, 3000, 5900)]
    assert max(octaves) < 1.3 * min(octaves) and float(widths.mean()) == pytest.approx(1.0)
    assert widths.numel() == 128 and int((hertz < 300).sum()) == 15 and float(widths[hertz < 300].sum()) > 0.38 * 128

    heads, want = {"mel": torch.zeros(1, 4, 128)}, {"mel": torch.zeros(1, 4, 128)}
    want["mel"][..., 3] = 1.0  # an error in a bass
    vq = {"vq": torch.tensor(0.0), "codebook": torch.tensor(0.0), "commitment": torch.tensor(0.0)}
    for losses in (
        lambda share: stage2_loss(heads, want, weights=Stage2Weights(mel_octaves=share)),
        lambda share: stage3_loss(heads, vq, want, weights=Stage3Weights(mel_octaves=share)),
    ):
        plain, half, full = (float(losses(share)["mel"]) for share in (0.0, 0.5, 1.0))
        assert plain == pytest.approx(1 / 128)
        assert full == pytest.approx(float(widths[3]) / 128) and half == pytest.approx((plain + full) / 2)


def test_ctc_by_hand() -> None:
    """One frame, one target: -log p. Two frames, one target: -log of the three ways."""
    logits = torch.randn(1, 2, 3)
    p = logits.softmax(-1)[0].double()
    one = ctc(logits[:, :1], torch.tensor([[1]]), torch.tensor([1]))
    assert float(one) == pytest.approx(float(-p[0, 1].log()), rel=1e-5)
    two = ctc(logits, torch.tensor([[1]]), torch.tensor([1]))
    ways = p[0, 1] * p[1, 1] + p[0, 1] * p[1, 2] + p[0, 2] * p[1, 1]
    assert float(two) == pytest.approx(float(-ways.log()), rel=1e-5)


def test_ctc_divides_by_each_items_targets() -> None:
    logits, targets = torch.randn(2, 12, 6), torch.randint(0, 5, (2, 4))
    lengths = torch.tensor([4, 2])
    single = [float(ctc(logits[i : i + 1], targets[i : i + 1], lengths[i : i + 1])) for i in range(2)]
    assert float(ctc(logits, targets, lengths)) == pytest.approx(sum(single) / 2, rel=1e-5)
    raw = torch.nn.functional.ctc_loss(
        logits[1:].log_softmax(-1).transpose(0, 1), targets[1:, :2], torch.tensor([12]), lengths[1:], 5, "sum"
    )
    assert single[1] == pytest.approx(float(raw) / 2, rel=1e-5)


def test_ctc_ignores_empty_and_impossible_targets() -> None:
    logits = torch.randn(4, 5, 6, requires_grad=True)
    targets = torch.tensor([[1, 2, 0], [9, 9, 9], [3, 3, 3], [1, 2, 3]])
    # Item 1 has no lyrics (its targets are rubbish), item 2 needs 5 frames but has 4, item 3 has 2 for 3 targets.
    target_lengths, lengths = torch.tensor([2, 0, 3, 3]), torch.tensor([5, 5, 4, 2])
    loss = ctc(logits, targets, target_lengths, lengths)
    torch.testing.assert_close(loss, ctc(logits[:1], targets[:1], target_lengths[:1], lengths[:1]))
    loss.backward()
    assert logits.grad is not None
    assert bool(logits.grad[0].any()) and not bool(logits.grad[1:].any()) and bool(logits.grad.isfinite().all())
    nothing = ctc(logits, targets, torch.zeros(4, dtype=torch.long))
    nothing.backward()
    assert float(nothing.detach()) == 0.0
    empty = ctc(logits, torch.zeros(4, 0, dtype=torch.long), torch.zeros(4, dtype=torch.long))
    assert float(empty.detach()) == 0.0


def test_ctc_ignores_padded_frames() -> None:
    logits, targets = torch.randn(2, 9, 6), torch.randint(0, 5, (2, 2))
    lengths, n = torch.tensor([9, 5]), torch.tensor([2, 2])
    other = logits.clone()
    other[1, 5:] = 30.0
    torch.testing.assert_close(ctc(logits, targets, n, lengths), ctc(other, targets, n, lengths))


def test_stage_sums(targets: Callable[[int, int], dict[str, Tensor]]) -> None:
    want = targets(2, 6)
    heads = {k: torch.zeros_like(want[k]) for k in ("mel", "chroma", "masks")} | {"text": torch.randn(2, 6, 9)}
    out = stage2_loss(heads, want, weights=Stage2Weights(mel=1, chroma=2, masks=3, text=0.5))
    total = out["mel"] + 2 * out["chroma"] + 3 * out["masks"] + 0.5 * out["text"]
    torch.testing.assert_close(out["loss"], total)
    assert float(out["mel"]) == pytest.approx(float(want["mel"].abs().mean()), rel=1e-5)
    one = torch.tensor(1.0)
    vq = {"vq": one * 1.25, "codebook": one, "commitment": one}
    out = stage3_loss(heads, vq, want, weights=Stage3Weights(vq=2))
    torch.testing.assert_close(out["loss"], 2 * out["vq"] + out["mel"] + out["chroma"] + 0.5 * out["text"])
    assert "masks" not in out
    without = stage2_loss(heads, {"mel": want["mel"]})
    assert set(without) == {"loss", "mel"}


def test_latent_norm_pulls_the_bottleneck(build: Callable[..., Tokenizer]) -> None:
    z = torch.tensor([[[3.0, 4.0], [0.0, 1.0]], [[1.0, 1.0], [1e3, 1e3]]], requires_grad=True)
    # |z|^2 / 2 of the three valid frames: 12.5, 0.5, 1.
    norm = mean_square(z, torch.tensor([2, 1]))
    assert float(norm.detach()) == pytest.approx(14 / 3)
    tokenizer, mel = build().train(), torch.randn(2, 8, 16)
    heads = tokenizer.stage2(mel)
    without = stage2_loss(heads, {"mel": mel})
    with_norm = stage2_loss(heads, {"mel": mel}, weights=Stage2Weights(latent_norm=0.1))
    assert "latent_norm" not in without
    torch.testing.assert_close(with_norm["loss"], without["loss"] + 0.1 * heads["z"].square().mean())


def test_decorrelation_is_of_the_bottleneck_and_has_its_weight(build: Callable[..., Tokenizer]) -> None:
    tokenizer, mel, lengths = build().train(), torch.randn(2, 8, 16), torch.tensor([2, 1])
    heads = tokenizer.stage2(mel, lengths)
    without = stage2_loss(heads, {"mel": mel}, lengths)
    weighted = stage2_loss(heads, {"mel": mel}, lengths, Stage2Weights(decorrelation=0.3))
    assert "decorrelation" not in without
    wanted = covariance_gap(heads["z"], lengths)
    assert not torch.isclose(wanted, covariance_gap(heads["z"]))
    torch.testing.assert_close(weighted["decorrelation"], wanted)
    torch.testing.assert_close(weighted["loss"], without["loss"] + 0.3 * wanted)


def test_the_covariance_gap_by_hand() -> None:
    # Two channels that are one: variances 1, covariance 1; the gap is 1^2 twice, over two channels.
    alike = torch.tensor([[[1.0, 1.0], [-1.0, -1.0]]])
    assert float(covariance_gap(alike)) == pytest.approx(1.0)
    assert float(covariance_gap(3 * alike)) == pytest.approx((8**2 * 2 + 9**2 * 2) / 2)


def test_the_covariance_gap_is_exact_under_autocast() -> None:
    """Covariances near the identity are differences of near numbers: bfloat16 would keep two digits of them."""
    z = torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(0))
    covariance = torch.cov(z.double().flatten(0, 1).T, correction=0)
    exact = float((covariance - torch.eye(4)).square().sum() / 4)
    with torch.autocast("cpu", torch.bfloat16):
        gap = covariance_gap(z)
    assert gap.dtype == torch.float32 and float(gap) == pytest.approx(exact, rel=1e-5)


def test_no_target_at_all_is_named() -> None:
    with pytest.raises(ValueError, match="no head that is switched on has a target"):
        stage2_loss({"chroma": torch.zeros(1, 4, 12)}, {"mel": torch.zeros(1, 4, 16)})


def test_the_covariance_gap_is_zero_for_white_features_and_pulls_flat_ones_apart() -> None:
    torch.manual_seed(0)
    white = torch.randn(8, 500, 4)
    assert float(covariance_gap(white)) < 0.01
    weights = torch.nn.Parameter(torch.randn(2, 4))
    optimizer = torch.optim.Adam([weights], 0.05)
    deep = torch.nn.Parameter(torch.randn(4, 4) * 0.1)
    optimizer.add_param_group({"params": [deep]})
    for _ in range(300):
        optimizer.zero_grad()
        covariance_gap(white[..., :2] @ weights + white @ deep).backward()
        optimizer.step()
    assert float(covariance_gap(white[..., :2] @ weights + white @ deep)) < 0.02
    lengths = torch.full((8,), 500)
    padded = torch.cat([white, torch.full((8, 9, 4), 50.0)], dim=1)
    torch.testing.assert_close(covariance_gap(padded, lengths), covariance_gap(white))
