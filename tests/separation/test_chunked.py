"""Streams that are read more than once hold no more than one reading is ahead of the other."""

from __future__ import annotations

import weakref

import torch

from duotok.separation.chunked import copies


def test_copies_hold_what_one_is_ahead_of_the_other() -> None:
    """itertools.tee had held 57 blocks of ten seconds of each song."""
    made: list[weakref.ref[torch.Tensor]] = []

    def pieces() -> object:
        for number in range(100):
            piece = torch.full((4,), float(number))
            made.append(weakref.ref(piece))
            yield piece
            del piece

    first, second = copies(pieces(), 2)  # type: ignore[arg-type]
    for number in range(90):
        assert float(next(first)[0]) == number
        if number >= 5:
            assert float(next(second)[0]) == number - 5
            assert sum(reference() is not None for reference in made) <= 7
    assert [float(piece[0]) for piece in second] == list(range(85, 100))
    assert [float(piece[0]) for piece in first] == list(range(90, 100))
