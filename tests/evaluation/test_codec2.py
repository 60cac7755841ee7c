"""Codec2 by its command-line tools: stand-ins that pass every second sample through, and the tools where they are."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch

from duotok.clock import SAMPLE_RATE
from duotok.errors import ConfigError, DuoTokError
from duotok.evaluation.codec2 import MODES, codec2

ENCODE = "import sys, array\ns = array.array('h', sys.stdin.buffer.read()); sys.stdout.buffer.write(s[::2].tobytes())"
DECODE = (
    "import sys, array\ns = array.array('h', sys.stdin.buffer.read()); late = array.array('h', [0] * 160)\n"
    "for v in s: late.extend((v, v))\nsys.stdout.buffer.write(late.tobytes())"
)


def tools(folder: Path, encode: str = ENCODE, decode: str = DECODE) -> None:
    for name, code in (("c2enc", encode), ("c2dec", decode)):
        path = folder / name
        path.write_text(f"#!{sys.executable}\n{code}\n")
        path.chmod(0o755)


def test_sound_comes_back_aligned_with_its_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    slow = torch.randn(1, 300).repeat_interleave(240, 1) * 0.2
    done = codec2(slow.repeat(2, 1), "3200")
    assert done.audio.shape == slow.shape
    assert done.kbps == pytest.approx(8 * 8)  # half of the 16 bits of 8000 samples a second
    error = (done.audio - slow)[:, SAMPLE_RATE // 10 : -SAMPLE_RATE // 10]
    assert error.pow(2).mean() < 0.2 * slow.pow(2).mean()


@pytest.mark.skipif(shutil.which("c2enc") is None, reason="Codec2's tools are not installed")
@pytest.mark.parametrize("mode", MODES)
def test_bursts_stay_where_they_were(mode: str) -> None:
    """By the true tools: the level of 10 ms pieces follows that of the original best where nothing is moved, within 10 ms."""
    draw = torch.Generator().manual_seed(0)
    level = (torch.rand(60, generator=draw) > 0.5).float().repeat_interleave(SAMPLE_RATE // 10)
    sound = 0.2 * level * torch.randn(len(level), generator=draw)
    done = codec2(sound[None], mode)
    assert done.audio.shape == (1, len(sound)) and 0.5 < done.kbps <= 3.2
    true, found = (each.reshape(-1, SAMPLE_RATE // 100).square().mean(1).sqrt() for each in (sound, done.audio[0]))
    moved = {shift: float(torch.corrcoef(torch.stack([true, found.roll(shift)]))[0, 1]) for shift in range(-6, 7)}
    assert abs(max(moved, key=lambda shift: moved[shift])) <= 1 and max(moved.values()) > 0.6


def test_what_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    sound = torch.zeros(1, SAMPLE_RATE)
    with pytest.raises(ConfigError, match=r"no `c2enc` on this machine; apt install codec2"):
        codec2(sound)
    with pytest.raises(ConfigError, match="mode '9600' does not exist; choose 3200"):
        codec2(sound, "9600")
    tools(tmp_path, encode="import sys; sys.exit('bad mode')")
    with pytest.raises(DuoTokError, match=r"c2enc 3200: ended with code 1 \(bad mode\)"):
        codec2(sound)
