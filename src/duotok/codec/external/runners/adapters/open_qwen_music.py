"""The semantic tokenizer of Open-Qwen-Music, from github.com/biang15343100-source/Open-Qwen-Music (src/open_qwen_music/release.py,
tokenizer/deployment.py, features.py, quantizer.py, cli.py) as of e670a01944ee.

checkout: the repository; weights: the folder of its release (open_qwen_music.json says where the tokenizer's config.json and
model.safetensors are), that folder of the tokenizer itself, or a tokenizer.pt as its training exports. Encodes only: its sound comes
from a renderer and an autoencoder beside it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

FRAME = 960  # samples at 24 kHz
MANIFEST = "open_qwen_music.json"


def files(settings: dict[str, Any]) -> list[str]:
    weights = settings["weights"]
    if not os.path.isdir(weights):
        return [weights]
    folder, manifest = weights, os.path.join(weights, MANIFEST)
    if os.path.isfile(manifest):
        with open(manifest, encoding="utf-8") as file:
            folder = os.path.join(weights, json.load(file)["components"]["semantic_tokenizer"]["path"])
    return [os.path.join(folder, "model.safetensors"), os.path.join(folder, "config.json")]


def load(settings: dict[str, Any], tools: Any) -> Any:
    return OpenQwenMusic(settings, tools)


class OpenQwenMusic:
    """Causal, 25 frames a second, one codebook of unit vectors; trained on songs of up to 300 s as they are."""

    def __init__(self, settings: dict[str, Any], tools: Any) -> None:
        sys.path.insert(0, os.path.join(settings["checkout"], "src"))
        self.torch = tools.torch()
        package = importlib.import_module("open_qwen_music.tokenizer.deployment")
        self.device = settings["device"]
        tokenizer, places = package.DeploymentMusicTokenizer, files(settings)
        if len(places) == 1:
            model = tokenizer.from_file(places[0], map_location="cpu")
        else:
            # As its release.py does, without the language model and renderer that it imports.
            with open(places[1], encoding="utf-8") as file:
                artifact = json.load(file)
            artifact["state_dict"] = importlib.import_module("safetensors.torch").load_file(places[0], device="cpu")
            model = tokenizer(artifact)
        self.model = model.to(self.device)
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
