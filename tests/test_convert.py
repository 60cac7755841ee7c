"""Published pickles to safetensors: what is there stays, and only tensors come out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from duotok.convert import main


def test_a_file_that_is_there_stays_without_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": torch.arange(3.0)}, tmp_path / "model.ckpt")
    out = tmp_path / "model.safetensors"
    out.write_text("mine")
    assert main([str(tmp_path / "model.ckpt"), str(out)]) == 1
    assert "is there already" in capsys.readouterr().err and out.read_text() == "mine"
    assert main([str(tmp_path / "model.ckpt"), str(out), "--force"]) == 0
    assert torch.equal(load_file(out)["weight"], torch.arange(3.0))
