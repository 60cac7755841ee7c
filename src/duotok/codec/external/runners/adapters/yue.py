"""X-Codec of YuE, from github.com/multimodal-art-projection/YuE (inference/infer.py) as of 9f1394bae1d8, and xcodec_mini_infer
(models/soundstream_hubert_new.py) as copied in github.com/thr3a/YuE-for-Docker as of b45f8e226b4d.

checkout: the folder xcodec_mini_infer; weights: its `codec_model` as safetensors; options: config (final_ckpt/config.yaml).
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

KBPS = 0.5  # of a codebook


def default_config(settings: dict[str, Any]) -> str:
    return os.path.join(settings["checkout"], "final_ckpt", "config.yaml")


def files(settings: dict[str, Any]) -> list[str]:
    # A config that the options name is hashed with them.
    return [settings["weights"], *([] if settings["options"].get("config") else [default_config(settings)])]


def load(settings: dict[str, Any], tools: Any) -> Any:
    if not settings["weights"].endswith(".safetensors"):
        raise ValueError(
            "%s: no safetensors; convert it: python -m duotok.convert ckpt_00360000.pth xcodec.safetensors"  # noqa: UP031
            % settings["weights"]
        )
    return YueXcodec(settings, tools)


class YueXcodec:
    """Both tracks use the same codebooks, each by itself; YuE takes the first 8 of 12."""

    def __init__(self, settings: dict[str, Any], tools: Any) -> None:
        checkout = settings["checkout"]
        sys.path[:0] = [checkout, os.path.join(checkout, "descriptaudiocodec")]
        self.torch = tools.torch()
        config = settings["options"].get("config") or default_config(settings)
        with open(config, encoding="utf-8") as file:
            generator = importlib.import_module("yaml").safe_load(file)["generator"]
        if generator["name"] != "SoundStream":  # upstream evaluates this text
            raise ValueError("%s: generator '%s', not SoundStream" % (config, generator["name"]))  # noqa: UP031
        model = importlib.import_module("models.soundstream_hubert_new").SoundStream(**generator["config"])
        model.load_state_dict(importlib.import_module("safetensors.torch").load_file(settings["weights"]))
        self.device = settings["device"]
        self.model = model.eval().to(self.device)
        self.codebooks = int(settings["codebooks"] or 8)
        bins = 2 ** int(model.bits_per_codebook)
        self.facts = {
            "sample_rate": int(model.sample_rate), "channels": 1, "block": int(model.hop_length), "per_block": 1,
            "sizes": [bins] * self.codebooks, "window": 20.0, "context": 2.0,
        }  # fmt: skip

    def encode(self, sound: Any) -> Any:
        wave = self.torch.from_numpy(sound)[None].to(self.device)
        with self.torch.no_grad():
            codes = self.model.encode(wave, target_bw=KBPS * self.codebooks)  # [codebooks, batch, frames]
        return codes[:, 0].cpu().numpy()

    def decode(self, codes: Any) -> Any:
        with self.torch.no_grad():
            return self.model.decode(self.given(codes))[0].cpu().numpy()

    def vectors(self, stream: str, codes: Any) -> Any:
        with self.torch.no_grad():
            return self.model.get_embed(self.given(codes))[0].T.cpu().numpy()

    def given(self, codes: Any) -> Any:
        return self.torch.from_numpy(codes).long()[:, None].to(self.device)
