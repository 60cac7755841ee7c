"""The semantic tokenizer of Open-Qwen-Music, from github.com/biang15343100-source/Open-Qwen-Music (docs/training/tokenizer.md,
src/open_qwen_music/tokenizer/deployment.py, features.py, quantizer.py) as of e670a01944ee.

checkout: the repository; weights: the exported tokenizer.pt. Encodes only: its sound comes from a renderer and an autoencoder beside it.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

FRAME = 960  # samples at 24 kHz


def files(settings: dict[str, Any]) -> list[str]:
    return [settings["weights"]]


def load(settings: dict[str, Any], tools: Any) -> Any:
    return OpenQwenMusic(settings, tools)


class OpenQwenMusic:
    """Causal, 25 frames a second, one codebook of unit vectors; trained on songs of up to 300 s as they are."""

    def __init__(self, settings: dict[str, Any], tools: Any) -> None:
        sys.path.insert(0, os.path.join(settings["checkout"], "src"))
        self.torch = tools.torch()
        package = importlib.import_module("open_qwen_music.tokenizer.deployment")
        self.device = settings["device"]
        self.model = package.DeploymentMusicTokenizer.from_file(settings["weights"], map_location="cpu").to(self.device)
        self.facts = {
            "sample_rate": int(package.SAMPLE_RATE), "channels": 1, "block": FRAME, "per_block": 1,
            "sizes": [int(package.CODEBOOK_SIZE)], "window": 300.0, "context": 30.0, "decodes": False,
        }  # fmt: skip

    def encode(self, sound: Any) -> Any:
        wave = self.torch.from_numpy(sound).to(self.device)
        return self.model.encode_audio(wave, self.facts["sample_rate"]).token_ids.cpu().numpy()

    def vectors(self, stream: str, codes: Any) -> Any:
        with self.torch.no_grad():
            return self.model.quantizer.effective_codebook()[self.torch.from_numpy(codes[0]).long()].cpu().numpy()
