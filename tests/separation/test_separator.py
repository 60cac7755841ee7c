"""Chunked separation: exact sums and lengths for any remainder, streams equal to wholes, given stems."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from duotok.errors import AudioError, ConfigError
from duotok.separation.bs_roformer import BSRoFormer, BSRoFormerConfig
from duotok.separation.measures import SiSdr, floored_si_sdr
from duotok.separation.separator import GivenStems, MiniSeparator, Separator

CHUNK, OVERLAP, HOP = 960, 288, 96
ALL = ("vocals", "accompaniment", "drums", "bass", "other")


def model() -> BSRoFormer:
    torch.manual_seed(0)
    config = BSRoFormerConfig(
        n_fft=288,
        hop=HOP,
        bands=(6, 19, 120),
        groups=(1, 2, 16),
        dim=8,
        depth=1,
        heads=2,
        head_dim=4,
        feedforward=8,
        mask_hidden=4,
    )
    net = BSRoFormer(config)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return net


def separator(stems: tuple[str, ...] = ALL) -> MiniSeparator:
    result = MiniSeparator(model(), stems, chunk_seconds=CHUNK / 48_000, overlap_seconds=OVERLAP / 48_000)
    assert (result.chunk, result.overlap) == (CHUNK, OVERLAP)
    return result


LENGTHS = [1, HOP - 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - OVERLAP, 2 * CHUNK - OVERLAP + 1, 5 * CHUNK + 17]


@pytest.mark.parametrize("samples", LENGTHS)
def test_lengths_and_sums(samples: int) -> None:
    audio = torch.randn(2, samples)
    stems = separator().separate(audio)
    assert tuple(stems) == ALL
    assert all(stem.shape == (2, samples) for stem in stems.values())
    torch.testing.assert_close(stems["vocals"] + stems["accompaniment"], audio, atol=1e-6, rtol=0)
    four = stems["vocals"] + stems["drums"] + stems["bass"] + stems["other"]
    torch.testing.assert_close(four, audio, atol=1e-4, rtol=0)


@pytest.mark.parametrize("samples", LENGTHS)
def test_a_model_that_passes_everything_gives_the_mix_back(samples: int) -> None:
    net = model()
    net.masks = lambda spectra: spectra.new_ones(1, 4, *spectra.shape[1:])  # type: ignore[method-assign]
    audio = torch.randn(2, samples)
    chunked = MiniSeparator(net, ("vocals",), CHUNK / 48_000, OVERLAP / 48_000)
    torch.testing.assert_close(chunked.separate(audio)["vocals"], audio, atol=1e-4, rtol=0)


def test_chunking_is_deterministic_and_causal_in_chunks() -> None:
    """Two runs agree bit for bit, and what follows a chunk does not change what was settled before it."""
    audio = torch.randn(2, 4 * CHUNK)
    first, second = separator().separate(audio), separator().separate(audio)
    longer = separator().separate(torch.cat((audio, torch.randn(2, CHUNK)), dim=-1))
    settled = 3 * (CHUNK - OVERLAP)
    for stem in ALL:
        assert torch.equal(first[stem], second[stem])
        assert torch.equal(first[stem][:, :settled], longer[stem][:, :settled])


@pytest.mark.parametrize("block", [1, 100, CHUNK, 2500, 10_000])
def test_streaming_equals_separating(block: int) -> None:
    audio = torch.randn(2, 3 * CHUNK + 41 if block > 1 else CHUNK + 5)
    sep = separator()
    whole = sep.separate(audio)
    pieces = list(sep.stream(iter(audio.split(block, dim=-1))))
    for stem in ALL:
        assert torch.equal(torch.cat([piece[stem] for piece in pieces], dim=-1), whole[stem])


def test_streaming_holds_one_chunk() -> None:
    taken = 0

    def blocks() -> object:
        nonlocal taken
        for _ in range(50):
            taken += 1
            yield torch.randn(2, 200)

    stream = separator().stream(blocks())  # type: ignore[arg-type]
    piece = next(iter(stream))
    assert piece["vocals"].shape[-1] == CHUNK - OVERLAP
    assert taken == CHUNK // 200 + 1


def test_silence_and_nothing() -> None:
    sep = separator()
    assert all(stem.abs().max() == 0.0 for stem in sep.separate(torch.zeros(2, 2 * CHUNK)).values())
    assert all(stem.shape == (2, 0) for stem in sep.separate(torch.zeros(2, 0)).values())


def test_mono_is_copied_to_both_channels() -> None:
    mono = torch.randn(1, CHUNK + 50)
    sep = separator()
    once, twice = sep.separate(mono), sep.separate(mono.expand(2, -1))
    assert all(torch.equal(once[stem], twice[stem]) for stem in ALL)


def test_fewer_stems_are_the_same_stems() -> None:
    audio = torch.randn(2, 2 * CHUNK)
    tracks = separator(("accompaniment", "vocals")).separate(audio)
    assert tuple(tracks) == ("accompaniment", "vocals")
    whole = separator().separate(audio)
    for stem, sound in tracks.items():
        torch.testing.assert_close(sound, whole[stem], atol=1e-6, rtol=0)


def test_the_given_tensor_is_left_alone() -> None:
    audio = torch.randn(2, CHUNK * 2)
    before = audio.clone()
    separator().separate(audio)
    assert torch.equal(audio, before)


def test_bad_plans_and_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match="overlap"):
        MiniSeparator(model(), chunk_seconds=1.0, overlap_seconds=0.8)
    with pytest.raises(ConfigError, match="no stem 'guitar'"):
        MiniSeparator(model(), ("guitar",))
    with pytest.raises(AudioError, match="shape"):
        separator().separate(torch.zeros(3, 100))


def test_given_stems() -> None:
    vocals, accompaniment = torch.randn(1, 500), torch.randn(2, 500)
    mix = vocals + accompaniment
    for given in (
        {"vocals": vocals},
        {"accompaniment": accompaniment},
        {"vocals": vocals, "accompaniment": accompaniment},
    ):
        source = GivenStems(given)
        assert isinstance(source, Separator)
        stems = source.separate(mix)
        assert source.stems == ("vocals", "accompaniment")
        torch.testing.assert_close(stems["vocals"], vocals.expand(2, -1), atol=1e-6, rtol=0)
        torch.testing.assert_close(stems["accompaniment"], accompaniment, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"drums": torch.zeros(2, 5)}, "neither"),
        ({"vocals": torch.zeros(2, 5), "drums": torch.zeros(2, 6)}, "different"),
    ],
)
def test_given_stems_that_do_not_fit(given: dict[str, Tensor], message: str) -> None:
    with pytest.raises(AudioError, match=message):
        GivenStems(given)
    with pytest.raises(AudioError, match="the mix has 7"):
        GivenStems({"vocals": torch.zeros(2, 5)}).separate(torch.zeros(2, 7))


def test_mini_separator_is_a_separator() -> None:
    assert isinstance(separator(), Separator)


SI_SDR = (
    # target, estimate, and what the formula gives: a = <e, t> / |t|^2, |a t|^2 / |e - a t|^2
    ([[3.0, 0.0]], [[3.0, 1.0]], 10 * math.log10(9 / 1)),  # a = 1
    ([[1.0, 1.0]], [[2.0, 0.0]], 0.0),  # a = 1: half of the estimate is signal
    ([[2.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, -1.0]], 10 * math.log10(1.8 / 3.2)),  # channels together: a = 3 / 5
    ([[1.0, 1.0]], [[1.0, 1.1]], 10 * math.log10(2.205 / 0.005)),  # the mean is not removed: without it, silence
)


@pytest.mark.parametrize(("target", "estimate", "decibels"), SI_SDR)
def test_si_sdr_by_hand(target: list[list[float]], estimate: list[list[float]], decibels: float) -> None:
    e, t = torch.tensor(estimate), torch.tensor(target)
    assert float(floored_si_sdr(e, t)) == pytest.approx(decibels, abs=1e-4)
    assert floored_si_sdr(torch.stack((e, 5 * e)), t.expand(2, *t.shape)).tolist() == pytest.approx(
        [decibels] * 2, abs=1e-4
    )
    for pieces in (1, t.shape[1]):
        for gain in (0.1, 3.0, -1.0):
            score = SiSdr()
            for part, true in zip(e.chunk(pieces, -1), t.chunk(pieces, -1), strict=True):
                score.add(gain * part, 7 * true)
            assert score.decibels() == pytest.approx(decibels, abs=1e-4)


def test_si_sdr_of_silence_and_of_the_target_itself() -> None:
    """Where the two definitions differ: one has no figure for a silent target, the other the floor's."""
    silence, quiet = torch.zeros(2, 10), torch.full((2, 10), 0.01)
    for estimate, floored in ((silence, 0.0), (quiet, 10 * math.log10(1e-10 / 0.002))):
        score = SiSdr()
        score.add(estimate, silence)
        assert math.isnan(score.decibels())
        assert float(floored_si_sdr(estimate, silence)) == pytest.approx(floored, abs=1e-4)
    target, score = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0)), SiSdr()
    score.add(target, target)
    assert 80 < float(floored_si_sdr(target, target)) < 200 and 80 < score.decibels() < 200


def test_si_sdr_is_defined_in_one_place() -> None:
    source = Path(__file__).parents[2]
    defining = [
        path.relative_to(source).as_posix()
        for folder in ("src", "benchmarks")
        for path in sorted((source / folder).rglob("*.py"))
        if re.search(r"(def|class) \w*si_?sdr\w*\b|_et \* \w*_et|\bet \* et", path.read_text(), re.IGNORECASE)
    ]
    assert defining == ["src/duotok/separation/measures.py"]
