"""MOSS-Audio-Tokenizer and its Nano, from github.com/OpenMOSS/MOSS-Audio-Tokenizer (README, modeling_moss_audio_tokenizer.py,
config.json) as of 56df9eeb88f7. The code of Nano was not read: its folder on the hub has its own, with the same calls.

weights: the safetensors file in a folder as on the hub (its Python files are run); options: channels (1; 2 for Nano).
"""

from __future__ import annotations

import importlib
import os
from typing import Any


def files(settings: dict[str, Any]) -> list[str]:
    folder = settings["weights"]
    if not os.path.isdir(folder):
        return [folder]
    names = sorted(name for name in os.listdir(folder) if name.endswith(".safetensors"))
    return (
        [os.path.join(folder, name) for name in [*names, "config.json"]]
        if names
        else [os.path.join(folder, "model.safetensors")]
    )


def load(settings: dict[str, Any], tools: Any) -> Any:
    return Moss(settings, tools)


class Moss:
    """Causal transformers that look back 10 s in every layer; 32 residual codebooks of which any first ones can be taken."""

    def __init__(self, settings: dict[str, Any], tools: Any) -> None:
        self.torch = tools.torch()
        model, report = importlib.import_module("transformers").AutoModel.from_pretrained(
            settings["weights"],
            trust_remote_code=True,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
        tools.report(type(model).__name__, report["missing_keys"])
        self.device = settings["device"]
        self.model = model.eval().to(self.device)
        config = model.config
        quantizer = config.quantizer_kwargs
        self.codebooks = int(settings["codebooks"] or quantizer["num_quantizers"])
        self.facts = {
            "sample_rate": int(config.sampling_rate), "channels": int(settings["options"].get("channels", 1)),
            "block": int(config.downsample_rate), "per_block": 1, "sizes": [int(quantizer["codebook_size"])] * self.codebooks,
            "window": 30.0, "context": 10.0,
        }  # fmt: skip

    def encode(self, sound: Any) -> Any:
        wave = self.torch.from_numpy(sound)[None].to(self.device)
        with self.torch.no_grad():
            output = self.model.encode(wave, num_quantizers=self.codebooks, return_dict=True)
        return output.audio_codes[:, 0].cpu().numpy()  # [codebooks, batch, frames]

    def decode(self, codes: Any) -> Any:
        with self.torch.no_grad():
            return self.model.decode(self.given(codes), return_dict=True).audio[0].cpu().numpy()

    def vectors(self, stream: str, codes: Any) -> Any:
        with self.torch.no_grad():
            return self.model.quantizer.decode_codes(self.given(codes))[0].T.cpu().numpy()

    def given(self, codes: Any) -> Any:
        return self.torch.from_numpy(codes).long()[:, None].to(self.device)
