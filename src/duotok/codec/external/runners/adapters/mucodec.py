"""MuCodec, from github.com/xuyaoxun/MuCodec (generate.py, model.py) as of 128f91be6c14.

checkout: the repository with its three files in tools/, muq_dev/ and ckpt/; weights: ckpt/mucodec.pt; options: steps (20), seed (0).
Without CUDA its autocast warns and does nothing.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

FRAME = 1920  # samples at 48 kHz


def files(settings: dict[str, Any]) -> list[str]:
    checkout = settings["checkout"]
    return [
        settings["weights"],
        os.path.join(checkout, "muq_dev", "muq.pt"),
        os.path.join(checkout, "tools", "audioldm_48k.pth"),
    ]


def load(settings: dict[str, Any], tools: Any) -> Any:
    return MuCodec(settings, tools)


class MuCodec:
    """The whole sound at once: it cuts windows of 40.97 s itself, repeats what is short, and a code depends on where it stands in
    its window. It gives a frame more than the sound has; that one is left out.
    """

    # MuQ has a file of its own, and the file of the whole may be without it.
    elsewhere = ("PromptCondAudioDiffusion.muencoder.",)

    def __init__(self, settings: dict[str, Any], tools: Any) -> None:
        os.chdir(settings["checkout"])  # its paths are relative
        sys.path.insert(0, settings["checkout"])
        self.torch = tools.torch()
        self.steps = int(settings["options"].get("steps", 20))
        self.seed = int(settings["options"].get("seed", 0))
        self.model = importlib.import_module("generate").MuCodec(
            model_path=settings["weights"], layer_num=7, load_main_model=True, device=settings["device"]
        )
        self.facts = {
            "sample_rate": 48000, "channels": 2, "block": FRAME, "per_block": 1, "sizes": [16384], "window": None, "context": 0.0,
        }  # fmt: skip

    def encode(self, sound: Any) -> Any:
        codes = self.model.sound2code(self.torch.from_numpy(sound))  # [1, 1, frames + 1]
        return codes[0, :, : sound.shape[1] // FRAME].cpu().numpy()

    def decode(self, codes: Any) -> Any:
        self.torch.manual_seed(self.seed)  # it samples
        indices = self.torch.from_numpy(codes).long()[None]
        return self.model.code2sound(indices, num_steps=self.steps, disable_progress=True).cpu().numpy()

    def vectors(self, stream: str, codes: Any) -> Any:
        indices = self.torch.from_numpy(codes).long()[None].to(self.model.device)
        with self.torch.no_grad():
            return self.model.model.rvq_muencoder_emb.from_codes(indices)[0][0].T.cpu().numpy()
