"""HeartCodec, from github.com/HeartMuLa/heartlib (src/heartlib/heartcodec/modeling_heartcodec.py, configuration_heartcodec.py) as of 3981c52f2cab.

weights: the folder HeartCodec-oss; options: steps (10), guidance (1.25), seed (0). Decodes only: no encoder was published.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

FRAME = 3840  # samples at 48 kHz


def files(settings: dict[str, Any]) -> list[str]:
    folder = settings["weights"]
    names = (
        sorted(name for name in os.listdir(folder) if name.endswith(".safetensors")) if os.path.isdir(folder) else []
    )
    return (
        [os.path.join(folder, name) for name in [*names, "config.json"]]
        if names
        else [os.path.join(folder, "model.safetensors")]
    )


def load(settings: dict[str, Any], tools: Any) -> Any:
    return HeartCodec(settings, tools)


class HeartCodec:
    """8 codebooks at 12.5 Hz to stereo, in windows of 29.76 s of its own that overlap, from noise."""

    def __init__(self, settings: dict[str, Any], tools: Any) -> None:
        self.torch = tools.torch()
        kind = importlib.import_module("heartlib.heartcodec.modeling_heartcodec").HeartCodec
        model, report = kind.from_pretrained(
            settings["weights"], local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        tools.report(type(model).__name__, report["missing_keys"])
        self.device = settings["device"]
        self.model = model.float().eval().to(self.device)
        options = settings["options"]
        self.how = {"num_steps": int(options.get("steps", 10)), "guidance_scale": float(options.get("guidance", 1.25))}
        self.seed = int(options.get("seed", 0))
        config = model.config
        self.facts = {
            "sample_rate": int(config.sample_rate), "channels": 2, "block": FRAME, "per_block": 1,
            "sizes": [int(config.codebook_size)] * int(config.num_quantizers), "window": None, "context": 0.0, "encodes": False,
        }  # fmt: skip

    def decode(self, codes: Any) -> Any:
        self.torch.manual_seed(self.seed)
        indices = self.torch.from_numpy(codes).long().to(self.device)
        return self.model.detokenize(indices, disable_progress=True, **self.how).cpu().numpy()

    def vectors(self, stream: str, codes: Any) -> Any:
        indices = self.torch.from_numpy(codes).long().to(self.device)
        with self.torch.no_grad():
            return self.model.flow_matching.vq_embed.get_output_from_indices(indices.T[None])[0].cpu().numpy()
