"""Published pickles to safetensors: what is there stays, and only tensors come out."""

from __future__ import annotations

import resource
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


def test_a_full_disk_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": torch.zeros(9000)}, tmp_path / "model.ckpt")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        code = main([str(tmp_path / "model.ckpt"), str(tmp_path / "out.safetensors")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    told = capsys.readouterr().err
    assert code == 1 and told.count("\n") == 1 and "out.safetensors: cannot be written (" in told
    assert [path.name for path in tmp_path.iterdir()] == ["model.ckpt"]
