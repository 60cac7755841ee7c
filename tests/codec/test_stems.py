"""Stems that do not belong: measured, said with figures, used or refused by the rule of `tracks_of`."""

from __future__ import annotations

import logging

import pytest
import torch
from tests.tiny import song

from duotok.audio.alignment import Alignment
from duotok.codec.duotok import DuoTok
from duotok.errors import AudioError

RATE = 48_000
GENERATOR = torch.Generator().manual_seed(0)
BAND = 0.1 * torch.randn(2, 6 * RATE, generator=GENERATOR).cumsum(1).sub_(0).tanh()
VOICE = 0.1 * torch.randn(2, 6 * RATE, generator=GENERATOR)
VOICE[:, : 2 * RATE] = 0


def late(sound: torch.Tensor, samples: int) -> torch.Tensor:
    return torch.nn.functional.pad(sound, (samples, 0))[:, : sound.shape[1]]


@pytest.mark.parametrize("lag", [-4800, -480, 0, 1, 480, 20_000])
@pytest.mark.parametrize("gain", [0.5, 1.0, -1.0])
def test_lag_level_and_sign_are_measured(lag: int, gain: float) -> None:
    meter = Alignment(RATE)
    whole, part = BAND + gain * VOICE, late(VOICE, lag) if lag >= 0 else VOICE.roll(lag, 1)
    for at in range(0, whole.shape[1], 2 * RATE):
        meter.push(whole[:, at : at + 2 * RATE], part[:, at : at + 2 * RATE])
    fit = meter.fit()
    assert fit is not None and round(fit.lag * RATE) == lag and fit.inverted == (gain < 0)
    assert fit.gain_db == pytest.approx(20 * torch.tensor(abs(gain)).log10().item(), abs=0.5 if lag < 20_000 else 1.5)


def test_what_a_separator_made_softer_has_its_level_where_it_is_strongest() -> None:
    """`duotok encode` refused the vocals of `duotok separate`: over all they are 3 to 7 dB softer than the voice in their song."""
    time, window = torch.arange(4 * RATE) / RATE, torch.hann_window(2048)
    voice = sum(0.1 / k * torch.sin(2 * torch.pi * 220 * k * time) for k in range(1, 9)) * (1 + torch.sin(20 * time))
    band = 0.2 * torch.randn(4 * RATE, generator=torch.Generator().manual_seed(1))
    one, two = (torch.stft(sound, 2048, window=window, return_complex=True) for sound in (voice, band))
    soft = torch.istft((one + two) * one.abs() / (one.abs() + two.abs()), 2048, window=window, length=4 * RATE)
    fits = []
    for part in (soft, voice, 0.5 * voice, 2 * voice):
        meter = Alignment(RATE)
        meter.push((voice + band)[None], part[None])
        fits.append(meter.fit())
    assert [fit.gain_db for fit in fits if fit] == pytest.approx([0.6, 0, 6, -6], abs=0.3)


def test_silence_tells_nothing() -> None:
    meter = Alignment(RATE)
    meter.push(BAND, 0 * BAND)
    assert meter.fit() is None


@pytest.mark.parametrize(
    ("mix", "vocals", "words"),
    [
        (0.5 * (BAND + VOICE), VOICE, r"6\.0 dB too loud"),
        (BAND + VOICE, late(VOICE, 480), r"10\.0 ms late"),
        (BAND + VOICE, late(VOICE, 480).roll(-960, 1), r"10\.0 ms early"),
        (BAND + VOICE, -VOICE, "turned over"),
        (BAND + VOICE, 0.1 * torch.randn(2, 6 * RATE, generator=torch.Generator().manual_seed(9)), "not heard in it"),
    ],
)
def test_a_stem_that_does_not_belong_is_refused(
    model: DuoTok, mix: torch.Tensor, vocals: torch.Tensor, words: str
) -> None:
    with pytest.raises(AudioError, match=words) as told:
        model.encode(mix, vocals=vocals)
    assert "residual" in str(told.value) and "both stems without the song" in str(told.value)


def test_stems_that_belong_nearly_are_used(model: DuoTok, caplog: pytest.LogCaptureFixture) -> None:
    for mix, vocals in (
        (BAND + VOICE, VOICE),
        (BAND + 0.9 * VOICE, VOICE),
        (BAND + VOICE, late(VOICE, 20)),
        (BAND, 0 * BAND),
    ):
        assert model.encode(mix, vocals=vocals).n_frames == 150
    assert not caplog.records


def test_a_small_difference_is_said(model: DuoTok, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert model.encode(BAND + 0.75 * VOICE, vocals=VOICE).n_frames == 150
    assert "-2.5 dB" in caplog.text and "used as it is" in caplog.text


def test_both_stems_are_used_and_the_mix_is_judged(model: DuoTok, caplog: pytest.LogCaptureFixture) -> None:
    alone = model.encode(vocals=VOICE, accompaniment=BAND)
    with caplog.at_level(logging.WARNING):
        assert (model.encode(BAND + VOICE, vocals=VOICE, accompaniment=BAND).stack() == alone.stack()).all()
        assert not caplog.records
        other = model.encode(0.5 * song(6.0), vocals=VOICE, accompaniment=BAND)
    assert (other.stack() == alone.stack()).all()
    assert "is not the sum of the two stems" in caplog.text and "residual" in caplog.text
