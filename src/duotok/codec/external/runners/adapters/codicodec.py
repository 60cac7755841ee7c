"""CoDiCodec, from github.com/SonyCSLParis/codicodec (README, codicodec/inference.py, hparams.py, models.py) as of 8e19014e2ce6; pip codicodec 0.1.2.

weights: codicodec.pt; options: rate (44100 or 48000), seed (0), steps (what the package has).
"""

from __future__ import annotations

import importlib
from typing import Any


def files(settings: dict[str, Any]) -> list[str]:
    return [settings["weights"]]


def load(settings: dict[str, Any], tools: Any) -> Any:
    return CoDiCodec(settings, tools)


class CoDiCodec:
    """Finite scalar quantization of 4 dimensions with 11 levels: 14,641 codes in one codebook, no learned table. A chunk of 32,768
    samples has 128 of them, summaries of the whole chunk without an order in time.
    """

    def __init__(self, settings: dict[str, Any], tools: Any) -> None:
        self.torch = tools.torch()
        package: Any = importlib.import_module("codicodec.inference")
        package.download_model = lambda: None  # it would fetch its own weights, whatever file it is given
        options = settings["options"]
        rate = int(options.get("rate", 44100))
        if rate not in (44100, 48000):
            raise ValueError("rate %d: CoDiCodec knows 44100 and 48000" % rate)  # noqa: UP031
        self.model = package.EncoderDecoder(
            load_path_inference=settings["weights"], device=self.torch.device(settings["device"])
        )
        self.seed, self.steps = int(options.get("seed", 0)), options.get("steps")
        params = importlib.import_module("codicodec.hparams")
        self.block, self.per_block = params.spec_length * params.hop, params.num_latents
        self.facts = {
            "sample_rate": rate, "channels": 2, "block": self.block, "per_block": self.per_block,
            "sizes": [int(self.model.gen.fsq.codebook_size)], "window": 40 * self.block / rate, "context": 2 * self.block / rate,
        }  # fmt: skip

    def encode(self, sound: Any) -> Any:
        indices = self.model.encode(self.torch.from_numpy(sound), discrete=True)  # [chunks, 128]
        return indices.reshape(1, -1)[:, : sound.shape[1] // self.block * self.per_block].cpu().numpy()

    def decode(self, codes: Any) -> Any:
        self.torch.manual_seed(self.seed)  # it samples
        sound = self.model.decode(self.given(codes), denoising_steps=None if self.steps is None else int(self.steps))
        return sound.reshape(2, -1).cpu().numpy()

    def vectors(self, stream: str, codes: Any) -> Any:
        return self.model.gen.fsq.indexes_to_codes(self.given(codes)).reshape(codes.shape[1], -1).float().cpu().numpy()

    def given(self, codes: Any) -> Any:
        whole = self.torch.nn.functional.pad(
            self.torch.from_numpy(codes[0]).long(), (0, -codes.shape[1] % self.per_block)
        )
        return whole.reshape(-1, self.per_block).to(self.model.device)
