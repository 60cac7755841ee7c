"""LeVo's two-stream tokenizer, from github.com/tencent-ailab/SongGeneration (codeclm/tokenizer/audio_tokenizer.py,
Flow1dVAE/generate_septoken.py, model_septoken.py, generate.sh) as of b1b03ec93a38.

checkout: the repository with `ckpt` and `third_party` in it; weights: ckpt/model_septoken/model_2.safetensors; options: vae_config,
vae_model (its Oobleck autoencoder), steps (10), seed (0). Academic use only. Without CUDA its autocast warns and does nothing.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

FRAME = 1920  # samples at 48 kHz
TRACKS = ("vocals", "accompaniment")


def files(settings: dict[str, Any]) -> list[str]:
    options = settings["options"]
    for name in ("vae_model", "vae_config"):
        if not options.get(name):
            raise ValueError("options: %s is not given; it decodes with an autoencoder of its own" % name)  # noqa: UP031
    return [settings["weights"], options["vae_model"], options["vae_config"]]


def load(settings: dict[str, Any], tools: Any) -> Any:
    return Levo(settings, tools)


class Levo:
    """Both tracks at once, 40 s windows of its own, repeated where short; codes of both decode to the mix, and to nothing else.
    It gives a frame more than the sound has; that one is left out.
    """

    joint = True

    def __init__(self, settings: dict[str, Any], tools: Any) -> None:
        checkout = settings["checkout"]
        tokenizer = os.path.join(checkout, "codeclm", "tokenizer")
        flow = os.path.join(tokenizer, "Flow1dVAE")
        sys.path[:0] = [tokenizer, checkout, flow]  # as generate.sh has it
        os.chdir(flow)  # configs/... is relative to it
        self.torch = tools.torch()
        options = settings["options"]
        self.steps, self.seed = int(options.get("steps", 10)), int(options.get("seed", 0))
        self.model = importlib.import_module("codeclm.tokenizer.Flow1dVAE.generate_septoken").Tango(
            model_path=settings["weights"], vae_config=options["vae_config"], vae_model=options["vae_model"],
            device=settings["device"],
        )  # fmt: skip
        self.facts = {
            "sample_rate": 48000, "channels": 2, "block": FRAME, "per_block": 1, "sizes": [16384], "window": None,
            "context": 0.0, "joint": True,
        }  # fmt: skip

    def encode(self, sounds: dict[str, Any]) -> dict[str, Any]:
        waves = [self.torch.from_numpy(sounds[track]) for track in TRACKS]
        frames = waves[0].shape[1] // FRAME
        codes_of_tracks = self.model.sound2code(*waves)  # two of [1, 1, frames + 1]
        return {track: codes[0, :, :frames].cpu().numpy() for track, codes in zip(TRACKS, codes_of_tracks)}  # noqa: B905

    def decode(self, codes: dict[str, Any]) -> Any:
        self.torch.manual_seed(self.seed)  # it samples
        indices = [self.torch.from_numpy(codes[track]).long()[None] for track in TRACKS]
        return self.model.code2sound(indices, num_steps=self.steps, disable_progress=True).cpu().numpy()

    def vectors(self, stream: str, codes: Any) -> Any:
        quantizer = self.model.model.rvq_bestrq_emb if stream == TRACKS[0] else self.model.model.rvq_bestrq_bgm_emb
        indices = self.torch.from_numpy(codes).long()[None].to(self.model.device)
        with self.torch.no_grad():
            return quantizer.from_codes(indices)[0][0].T.cpu().numpy()
