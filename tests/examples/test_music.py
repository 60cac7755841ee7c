"""`examples/music_as_it_comes.py` with the packaged models: sound goes out block by block, and is the same in a file."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/music_as_it_comes.py"
SECONDS = 1.0


class Out:
    """Standard output that notes what is written to it, and what was said by then."""

    def __init__(self, errors: Out | None = None) -> None:
        self.parts: list[bytes] = []
        self.lines: list[int] = []
        self.errors = errors
        self.buffer = self

    def write(self, data: bytes | str) -> None:
        self.parts.append(data.encode() if isinstance(data, str) else data)
        if self.errors is not None:
            self.lines.append(self.errors.text.count(" s of music\n"))

    def flush(self) -> None: ...

    @property
    def text(self) -> str:
        return b"".join(self.parts).decode()


@pytest.fixture
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("music_as_it_comes", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sound_goes_out_block_by_block_and_is_the_same_in_a_file(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(EXAMPLE), str(SECONDS), "--window", "96", "--seed", "3"]
    errors = Out()
    out = Out(errors)
    monkeypatch.setattr(example, "sys", SimpleNamespace(stdout=out, stderr=errors))
    monkeypatch.setattr(sys, "argv", words)
    example.main()
    assert "sound comes at most 2.8 s of music after its tokens" in errors.text
    assert len(out.parts) > 1 and out.lines == list(range(1, len(out.parts) + 1)), "each block as soon as it is there"
    heard = np.frombuffer(b"".join(out.parts), np.float32).reshape(-1, 2)
    assert len(heard) == SECONDS * 48_000 and np.isfinite(heard).all() and np.abs(heard).max() > 1e-3
    blocks = [torch.from_numpy(np.frombuffer(part, np.float32).reshape(-1, 2).T.copy()) for part in out.parts]
    monkeypatch.setattr(example, "music", lambda *given: iter(blocks))  # they would be made once more
    monkeypatch.setattr(sys, "argv", [*words, "--wav", str(tmp_path / "music.wav")])
    example.main()
    written, rate = soundfile.read(tmp_path / "music.wav", dtype="float32", always_2d=True)
    assert rate == 48_000 and np.abs(written - np.clip(heard, -1, 1)).max() < 1e-3
    assert len(out.parts) == len(out.lines)
