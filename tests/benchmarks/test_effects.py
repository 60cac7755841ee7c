"""Tokens of small tokenizers from stored features, and Table 9 beside Table 10."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import effects
from duotok.clock import MEL_PER_FRAME
from duotok.lm.pack import SongStretch
from duotok.model.config import TokenizerConfig
from duotok.model.tokenizer import Tokenizer
from duotok.seals import seal
from duotok.tracks import TRACKS

FRAMES, WINDOW = (7, 12), 5


class Store:
    """Two segments of one stretch, whose mel is random."""

    def __init__(self, bins: int) -> None:
        random = np.random.default_rng(0)
        self.mels = [random.standard_normal((frames, MEL_PER_FRAME * bins)).astype(np.float16) for frames in FRAMES]

    def rows(self, index: int, track: str, name: str) -> np.ndarray:
        assert name == "mel"
        return self.mels[index] if track == "vocals" else -self.mels[index]


@pytest.mark.parametrize("split", ["train", "test"])
def test_codes_are_those_of_the_tokenizer_in_plain_windows(split: Any) -> None:
    torch.manual_seed(0)
    tokenizer = Tokenizer(TokenizerConfig.preset("tiny")).eval()
    store = Store(tokenizer.config.n_mels)
    encoder = effects.Encoder(tokenizer, store, WINDOW)  # type: ignore[arg-type]
    stretch = SongStretch("songs/a", 0, "songs/a", split, TRACKS, (0, 1), sum(FRAMES), "")
    for track in TRACKS:
        mel = np.concatenate([store.rows(i, track, "mel") for i in (0, 1)]).astype(np.float32)
        whole = torch.from_numpy(mel).reshape(1, -1, tokenizer.config.n_mels)
        expected = [tokenizer.encode(piece, track)[0] for piece in whole.split(WINDOW * MEL_PER_FRAME, dim=1)]
        codes = encoder(stretch, track)
        np.testing.assert_array_equal(codes[0], torch.cat(expected).numpy())
        assert encoder.used[track].sum() == sum(FRAMES)
        if split != "test":
            assert not encoder.errors[track]
            continue
        guesses = [
            tokenizer.stage3(tokenizer.lower(piece), torch.tensor([TRACKS.index(track)]))[0]["mel"]
            for piece in whole.split(WINDOW * MEL_PER_FRAME, dim=1)
        ]
        error = (torch.cat(guesses, dim=1) - whole).abs().mean().item()
        assert encoder.errors[track]["songs/a"] == pytest.approx(error, rel=1e-4)


def test_table(tmp_path: Path) -> None:
    names = {
        "full": ["full-0.parquet", "full-1.parquet"],
        "arm": ["arm-0.parquet", "arm-1.parquet"],
        "jittered": "j.parquet",
    }
    for name, files in names.items():
        for number, file in enumerate(files if isinstance(files, list) else []):
            level = {"full": 0.3, "arm": 0.5}[name] + number / 10
            songs = {f"song {n}": level for n in range(8)}
            summary = seal({"mel error": {"vocals": songs, "accompaniment": songs}})
            (tmp_path / file).with_suffix(".json").write_text(json.dumps(summary))
    figure = {"average.cnbpt": [0.5, 0.4, 0.6], "accompaniment.cnbpt": [0.25, 0.2, 0.3]}
    protocols = ("parallel", "vocals-beside-accompaniment")
    study = {
        "reference": "full", "codecs": dict.fromkeys(names), "config": {"tokenizers": names},
        "values": {p: dict.fromkeys(names, figure) for p in protocols},
        "differences": {p: {n: figure for n in names if n != "full"} for p in protocols},
        "corruption": {protocols[1]: {n: {"mismatch": [3.0, 2.0, None]} for n in names}},
    }  # fmt: skip
    (tmp_path / "table.json").write_text(json.dumps(seal(study)))
    head, _, full, arm, jittered = [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in effects.table(tmp_path, tmp_path).splitlines()
    ]
    assert head[1:4] == ["mel error, vocals", "mel error, accompaniment", "cnBPT average, parallel"]
    assert full[1].startswith("0.350 [") and arm[1].startswith("0.550 [") and jittered[1] == "-"
    low, high = (float(end) for end in full[1].split("[")[1].rstrip("]").split(","))
    assert low < 0.31 and high > 0.39, "the interval is over trainings too"
    assert full[4] == "-" and arm[4] == "+0.500 [+0.400, +0.600]"
    assert arm[5] == "0.250 [0.200, 0.300]" and arm[7] == "+3.0 [+2.0, +nan]"
