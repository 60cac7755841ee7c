"""The language model that comes with the package: small enough, of the bundled model's tokens, and able to make sound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from duotok.cli.main import app
from duotok.codec.duotok import DuoTok
from duotok.codec.hub import PACKAGED
from duotok.lm.saved import open_lm
from duotok.lm.streams import codec_identity
from duotok.tokens import load
from duotok.tracks import TRACKS

pytest.importorskip("transformers")


def test_it_fits_and_speaks_the_bundle_s_tokens() -> None:
    lm, bundle = open_lm("mini"), PACKAGED / "mini"
    assert lm.protocol.codec.hash == codec_identity(DuoTok.from_pretrained("mini")).hash
    assert sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file()) < 60e6
    card = (bundle / "lm" / "README.md").read_text()
    assert "CC BY-SA" in card and "NC" not in card, "nothing non-commercial shaped it"


def test_music_from_nothing(tmp_path: Path) -> None:
    out = tmp_path / "new.wav"
    made = CliRunner().invoke(app, ["generate", "-o", str(out), "--seconds", "2", "--seed", "6"])
    assert made.exit_code == 0, made.output
    tokens = load(tmp_path / "new.duotok")
    assert tokens.n_frames == 50 and out.stat().st_size > 96_000 * 2
    assert all(len(np.unique(tokens.track(track).numpy())) > 5 for track in TRACKS)
    again = CliRunner().invoke(app, ["generate", "-o", str(tmp_path / "again.duotok"), "--seconds", "2", "--seed", "6"])
    assert again.exit_code == 0
    for track in TRACKS:
        assert np.array_equal(load(tmp_path / "again.duotok").track(track), tokens.track(track))
