"""Each stage overfits one tiny batch: the shortest proof that its gradient does what it should."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from duotok.model import BestRQ, BestRQConfig, Tokenizer, stage2_loss, stage3_loss

Targets = Callable[[int, int], dict[str, Tensor]]


def descend(
    parameters: list[Tensor], losses: Callable[[], dict[str, Tensor]], steps: int, lr: float
) -> list[dict[str, float]]:
    optimizer = torch.optim.AdamW([p for p in parameters if p.requires_grad], lr=lr, weight_decay=0.0)
    history = []
    for _ in range(steps):
        values = losses()
        optimizer.zero_grad()
        values["loss"].backward()
        optimizer.step()
        history.append({k: float(v) for k, v in values.items()})
    return history


def test_stage1(build: Callable[..., Tokenizer]) -> None:
    tokenizer = build()
    rq = BestRQ(16, 32, BestRQConfig(codebook_size=16, code_dim=4, span_frames=2))
    mel = torch.randn(4, 40, 16)
    history = descend(
        [*tokenizer.parameters(), *rq.parameters()],
        lambda: rq(tokenizer.stage1, mel, None, torch.Generator().manual_seed(0)),
        40,
        1e-2,
    )
    assert history[-1]["loss"] < 0.2 * history[0]["loss"]
    assert history[-1]["accuracy"] > 0.9


def test_stage2(build: Callable[..., Tokenizer], targets: Targets) -> None:
    """With the noise on, which caps what can be learnt: hence a modest factor."""
    tokenizer, want = build(), targets(4, 10)
    history = descend(list(tokenizer.parameters()), lambda: stage2_loss(tokenizer.stage2(want["mel"]), want), 50, 1e-2)
    assert history[-1]["loss"] < 0.7 * history[0]["loss"], (history[0], history[-1])
    for key in ("mel", "chroma", "masks", "text"):
        assert history[-1][key] < 0.95 * history[0][key], (key, history[0], history[-1])


def test_stage3(build: Callable[..., Tokenizer], targets: Targets) -> None:
    tokenizer = build()
    tokenizer.start_stage3()
    want, track = targets(4, 10), torch.tensor([0, 1, 0, 1])
    hidden = tokenizer.lower(want["mel"])
    tokenizer.fit_quantizer(hidden[track == 0], "vocals")
    tokenizer.fit_quantizer(hidden[track == 1], "accompaniment")

    def losses() -> dict[str, Tensor]:
        heads, vq, _ = tokenizer.stage3(hidden, track)
        return stage3_loss(heads, vq, want)

    history = descend(list(tokenizer.parameters()), losses, 50, 1e-2)
    assert history[-1]["loss"] < 0.5 * history[0]["loss"], (history[0], history[-1])
    assert history[-1]["mel"] < 0.75 * history[0]["mel"]
