"""Which separator it was: the same for the same weights and settings, wherever they run and however they were stored."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from duotok.separation.bs_roformer import BSRoFormer, BSRoFormerConfig
from duotok.separation.identity import separator_identity
from duotok.separation.separator import MiniSeparator


class Own:
    """A separator of the user's: a network, a setting, a device."""

    sample_rate, stems = 48_000, ("vocals", "accompaniment")

    def __init__(self, gain: float = 1.0, device: str = "cpu") -> None:
        self.network, self.gain, self.device = nn.Linear(2, 2), gain, device
        nn.init.ones_(self.network.weight)
        nn.init.zeros_(self.network.bias)

    def separate(self, audio: Tensor) -> dict[str, Tensor]:
        return {"vocals": audio, "accompaniment": audio * 0}


def test_weights_and_settings_tell_separators_apart() -> None:
    one, two, louder, elsewhere, doubles = Own(), Own(), Own(2.0), Own(device="cuda"), Own()
    doubles.network.double()
    assert separator_identity(one) == separator_identity(two) == separator_identity(elsewhere)
    assert separator_identity(one) == separator_identity(doubles)[:1] + separator_identity(one)[1:]
    assert separator_identity(doubles) == separator_identity(one), "the precision of storage is no other separator"
    with torch.no_grad():
        two.network.weight[0, 0] = 2
    found = {separator_identity(each)[1] for each in (one, two, louder)}
    assert len(found) == 3 and {separator_identity(one)[0]} == {"Own"}


def test_the_plan_of_chunks_counts() -> None:
    network = BSRoFormer(BSRoFormerConfig(dim=8, depth=1, heads=1, head_dim=8))
    short = MiniSeparator(copy.deepcopy(network), chunk_seconds=2.0, overlap_seconds=0.5)
    assert separator_identity(MiniSeparator(network)) == separator_identity(MiniSeparator(copy.deepcopy(network)))
    assert separator_identity(MiniSeparator(network)) != separator_identity(short)
