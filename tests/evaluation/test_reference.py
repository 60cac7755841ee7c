"""Our measures against the published packages, by a table that `python -m benchmarks.reference_values` made with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.reference_values import PESQ_RATE, RATES, TIMES, sounds

from duotok.errors import MetricError
from duotok.evaluation.fidelity import mel_distance, stoi
from duotok.evaluation.music import f0_agreement
from duotok.evaluation.onsets import matched, onset_f1, onsets
from duotok.evaluation.perceptual import pesq, visqol
from duotok.evaluation.spectra import stft_distance
from duotok.separation.measures import SiSdr

TABLE: dict[str, Any] = json.loads((Path(__file__).parent / "reference_values.json").read_text())
NAMES = tuple(TABLE["pairs"]["24000"])


def pair(name: str, rate: int) -> tuple[torch.Tensor, torch.Tensor]:
    return sounds(rate)[name], sounds(rate)["clean"]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("name", NAMES)
def test_mel_at_the_codecs_rate(name: str, rate: int) -> None:
    """The public evaluation code's own arithmetic, by torchaudio: within 1e-3 of values around 3."""
    found = mel_distance(*pair(name, rate), rate, lufs=None, at=rate)
    assert found == pytest.approx(TABLE["pairs"][str(rate)][name]["mel"], abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_spectra_at_several_resolutions(name: str) -> None:
    found = stft_distance(*pair(name, 24_000), 24_000, lufs=None)
    assert found == pytest.approx(TABLE["pairs"]["24000"][name]["stft"], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", ["noisy", "hissing", "crushed", "late"])
def test_si_sdr(name: str) -> None:
    meter = SiSdr()
    meter.add(*(sound[None] for sound in pair(name, 24_000)))
    assert meter.decibels() == pytest.approx(TABLE["pairs"]["24000"][name]["si_sdr"], abs=1e-3)


@pytest.mark.parametrize("name", ["clean", "hissing", "late"])
def test_stoi(name: str) -> None:
    pytest.importorskip("pystoi")
    assert stoi(*pair(name, 24_000), 24_000) == pytest.approx(TABLE["pairs"]["24000"][name]["stoi"], abs=1e-4)


def test_pesq() -> None:
    pytest.importorskip("pesq")
    for name in ("louder", "late", "noisy"):
        expected = TABLE["pairs"][str(PESQ_RATE)][name]["pesq"]
        assert pesq(*pair(name, PESQ_RATE), PESQ_RATE) == pytest.approx(expected, abs=1e-4), name
    silent = torch.zeros(PESQ_RATE)
    with pytest.raises(MetricError, match="PESQ has no answer for silence"):
        pesq(sounds(PESQ_RATE)["clean"], silent, PESQ_RATE)
    with pytest.raises(MetricError, match=r"PESQ has no answer for 0\.10 s"):
        pesq(*(sound[:1600] for sound in pair("late", PESQ_RATE)), PESQ_RATE)


def test_visqol_refuses_what_it_cannot_answer() -> None:
    with pytest.raises(MetricError, match="ViSQOL has no answer for silence"):
        visqol(sounds(24_000)["clean"], torch.zeros(48_000), 24_000)
    with pytest.raises(MetricError, match=r"ViSQOL has no answer for 0\.50 s"):
        visqol(*(sound[:12_000] for sound in pair("late", 24_000)), 24_000)


def test_visqol_gets_the_original_first_at_48_khz(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its values are the package's own (a call takes seconds); what it is given is ours."""

    class Api:
        def measure_from_arrays(self, reference: Any, degraded: Any, rate: int) -> Any:
            assert rate == 48_000 and reference.dtype == degraded.dtype == "float64" and len(reference) == len(degraded)
            return type("Similarity", (), {"moslqo": abs(degraded).max() / abs(reference).max()})

    monkeypatch.setattr("duotok.evaluation.perceptual._visqol", Api)
    assert visqol(*pair("louder", 24_000), 24_000) == pytest.approx(1.5, rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_pitch(name: str) -> None:
    assert f0_agreement(*pair(name, 24_000), 24_000) == pytest.approx(TABLE["f0"][name], abs=1e-6)


@pytest.mark.parametrize("name", TIMES)
def test_onsets_are_matched_as_mir_eval_does(name: str) -> None:
    reference, estimate = TIMES[name]
    found = 2 * matched(reference, estimate) / (len(reference) + len(estimate))
    assert found == pytest.approx(TABLE["onset_f1"][name])


def test_onsets_are_found_where_notes_begin() -> None:
    """Notes of a third of a second, with a rest: every one is found within 30 ms, and nothing else."""
    rate = 24_000
    truth = [k / 3 for k in range(6)]
    sounding = [time for time in truth if torch.sin(torch.tensor(2 * torch.pi * 0.4 * (time + 0.02))) > -0.8]
    found = onsets(sounds(rate)["clean"], rate)
    assert matched(sounding[1:], found, within=0.03) == len(sounding) - 1  # the first is the beginning of the sound
    assert len(found) <= len(sounding) + 2  # the rest begins and ends with a click
    assert onset_f1(*pair("clean", rate), rate) == onset_f1(*pair("louder", rate), rate) == 1.0
    shifted = torch.roll(sounds(rate)["clean"], rate // 6)
    assert (onset_f1(shifted, sounds(rate)["clean"], rate) or 0) < 0.3
    assert onset_f1(sounds(rate)["clean"], torch.zeros(rate), rate) is None
