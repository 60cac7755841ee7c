"""MOSS-Audio-Tokenizer, from github.com/OpenMOSS/MOSS-Audio-Tokenizer (README, modeling_moss_audio_tokenizer.py, config.json) as
of 56df9eeb88f7, and its Nano, from an indexed copy of its modeling_moss_audio_tokenizer.py and from how MOSS-TTS-Nano 42b46456f414
calls it.

weights: the safetensors file in a folder as on the hub (its Python files are run). options: none; channels is compared with the
configuration where it is given.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

PIECE = 4.0  # seconds; the shortest look-back of Nano's layers, which a piece must not exceed


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


def from_folder(folder: str) -> Any:
    """The model, and what transformers says of its weights."""
    transformers = importlib.import_module("transformers")
    try:
        return transformers.AutoModel.from_pretrained(
            folder, trust_remote_code=True, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except TypeError as error:
        if "non-default argument" not in str(error):
            raise
        # 5.5 makes a dataclass of every configuration, which wants defaults that this one does not have.
        raise ValueError(
            "%s/config.json: transformers %s cannot read it (%s); pip install transformers==5.0.0 in its environment"  # noqa: UP031
            % (folder, transformers.__version__, error)
        ) from None


class Moss:
    """Causal transformers that look back 4 to 10 s in every layer; residual codebooks of which any first ones can be taken.

    Nano is given the whole sound and goes through it in pieces with the memory of every layer, which gives the codes and sound of
    the whole: at once, its attention would have a table of all pairs among 400 steps a second. The 24 kHz code can go in pieces
    too, but a piece overwrites the oldest part of the memory before it is read, so its codes would depend on the piece: it is
    encoded in windows instead.
    """

    def __init__(self, settings: dict[str, Any], tools: Any) -> None:
        self.torch = tools.torch()
        model, report = from_folder(settings["weights"])
        tools.report(type(model).__name__, report["missing_keys"], report["unexpected_keys"])
        self.device = settings["device"]
        self.model = model.eval().to(self.device)
        config = model.config
        # Only the code that knows channels has these. Flash attention's windows are a step longer, so its codes are others.
        in_pieces = hasattr(config, "number_channels")
        if in_pieces:
            self.model.set_attention_implementation("sdpa")
            self.model.set_compute_dtype("fp32")
        channels = int(getattr(config, "number_channels", 1))
        asked = settings["options"].get("channels", channels)
        if int(asked) != channels:
            raise ValueError("options: channels: %s, but config.json has %d; leave it out" % (asked, channels))  # noqa: UP031
        quantizer, rate, hop = config.quantizer_kwargs, int(config.sampling_rate), int(config.downsample_rate)
        there = int(quantizer["num_quantizers"])
        self.codebooks = int(settings["codebooks"] or there)
        if self.codebooks > there:
            raise ValueError("codebooks: %d, but config.json has %d; ask for fewer" % (self.codebooks, there))  # noqa: UP031
        piece = min(PIECE, float(self.model.causal_transformer_context_duration)) if in_pieces else 0.0
        self.how = {"chunk_duration": max(1, int(piece * rate / hop)) * hop / rate} if in_pieces else {}
        self.facts = {
            "sample_rate": rate, "channels": channels, "block": hop, "per_block": 1,
            "sizes": [int(quantizer["codebook_size"])] * self.codebooks,
            "window": None if in_pieces else 30.0, "context": 0.0 if in_pieces else 10.0,
        }  # fmt: skip

    def encode(self, sound: Any) -> Any:
        wave = self.torch.from_numpy(sound)[None].to(self.device)
        with self.torch.no_grad():
            output = self.model.encode(wave, num_quantizers=self.codebooks, return_dict=True, **self.how)
        return output.audio_codes[:, 0].cpu().numpy()  # [codebooks, batch, frames]

    def decode(self, codes: Any) -> Any:
        with self.torch.no_grad():
            return self.model.decode(self.given(codes), return_dict=True, **self.how).audio[0].cpu().numpy()

    def vectors(self, stream: str, codes: Any) -> Any:
        with self.torch.no_grad():
            return self.model.quantizer.decode_codes(self.given(codes))[0].T.cpu().numpy()

    def given(self, codes: Any) -> Any:
        return self.torch.from_numpy(codes).long()[:, None].to(self.device)
