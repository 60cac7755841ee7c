"""Devices: what cannot be used is said in one line; a GPU is taken where there is one and nobody says cpu."""

from __future__ import annotations

import pytest
import torch

from duotok.devices import check_device, gpu_or_cpu
from duotok.errors import ConfigError


@pytest.mark.parametrize("device", ["cuda:77", "nonsense", "", "meta"])
def test_an_unusable_device_is_named(device: str) -> None:
    with pytest.raises(ConfigError, match=rf"^device '{device}': not usable here \(.+\); use --device cpu$") as caught:
        check_device(device, "--device ")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
    check_device("cpu")


@pytest.mark.parametrize("there", [False, True])
def test_the_gpu_where_there_is_one(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    kinds = {wish: gpu_or_cpu(wish).type for wish in ("auto", "cuda", "cpu")}
    assert kinds == {"auto": "cuda" if there else "cpu", "cuda": "cuda" if there else "cpu", "cpu": "cpu"}
