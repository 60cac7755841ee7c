"""The check of a GPU, tried on a CPU: it passes where devices agree and fails where they do not."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path

import pytest
import torch
from tests.tiny import song, tiny_bundle

from benchmarks import gpu
from duotok.audio.io import write
from duotok.errors import DuoTokError
from duotok.random import ItemRandom
from duotok.tokens import DualTokens


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    """The exit code, or message."""
    monkeypatch.setattr(sys, "argv", ["gpu", *map(str, arguments)])
    try:
        gpu.main()
    except SystemExit as stopped:
        return stopped.code
    return 0


def test_all_of_it_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, out, clips = tiny_bundle(tmp_path), tmp_path / "gpu.json", tmp_path / "clips"
    clips.mkdir()
    write(clips / "one.wav", song(6.0), 48_000)
    write(clips / "short.wav", song(1.0), 48_000)
    given = ["--device", "cpu", "--model", model, "--threads", 1, "--clips", clips, "--seconds", 5, "-o", out]
    assert run(monkeypatch, *given, "--stages", "stage1") == 0
    found = json.loads(out.read_text())
    assert found["clips"] == ["one.wav"]
    rows = {row["what"]: row for row in found["rows"]}
    assert rows["cpu fp32"]["values"] == {"vocals": 1.0, "accompaniment": 1.0}
    assert rows["cpu fp32, sound"]["values"]["least dB"] > 100
    assert {"cpu bf16", "cpu fp32, 8 windows at once", "stage1, cpu fp32"} < rows.keys()
    assert rows["stage1, cpu, DDP of one process"]["values"]["gradients"] < 1e-5
    assert all(row["passes"] for row in found["rows"])
    assert "LOCAL_RANK" not in os.environ and not torch.distributed.is_initialized()


def test_a_stage_that_fails_is_a_row_and_the_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, device: str, precision: str) -> gpu.Step:
        if precision == "bf16":
            raise RuntimeError("no such kernel")
        return 1.0, torch.ones(3), True

    monkeypatch.setattr(gpu, "one_step", broken)
    monkeypatch.setattr("duotok.training.processes.fast_half", lambda: True)
    rows = gpu.stages("cpu", ["stage1"])
    assert [row.passes for row in rows] == [True, False, True]
    assert rows[1].error == "no such kernel"


def test_a_gap_that_is_too_wide_fails() -> None:
    true = (2.0, torch.tensor([3.0, 4.0]), True)
    found = gpu.gap(true, (2.2, torch.tensor([3.0, 3.5]), True))
    assert found["loss"] == pytest.approx(0.1) and found["gradients"] == pytest.approx(0.1)
    assert not gpu.Row("a", "b", found, gpu.FP32_GAP, most=True).passes
    assert gpu.Row("a", "b", found, 0.2, most=True).passes
    stuck = gpu.gap(true, (2.0, true[1], False))
    assert stuck["loss"] == math.inf and not gpu.Row("a", "b", stuck, 0.2, most=True).passes


def test_shares_of_equal_tokens() -> None:
    def tokens(*codes: int) -> DualTokens:
        values = torch.tensor(codes)
        return DualTokens(vocals=values, accompaniment=torch.zeros_like(values), n_samples=1920 * len(codes))

    shares = gpu.equal([tokens(1, 2, 3), tokens(4)], [tokens(1, 2, 9), tokens(4)])
    assert shares == {"vocals": 0.75, "accompaniment": 1.0}
    assert not gpu.Row("a", "b", shares, gpu.EQUAL_TOKENS).passes
    assert gpu.Row("a", "b", shares).passes  # only told


def test_draws_are_those_of_the_cpu() -> None:
    seeds = torch.tensor([1, 2])
    mine, theirs = gpu.SameDraws(seeds, torch.device("cpu")), ItemRandom(seeds, "cpu")
    for draws in (lambda r: r.normal(3, 2), lambda r: r.uniform(3), lambda r: r.integers(torch.tensor([5, 9]))):
        assert torch.equal(draws(mine), draws(theirs))


def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DuoTokError, match="no such folder"):
        gpu.clips_of(tmp_path / "none", 1.0)
    with pytest.raises(DuoTokError, match="no audio file of 1 s"):
        gpu.clips_of(tmp_path, 1.0)
    if not torch.cuda.is_available():
        assert "sees no GPU" in str(run(monkeypatch, "--device", "cuda"))


def test_made_clips_differ_and_repeat() -> None:
    a, b = gpu.made_clip(0, 1.0), gpu.made_clip(1, 1.0)
    assert a.shape == (2, 48_000) and torch.equal(a, gpu.made_clip(0, 1.0)) and not torch.allclose(a, b)
    assert 0.02 < float(a.square().mean().sqrt()) < 0.5


def test_only_results_of_its_own_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own, other = tmp_path / "gpu.json", tmp_path / "notes.json"
    own.write_text('{"conditions": {}, "rows": []}')
    other.write_text('{"mine": 1}')
    assert gpu.is_result(own) and not gpu.is_result(other)
    assert run(monkeypatch, "-o", other, "--device", "cpu") == 2
    assert "notes.json: is there and is no result" in capsys.readouterr().err
    assert other.read_text() == '{"mine": 1}'
