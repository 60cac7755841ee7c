"""The bundled model hears the bundled song as it did: a change of structure must leave its tokens as they are.

python -m tests.codec.test_golden_tokens        make golden_tokens.json anew, after a change of the bundle
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from duotok.audio.io import read
from duotok.clock import SAMPLE_RATE
from duotok.codec.duotok import DuoTok
from duotok.demo.report import demo_song
from duotok.tracks import TRACKS

GOLDEN = Path(__file__).with_name("golden_tokens.json")
SECONDS = 12
EQUAL = 0.999
"""Another processor may flip a code that was near a tie."""


def heard() -> dict[str, Any]:
    """Tokens of the first seconds of the bundled song, separated by the bundled model."""
    model = DuoTok.from_pretrained("mini")
    mix = demo_song().mix
    assert mix is not None
    tokens = model.encode(read(mix, SAMPLE_RATE, 2)[:, : SECONDS * SAMPLE_RATE])
    return {"hash": model.model_hash, "tokens": {track: tokens.track(track).tolist() for track in TRACKS}}


def test_the_tokens_of_the_bundled_song_are_those_of_before() -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    found = heard()
    assert found["hash"] == golden["hash"], "another bundle: make golden_tokens.json anew"
    for track in TRACKS:
        before, now = torch.tensor(golden["tokens"][track]), torch.tensor(found["tokens"][track])
        assert before.shape == now.shape == (25 * SECONDS,)
        assert float((before == now).double().mean()) >= EQUAL, track
        assert len(before.unique()) > 50, f"{track}: too few codes to tell anything"


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(heard()) + "\n", encoding="utf-8")
