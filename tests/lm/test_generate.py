"""Every code is what the model says on the very layout it was trained on; the cache, candidates, windows, ends, what is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.lm.small import CODEC, MIXED, model, song

from duotok.errors import ConfigError, TokenFileError
from duotok.lm.generate import GeneratedTokens, GenerationWindow, generate, generate_pieces, windows
from duotok.lm.protocols import Protocol, aligned, parallel, track_to_track
from duotok.lm.sampling import Draws, TokenSampling, choose
from duotok.lm.saved import LanguageModel
from duotok.lm.streams import CodecIdentity

GREEDY = TokenSampling(temperature=0)
FREE = TokenSampling(1.0, 0, 1.0)
SAMPLINGS = pytest.mark.parametrize(
    "sampling", [GREEDY, TokenSampling(0.9, 8, 0.9), FREE], ids=["greedy", "cut", "free"]
)


def language(protocol: Protocol, seconds: float = 2.0) -> LanguageModel:
    """A model that has opinions: an untrained one finds all codes about equally likely."""
    lm = model(protocol.codec)
    with torch.no_grad():
        for head in lm.outputs.heads:
            head.weight.mul_(60)
    return LanguageModel(lm, protocol, seconds, Path("run"))


def given(codec: CodecIdentity, **frames: int) -> dict[str, np.ndarray]:
    codes = song("given", 200, codec).tokens
    return {name: codes[name][:, :n] for name, n in frames.items()}


def same(one: GeneratedTokens, two: GeneratedTokens) -> bool:
    return all(np.array_equal(one.tokens[name], two.tokens[name]) for name in one.tokens)


def check(
    lm: LanguageModel, made: GeneratedTokens, known: int, sampling: TokenSampling, fixed: tuple[str, ...] = ()
) -> None:
    """Teacher forcing on the training layout (`Protocol.example`) makes the same choices with the same draws."""
    protocol, codec = lm.protocol, lm.protocol.codec
    frames = next(iter(made.tokens.values())).shape[1]
    draws = Draws((made.seed,))
    checked = 0
    for start, stop, first, last in windows(protocol, frames, known, codec.frames(lm.seconds)):
        piece = {
            name: codes[:, start : last if name == protocol.target else stop] for name, codes in made.tokens.items()
        }
        short = min(protocol.prefix, first - start) / codec.frame_rate
        with torch.no_grad():
            logits = lm.model(replace(protocol, prefix_seconds=short).example(piece).inputs[None])
        before = stop - start if protocol.name == "track_to_track" else 0
        for frame in range(first, last):
            for k in protocol.scored:
                column = codec.columns[k]
                if column.stream not in fixed:
                    row = logits[k][:, before + frame - start, : column.size]
                    wanted = int(choose(row, sampling, draws.keys(column.name, frame)))
                    assert made.tokens[column.stream][column.codebook, frame] == wanted
                    checked += 1
    assert checked >= frames - known


@SAMPLINGS
@pytest.mark.parametrize("codec", [CODEC, MIXED], ids=["two", "mixed"])
@pytest.mark.parametrize("seconds", [2.0, 5.2], ids=["one piece", "windows"])
def test_parallel_is_what_the_model_says(seconds: float, codec: CodecIdentity, sampling: TokenSampling) -> None:
    lm = language(parallel(codec))
    (made,) = generate(lm, [3], seconds, sampling=sampling)
    assert {name: codes.shape for name, codes in made.tokens.items()} == {
        s.name: (len(s.codebook_sizes), codec.frames(seconds)) for s in codec.streams
    }
    assert not made.ended
    check(lm, made, 0, sampling)


@SAMPLINGS
@pytest.mark.parametrize("prefix", [0.0, 0.4])
@pytest.mark.parametrize("kept", [0, 4, 10, 27])
@pytest.mark.parametrize("seconds", [2.0, 4.6], ids=["one piece", "windows"])
@pytest.mark.parametrize("kind", [track_to_track, aligned])
def test_one_track_from_another_is_what_the_model_says(
    kind: Callable[..., Protocol], seconds: float, kept: int, prefix: float, sampling: TokenSampling
) -> None:
    lm = language(kind(CODEC, "vocals", "accompaniment", prefix))
    frames = CODEC.frames(seconds)
    codes = given(CODEC, vocals=frames, accompaniment=kept)
    (made,) = generate(lm, [5], seconds, codes, sampling=sampling)
    assert np.array_equal(made.tokens["vocals"], codes["vocals"])
    assert np.array_equal(made.tokens["accompaniment"][:, :kept], codes["accompaniment"])
    check(lm, made, kept, sampling)


@SAMPLINGS
def test_the_cache_changes_nothing(sampling: TokenSampling) -> None:
    for protocol, codes in (
        (parallel(MIXED), given(MIXED, vocals=7, accompaniment=7)),
        (track_to_track(MIXED, "vocals", "accompaniment", 0.5), given(MIXED, vocals=52)),
        (aligned(MIXED, "vocals", "accompaniment", 0.5), given(MIXED, vocals=52)),
    ):
        lm = language(protocol)
        fast, slow = (generate(lm, [1, 2], 5.2, codes, sampling=sampling, cache=cache) for cache in (True, False))
        assert all(same(a, b) for a, b in zip(fast, slow, strict=True))


@SAMPLINGS
def test_candidates_are_what_each_would_be_alone(sampling: TokenSampling) -> None:
    lm = language(parallel(CODEC))
    together = generate(lm, [4, 1, 9], 3.0, given(CODEC, vocals=6, accompaniment=6), sampling=sampling)
    for made in together:
        (alone,) = generate(lm, [made.seed], 3.0, given(CODEC, vocals=6, accompaniment=6), sampling=sampling)
        assert same(made, alone)
    assert same(together[0], together[1]) == (sampling == GREEDY)


def test_the_seed_says_it_all() -> None:
    lm = language(parallel(CODEC))
    first = generate(lm, [8], 2.0)
    torch.rand(100)
    again = generate(lm, [8], 2.0)
    assert same(first[0], again[0])
    assert not same(first[0], generate(lm, [7], 2.0)[0])


@pytest.mark.parametrize("at_least", [None, 0.0])
def test_pieces_are_the_song_while_it_is_made(at_least: float | None) -> None:
    lm = ending((-1.0, -1.0))
    (whole,) = generate(lm, [3], 4.0, sampling=FREE, at_least=at_least)
    parts = generate_pieces(lm, 3, 4.0, sampling=FREE, at_least=at_least, frames=7)
    found = [next(parts)]
    assert found[0]["vocals"].shape[1] == min(7, whole.tokens["vocals"].shape[1])
    found += list(parts)
    for stream, codes in whole.tokens.items():
        assert (torch.cat([part[stream] for part in found], dim=1).numpy() == codes).all()


def test_streams_draw_apart() -> None:
    """Two streams that the model finds equally likely do not come out alike."""
    lm = language(parallel(CODEC))
    with torch.no_grad():
        for head in lm.model.outputs.heads:
            head.weight.zero_()
            head.bias.zero_()
    (made,) = generate(lm, [0], 8.0, sampling=FREE)
    assert (made.tokens["vocals"] == made.tokens["accompaniment"]).mean() < 0.15  # 1 in 20 by chance


def test_what_is_given_stays() -> None:
    lm = language(parallel(CODEC))
    codes = given(CODEC, vocals=33, accompaniment=33)
    for made in generate(lm, [1, 2], 4.0, codes):
        for name in codes:
            assert np.array_equal(made.tokens[name][:, :33], codes[name])
            assert made.tokens[name].shape == (1, 100) and made.tokens[name].dtype == np.int32
    check(lm, made, 33, TokenSampling())


def test_a_parallel_model_follows_a_given_track() -> None:
    """The longer stream is forced; what is made at a frame depends on its earlier frames only."""
    lm = language(parallel(CODEC))
    codes = given(CODEC, vocals=90, accompaniment=5)
    (made,) = generate(lm, [1], 3.0, codes)
    assert np.array_equal(made.tokens["vocals"], codes["vocals"][:, :75])
    assert np.array_equal(made.tokens["accompaniment"][:, :5], codes["accompaniment"])
    check(lm, made, 5, TokenSampling(), fixed=("vocals",))
    later = {**codes, "vocals": np.where(np.arange(90) < 40, codes["vocals"], 3)}
    (other,) = generate(lm, [1], 1.9, later)
    (before,) = generate(lm, [1], 1.9, codes)
    changed = other.tokens["accompaniment"] != before.tokens["accompaniment"]
    assert not changed[:, :41].any() and changed[:, 41:].any()


def test_special_tokens_never_come_out() -> None:
    lm = language(parallel(MIXED))
    with torch.no_grad():
        for head, size in zip(lm.model.outputs.heads, lm.model.sizes, strict=True):
            head.bias[size:] = 1e4
    for sampling in (GREEDY, FREE, TokenSampling()):
        for at_least in (None, 1.0):
            (made,) = generate(lm, [0], 3.0, sampling=sampling, at_least=at_least)
            for stream in MIXED.streams:
                for row, size in zip(made.tokens[stream.name], stream.codebook_sizes, strict=True):
                    assert row.min() >= 0 and row.max() < size


def ending(chances: tuple[float, float]) -> LanguageModel:
    """A model for which every step is the last one with these probabilities, as each of its heads sees it."""
    lm = language(parallel(CODEC))
    with torch.no_grad():
        for head, p in zip(lm.model.outputs.heads, chances, strict=True):
            head.weight.zero_()
            head.bias.zero_()
            head.bias[21] = float(np.log(20 * p / (1 - p)) if 0 < p < 1 else 100 * (p - 0.5))
    return lm


def test_the_model_may_end_a_song() -> None:
    sure = ending((1.0, 1.0))
    for sampling in (GREEDY, FREE):
        (made,) = generate(sure, [0], 4.0, sampling=sampling, at_least=3.0)
        assert made.ended and made.tokens["vocals"].shape == made.tokens["accompaniment"].shape == (1, 75)
        (made,) = generate(sure, [0], 4.0, sampling=sampling, at_least=0.0)
        assert made.tokens["vocals"].shape == (1, 1)
        (made,) = generate(sure, [0], 4.0, given(CODEC, vocals=30, accompaniment=30), sampling=sampling, at_least=0.0)
        assert made.ended and made.tokens["vocals"].shape == (1, 30)
        (made,) = generate(sure, [0], 4.0, sampling=sampling)
        assert not made.ended and made.tokens["vocals"].shape == (1, 100)
    never = generate(ending((0.0, 0.0)), [0], 2.0, sampling=FREE, at_least=0.0)
    assert not never[0].ended and never[0].tokens["vocals"].shape == (1, 50)


def test_the_end_has_the_mean_probability_of_the_heads() -> None:
    lm, seeds = ending((0.05, 0.15)), range(400)
    found = generate(lm, seeds, 2.0, sampling=FREE, at_least=0.0)
    lengths = np.array([made.tokens["vocals"].shape[1] for made in found])
    # A song has 1 frame at least, then ends with p = .1 before each next one: at frame 1, 2, ...
    assert abs((lengths == 1).mean() - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 400)
    assert abs((lengths <= 7).mean() - (1 - 0.9**7)) < 4 * np.sqrt(0.25 / 400)
    for made in found[:20]:
        (alone,) = generate(lm, [made.seed], 2.0, sampling=FREE, at_least=0.0)
        assert same(made, alone) and made.ended == alone.ended


@pytest.mark.parametrize("prefix", [0.0, 0.4])
@pytest.mark.parametrize("known", [0, 3, 10, 49, 50, 51, 120])
@pytest.mark.parametrize("frames", [7, 50, 51, 74, 130, 500])
def test_windows(frames: int, known: int, prefix: float) -> None:
    if known >= frames:
        return
    protocol = track_to_track(CODEC, "vocals", "accompaniment", prefix) if prefix else parallel(CODEC)
    plan = windows(protocol, frames, known, 50)
    assert plan[0].first == known and plan[-1].last == frames
    assert all(one.last == two.first for one, two in pairwise(plan))
    for window in plan:
        assert 0 <= window.start <= window.first < window.last <= window.stop <= min(frames, window.start + 50)
        # The model always sees as much as there is, and half a piece of what came before.
        assert window.stop - window.start == min(50, frames)
        assert window.first - window.start >= min(25, window.first)
    if frames <= 50 and (not prefix or known >= 10):
        assert plan == [GenerationWindow(0, frames, known, frames)]


def test_progress_reaches_the_end() -> None:
    seen: list[float] = []
    generate(language(parallel(CODEC)), [0], 3.0, progress=seen.append)
    assert len(seen) == 75 and seen == sorted(seen) and seen[-1] == 1.0


@pytest.mark.parametrize(
    ("protocol", "codes", "error", "message"),
    [
        (parallel(CODEC), given(CODEC, vocals=50, accompaniment=50), ConfigError, "prefix of 2 s leaves nothing to make of 2 s"),
        (track_to_track(CODEC, "vocals", "accompaniment"), given(CODEC, vocals=49), ConfigError, "1.96 s of vocals are given, 2 s of accompaniment"),
        (track_to_track(CODEC, "vocals", "accompaniment"), {}, ConfigError, "0 s of vocals are given"),
        (track_to_track(CODEC, "vocals", "accompaniment"), given(CODEC, vocals=50, accompaniment=60), ConfigError, "prefix of 2.4 s"),
        (parallel(CODEC), {"drums": np.zeros((1, 4), np.int32)}, ConfigError, "has no stream 'drums'; it has vocals, accomp"),
        (parallel(CODEC), {"vocals": np.full((1, 4), 20)}, TokenFileError, "vocals.0 holds token 20, its codebook ends at 19"),
        (parallel(CODEC), {"vocals": np.full((1, 4), -1)}, TokenFileError, "vocals.0 holds token -1"),
        (parallel(CODEC), {"vocals": np.zeros((2, 4), np.int32)}, TokenFileError, r"vocals is int32 \[2, 4\]"),
        (parallel(CODEC), {"vocals": np.zeros((1, 4))}, TokenFileError, "vocals is float64"),
    ],
)  # fmt: skip
def test_bad_input(protocol: Protocol, codes: dict[str, np.ndarray], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        generate(language(protocol), [0], 2.0, codes)


def test_nothing_to_make() -> None:
    with pytest.raises(ConfigError, match="nothing to make"):
        generate(language(parallel(CODEC)), [0], 0.0)
    with pytest.raises(ConfigError, match="nothing to make"):
        generate(language(parallel(CODEC)), [], 1.0)


def test_an_end_that_could_never_come_is_refused() -> None:
    """It was an option that did nothing."""
    for at_least in (1.5, float("inf")):
        with pytest.raises(ConfigError, match="the model could never end the song"):
            generate(language(parallel(CODEC)), [0], 1.0, at_least=at_least)
    assert generate(language(parallel(CODEC)), [0], 1.0, at_least=1.0)
