"""The bundle that comes with the package: whole, small, and it speaks."""

import json

import torch

from duotok import DuoTok
from duotok.audio import io
from duotok.clock import SAMPLE_RATE, n_frames
from duotok.codec.bundle import Bundle, facts
from duotok.codec.hub import PACKAGED
from duotok.demo.report import demo_song
from duotok.evaluation.fidelity import mel_distance
from duotok.files import sha256
from duotok.lm.saved import open_lm
from duotok.tracks import TRACKS

BUNDLE = PACKAGED / "mini"
SECONDS = 4.0


def test_the_bundle_is_small_and_its_card_names_data_and_licences() -> None:
    assert sum(path.stat().st_size for path in BUNDLE.rglob("*")) <= 60_000_000
    card = (BUNDLE / "README.md").read_text(encoding="utf-8")
    for part in ("## Made by", "## Measured", "## Data", "Attribution:", "CC BY", "Never trained on"):
        assert part in card
    assert "NC" not in card.split("## Data")[1], "nothing non-commercial may shape the bundle"


def test_the_bundle_is_as_it_was_sealed() -> None:
    """After a change of any file in it: duotok bundle --seal src/duotok/bundles/mini."""
    facts(Bundle(BUNDLE))
    open_lm("mini")
    for folder in (BUNDLE, BUNDLE / "lm"):
        sealed = json.loads((folder / "config.json").read_text())["sha256"]
        assert sealed.keys() == {path.name for path in folder.iterdir() if path.is_file()} - {"config.json"}
        assert all(sha256(folder / name) == value for name, value in sealed.items())


def test_tokens_of_the_demo_song_decode_to_something_like_it() -> None:
    model = DuoTok.from_pretrained("mini")
    song = demo_song()
    assert song.truth is not None
    stems = {
        name: io.read(path, SAMPLE_RATE, start=8.0, seconds=SECONDS)
        for name, path in zip(TRACKS, song.truth, strict=True)
    }
    tokens = model.encode(**stems)
    assert len(tokens.vocals) == len(tokens.accompaniment) == n_frames(int(SECONDS * SAMPLE_RATE))
    for name, stem in stems.items():
        decoded = model.decode(tokens, name)
        assert decoded.shape[-1] == stem.shape[-1] and bool(torch.isfinite(decoded).all())
        distance = mel_distance(decoded, stem, SAMPLE_RATE)
        assert distance < 2.0, (name, distance)
        assert distance < 0.5 * mel_distance(torch.zeros_like(stem), stem, SAMPLE_RATE)
