"""SemantiCodec, from github.com/haoheliu/SemantiCodec-inference (semanticodec/main.py, config.py, modules/encoder/encoder.py) as of 7c05d426d297.

weights: the folder as on the hub, with semanticodec_tokenrate_RATE (encoder.ckpt, decoder.ckpt) and codebook_idx in it, or one with
encoder.ckpt, decoder.ckpt and codebook_idx, as its checkpoint_path wants; options: token_rate (25, 50, 100), semantic_vocab_size
(4096 to 32768), steps (50), guidance (2.0), seed (0).
"""

from __future__ import annotations

import importlib
import os
from typing import Any

RATE = 16000
PATCH = 2560  # samples of 0.16 s: one column of AudioMAE's patches
COLUMN = 8  # patches in it, from low to high
SEGMENT = 163840  # samples of 10.24 s: what AudioMAE sees
FRAMES = 1024  # mel frames of it
# The folder of k-means codebooks of each token rate, and the vocabularies that there are.
CODEBOOKS = {
    25: "combine_128_audioset_dominate",
    50: "combine_256_audioset_dominate",
    100: "combine_512_audioset_dominate",
}
VOCABULARIES = (4096, 8192, 16384, 32768)


def chosen(settings: dict[str, Any]) -> tuple[int, int]:
    options = settings["options"]
    rate, size = int(options.get("token_rate", 100)), int(options.get("semantic_vocab_size", 16384))
    if rate not in CODEBOOKS:
        raise ValueError("options: token_rate %d; there are %s" % (rate, ", ".join(map(str, CODEBOOKS))))  # noqa: UP031
    if size not in VOCABULARIES:
        raise ValueError(
            "options: semantic_vocab_size %d; there are %s" % (size, ", ".join(map(str, VOCABULARIES)))  # noqa: UP031
        )
    return rate, size


def flat(settings: dict[str, Any]) -> bool:
    """Whether all lies in one folder, which on the hub it does not."""
    return os.path.isfile(os.path.join(settings["weights"], "encoder.ckpt"))


def files(settings: dict[str, Any]) -> list[str]:
    folder = settings["weights"]
    rate, size = chosen(settings)
    codebook = "codebook_%d_0.npy" % (size // 2)  # noqa: UP031
    models = folder if flat(settings) else os.path.join(folder, "semanticodec_tokenrate_%d" % rate)  # noqa: UP031
    return [
        os.path.join(models, "encoder.ckpt"),
        os.path.join(models, "decoder.ckpt"),
        os.path.join(folder, "codebook_idx", CODEBOOKS[rate], codebook),
    ]


def load(settings: dict[str, Any], tools: Any) -> Any:
    return SemantiCodec(settings, tools)


class SemantiCodec:
    """Two codes a frame, semantic and acoustic; the patches of a column of 0.16 s follow each other, so 8, 4 or 2 frames are one
    moment. It reads files only and takes their first channel: here its own steps are made with the sound itself.
    """

    def __init__(self, settings: dict[str, Any], tools: Any) -> None:
        if settings["device"] == "cpu":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # it takes a GPU whenever it sees one
        if not flat(settings):
            os.chdir(settings["weights"])  # without a checkpoint_path, its paths are those of the hub and relative
        self.torch = tools.torch()
        package = importlib.import_module("semanticodec.main")
        self.fbank = importlib.import_module("semanticodec.utils").extract_kaldi_fbank_feature
        rate, size = chosen(settings)
        options = settings["options"]
        self.model = package.SemantiCodec(
            token_rate=rate, semantic_vocab_size=size, ddim_sample_step=int(options.get("steps", 50)),
            cfg_scale=float(options.get("guidance", 2.0)), checkpoint_path=settings["weights"] if flat(settings) else None,
        ).eval()  # fmt: skip
        self.seed = int(options.get("seed", 0))
        self.per_block = COLUMN * rate // 100
        encoder = self.model.encoder
        self.facts = {
            "sample_rate": RATE, "channels": 1, "block": PATCH, "per_block": self.per_block,
            "sizes": [int(encoder.centroid_npy.shape[0]), int(encoder.codebook_size)], "window": None, "context": 0.0,
        }  # fmt: skip

    def encode(self, sound: Any) -> Any:
        wave, torch = self.torch.from_numpy(sound), self.torch
        frames = wave.shape[1] // PATCH * self.per_block
        segments = wave.shape[1] // SEGMENT + 1  # it adds silence also to what is full
        wave = torch.nn.functional.pad(wave, (0, segments * SEGMENT - wave.shape[1]))
        mel = self.fbank(wave, RATE, target_length=FRAMES * segments)["ta_kaldi_fbank"].unsqueeze(0).squeeze(1)
        with torch.no_grad():
            tokens = self.model.encoder(mel.to(self.model.device))  # [1, frames, 2]
        return tokens[0, :frames].T.cpu().numpy()

    def decode(self, codes: Any) -> Any:
        self.torch.manual_seed(self.seed)  # it samples
        with self.torch.no_grad():
            sound = self.model.decode(self.tokens(codes))  # [1, 1, samples]
        return sound[0].cpu().numpy() if hasattr(sound, "cpu") else sound[0]

    def vectors(self, stream: str, codes: Any) -> Any:
        with self.torch.no_grad():
            return self.model.encoder.token_to_quantized_feature(self.tokens(codes))[0].cpu().numpy()

    def tokens(self, codes: Any) -> Any:
        return self.torch.from_numpy(codes).long().T[None].to(self.model.device)
