"""Masks by hand."""

from __future__ import annotations

import torch

from duotok.nn.masks import attention_mask, frame_mask, silence_padding

CPU = torch.device("cpu")


def test_frame_mask() -> None:
    assert frame_mask(None, 4) is None
    assert frame_mask(torch.tensor([0, 2, 4]), 4).int().tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]


def test_padding_is_silenced_whatever_is_in_it() -> None:
    x = torch.full((1, 3, 2), float("nan"))
    x[:, :2] = 1.0
    assert silence_padding(x, torch.tensor([[True, True, False]])).tolist() == [[[1, 1], [1, 1], [0, 0]]]
    assert silence_padding(x[..., 0], torch.tensor([[True, True, False]])).tolist() == [[1, 1, 0]]
    assert silence_padding(x, None) is x


def test_attention_mask() -> None:
    assert attention_mask(5, None, None, CPU) is None and attention_mask(5, 4, None, CPU) is None
    windowed = attention_mask(4, 1, None, CPU)
    assert windowed is not None
    assert windowed[0, 0].int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]
    padded = attention_mask(4, 1, torch.tensor([[True, True, False, False]]), CPU)
    assert padded is not None
    assert padded[0, 0].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]], (
        "no row is empty: a padded query sees itself"
    )
