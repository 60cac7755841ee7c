"""WavTokenizer, from github.com/jishengpeng/WavTokenizer (README, decoder/pretrained.py, decoder/feature_extractors.py) as of 5cf440d91ac4.

checkout: the repository; weights: its .ckpt, or safetensors of the state dict in it; options: config, its YAML.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

RATE = 24000


def files(settings: dict[str, Any]) -> list[str]:
    if not settings["options"].get("config"):
        raise ValueError("options: config is not given; name its YAML in the repository's configs")
    return [settings["weights"]]


def load(settings: dict[str, Any], tools: Any) -> Any:
    return WavTokenizer(settings, tools)


class WavTokenizer:
    """One codebook; the quantizer is EnCodec's with a single large one."""

    def __init__(self, settings: dict[str, Any], tools: Any) -> None:
        sys.path.insert(0, settings["checkout"])
        self.torch = tools.torch()
        kind = importlib.import_module("decoder.pretrained").WavTokenizer
        config, weights = settings["options"]["config"], settings["weights"]
        if weights.endswith(".safetensors"):
            model = kind.from_hparams0802(config)
            # As the published loader does: the trainer's discriminators are in the file as well.
            parts = ("backbone.", "head.", "feature_extractor.")
            state = importlib.import_module("safetensors.torch").load_file(weights)
            model.load_state_dict({key: value for key, value in state.items() if key.startswith(parts)})
        else:
            model = kind.from_pretrained0802(config, weights)
        self.device = settings["device"]
        self.model = model.eval().to(self.device)
        encodec = model.feature_extractor.encodec
        self.bandwidth = self.torch.tensor([0], device=self.device)
        self.facts = {
            "sample_rate": RATE, "channels": 1, "block": int(encodec.encoder.hop_length), "per_block": 1,
            "sizes": [int(encodec.quantizer.bins)], "window": 20.0, "context": 2.0,
        }  # fmt: skip

    def encode(self, sound: Any) -> Any:
        wave = self.torch.from_numpy(sound).to(self.device)
        _, codes = self.model.encode_infer(wave, bandwidth_id=self.bandwidth)  # [codebooks, batch, frames]
        return codes[:, 0].cpu().numpy()

    def decode(self, codes: Any) -> Any:
        return self.model.decode(self.features(codes), bandwidth_id=self.bandwidth).cpu().numpy()

    def vectors(self, stream: str, codes: Any) -> Any:
        return self.features(codes)[0].T.cpu().numpy()

    def features(self, codes: Any) -> Any:
        return self.model.codes_to_features(self.torch.from_numpy(codes).long().to(self.device))
