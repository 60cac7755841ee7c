"""A tokenizer that needs numpy only, as an adapter of our runner: 8 samples a frame, two codebooks; `do` says what goes wrong."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import numpy as np

HOP, SIZE = 8, 256


def files(settings: dict[str, Any]) -> list[str]:
    return [settings["weights"]] if settings["weights"] else []


def load(settings: dict[str, Any], tools: Any) -> Any:
    with open(settings["weights"] + ".loads", "a") as file:
        file.write("load\n")
    do = settings["options"].get("do", "")
    if do == "needs":
        raise ModuleNotFoundError("No module named 'encodec'")
    if do == "slow":
        time.sleep(60)
    if do != "random":
        tools.report("Model", ["decoder.bias"] if do == "partly" else [])
    print("a library that talks", flush=True)
    return StandIn(do, settings)


class StandIn:
    version = "1.2"

    def __init__(self, do: str, settings: dict[str, Any]) -> None:
        self.do = do
        self.joint = bool(settings["options"].get("joint"))
        self.facts = {
            "sample_rate": 8000, "channels": 1, "block": HOP, "per_block": 1, "sizes": [SIZE, SIZE],
            "window": 0.1, "context": 0.02, "joint": self.joint,
        }  # fmt: skip
        self.facts.update(
            {"rate": {"sample_rate": 44100}, "frames": {"block": 16}, "words": {"block": "many"}}.get(do, {})
        )
        if do == "decodes":
            self.facts["encodes"] = False

    def encode(self, sound: Any) -> Any:
        if self.joint:
            return {stream: self.codes(one) for stream, one in sound.items()}
        return self.codes(sound)

    def codes(self, sound: Any) -> Any:
        if self.do == "die":
            print("first", file=sys.stderr)
            print("Segmentation fault", file=sys.stderr, flush=True)
            os._exit(9)
        if self.do == "hang":
            print("still thinking", file=sys.stderr, flush=True)
            time.sleep(60)
        if self.do == "fail":
            raise RuntimeError("CUDA out of memory")
        frames = sound[:, : sound.shape[1] // HOP * HOP].reshape(-1, HOP)
        coarse = np.clip(np.round(frames.mean(1) * 127 + 128), 0, 255)
        fine = np.clip(np.round((frames[:, 0] - frames[:, -1]) * 60 + 128), 0, 255)
        codes = np.stack([coarse, fine])
        if self.do == "short":
            codes = codes[:, :-1]
        if self.do == "beyond":
            codes = codes + SIZE
        return codes

    def decode(self, codes: Any) -> Any:
        if self.joint:
            return sum(self.sound(one) for one in codes.values())
        return self.sound(codes)

    def sound(self, codes: Any) -> Any:
        if self.do == "nan":
            return np.full((1, codes.shape[1] * HOP), np.nan)
        return np.repeat((codes[0] - 128) / 127, HOP)[None]

    def vectors(self, stream: str, codes: Any) -> Any:
        return np.stack([codes[0], 2.0 * codes[1], codes[0] * 0], 1)
