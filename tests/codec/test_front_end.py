"""What tokens must not depend on: the sign of the sound, a constant offset, one channel turned over."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from tests.tiny import song, tiny_bundle

from duotok.audio.features import HIGHPASS_HZ, LogMel
from duotok.audio.highpass import highpass
from duotok.audio.io import resample
from duotok.clock import ANALYSIS_RATE
from duotok.codec.bundle import Bundle
from duotok.codec.duotok import DuoTok
from duotok.codec.spool import AudioSource, Spool, tracks_of
from duotok.seals import seal
from duotok.tokens import DualTokens

OVER = torch.tensor([[1.0], [-1.0]])


def same(one: DualTokens, two: DualTokens) -> float:
    return float((one.stack() == two.stack()).float().mean())


def test_the_sign_of_the_sound_is_not_heard(model: DuoTok) -> None:
    audio = song(5.0)
    assert model.encode(-audio) == model.encode(audio)  # also through the separator
    assert model.encode(vocals=-audio, accompaniment=-audio) == model.encode(vocals=audio, accompaniment=audio)


def test_a_constant_offset_is_not_heard(model: DuoTok) -> None:
    audio = song(5.0)
    assert same(model.encode(audio + 0.01), model.encode(audio)) > 0.99
    stems = model.encode(vocals=audio, accompaniment=0.5 * audio)
    assert same(model.encode(vocals=audio + 0.01, accompaniment=0.5 * audio - 0.02), stems) > 0.99


def test_one_channel_turned_over(model: DuoTok, caplog: pytest.LogCaptureFixture) -> None:
    audio = song(5.0)
    plain = model.encode(audio)
    with caplog.at_level(logging.WARNING):
        turned = model.encode(audio * OVER)
    assert turned == plain
    assert "turned over" in caplog.text and "-0.9" in caplog.text


def test_the_encoder_hears_what_training_heard(model: DuoTok) -> None:
    """The stereo of a song in front of everything, the mono of a segment in front of its features: one definition."""
    audio = song(4.0) + 0.02
    front, mono = LogMel(), audio.mean(0, keepdim=True)
    trained = front(resample(highpass(mono, HIGHPASS_HZ, 48_000), 48_000, ANALYSIS_RATE))
    with Spool() as spool:
        sound = AudioSource(audio, highpass_hz=model.config.codec.highpass_hz)
        spool.fill(tracks_of(None, sound, sound, None))
        encoded = front(spool.window("vocals", 0, 100, front.margin), margins=True)
    assert (trained - encoded).abs().max() < 0.01
    assert (trained - front(resample(mono, 48_000, ANALYSIS_RATE))).abs().max() > 0.5


def test_a_bundle_says_its_high_pass_and_an_old_one_has_none(tmp_path: Path) -> None:
    new = tiny_bundle(tmp_path)
    assert json.loads((new / "config.json").read_text())["codec"]["highpass_hz"] == HIGHPASS_HZ == 10.0
    old = Path(shutil.copytree(new, tmp_path / "old"))
    values = json.loads((old / "config.json").read_text())
    del values["codec"]["highpass_hz"]
    (old / "config.json").write_text(json.dumps(seal(values)))
    assert Bundle(old).config.codec.highpass_hz == 0.0
    one, two = DuoTok.from_pretrained(old), DuoTok.from_pretrained(new)
    assert one.model_hash != two.model_hash
    one.save_pretrained(tmp_path / "again")  # says 0 now, and means the same
    assert DuoTok.from_pretrained(tmp_path / "again").model_hash == one.model_hash
    offset = song(2.0) + 0.05
    assert same(one.encode(vocals=offset, accompaniment=offset), two.encode(vocals=offset, accompaniment=offset)) < 1
